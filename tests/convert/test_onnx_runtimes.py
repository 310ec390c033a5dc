"""ONNX files with encoded tensors run as they are, in the reference evaluator and in onnxruntime: every type, graphs in
graphs, functions, old models; and what is wrong with a stream is said before a session is made.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
from model_files import refusal

import nncjit

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import nncjit.onnx  # noqa: E402
from nncjit.formats.onnx_tensors import TYPES  # noqa: E402

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT
X = {"x": RNG.standard_normal((4, 24)).astype("f4")}


def init(name, *shape, dtype="f4"):
    return numpy_helper.from_array((RNG.standard_normal(shape) * 0.1).astype(dtype), name)


def value(name, *shape, code=FLOAT):
    return helper.make_tensor_value_info(name, code, shape)


def model_of(nodes, tensors, *, rank=2, opset=21, ir=10, functions=()):
    ends = value("x", 4, 24), value("y", *"abcd"[:rank])
    graph = helper.make_graph(nodes, "main", [ends[0]], [ends[1]], list(tensors))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))


def dense():
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    return model_of(nodes, [init("w", 24, 80), init("b", 80), init("v", 80, 5)])


def convolution():
    shape = numpy_helper.from_array(np.array([4, 6, 2, 2]), "shape")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["i"]),
        helper.make_node("Conv", ["i", "w", "b"], ["y"], pads=[1, 1, 1, 1], group=2),
    ]
    return model_of(nodes, [shape, init("w", 8, 3, 3, 3), init("b", 8)], rank=4)


def choice_and_loop():
    """Tensors of branches and of a loop's body; one that the body takes from outside; a constant of zeros."""
    branches = [
        helper.make_graph(
            [
                helper.make_node("Constant", [], ["c"], value=init("", 24, 24)),
                helper.make_node("MatMul", ["x", "c"], [f"m{k}"]),
                helper.make_node("MatMul", [f"m{k}", "own"], [f"o{k}"]),
            ],
            f"branch{k}",
            [],
            [value(f"o{k}", 4, 24)],
            [init("own", 24, 24)],
        )
        for k in (0, 1)
    ]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "inner"], ["p"]),
            helper.make_node("Add", ["p", "outer"], ["q"]),
            helper.make_node("Constant", [], ["zeros"], value=numpy_helper.from_array(np.zeros((4, 24), "f4"))),
            helper.make_node("Add", ["q", "zeros"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes"]),
        ],
        "body",
        [value("i", code=TensorProto.INT64), value("going", code=TensorProto.BOOL), value("before", 4, 24)],
        [value("goes", code=TensorProto.BOOL), value("after", 4, 24)],
        [init("inner", 24, 24)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["z"], name="choice", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Loop", ["three", "", "z"], ["y"], name="loop", body=body),
    ]
    return model_of(nodes, [numpy_helper.from_array(np.array(3), "three"), init("outer", 4, 24)])


def functions():
    """A function that takes a tensor of the main graph and has one of its own."""
    inside = [
        helper.make_node("Constant", [], ["c"], value=init("", 24, 24)),
        helper.make_node("MatMul", ["a", "c"], ["m"]),
        helper.make_node("MatMul", ["m", "k"], ["out"]),
    ]
    function = helper.make_function("own", "Twice", ["a", "k"], ["out"], inside, [helper.make_opsetid("", 21)])
    return model_of(
        [helper.make_node("Twice", ["x", "w"], ["y"], domain="own")], [init("w", 24, 24)], functions=[function]
    )


def half():
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["i", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=FLOAT),
    ]
    return model_of(nodes, [init("w", 24, 80, dtype="f2")])


def old():
    """All initialisers are inputs of the graph, too."""
    model = dense()
    model.ir_version = 3
    model.opset_import[0].version = 11
    for tensor in model.graph.initializer:
        model.graph.input.append(value(tensor.name, *tensor.dims))
    return model


def integers():
    """Levels of one and half a byte, dequantised."""
    scale = numpy_helper.from_array(np.float32(0.01), "scale")
    q8 = numpy_helper.from_array(RNG.integers(-90, 90, (24, 24)).astype("i1"), "q8")
    q4 = helper.make_tensor("q4", TensorProto.INT4, [24, 48], RNG.integers(-8, 8, 24 * 48).tolist())
    nodes = [
        helper.make_node("DequantizeLinear", ["q8", "scale"], ["d8"]),
        helper.make_node("DequantizeLinear", ["q4", "scale"], ["d4"]),
        helper.make_node("MatMul", ["x", "d8"], ["m"]),
        helper.make_node("MatMul", ["m", "d4"], ["y"]),
    ]
    return model_of(nodes, [scale, q8, q4])


