"""NNEF folders go to streams and come back byte for byte; labels and headers of strangers lead nowhere."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.formats import open_model
from nncjit.formats.nnef import labels

RNG = np.random.default_rng(0)

GRAPH = b"""version 1.0;
# w = variable(shape = [1], label = 'a comment');
extension KHR_enable_fragment_definitions;
graph net(x) -> (y)
{
    x = external<scalar>(shape = [1, 8]);
    w = variable<scalar>(shape = [8, 16], label = 'layer#1/weight');
    b = variable(label = "layer#1/bias", shape = [1, 16]);
    q = variable<integer>(
        shape = [16, 4],
        label = 'q');
    v = variable<scalar>(shape = [2, 32], label = 'blocks');
    y = linear(x, w, b);
}
"""


def header(array, kind, bits, *, vendor=0, n_bytes=None, rank=None, version=1, magic=b"N\xef", tail=b""):
    dims = [*array.shape, *[0] * (8 - array.ndim)]
    n_bytes = array.nbytes if n_bytes is None else n_bytes
    rank = array.ndim if rank is None else rank
    packed = struct.pack("<2sBBII8IIHH", magic, version, 0, n_bytes, rank, *dims, bits, kind, vendor)
    return (packed + tail).ljust(128, b"\0")


def folder_of(folder, **changes):
    """A model with a weight, a bias, quantised integers with parameters, and a vendor's blocks."""
    (folder / "layer#1").mkdir(parents=True)
    weight = (RNG.standard_normal((8, 16)) * 0.1).astype("<f4")
    bias = RNG.standard_normal((1, 16)).astype("<f4")
    q, blocks = RNG.integers(-99, 99, (16, 4), np.int8), RNG.integers(0, 256, (2, 18), np.uint8)
    files = {
        "layer#1/weight": header(weight, 0, 32) + weight.tobytes(),
        "layer#1/bias": header(bias, 0, 32) + bias.tobytes(),
        "q": header(q, 3, 8, tail=struct.pack("<ff", 0.1, 3.0)) + q.tobytes(),
        "blocks": header(blocks, 0x2040, 0xFFFFFFFF, vendor=0x5452) + blocks.tobytes(),
    } | changes
    for name, data in files.items():
        (folder / f"{name}.dat").write_bytes(data)
    (folder / "graph.nnef").write_bytes(GRAPH)
    (folder / "graph.quant").write_bytes(b'"q": linear_quantize(min = 0.0);\n')
    return folder / "graph.nnef"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_models_come_back_byte_for_byte(tmp_path):
    path = folder_of(tmp_path / "a")
    nncjit.compress(path, tmp_path / "m.nnc", quantizer="raw")
    (tmp_path / "b").mkdir()
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b" / "graph.nnef")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_graph_and_quantisation_travel_in_the_stream(tmp_path):
    nncjit.compress(folder_of(tmp_path / "a"), tmp_path / "m.nnc")
    with nncjit.open(tmp_path / "m.nnc") as f:
        assert list(f.keys()) == ["layer#1/weight", "layer#1/bias", "q", "blocks"]
        topology, quantization = f.graphs()
    assert (topology.format, topology.data, topology.quantization) == ("nnef", GRAPH, False)
    assert quantization.quantization
    assert quantization.data.startswith(b'"q"')


def test_weights_are_quantised_and_integers_are_not(tmp_path):
    path = folder_of(tmp_path / "a")
    report = nncjit.compress(path, tmp_path / "m.nnc")
    assert 20 < {row.name: row.snr for row in report.tensors}["layer#1/weight"] < 60
    (tmp_path / "b").mkdir()
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b" / "graph.nnef")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {name for name in a if a[name] != b[name]} <= {"layer#1/weight.dat", "layer#1/bias.dat"}


def test_the_parser_of_khronos_reads_what_comes_back(tmp_path):
    nnef = pytest.importorskip("nnef")
    weight = (RNG.standard_normal((8, 16)) * 0.1).astype("<f4")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w.dat").write_bytes(header(weight, 0, 32) + weight.tobytes())
    text = b"version 1.0;\ngraph net(x) -> (y) { x = external(shape = [1, 8]); "
    text += b"w = variable(shape = [8, 16], label = 'w'); y = matmul(x, w); }\n"
    (tmp_path / "a" / "graph.nnef").write_bytes(text)
    nncjit.compress(tmp_path / "a" / "graph.nnef", tmp_path / "m.nnc", quantizer="raw")
    (tmp_path / "b").mkdir()
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b" / "graph.nnef")
    graph = nnef.load_graph(str(tmp_path / "b"))
    assert np.array_equal(graph.tensors["w"].data, weight)


@pytest.mark.parametrize("suffix", ["nnef.tgz", "nnef.tar", "nnef.tar.gz"])
def test_archives_come_back_file_by_file(tmp_path, suffix):
    folder_of(tmp_path / "a")
    packed, back = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    with tarfile.open(packed, "w" if suffix.endswith("tar") else "w:gz") as archive:
        archive.add(tmp_path / "a", "./net")
    nncjit.compress(packed, tmp_path / "m.nnc", quantizer="raw")
    nncjit.decompress(tmp_path / "m.nnc", back)
    with tarfile.open(back) as archive:
        archive.extractall(tmp_path / "b", filter="data")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", packed.name, "b", back.name, "m.nnc"]


