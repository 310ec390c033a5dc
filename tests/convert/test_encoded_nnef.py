"""NNEF models with NNC streams in their .dat files: they stay NNEF models, and become ordinary ones again."""

from __future__ import annotations

import io
import struct
import tarfile

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.cli.main import main
from nncjit.errors import NncWarning, OptionError
from nncjit.formats import open_model

RNG = np.random.default_rng(0)
GRAPH = b"""version 1.0;
graph net(x) -> (y)
{
    x = external<scalar>(shape = [1, 32]);
    w = variable<scalar>(shape = [32, 48], label = 'layer/weight');
    e = variable<scalar>(shape = [40, 32], label = 'embed');
    b = variable<scalar>(shape = [1, 48], label = 'layer/bias');
    q = variable<integer>(shape = [48, 16], label = 'q');
    v = variable<scalar>(shape = [2, 288], label = 'blocks');
    y = linear(x, w, b);
}
"""
HEAD = "<2sBBII8IIHH"


def dat(array, kind, bits, *, vendor=0, tail=b""):
    dims = [*array.shape, *[0] * (8 - array.ndim)]
    head = struct.pack(HEAD, b"N\xef", 1, 0, array.nbytes, array.ndim, *dims, bits, kind, vendor)
    return (head + tail).ljust(128, b"\0") + array.tobytes()


ARRAYS = {
    "layer/weight": (RNG.standard_normal((32, 48)) * 0.1).astype("<f4"),
    "embed": (RNG.standard_normal((40, 32)) * 0.1).astype("<f4"),
    "layer/bias": RNG.standard_normal((1, 48)).astype("<f4"),
    "q": np.clip(np.rint(RNG.normal(0, 4, (48, 16))), -99, 99).astype(np.int8),
    "blocks": RNG.integers(0, 256, (2, 288), np.uint8),
}
FILES = {f"{name}.dat": dat(ARRAYS[name], 0, 32) for name in ("layer/weight", "embed", "layer/bias")}
FILES["q.dat"] = dat(ARRAYS["q"], 3, 8, tail=struct.pack("<ff", 0.1, 3.0))
FILES["blocks.dat"] = dat(ARRAYS["blocks"], 0x2040, 0xFFFFFFFF, vendor=0x5452)
FILES |= {"graph.nnef": GRAPH, "graph.quant": b'"q": linear_quantize(min = 0.0);\n'}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tensors_in(path):
    with open_model(path) as model:
        return {tensor.name: np.array(tensor.read()) for tensor in model}


@pytest.fixture
def net(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "net" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "net" / name).write_bytes(data)
    return tmp_path


def there_and_back(net, **options):
    report = nncjit.compress(net / "net", net / "net.nnc.nnef", **options)
    told = []
    nncjit.decompress(net / "net.nnc.nnef", net / "back", progress=lambda *x: told.append(x))
    assert told[-1][0] == told[-1][1]
    return report, contents(net / "net.nnc.nnef"), contents(net / "back")


def test_models_without_loss_come_back_byte_for_byte(net):
    report, inside, back = there_and_back(net, quantizer="raw")
    assert back == FILES
    assert inside.keys() == FILES.keys()
    assert report.compressed_bytes == sum(map(len, inside.values()))


def test_graph_and_header_stay_but_for_vendor_and_size(net):
    report, inside, back = there_and_back(net)
    kept = {row.name for row in report.tensors if row.tool == "as it was"}
    assert kept == {"layer/bias", "blocks"}
    assert {name for name in FILES if inside[name] == FILES[name]} == {f"{name}.dat" for name in kept} | {
        "graph.nnef",
        "graph.quant",
    }
    for name in ("layer/weight.dat", "embed.dat", "q.dat"):
        before, after = (bytearray(files[name][:128]) for files in (FILES, inside))
        assert after[50:52] == b"NC"
        assert struct.unpack_from("<I", after, 4) == (len(inside[name]) - 128,)
        assert len(inside[name]) < len(FILES[name])
        after[4:8], after[50:52] = before[4:8], before[50:52]
        assert after == before == back[name][:128]