MODELS = {
    "dense": (dense, {"w", "v", "b"}),
    "convolution": (convolution, {"w"}),
    "choice and loop": (choice_and_loop, {"c", "own", "inner", "outer", "zeros"}),
    "functions": (functions, {"w"}),
    "half": (half, {"w"}),
    "old": (old, {"w", "v", "b"}),
    "integers": (integers, {"q8", "q4"}),
}


def made_by_nodes(path):
    """Names of the tensors that nodes of the file make."""
    found = set()

    def walk(graph):
        for node in graph.node:
            if node.op_type == "Decode":
                found.add(node.output[0].removesuffix(".nnc.values"))
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(onnx.load(path).graph)
    return found


@pytest.mark.parametrize(("make", "coded"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("beside", [False, True], ids=["inside", "beside"])
def test_files_with_encoded_tensors_run_as_they_are(tmp_path, make, coded, beside):
    path, inside, back = (tmp_path / name for name in ("m.onnx", "m.nnc.onnx", "back.onnx"))
    onnx.save(make(), path, save_as_external_data=beside, size_threshold=0)
    nncjit.compress(path, inside, **({} if make is integers else {"quality": 10}))
    assert made_by_nodes(inside) == coded
    onnx.checker.check_model(str(inside))
    nncjit.decompress(inside, back)
    onnx.checker.check_model(str(back), full_check=True)
    want = ReferenceEvaluator(str(back)).run(None, X)[0]
    assert np.array_equal(ReferenceEvaluator(str(inside), new_ops=[nncjit.onnx.Decode]).run(None, X)[0], want)
    if not beside:
        assert without_data(back) == without_data(path)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    want = runtime.InferenceSession(back).run(None, X)[0]
    session = runtime.InferenceSession(inside, nncjit.onnx.session_options(inside))
    gc.collect()  # the session keeps what its options keep
    for _ in range(2):
        assert np.allclose(session.run(None, X)[0], want, rtol=1e-5, atol=1e-6)


def without_data(path):
    """The model, of its tensors only names, types and shapes."""
    model = onnx.load(path)

    def walk(message):
        for field, inner in message.ListFields():
            if field.message_type is None:
                continue
            for one in inner if field.is_repeated else [inner]:
                if field.message_type.name == "TensorProto":
                    for data in ("raw_data", "float_data", "int32_data", "int64_data"):
                        one.ClearField(data)
                else:
                    walk(one)

    walk(model)
    return model


@pytest.mark.parametrize("code", [c for c in TYPES if c < 27], ids=lambda code: TYPES[code].name)
def test_every_type_is_handed_over(tmp_path, code):
    """By the reference evaluator, and by onnxruntime where it knows the type at all."""
    dtype = helper.tensor_dtype_to_np_dtype(code)
    values = RNG.integers(1, 3, (24, 48)) if code == TensorProto.FLOAT8E8M0 else RNG.integers(0, 2, (24, 48))
    w = numpy_helper.from_array(values.astype(dtype), "w")
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=FLOAT), helper.make_node("MatMul", ["x", "c"], ["y"])]
    path, inside = tmp_path / "m.onnx", tmp_path / "m.nnc.onnx"
    onnx.save(model_of(nodes, [w], opset=25, ir=13), path)
    nncjit.compress(path, inside, quantizer="raw")
    assert made_by_nodes(inside) == {"w"}
    want = ReferenceEvaluator(str(path)).run(None, X)[0]
    assert np.array_equal(ReferenceEvaluator(str(inside), new_ops=[nncjit.onnx.Decode]).run(None, X)[0], want)
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    try:
        want = runtime.InferenceSession(path).run(None, X)[0]
    except (runtime.capi.onnxruntime_pybind11_state.NotImplemented, runtime.capi.onnxruntime_pybind11_state.Fail):
        pytest.skip("unknown to onnxruntime")
    session = runtime.InferenceSession(inside, nncjit.onnx.session_options(inside))
    assert np.array_equal(session.run(None, X)[0], want)


