"""TorchScript and exported programs go to streams and come back as networks that compute the same; nothing of them is
run.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.formats import open_model, pickle_values

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3)
        self.norm = torch.nn.BatchNorm2d(16)
        self.a, self.b = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8)
        self.b.weight = self.a.weight
        self.register_buffer("turned", torch.randn(12, 20).half().t())
        self.register_buffer("part", torch.randn(4, 40).bfloat16()[:, 3:])
        self.register_buffer("flags", torch.rand(90) > 0.5)
        self.register_buffer("eight", torch.randn(9, 20).to(torch.float8_e4m3fn))
        self.plain = torch.randn(9, 9)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        rest = self.turned.float().sum() + self.part.float().sum() + self.plain.sum() + self.flags.sum()
        rest = rest + self.eight.float().sum()
        return self.a(y) + self.b(y) + rest + torch.arange(8.0)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


X = torch.ones(1, 3, 8, 8)


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    """A network saved in all ways."""
    folder = tmp_path_factory.mktemp("archives")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(net)
        torch.jit.save(script, folder / "script.pt")
        torch.jit.save(torch.jit.trace(net, X), folder / "trace.torchscript")
        torch.jit.save(torch.jit.freeze(script), folder / "frozen.pt")
        torch.export.save(torch.export.export(net, (X,)), folder / "program.pt2")
    return folder


def output_of(path):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        net = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)
        return net(X).numpy()


KINDS = ("script.pt", "trace.torchscript", "frozen.pt", "program.pt2")


@pytest.mark.parametrize("name", KINDS)
def test_networks_compute_the_same(files, tmp_path, name):
    nncjit.compress(files / name, tmp_path / "m.nnc", quantizer="lossless")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / name)
    assert np.array_equal(output_of(tmp_path / name), output_of(files / name))
    with nncjit.open(tmp_path / "m.nnc") as f:
        (graph,) = f.graphs()
    assert graph.format == "pytorch"


def test_tensors_have_their_names_and_shapes(files, net):
    state = net.state_dict()
    for name in ("script.pt", "program.pt2"):
        with open_model(files / name) as model:
            for tensor in model:
                if tensor.name in ("turned", "part"):  # a storage of which a tensor sees a part, or sees it otherwise
                    assert len(tensor.shape) == 1
                elif tensor.name in state:
                    assert tensor.shape == tuple(state[tensor.name].shape)
                    want = state[tensor.name]
                    assert np.array_equal(
                        tensor.read(), (want.view(torch.uint8) if want.itemsize == 1 else want).numpy()
                    )
            assert {"conv.weight", "a.weight", "plain", "norm.running_var"} <= set(model.names)
            assert "b.weight" not in model.names  # it has the storage of a.weight


def test_weights_are_quantised_and_go_to_other_formats(files, tmp_path):
    report = nncjit.compress(files / "script.pt", tmp_path / "m.nnc")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.pt")
    assert 20 < {row.name: row.snr for row in report.tensors}["conv.weight"] < 60
    assert np.abs(output_of(tmp_path / "back.pt") - output_of(files / "script.pt")).max() < 0.5
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.safetensors")
    with open_model(tmp_path / "m.safetensors") as model:
        assert model["conv.weight"].shape == (16, 3, 3, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_a_network_of_silero_comes_back(tmp_path):
    silero = pytest.importorskip("silero_vad")
    path = Path(silero.__file__).parent / "data" / "silero_vad.jit"
    nncjit.compress(path, tmp_path / "m.nnc", quantizer="raw")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.jit")
    a, b = (torch.jit.load(at)(torch.full((1, 512), 0.1), 16000) for at in (path, tmp_path / "back.jit"))
    assert torch.equal(a, b)


def test_compiled_programs_are_refused(files, tmp_path):
    """Their code may hold the weights, too, which would not be those of the archive any more."""
    with zipfile.ZipFile(files / "program.pt2") as archive, zipfile.ZipFile(tmp_path / "c.pt2", "w") as compiled:
        for name in archive.namelist():
            compiled.writestr(name, archive.read(name))
        compiled.writestr("program/data/aotinductor/model/code.wrapper.so", b"code")
    assert "compiled for its weights" in refusal(lambda: nncjit.compress(tmp_path / "c.pt2", tmp_path / "m.nnc"))


def test_an_archive_becomes_one_of_its_own_kind(files, tmp_path):
    nncjit.compress(files / "script.pt", tmp_path / "s.nnc")
    nncjit.compress(files / "program.pt2", tmp_path / "p.nnc")
    assert "TorchScript" in refusal(lambda: nncjit.decompress(tmp_path / "s.nnc", tmp_path / "x.pt2"))
    assert "needs a name with .pt2" in refusal(lambda: nncjit.decompress(tmp_path / "p.nnc", tmp_path / "x.pt"))
    plain = nncjit.encode({"w": np.ones(4, "f4")})
    assert "PYTORCH graph" in refusal(lambda: nncjit.decompress(plain, tmp_path / "x.pt2"))


def changed(path, target, changes):
    """An archive with other members."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for name in archive.namelist():
            data = changes.get(name, archive.read(name))
            if data is not None:
                made.writestr(name, data)
        for name in changes.keys() - set(archive.namelist()):
            made.writestr(name, changes[name])


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