def test_values_are_those_of_decode(net):
    there_and_back(net, quality=3)
    back = tensors_in(net / "back" / "graph.nnef")
    for name in ("layer/weight", "embed", "q"):
        dat_file = (net / "net.nnc.nnef" / f"{name}.dat").read_bytes()
        assert np.array_equal(nncjit.decode(dat_file[128:])[name], back[name])
    assert np.array_equal(back["q"], ARRAYS["q"])
    nncjit.compress(net / "net" / "graph.nnef", net / "m.nnc", quality=3)
    whole = nncjit.decode(net / "m.nnc")
    assert all(np.array_equal(whole[name], back[name]) for name in ("layer/weight", "embed", "q"))


@pytest.mark.parametrize("options", [{"only": "embed"}, {"rules": {"layer/.*|q": "raw"}}], ids=str)
def test_tensors_that_are_left_out_stay_as_they_were(net, options):
    _, inside, back = there_and_back(net, **options)
    assert {name for name in FILES if inside[name] != FILES[name]} == {"embed.dat"}
    assert {name for name in FILES if back[name] != FILES[name]} == {"embed.dat"}


def test_the_command_line_and_archives(net):
    with tarfile.open(net / "a.nnef.tgz", "w:gz") as archive:
        archive.add(net / "net", ".")
    assert main(["compress", str(net / "a.nnef.tgz"), "-o", str(net / "a.nnc.nnef.tgz"), "--quantizer", "raw"]) == 0
    assert main(["decompress", str(net / "a.nnc.nnef.tgz"), "-o", str(net / "b.nnef.tar")]) == 0
    with tarfile.open(net / "b.nnef.tar") as archive:
        archive.extractall(net / "b", filter="data")
    assert contents(net / "b") == FILES
    assert main(["decompress", str(net / "a.nnc.nnef.tgz")]) == 0
    loaded = tensors_in(net / "a.nnc.safetensors")
    assert all(np.array_equal(loaded[name], ARRAYS[name]) for name in ARRAYS if name != "blocks")


def test_the_command_line_writes_into_no_folder_that_exists(net):
    nncjit.compress(net / "net", net / "net.nnc.nnef")
    before = contents(net / "net.nnc.nnef")
    assert main(["compress", str(net / "net" / "graph.nnef"), "-o", str(net / "net.nnc.nnef")]) == 1
    assert contents(net / "net.nnc.nnef") == before


def test_a_folder_of_an_ordinary_model_becomes_one_stream(net):
    (net / "net" / "labels.txt").write_text("cat")
    nncjit.compress(net / "net", net / "stream", quantizer="raw")
    assert sorted(path.name for path in (net / "stream").iterdir()) == ["labels.txt", "model.nnc"]
    nncjit.decompress(net / "stream" / "model.nnc", net / "back.nnef.tar")
    listed = [nncjit.inspect(path).tensors for path in (net / "net", net / "back.nnef.tar")]
    assert [tensor.name for tensor in listed[0]] == ["layer/weight", "embed", "layer/bias", "q", "blocks"]
    assert listed[0] == listed[1]


def test_a_graph_in_a_folder_is_decoded_by_its_name(net):
    nncjit.compress(net / "net" / "graph.nnef", net / "net.nnc.nnef", quantizer="raw")
    (net / "net.nnc.nnef").rename(net / "other")
    (net / "back").mkdir()
    nncjit.decompress(net / "other" / "graph.nnef", net / "back" / "graph.nnef")
    assert contents(net / "back") == FILES


def test_where_no_tensor_is_coded_the_model_is_what_it_was(net):
    with pytest.warns(NncWarning, match="matches no tensor") as seen:
        _, inside, back = there_and_back(net, only="none of them")
    assert len(seen) == 1
    assert inside == back == FILES