@pytest.fixture
def twins(tmp_path):
    """A file with two tensors of one shape, and bytes that nothing makes a tensor of."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    path = tmp_path / "m.nnc.onnx"
    onnx.save(model_of(nodes, [init("w", 24, 24), init("v", 24, 24)]), tmp_path / "m.onnx")
    nncjit.compress(tmp_path / "m.onnx", path)
    return path


def swap_bytes(model):
    first, second = (t for t in model.graph.initializer if t.name.endswith(".nnc"))
    first.name, second.name = second.name, first.name


def cut(model):
    tensor = next(t for t in model.graph.initializer if t.name == "w.nnc")
    tensor.raw_data = tensor.raw_data[:-9]
    tensor.dims[0] -= 9


def of_type(model, code):
    target = next(t for t in model.graph.initializer if t.name.startswith("nnc.target_type"))
    target.CopyFrom(helper.make_tensor(target.name, code, [], [0]))


def attribute(name, **values):
    def change(model):
        node = next(n for n in model.graph.node if n.op_type == "Decode" and n.output[0] == "w")
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(*pair) for pair in values.items())])

    return change


def take_twice(model):
    model.graph.node.append(helper.make_node("Identity", ["w.nnc"], ["raw"]))


WRONG = {
    "another node takes its bytes w.nnc, too": take_twice,
    "its stream is that of": swap_bytes,
    "(bit ": cut,
    "must be float32[12, 48]": attribute("shape", shape=[12, 48]),
    "type and shape": attribute("shape", shape=[1 << 62, 1]),
    "does not say type and shape": attribute("to", to=99),
    "data_type 3 does not come of data_type 1": attribute("to", to=3),
    "data_type 1 does not come of data_type 10": lambda model: of_type(model, 10),
}


@pytest.mark.parametrize(("reason", "change"), WRONG.items(), ids=range(len(WRONG)))
def test_what_is_wrong_is_said_before_there_is_a_session(twins, reason, change):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    model = onnx.load(twins)
    change(model)
    onnx.save(model, twins)
    for action in (
        lambda: nncjit.onnx.session_options(twins),
        lambda: nncjit.decompress(twins, twins.with_name("back.onnx")),
    ):
        message = refusal(action)
        assert message.startswith(f"{twins}: node ")
        assert ".nnc.decode (Decode): " in message
        assert "tensor " in message or change is take_twice
        assert reason in message


def test_the_reference_evaluator_names_node_and_tensor(twins):
    model = onnx.load(twins)
    cut(model)
    evaluator = ReferenceEvaluator(model, new_ops=[nncjit.onnx.Decode])
    assert "node w.nnc.decode (Decode): tensor w: " in refusal(lambda: evaluator.run(None, X))


def test_values_are_kept_for_sessions_and_not_beyond(twins):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    from nncjit.onnx.runtime_operator import _ready

    gc.collect()
    before = len(_ready)
    options = nncjit.onnx.session_options(twins, runtime.SessionOptions())
    again = nncjit.onnx.session_options(twins)
    assert len(_ready) == before + 2
    sessions = [runtime.InferenceSession(twins, one) for one in (options, again)]
    want = sessions[0].run(None, X)[0]
    del options, sessions[0], again
    gc.collect()
    assert len(_ready) == before + 2
    assert np.array_equal(sessions[0].run(None, X)[0], want)
    del sessions[0]
    gc.collect()
    assert len(_ready) == before


def test_options_of_another_file(twins, tmp_path, monkeypatch):
    """Sound streams are decoded at each run; a damaged one gives an error of the run, and ends no process."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    onnx.save(dense(), tmp_path / "o.onnx")
    nncjit.compress(tmp_path / "o.onnx", tmp_path / "o.nnc.onnx")
    want = runtime.InferenceSession(twins, nncjit.onnx.session_options(twins)).run(None, X)[0]
    other = nncjit.onnx.session_options(tmp_path / "o.nnc.onnx")
    gc.collect()
    assert np.array_equal(runtime.InferenceSession(twins, other).run(None, X)[0], want)
    model = onnx.load(twins)
    cut(model)
    said = []
    monkeypatch.setattr("sys.unraisablehook", lambda told: said.append(str(told.exc_value)))
    session = runtime.InferenceSession(model.SerializeToString(), other)
    with pytest.raises(runtime.capi.onnxruntime_pybind11_state.Fail):
        session.run(None, X)
    assert "gives nothing" in said[0]


def test_only_such_files_have_options(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxruntime_extensions")
    onnx.save(dense(), tmp_path / "m.onnx")
    assert "no ONNX file with encoded tensors" in refusal(lambda: nncjit.onnx.session_options(tmp_path / "m.onnx"))
    assert "no such file" in refusal(lambda: nncjit.onnx.session_options(tmp_path / "none.nnc.onnx"))


def test_tensors_without_a_name_of_their_own_stay_as_they_are(tmp_path):
    twins = [init(name, 24, 24) for name in ("twin", "twin", "", "w")]
    onnx.save(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], twins), tmp_path / "m.onnx")
    nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc.onnx", quantizer="raw")
    assert made_by_nodes(tmp_path / "m.nnc.onnx") == {"w"}
    nncjit.decompress(tmp_path / "m.nnc.onnx", tmp_path / "back.onnx")
    pairs = zip(onnx.load(tmp_path / "back.onnx").graph.initializer, twins, strict=True)
    assert all(np.array_equal(*map(numpy_helper.to_array, pair)) for pair in pairs)
