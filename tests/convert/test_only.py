"""Some tensors only (`only`): all others are what they were, in every container."""

from __future__ import annotations

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


def test_other_tensors_of_keras_files_are_exact(tmp_path):
    pytest.importorskip("h5py")
    import keras_files

    keras_files.weights_h5(tmp_path / "a.weights.h5")
    nncjit.compress(tmp_path / "a.weights.h5", tmp_path / "m.nnc", only="layers/dense/.*")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "b.weights.h5")
    assert changed(tensors_in(tmp_path / "a.weights.h5"), tensors_in(tmp_path / "b.weights.h5")) == {
        "layers/dense/vars/0"
    }
