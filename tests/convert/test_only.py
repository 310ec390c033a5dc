"""Some tensors only (`only`): all others are what they were, in every container."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.cli.main import main
from nncjit.errors import NncWarning
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

RNG = np.random.default_rng(0)
ARRAYS = {name: (RNG.standard_normal((64, 32)) * 0.1).astype("f4") for name in ("a.weight", "b.weight", "embed")}
ARRAYS |= {"n": np.arange(300), "bias": RNG.standard_normal(64).astype("f4")}
ONLY = r"[ab]\.weight"


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def saved(path):
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in ARRAYS.items()]
    with create(path, infos) as writer:
        for name, array in ARRAYS.items():
            writer.put(name, array)


def tensors_in(path):
    with open_model(path) as model:
        return {tensor.name: np.array(tensor.read()) for tensor in model}


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_all_others_are_exact_in_files(tmp_path, suffix):
    path, back = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    saved(path)
    assert main(["compress", str(path), "-o", str(tmp_path / "m.nnc"), "--only", ONLY, "--blocks", "-q"]) == 0
    nncjit.decompress(tmp_path / "m.nnc", back)
    assert changed(tensors_in(path), tensors_in(back)) == {"a.weight", "b.weight"}


@pytest.mark.parametrize("options", [{"bits": 3}, {"rules": {".*": "qp:-20"}}, {"blocks": True}, {"join": "x"}])
def test_it_comes_before_rules_and_targets(options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NncWarning)  # bits count for all tensors, and are missed
        stream = nncjit.encode(ARRAYS, only="embed", **options)
    assert changed(ARRAYS, nncjit.decode(stream)) == {"embed"}


def test_several_streams_hold_the_same(tmp_path):
    saved(tmp_path / "a.safetensors")
    nncjit.compress(tmp_path / "a.safetensors", tmp_path / "m.nnc.index.json", only="embed", shard_bytes=9000)
    nncjit.decompress(tmp_path / "m.nnc.index.json", tmp_path / "b.safetensors.index.json")
    assert changed(ARRAYS, tensors_in(tmp_path / "b.safetensors.index.json")) == {"embed"}


def test_a_pattern_that_matches_nothing_is_warned_of_once(tmp_path):
    with pytest.warns(NncWarning, match=r"only 'embedd' matches no tensor \(did you mean 'embed'\?\)") as seen:
        stream = nncjit.encode(ARRAYS, only="embedd")
    assert len(seen) == 1
    assert not changed(ARRAYS, nncjit.decode(stream))
    assert "a regular expression" in refusal(lambda: nncjit.encode(ARRAYS, only="("))


def onnx_net(path):
    onnx = pytest.importorskip("onnx")
    made = [onnx.numpy_helper.from_array(ARRAYS[name], name) for name in ("a.weight", "b.weight")]
    shape = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 32])
    node = onnx.helper.make_node("Add", ["a.weight", "b.weight"], ["y"])
    graph = onnx.helper.make_graph([node], "net", [], [shape], made)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)


def test_tensors_stay_where_they_were_in_onnx_files(tmp_path):
    onnx_net(tmp_path / "a.onnx")
    nncjit.compress(tmp_path / "a.onnx", tmp_path / "b.nnc.onnx", only="a.*")
    assert set(tensors_in(tmp_path / "b.nnc.onnx")) == {"a.weight.nnc", "b.weight"}
    nncjit.decompress(tmp_path / "b.nnc.onnx", tmp_path / "c.onnx")
    nncjit.compress(tmp_path / "a.onnx", tmp_path / "m.nnc", only="a.*")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "d.onnx")
    for name in ("c.onnx", "d.onnx"):
        assert changed(tensors_in(tmp_path / "a.onnx"), tensors_in(tmp_path / name)) == {"a.weight"}
    with pytest.warns(NncWarning, match="matches no tensor") as seen:
        nncjit.compress(tmp_path / "a.onnx", tmp_path / "e.nnc.onnx", only="x")
    assert len(seen) == 1


def test_tensors_stay_where_they_were_in_folders_of_hugging_face(tmp_path):
    from nncjit.convert.hf_layout import compress_folder

    (tmp_path / "a").mkdir()
    saved(tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "config.json").write_text("{}")
    compress_folder(tmp_path / "a", tmp_path / "b", only=r"a\..*")
    names = set(tensors_in(tmp_path / "b" / "model.safetensors"))
    assert names == {"a.weight_nnc", "b.weight", "embed", "n", "bias"}


NNEF = b"""version 1.0;
graph net(x) -> (y)
{
    w = variable<scalar>(shape = [64, 32], label = 'a.weight');
    v = variable<scalar>(shape = [64, 32], label = 'b.weight');
    b = variable<scalar>(shape = [64], label = 'bias');
}
"""


def nnef_net(folder):
    folder.mkdir()
    (folder / "graph.nnef").write_bytes(NNEF)
    for name in ("a.weight", "b.weight", "bias"):
        array = ARRAYS[name]
        dims = [*array.shape, *[0] * (8 - array.ndim)]
        head = struct.pack("<2sBBII8IIHH", b"N\xef", 1, 0, array.nbytes, array.ndim, *dims, 32, 0, 0)
        (folder / f"{name}.dat").write_bytes(head.ljust(128, b"\0") + array.astype("<f4").tobytes())
    return folder / "graph.nnef"


def gguf_file(path, parts):
    """Write a GGUF file; parts are (name, shape, type, bytes)."""
    head, data = b"GGUF" + struct.pack("<IQQ", 3, len(parts), 0), b""
    for name, shape, kind, raw in parts:
        head += struct.pack("<Q", len(name)) + name.encode()
        head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def floats(*names):
    return [(name, ARRAYS[name].shape, 0, ARRAYS[name].astype("<f4").tobytes()) for name in names]


def gguf_net(folder):
    folder.mkdir()
    gguf_file(folder / "m.gguf", floats("a.weight", "b.weight", "bias"))
    return folder / "m.gguf"


@pytest.mark.parametrize("net", [nnef_net, gguf_net])
@pytest.mark.parametrize("options", [{"only": "a.*"}, {"rules": {"b.*": "raw"}}], ids=str)
def test_other_tensors_of_nnef_and_gguf_are_exact(tmp_path, net, options):
    path = net(tmp_path / "a")
    (tmp_path / "b").mkdir()
    nncjit.compress(path, tmp_path / "m.nnc", **options)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b" / path.name)
    before, after = tensors_in(path), tensors_in(tmp_path / "b" / path.name)
    assert "a.weight" in changed(before, after)
    assert changed(before, after) <= {"a.weight", *({"bias"} if "rules" in options else ())}


def test_one_tensor_of_a_quantised_gguf_file_can_be_coded_by_a_rule(tmp_path):
    blocks = ("q", (1, 32), 2, np.random.default_rng(1).bytes(18))
    gguf_file(tmp_path / "m.gguf", [blocks, *floats("a.weight", "b.weight")])
    nncjit.compress(tmp_path / "m.gguf", tmp_path / "m.nnc", only="a.*|q.*", rules={r"a\.weight": "quality:2"})
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b.gguf")
    before, after = tensors_in(tmp_path / "m.gguf"), tensors_in(tmp_path / "b.gguf")
    assert changed(before, after) == {"a.weight"}


def test_other_tensors_of_keras_files_are_exact(tmp_path):
    pytest.importorskip("h5py")
    import keras_files

    keras_files.weights_h5(tmp_path / "a.weights.h5")
    nncjit.compress(tmp_path / "a.weights.h5", tmp_path / "m.nnc", only="layers/dense/.*")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b.weights.h5")
    assert changed(tensors_in(tmp_path / "a.weights.h5"), tensors_in(tmp_path / "b.weights.h5")) == {
        "layers/dense/vars/0"
    }