TABLE = {"config": {"a": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {"dtype": 7, "sizes": 3}}}}
HOSTILE = {
    "is missing": {"script/data/3": None},
    "its storage has 5 bytes": {"script/data/3": b"12345"},
    "pickle": {"script/data.pkl": pickle.dumps({"a": complex(1)}, protocol=2)[:-9]},
    "big-endian": {"script/byteorder": b"big"},
    "leads out": {"../../evil": b"x"},
    "would become": {"script/code/bomb.py": bytes(1 << 25)},
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_archives_of_strangers_are_refused(files, tmp_path, reason):
    changed(files / "script.pt", tmp_path / "x.pt", HOSTILE[reason])
    message = refusal(lambda: nncjit.compress(tmp_path / "x.pt", tmp_path / "m.nnc"))
    assert reason in message
    assert "x.pt" in message


def test_tables_of_strangers_are_refused(files, tmp_path):
    name = "program/data/weights/model_weights_config.json"
    for table in (b"{", b"[]", json.dumps(TABLE).encode(), b'{"config": 3}'):
        changed(files / "program.pt2", tmp_path / "x.pt2", {name: table})
        assert "is damaged" in refusal(lambda: nncjit.compress(tmp_path / "x.pt2", tmp_path / "m.nnc"))


def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = pickle_values.values_of(pickle.dumps([Evil(), {"a": (1, 2.5, "x")}], protocol=2))
    assert value[0].what.name.endswith("system")
    assert value[1] == {"a": (1, 2.5, "x")}
    assert not (tmp_path / "ran").exists()


DAMAGED_PICKLES = (
    b"",
    b"\x80\x02",
    b"\x80\x02t.",
    b"]\x94a.",
    b"r\xff\xff\xff\xff.",
    b"X\xff\xff\xff\x7fa.",
    b"K\x01b.",
    b"cx\ny\n\x81.",
)


@pytest.mark.parametrize("data", DAMAGED_PICKLES)
def test_damaged_pickles_are_refused(data):
    assert "pickle" in refusal(lambda: pickle_values.values_of(data))


def test_pickles_with_shared_values_are_not_walked_twice(files, tmp_path):
    data = b"\x80\x02]q\x00." if sys.maxsize else b""
    deep = (
        b"\x80\x02]"
        + b"".join(b"q" + bytes([k]) + b"](h" + bytes([k]) + b"h" + bytes([k]) + b"e" for k in range(60))
        + b"."
    )
    for pickled in (data, deep):
        changed(files / "frozen.pt", tmp_path / "x.pt", {"frozen/data.pkl": pickled})
        nncjit.compress(tmp_path / "x.pt", tmp_path / "m.nnc", quantizer="raw")


def test_graphs_of_strangers_make_no_odd_files(files, tmp_path):
    nncjit.compress(files / "script.pt", tmp_path / "m.nnc", quantizer="raw")
    with nncjit.open(tmp_path / "m.nnc") as f:
        (graph,) = f.graphs()
        arrays = {name: np.array(f[name]) for name in f.keys() if f[name].dtype.name != "bfloat16"}  # noqa: SIM118
    (tmp_path / "out").mkdir()
    for data in (b"PK", graph.data[: len(graph.data) // 2], graph.data):
        stream = nncjit.encode(arrays, graphs=[nncjit.Graph("pytorch", data)])
        assert refusal(lambda at=stream: nncjit.decompress(at, tmp_path / "out" / "x.pt"))
    assert not list((tmp_path / "out").iterdir())
    assert zipfile.is_zipfile(io.BytesIO(graph.data))
