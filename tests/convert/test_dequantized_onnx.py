"""Streams that become ONNX files with integers and scales: checked, and run beside the files with floats."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import nncjit
from nncjit.cli.main import main
from nncjit.errors import ModelError, NncWarning, OptionError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

RNG = np.random.default_rng(0)
INT8 = {"quantizer": "uniform", "quality": 0.4}
"""Levels of these weights are within int8."""


def init(name, *shape, dtype=np.float32):
    return numpy_helper.from_array((RNG.standard_normal(shape) * 0.1).astype(dtype), name)


def info(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)


def mlp():
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    tensors = [init("w", 48, 32), init("b", 32), init("v", 32, 40)]
    return helper.make_graph(nodes, "mlp", [info("x", 4, 48)], [info("y", 4, 40)], tensors)


def conv():
    nodes = [
        helper.make_node("Conv", ["x", "k", "kb"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "l"], ["y"]),
    ]
    tensors = [init("k", 16, 3, 3, 3), init("kb", 16), init("l", 24, 16, 3, 3)]
    return helper.make_graph(nodes, "conv", [info("x", 1, 3, 12, 12)], [info("y", 1, 24, 10, 10)], tensors)


NETWORKS = {"mlp": (mlp, (4, 48), ("w", "v")), "conv": (conv, (1, 3, 12, 12), ("k", "l"))}


def stream_of(folder, graph, opset=21, ir=8, **options):
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10 if opset > 19 else ir
    )
    onnx.save(model, folder / "m.onnx")
    nncjit.compress(folder / "m.onnx", folder / "m.nnc", **options)
    return folder / "m.nnc"


def both_forms(stream):
    """Paths of the plain file and the one with integers, and the warnings of the second."""
    plain, integers = stream.with_name("plain.onnx"), stream.with_name("qdq.onnx")
    nncjit.decompress(stream, plain)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        nncjit.decompress(stream, integers, form="qdq")
    onnx.checker.check_model(str(integers), full_check=True)
    return plain, integers, [str(warning.message) for warning in told if warning.category is NncWarning]


def initialisers(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def dequantized(path):
    """The values of the weights that are integers, by this computation of its own; and the dtypes of the levels."""
    found, held = {}, initialisers(path)
    for node in onnx.load(path).graph.node:
        if node.op_type == "DequantizeLinear":
            levels, scale = (held[name] for name in node.input)
            axis = next((attribute.i for attribute in node.attribute), None)
            shape = [1] * levels.ndim
            if scale.ndim:
                shape[axis] = -1
            found[node.output[0]] = (levels.astype(np.float32) * scale.reshape(shape), levels.dtype.name)
    return found


def outputs(path, shape):
    """Of the reference evaluator, which has DequantizeLinear from opset 19 on, and of onnxruntime where it is there."""
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    modern = onnx.load(path).opset_import[0].version >= 19
    found = [ReferenceEvaluator(str(path)).run(None, {"x": x})[0]] if modern else []
    try:
        import onnxruntime
    except ImportError:
        return found
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [*found, session.run(None, {"x": x})[0]]


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("quantizer", ["uniform", "trellis"])
@pytest.mark.parametrize("network", NETWORKS)
def test_one_step_gives_the_very_same_values(tmp_path, network, quantizer, opset):
    graph, shape, weights = NETWORKS[network]
    stream = stream_of(tmp_path, graph(), opset, quantizer=quantizer, quality=0.4)
    plain, integers, told = both_forms(stream)
    found, decoded = dequantized(integers), nncjit.decode(stream)
    assert not told
    assert set(found) == set(weights)
    for name in weights:
        assert found[name][1] == "int8"
        assert found[name][0].tobytes() == decoded[name].tobytes()
    for got, want in zip(outputs(integers, shape), outputs(plain, shape), strict=True):
        assert np.array_equal(got, want)


@pytest.mark.parametrize("quantizer", ["uniform", "trellis"])
@pytest.mark.parametrize("network", NETWORKS)
def test_scaled_rows_have_a_scale_each(tmp_path, network, quantizer):
    """Values are equal but for one rounding: of the product of step and row's scale instead of the value's."""
    graph, shape, weights = NETWORKS[network]
    stream = stream_of(tmp_path, graph(), quantizer=quantizer, quality=0.4, scale_rows=True)
    plain, integers, told = both_forms(stream)
    found, decoded, held = dequantized(integers), nncjit.decode(stream), initialisers(integers)
    assert not told
    for name in weights:
        assert held[f"{name}.scale"].ndim == 1
        np.testing.assert_allclose(found[name][0], decoded[name], rtol=2**-22, atol=0)
    for got, want in zip(outputs(integers, shape), outputs(plain, shape), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def normed():
    """A convolution and its batch norm, some of whose factors are negative."""
    nodes = [
        helper.make_node("Conv", ["x", "k", "kb"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["h", "gamma", "beta", "mean", "var"], ["y"]),
    ]
    tensors = [init("k", 16, 3, 3, 3), *(init(name, 16) for name in ("kb", "gamma", "beta", "mean"))]
    tensors.append(numpy_helper.from_array(np.linspace(0.5, 1.5, 16, dtype=np.float32), "var"))
    return helper.make_graph(nodes, "normed", [info("x", 1, 3, 12, 12)], [info("y", 1, 16, 12, 12)], tensors)


@pytest.mark.parametrize("options", [{}, {"fold_batchnorm": True}, {"scale_rows": True}], ids=str)
def test_blocks_become_integers_and_vectors(tmp_path, options):
    """Folding makes negative factors of rows; scales are positive nevertheless."""
    stream = stream_of(tmp_path, normed(), blocks=True, quality=0.4, **options)
    plain, integers, told = both_forms(stream)
    assert not told
    assert set(dequantized(integers)) == {"k"}
    assert (initialisers(integers)["k.scale"] > 0).all()
    np.testing.assert_allclose(dequantized(integers)["k"][0], nncjit.decode(stream)["k"], rtol=2**-22, atol=0)
    for got, want in zip(*(outputs(path, (1, 3, 12, 12)) for path in (integers, plain)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.* has no effect without:nncjit.NncWarning")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [1, 40])
def test_scales_run_along_the_rows(tmp_path, axis, size):
    """Along the dimension that is coded as rows, also where there is one row only."""
    shape = (size, 48) if axis == 0 else (48, size)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1 - axis)]
    graph = helper.make_graph(nodes, "net", [info("x", 4, 48)], [info("y", 4, size)], [init("w", *shape)])
    stream = stream_of(tmp_path, graph, scale_rows=True, first_dimension=axis, **INT8)
    plain, integers, told = both_forms(stream)
    assert not told
    assert initialisers(integers)["w.scale"].shape == (size,)
    for got, want in zip(outputs(integers, (4, 48)), outputs(plain, (4, 48)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_joined_tensors(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", f"w{k}"], [f"h{k}"]) for k in range(3)]
    nodes.append(helper.make_node("Sum", ["h0", "h1", "h2"], ["y"]))
    tensors = [init(f"w{k}", 48, 32) for k in range(3)]
    graph = helper.make_graph(nodes, "net", [info("x", 4, 48)], [info("y", 4, 32)], tensors)
    stream = stream_of(tmp_path, graph, join="w.*", **INT8)
    plain, integers, told = both_forms(stream)
    assert not told
    assert set(dequantized(integers)) == {"w0", "w1", "w2"}
    for got, want in zip(outputs(integers, (4, 48)), outputs(plain, (4, 48)), strict=True):
        assert np.array_equal(got, want)


@pytest.mark.parametrize(("opset", "dtype"), [(21, "int16"), (20, "float32")])
def test_large_levels(tmp_path, opset, dtype):
    stream = stream_of(tmp_path, mlp(), opset, quality=20)
    plain, integers, told = both_forms(stream)
    found, decoded = dequantized(integers), nncjit.decode(stream)
    if dtype == "int16":
        assert not told
        assert [found[name][1] for name in ("w", "v")] == ["int16"] * 2
        assert all(found[name][0].tobytes() == decoded[name].tobytes() for name in ("w", "v"))
    else:
        assert not found
        assert re.search(r"2 tensors stay floats: w, v: .*int16 needs opset 21, the network has 20", told[0])
    for got, want in zip(outputs(integers, (4, 48)), outputs(plain, (4, 48)), strict=True):
        assert np.array_equal(got, want)


def test_rows_need_opset_13(tmp_path):
    _, integers, told = both_forms(stream_of(tmp_path, mlp(), 12, scale_rows=True, **INT8))
    assert not dequantized(integers)
    assert "a scale for each row needs opset 13, the network has 12" in told[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantizer": "raw"}, "stored exactly"),
        ({"quantizer": "codebook"}, "values of a codebook"),
        ({"rank": 4, **INT8}, "products of factors"),
    ],
    ids=str,
)
def test_what_holds_no_levels_stays_floats(tmp_path, options, reason):
    graph = mlp()
    few = numpy_helper.from_array(RNG.choice(np.array([-0.1, 0, 0.03, 0.2, 0.5], np.float32), (48, 32)), "w")
    graph.initializer[0].CopyFrom(few)
    graph.initializer[2].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(few).T.copy()[:, :40], "v"))
    plain, integers, told = both_forms(stream_of(tmp_path, graph, **options))
    assert reason in told[0]
    assert plain.read_bytes() == integers.read_bytes()


def test_names_that_are_bound_or_taken(tmp_path):
    """Inputs, outputs and constants stay floats; a name that is taken is not given again."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value=init("", 32, 32)),
        helper.make_node("MatMul", ["x", "w"], ["w.scale"]),
        helper.make_node("MatMul", ["w.scale", "c"], ["h"]),
        helper.make_node("MatMul", ["h", "given"], ["g"]),
        helper.make_node("MatMul", ["g", "out"], ["y"]),
    ]
    tensors = [init("w", 32, 32), init("given", 32, 32), init("out", 32, 32), init("w.levels", 32)]
    inputs, results = [info("x", 4, 32), info("given", 32, 32)], [info("y", 4, 32), info("out", 32, 32)]
    stream = stream_of(tmp_path, helper.make_graph(nodes, "net", inputs, results, tensors), **INT8)
    plain, integers, told = both_forms(stream)
    assert set(dequantized(integers)) == {"w"}
    assert {"w.levels", "w.levels2", "w.scale2"} <= set(initialisers(integers))
    assert "given, out: inputs or outputs of the graph" in told[0]
    assert "c: not initialisers of the main graph" in told[0]
    x = np.ones((4, 32), np.float32)
    given = initialisers(plain)["given"]
    runs = [ReferenceEvaluator(str(path)).run(None, {"x": x, "given": given})[0] for path in (plain, integers)]
    assert np.array_equal(*runs)