def test_members_of_an_archive_that_are_no_part_of_the_graph_are_named(tmp_path):
    folder_of(tmp_path / "a")
    for name in ("README", "io.npz", "runme.sh", "zoo/graph.nnef"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("x")
    with tarfile.open(tmp_path / "a.nnef.tgz", "w:gz") as archive:
        archive.add(tmp_path / "a", ".")
    with pytest.warns(nncjit.NncWarning, match=r"no part of the graph: README, io\.npz, runme\.sh and 1 more$"):
        open_model(tmp_path / "a.nnef.tgz").close()


def member(name, data=b"", **about):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in about.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


ARCHIVES = {
    "leads out": [member("../evil", b"x")],
    "is no regular file": [member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "two members": [member("a", b"x"), member("a", b"y")],
    "times its size": [member("bomb", bytes(1 << 25))],
    "holds no graph.nnef": [member("graph.txt", b"x")],
    "does not start with a version": [member("graph.nnef", b"x")],
}


@pytest.mark.parametrize("reason", ARCHIVES)
def test_archives_of_strangers_are_refused(tmp_path, reason):
    with tarfile.open(tmp_path / "a.nnef.tgz", "w:gz") as archive:
        for info, data in ARCHIVES[reason]:
            data.seek(0)
            archive.addfile(info, data)
    assert reason in refusal(lambda: open_model(tmp_path / "a.nnef.tgz"))
    whole = (tmp_path / "a.nnef.tgz").read_bytes()
    for cut in (whole[:60], b"x" * 99):
        (tmp_path / "a.nnef.tgz").write_bytes(cut)
        assert refusal(lambda: open_model(tmp_path / "a.nnef.tgz"))


ONE = np.zeros((8, 16), "<f4")
HOSTILE = {
    "does not start as one": header(ONE, 0, 32, magic=b"XX") + ONE.tobytes(),
    "has version 2.0": header(ONE, 0, 32, version=2) + ONE.tobytes(),
    "at most 8 are possible": header(ONE, 0, 32, rank=9) + ONE.tobytes(),
    "type and shape [8, 16] need 512": header(ONE, 0, 32, n_bytes=400) + ONE.tobytes(),
    "would end at byte": header(ONE, 0, 32) + bytes(9),
    "would end at byte 128": b"N\xef",
    "type and shape": header(np.zeros((0,), "f4"), 0, 32, n_bytes=1 << 31),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_damaged_files_are_refused(tmp_path, reason):
    path = folder_of(tmp_path / "a", **{"layer#1/weight": HOSTILE[reason]})
    message = refusal(lambda: nncjit.compress(path, tmp_path / "m.nnc"))
    assert reason in message
    assert "layer#1/weight" in message


@pytest.mark.parametrize("label", ["../secret", "/secret", "a/../../secret", "C:\\secret", "", "link", "none", "a\\b"])
def test_labels_lead_to_no_other_folder(tmp_path, label):
    (tmp_path / "secret.dat").write_bytes(header(ONE, 0, 32) + ONE.tobytes())
    path = folder_of(tmp_path / "a")
    (tmp_path / "a" / "link.dat").symlink_to(tmp_path / "secret.dat")
    path.write_bytes(GRAPH.replace(b"'q'", f"'{label}'".encode()))
    assert refusal(lambda: nncjit.compress(path, tmp_path / "m.nnc"))
    stream = nncjit.encode({label or "x": ONE}, graphs=[nncjit.Graph("nnef", path.read_bytes())])
    (tmp_path / "m.nnc").write_bytes(stream)
    if label not in ("link", "none"):
        assert refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "a" / "graph.nnef"))


@pytest.mark.parametrize("text", [b"\xff", b"graph net", b"version 1.0; w = variable(shape = [1]);"])
def test_what_is_no_graph_is_refused(tmp_path, text):
    (tmp_path / "graph.nnef").write_bytes(text)
    assert "graph.nnef" in refusal(lambda: open_model(tmp_path / "graph.nnef"))


def test_tensors_that_do_not_fit_the_graph_are_refused(tmp_path):
    path = folder_of(tmp_path / "a")
    with open_model(path) as model:
        arrays, graphs = {tensor.name: tensor.read() for tensor in model}, model.graphs
    wrong = {
        "variable q: is in the graph": {name: array for name, array in arrays.items() if name != "q"},
        "tensor more: has no place": arrays | {"more": ONE},
        "NNEF has no bool": arrays | {"q": np.ones(3, bool)},
    }
    for reason, changed in wrong.items():
        (tmp_path / "m.nnc").write_bytes(nncjit.encode(changed, graphs=graphs))
        assert reason in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "graph.nnef"))
    assert not (tmp_path / "graph.nnef").exists()


@pytest.mark.parametrize(
    "arguments", ["shape = [1], label = 'a(1)/b'", "label='a(1)/b', shape=[1]", "[1], 'a(1)/b'", '[1],"a(1)/b"']
)
def test_labels_are_found_as_writers_may_give_them(arguments):
    text = f"version 1.0; graph g(x) -> (y) {{ w = variable<scalar>({arguments}); y = add(x, w); }}"
    assert labels(text.encode()) == ["a(1)/b"]
