"""Graphs as exporters and quantisers make them, from PyTorch and by onnxruntime: the results run and agree."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nncjit

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
runtime = pytest.importorskip("onnxruntime")
from onnx import numpy_helper  # noqa: E402

import nncjit.onnx  # noqa: E402

WORDS = np.random.default_rng(0).integers(0, 50, (2, 7))
ROWS = np.random.default_rng(1).standard_normal((3, 32)).astype("f4")


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 24)
        self.rnn = torch.nn.LSTM(24, 16, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(32, 10)

    def forward(self, words):
        return self.head(self.rnn(self.table(words))[0])


class Attention(torch.nn.Module):
    """Its table is its last layer, too."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 32)
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = torch.nn.Linear(32, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(self.layer(self.table(words)))


class Choices(torch.nn.Module):
    """A loop with a choice in it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)

    def forward(self, x, count: int):
        for _ in range(count):
            x = torch.tanh(self.a(x)) if bool(x.sum() > 0) else torch.sigmoid(self.b(x))
        return x


NETS = {
    "recurrent": (Recurrent, [WORDS]),
    "attention": (Attention, [WORDS]),
    "choices": (Choices, [ROWS, np.array(3)]),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Files of the networks, by name."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    for name, (make, inputs) in NETS.items():
        net = make().eval()
        args = tuple(torch.from_numpy(x) for x in inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "choices":
                net, args = torch.jit.script(net), (args[0], 3)
            torch.onnx.export(net, args, folder / f"{name}.onnx", dynamo=False)
    return folder


def outputs(session, inputs):
    return session.run(None, {given.name: x for given, x in zip(session.get_inputs(), inputs, strict=False)})[0]


@pytest.mark.parametrize("name", NETS)
def test_exported_graphs_run_after_every_road(exported, tmp_path, name):
    pytest.importorskip("onnxruntime_extensions")
    source, inputs = exported / f"{name}.onnx", NETS[name][1]
    want = outputs(runtime.InferenceSession(source), inputs)
    for stream in ("m.nnc", "m.nnc.onnx"):
        nncjit.compress(source, tmp_path / stream, quantizer="raw")
        nncjit.decompress(tmp_path / stream, tmp_path / "back.onnx")
        assert np.array_equal(outputs(runtime.InferenceSession(tmp_path / "back.onnx"), inputs), want)
    inside = tmp_path / "m.nnc.onnx"
    session = runtime.InferenceSession(inside, nncjit.onnx.session_options(inside))
    assert np.allclose(outputs(session, inputs), want, rtol=1e-4, atol=1e-5)


def integers_and_scales(path):
    """Levels, zero points and scales, whose bytes may not change."""
    return {
        tensor.name: numpy_helper.to_array(tensor).tobytes()
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type != 1 or "scale" in tensor.name
    }


@pytest.mark.parametrize("kind", ["dynamic", "dynamic by channels", "blocks of 4 bits"])
def test_what_onnxruntime_quantised_comes_back_exact(exported, tmp_path, kind):
    """By the defaults, which quantise what is still float."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    source, target = exported / "attention.onnx", tmp_path / "q.onnx"
    if kind == "blocks of 4 bits":
        nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
        maker = nbits.MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=False)
        maker.process()
        maker.model.save_model_to_file(str(target))
    else:
        settings = {"per_channel": True, "weight_type": quantization.QuantType.QInt8} if "by" in kind else {}
        quantization.quantize_dynamic(source, target, **settings)
    nncjit.compress(target, tmp_path / "m.nnc")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.onnx")
    assert integers_and_scales(tmp_path / "back.onnx") == integers_and_scales(target)
    got, want = (outputs(runtime.InferenceSession(tmp_path / name), [WORDS]) for name in ("back.onnx", "q.onnx"))
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()