@pytest.mark.parametrize("options", [{"blocks": True}, {"references": "index"}, {"dry_run": True}], ids=str)
def test_options_that_do_not_fit_are_refused(net, options):
    with pytest.raises(OptionError):
        nncjit.compress(net / "net", net / "net.nnc.nnef", **options)
    assert [path.name for path in net.iterdir()] == ["net"]


def test_sources_and_targets_that_do_not_fit_are_refused(net):
    np.savez(net / "m.npz", w=np.ones(4))
    (net / "empty").mkdir()
    inside = net / "net.nnc.nnef"
    for source in ("m.npz", "empty"):
        assert "is no NNEF model" in refusal(lambda source=source: nncjit.compress(net / source, inside))
    assert "not of a dict" in refusal(lambda: nncjit.compress(ARRAYS, inside))
    assert "no variable of it is" in refusal(lambda: nncjit.decompress(net / "net" / "graph.nnef", net / "b"))
    nncjit.compress(net / "net", inside)
    before = contents(inside)
    assert "exists already" in refusal(lambda: nncjit.compress(net / "net", inside))
    assert "is an NNC stream already" in refusal(lambda: nncjit.compress(inside, net / "b.nnc.nnef"))
    assert "has no .nnc in its name" in refusal(lambda: nncjit.decompress(inside, net / "b.nnc.nnef.tgz"))
    assert contents(inside) == before
    assert sorted(path.name for path in net.iterdir()) == ["empty", "m.npz", "net", "net.nnc.nnef"]


def with_head(data, at, value, form="<I"):
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def cut(data):
    return with_head(data[:-9], 4, len(data) - 9 - 128)


def two_tensors(data):
    stream = nncjit.encode({"a": np.ones((32, 48), "f4"), "b": np.ones(3, "f4")})
    return with_head(data[:128], 4, len(stream)) + stream


HOSTILE = {
    "": cut,
    "would end at byte": lambda data: data[:-9],
    "must be float32[9, 48]": lambda data: with_head(data, 12, 9),
    "must be int32[32, 48]": lambda data: with_head(data, 48, 3, "<H"),
    "does not encode": lambda data: with_head(data, 44, 7),
    "at most 2^32 - 1": lambda data: with_head(data, 12, 1 << 31),
    "its stream holds 2 tensors": two_tensors,
    "layer/weight": lambda data: data[:128] + bytes(len(data) - 128),
}


@pytest.mark.parametrize("reason", HOSTILE)
@pytest.mark.parametrize("back", ["back", "back.safetensors"])
def test_damaged_files_are_refused_by_the_name_of_the_variable(net, reason, back):
    nncjit.compress(net / "net", net / "net.nnc.nnef")
    path = net / "net.nnc.nnef" / "layer" / "weight.dat"
    path.write_bytes(HOSTILE[reason](path.read_bytes()))
    message = refusal(lambda: nncjit.decompress(net / "net.nnc.nnef", net / back))
    assert reason in message
    assert "layer/weight" in message
    assert sorted(path.name for path in net.iterdir()) == ["net", "net.nnc.nnef"]


def test_any_byte_of_a_stream_gives_values_or_an_error_of_ours(net):
    nncjit.compress(net / "net", net / "net.nnc.nnef", only="q")
    path = net / "net.nnc.nnef" / "q.dat"
    whole = path.read_bytes()
    said = []
    for at in RNG.integers(128, len(whole), 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            nncjit.decompress(net / "net.nnc.nnef", net / "back.nnef.tar")
        except nncjit.NncError as error:
            said.append(str(error))
    assert said
    assert all(message.startswith(("variable q: ", "q: ")) for message in said)


def test_streams_in_archives_of_strangers_are_checked(net):
    nncjit.compress(net / "net", net / "a.nnc.nnef.tar")
    with tarfile.open(net / "a.nnc.nnef.tar") as old, tarfile.open(net / "b.nnc.nnef.tar", "w") as new:
        for member in old:
            data = old.extractfile(member).read()
            data = cut(data) if member.name == "embed.dat" else data
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    assert "embed" in refusal(lambda: nncjit.decompress(net / "b.nnc.nnef.tar", net / "back"))