def test_data_beside_the_model_and_tied_tensors(tmp_path):
    model = helper.make_model(mlp(), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model.graph.initializer.extend([init("t", 32, 32), init("u", 32, 32)])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    t, u = (next(x for x in model.graph.initializer if x.name == name) for name in "tu")
    del u.external_data[:]
    u.external_data.extend(t.external_data)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc", **INT8)
    _, integers, told = both_forms(tmp_path / "m.nnc")
    assert "t: tied" in told[0]
    assert set(dequantized(integers)) == {"w", "v"}
    decoded = nncjit.decode(tmp_path / "m.nnc")
    assert all(dequantized(integers)[name][0].tobytes() == decoded[name].tobytes() for name in "wv")
    assert (tmp_path / "qdq.onnx.data").stat().st_size < (tmp_path / "plain.onnx.data").stat().st_size


def test_other_types_stay(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["w"], ["c"], to=1), helper.make_node("MatMul", ["x", "c"], ["y"])],
        "half",
        [info("x", 4, 48)],
        [info("y", 4, 32)],
        [init("w", 48, 32, dtype=np.float16)],
    )
    _, integers, told = both_forms(stream_of(tmp_path, graph, **INT8))
    assert "w: not of the type float" in told[0]
    assert not dequantized(integers)


def test_refusals(tmp_path, capsys):
    stream = stream_of(tmp_path, mlp(), **INT8)
    for target in ("m.safetensors", "m.nnc.onnx", "m.npz"):
        with pytest.raises(OptionError, match="qdq is for one stream"):
            nncjit.decompress(stream, tmp_path / target, form="qdq")
    with pytest.raises(OptionError, match="form is 'int8', must be qdq"):
        nncjit.decompress(stream, tmp_path / "o.onnx", form="int8")
    nncjit.compress({"w": np.ones((8, 8), np.float32)}, tmp_path / "bare.nnc")
    with pytest.raises(ModelError, match="needs the ONNX graph"):
        nncjit.decompress(tmp_path / "bare.nnc", tmp_path / "o.onnx", form="qdq")
    with pytest.raises(ModelError):
        nncjit.decompress(stream, tmp_path / "missing" / "o.onnx", form="qdq")
    old = stream_of(tmp_path, mlp(), 9, ir=4, **INT8)
    with pytest.raises(OptionError, match="needs opset 10, the network has 9"):
        nncjit.decompress(old, tmp_path / "o.onnx", form="qdq")
    assert main(["decompress", str(stream), "-o", str(tmp_path / "o.npz"), "--as", "qdq"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("o.*"))


def test_damaged_streams_give_our_errors_and_leave_no_file(tmp_path):
    stream = stream_of(tmp_path, mlp(), **INT8)
    data = bytearray(stream.read_bytes())
    for position in np.random.default_rng(2).integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NncWarning)
            try:
                nncjit.decompress(bytes(damaged), tmp_path / "o.onnx", form="qdq")
            except nncjit.NncError:
                assert not (tmp_path / "o.onnx").exists()
            else:
                (tmp_path / "o.onnx").unlink()


def test_the_command(tmp_path):
    stream = stream_of(tmp_path, mlp(), **INT8)
    assert main(["decompress", str(stream), "-o", str(tmp_path / "o.onnx"), "--as", "qdq", "--quiet"]) == 0
    (tmp_path / "m.onnx").unlink()
    assert main(["decompress", str(stream), "--as", "qdq", "--quiet"]) == 0
    for name in ("o.onnx", "m.onnx"):
        assert set(dequantized(tmp_path / name)) == {"w", "v"}
