"""ONNX models go to streams and back: every type and place of a tensor, equal outputs, hostile files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.errors import ModelError
from nncjit.formats import create, open_model, protobuf_wire
from nncjit.formats.protobuf_wire import Range

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

RNG = np.random.default_rng(0)


def floats(*shape, dtype=np.float32):
    return (RNG.standard_normal(shape) * 0.1).astype(dtype)


def graph_of(nodes, initializers=(), inputs=(("x", [1, 8]),), outputs=(("y", None),), **more):
    return helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        list(initializers),
        **more,
    )


def model_of(graph, **more):
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **more)


def tensors_in(model):
    """Every TensorProto with data, found by this walk of its own: name -> list, in order."""
    found = []

    def walk(message):
        for field, value in message.ListFields():
            if field.message_type is not None:
                for inner in value if field.is_repeated else [value]:
                    (found.append if field.message_type.name == "TensorProto" else walk)(inner)

    walk(model)
    return found


def there_and_back(path, target, **options):
    """Through a stream; the number of tensors in it."""
    stream = path.with_suffix(".nnc")
    nncjit.compress(path, stream, **options)
    nncjit.decompress(stream, target)
    with nncjit.open(stream) as f:
        return len(f)


def assert_same_model(got, want, folder=""):
    """Equal tensors, bit for bit, and an equal graph around them."""
    pairs = list(zip(tensors_in(got), tensors_in(want), strict=True))
    for g, w in pairs:
        assert (g.name, list(g.dims), g.data_type) == (w.name, list(w.dims), w.data_type)
        if w.data_type != TensorProto.STRING:
            arrays = [numpy_helper.to_array(t, str(folder)) for t in (g, w)]
            assert arrays[0].tobytes() == arrays[1].tobytes(), g.name
    for g, w in pairs:
        g.CopyFrom(w)
    assert got == want


def types():
    return [t for t in TensorProto.DataType.values() if t not in (0, 8, 14, 15)]


@pytest.mark.parametrize("code", types(), ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (77,), (129, 9)], ids=str)
def test_every_type_comes_back_bit_for_bit(tmp_path, code, shape):
    """In raw_data and in typed fields."""
    size = int(np.prod(shape))
    dtype = helper.tensor_dtype_to_np_dtype(code)
    bits = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}.get(code, 8 * dtype.itemsize)
    n_bytes = -(-size * bits // 8)
    raw = bytearray(
        RNG.bytes(n_bytes) if code != TensorProto.BOOL else RNG.integers(0, 2, n_bytes).astype("u1").tobytes()
    )
    if size * bits % 8:
        raw[-1] &= 2 ** (size * bits % 8) - 1
    one = TensorProto(name="raw", data_type=code, dims=shape, raw_data=bytes(raw))
    typed = TensorProto(name="typed", data_type=code, dims=shape)
    if code in (1, 11):
        values = np.frombuffer(bytes(raw), dtype)
        getattr(typed, {1: "float_data", 11: "double_data"}[code]).extend(np.nan_to_num(values).tolist())
    elif code in (7, 12, 13):
        getattr(typed, "int64_data" if code == 7 else "uint64_data").extend(np.frombuffer(bytes(raw), dtype).tolist())
    elif bits == 6:
        typed.int32_data.extend(RNG.integers(0, 64, size).tolist())
    else:
        width = "u1" if bits < 8 else {2: "i2", 1: "i1"}.get(dtype.itemsize, "i4")
        if code in (2, 4, 9, 10, 16, 17, 18, 19, 20, 24):
            width = width.replace("i", "u")
        typed.int32_data.extend(np.frombuffer(bytes(raw), width).tolist())
    node = helper.make_node("Identity", ["x"], ["y"])
    model = model_of(graph_of([node], [one, typed]))
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx", quantizer="raw")
    got = onnx.load(tmp_path / "back.onnx")
    for g, w in zip(got.graph.initializer, model.graph.initializer, strict=True):
        assert numpy_helper.to_array(g).tobytes() == numpy_helper.to_array(w).tobytes()


def nested():
    """Constants in branches of one name, a function, sparse tensors, text, long lists, training information."""
    branch = [
        helper.make_graph(
            [
                helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(8, 8), "ignored")),
                helper.make_node("MatMul", ["x", "c"], ["h"]),
                helper.make_node("Add", ["h", "own"], ["out"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(floats(8), "own")],
        )
        for name in ("then", "else")
    ]
    long_list = floats(8).tolist()
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["a"], name="choice", then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Constant", [], ["l"], value_floats=long_list),
        helper.make_node("Constant", [], ["words"], value_strings=["a", "b"]),
        helper.make_node("Scaled", ["a"], ["f"], domain="own"),
        helper.make_node("Mul", ["f", "l"], ["y"]),
    ]
    function = helper.make_function(
        "own",
        "Scaled",
        ["v"],
        ["w"],
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(8), "c")),
            helper.make_node("Mul", ["v", "c"], ["w"]),
        ],
        [helper.make_opsetid("", 21)],
    )
    graph = graph_of(nodes, [numpy_helper.from_array(floats(8, 8), "c")])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("own", 1)],
        functions=[function],
        ir_version=10,
    )
    model.metadata_props.add(key="author", value="someone")
    return model


def test_tensors_anywhere_in_the_model_come_back(tmp_path):
    model = nested()
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx", quantizer="raw")
    got = onnx.load(tmp_path / "back.onnx")
    x = floats(1, 8)
    assert np.array_equal(*(ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, got)))
    with nncjit.open(tmp_path / "m.nnc") as f:
        assert set(f.keys()) >= {"c", "choice.then_branch/c", "choice.else_branch/own", "own.Scaled/c", "l"}
        (graph,) = f.graphs()
    assert graph.format == "onnx"
    left = onnx.ModelProto.FromString(graph.data)
    assert left.metadata_props[0].value == "someone"
    assert not left.graph.initializer[0].raw_data


def test_sparse_tensors_come_back(tmp_path):
    places = np.sort(RNG.choice(64 * 64, 90, replace=False))
    values = numpy_helper.from_array(floats(90), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), [64, 64])
    node = helper.make_node("Constant", [], ["sp"], sparse_value=sparse)
    model = model_of(graph_of([node, helper.make_node("Identity", ["x"], ["y"])], sparse_initializer=[sparse]))
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx", quantizer="raw")
    assert_same_model(onnx.load(tmp_path / "back.onnx"), model)
    with nncjit.open(tmp_path / "m.nnc") as f:
        assert list(f.keys()) == ["s", "s.indices", "sp", "sp.indices"]
        assert np.array_equal(f.get_tensor("sp.indices"), places)


def test_numbers_that_steer_the_computation_stay_in_the_graph(tmp_path):
    initializers = [
        numpy_helper.from_array(np.array([1, 8]), "shape"),
        numpy_helper.from_array(np.float32(0.1), "alpha"),
        numpy_helper.from_array(np.arange(100), "table"),
        helper.make_tensor("text", TensorProto.STRING, [2], ["a", "b"]),
        helper.make_tensor("complex", TensorProto.COMPLEX64, [2], [1 + 2j, 3j]),
        numpy_helper.from_array(floats(8), "bias"),
    ]
    model = model_of(graph_of([helper.make_node("Identity", ["x"], ["y"])], initializers))
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx", quantizer="raw")
    assert_same_model(onnx.load(tmp_path / "back.onnx"), model)
    with nncjit.open(tmp_path / "m.nnc") as f:
        assert list(f.keys()) == ["table", "bias"]


def network():
    """Conv, batch norm, transposed convolution, Gemm, MatMul and Add."""
    rng = np.random.default_rng(1)

    def init(name, *shape, positive=False):
        values = rng.standard_normal(shape) * 0.2
        return numpy_helper.from_array((np.abs(values) + 0.5 if positive else values).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "cw", "cb"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "be", "m", "v"], ["n"], name="norm", epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "tw", "tb"], ["t"], name="up"),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("Gemm", ["f", "fw", "fb"], ["h"], name="fc", transB=1),
        helper.make_node("MatMul", ["h", "mw"], ["mm"], name="out"),
        helper.make_node("Add", ["mm", "mb"], ["y"]),
    ]
    tensors = [
        init("cw", 16, 3, 3, 3),
        init("cb", 16),
        init("g", 16, positive=True),
        init("be", 16),
        init("m", 16),
        init("v", 16, positive=True),
        init("tw", 16, 12, 2, 2),
        init("tb", 12),
        init("fw", 32, 12 * 81),
        init("fb", 32),
        init("mw", 32, 10),
        init("mb", 10),
    ]
    graph = graph_of(nodes, tensors, inputs=[("x", [1, 3, 8, 8])], outputs=[("y", [1, 10])])
    return model_of(graph)


def test_roles_come_from_the_graph(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    with open_model(tmp_path / "m.onnx") as model:
        roles = {tensor.name: (tensor.role.kind, tensor.role.layer, tensor.role.axis) for tensor in model}
    assert roles == {
        "cw": ("weight", "conv", 0),
        "cb": ("bias", "conv", 0),
        "g": ("gamma", "conv", 0),
        "be": ("beta", "conv", 0),
        "m": ("mean", "conv", 0),
        "v": ("var", "conv", 0),
        "tw": ("weight", "up", 1),
        "tb": ("bias", "up", 0),
        "fw": ("weight", "fc", 0),
        "fb": ("bias", "fc", 0),
        "mw": ("weight", "out", 1),
        "mb": ("bias", "out", 0),
    }


def test_scales_of_integer_products_are_exact(tmp_path):
    """As dynamic quantisation by channels writes them: a Mul of two scales behind the product and its Cast."""
    rng = np.random.default_rng(2)
    scales = [numpy_helper.from_array(rng.random(24, np.float32) / 99, name) for name in ("s1", "s2")]
    levels = [numpy_helper.from_array(rng.integers(-90, 90, (24, 24)).astype("i1"), name) for name in ("q1", "q2")]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["qx", "sx", "zx"]),
        helper.make_node("MatMulInteger", ["qx", "q1", "zx"], ["p1"]),
        helper.make_node("Cast", ["p1"], ["f1"], to=1),
        helper.make_node("Mul", ["sx", "s1"], ["both"]),
        helper.make_node("Mul", ["f1", "both"], ["h"]),
        helper.make_node("MatMulInteger", ["qx", "q2", "zx"], ["p2"]),
        helper.make_node("Cast", ["p2"], ["f2"], to=1),
        helper.make_node("Mul", ["s2", "f2"], ["i"]),
        helper.make_node("Add", ["h", "i"], ["y"]),
    ]
    model = model_of(graph_of(nodes, [*scales, *levels], inputs=[("x", [4, 24])], outputs=[("y", [4, 24])]))
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx")
    assert_same_model(onnx.load(tmp_path / "back.onnx"), model)


@pytest.mark.parametrize(
    "options",
    [
        {"quantizer": "raw"},
        {"quality": 30},
        {"quality": 30, "blocks": True},
        {"quality": 30, "fold_batchnorm": True},
    ],
    ids=str,
)
def test_networks_compute_the_same(tmp_path, options):
    model = network()
    onnx.save(model, tmp_path / "m.onnx")
    there_and_back(tmp_path / "m.onnx", tmp_path / "back.onnx", **options)
    onnx.checker.check_model(str(tmp_path / "back.onnx"), full_check=True)
    x = floats(1, 3, 8, 8)
    got, want = (ReferenceEvaluator(str(tmp_path / name)).run(None, {"x": x})[0] for name in ("back.onnx", "m.onnx"))
    assert np.allclose(got, want, atol=0 if "quantizer" in options else 0.02 * np.abs(want).max())
    runtime = pytest.importorskip("onnxruntime")
    pair = [runtime.InferenceSession(tmp_path / name).run(None, {"x": x})[0] for name in ("back.onnx", "m.onnx")]
    assert np.allclose(*pair, atol=0 if "quantizer" in options else 0.02 * np.abs(want).max())


def test_blocks_are_made_of_roles(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    report = nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc", blocks=True)
    tools = {row.name: row.tool for row in report.tensors}
    assert "BN" in tools["cw"]
    assert all("BI" in tools[name] for name in ("cw", "tw", "fw", "mw"))


@pytest.mark.filterwarnings("ignore:.* has no effect without:nncjit.NncWarning")
def test_a_batch_norm_whose_scale_is_shared_is_in_no_block(tmp_path):
    model = network()
    model.graph.node.append(helper.make_node("Identity", ["g"], ["g2"]))
    onnx.save(model, tmp_path / "m.onnx")
    report = nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc", fold_batchnorm=True, quality=60)
    assert "LS" not in {row.name: row.tool for row in report.tensors}["cw"]
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.onnx")
    x = floats(1, 3, 8, 8)
    got, want = (ReferenceEvaluator(str(tmp_path / n)).run(None, {"x": x})[0] for n in ("back.onnx", "m.onnx"))
    assert np.allclose(got, want, atol=0.02 * np.abs(want).max())


def external(folder, model=None, **options):
    model = model or network()
    settings = {"save_as_external_data": True, "size_threshold": 0, "location": "weights.bin"} | options
    onnx.save(model, folder / "m.onnx", **settings)
    return folder / "m.onnx"


def test_external_data_come_back_beside_the_model(tmp_path):
    path = external(tmp_path)
    want = onnx.load(path)
    there_and_back(path, tmp_path / "back.onnx", quantizer="raw")
    assert (tmp_path / "back.onnx").stat().st_size < 2500
    assert (tmp_path / "back.onnx.data").exists()
    onnx.checker.check_model(str(tmp_path / "back.onnx"))
    got = onnx.load(tmp_path / "back.onnx")
    for g, w in zip(got.graph.initializer, want.graph.initializer, strict=True):
        assert numpy_helper.to_array(g).tobytes() == numpy_helper.to_array(w).tobytes()


def test_models_that_say_where_their_data_are_come_back(tmp_path):
    """Data in the message, which says so, as onnx and onnxruntime write what they have loaded; what was true before is
    still said, or data that do not count are in the message.
    """
    large, stale, both = (numpy_helper.from_array(floats(40, 40), name) for name in ("large", "stale", "both"))
    want = {t.name: numpy_helper.to_array(t) for t in (large, stale, both)}
    node = helper.make_node("Identity", ["x"], ["y"])
    path = external(tmp_path, model_of(graph_of([node], [both])))
    both.external_data.extend(onnx.load(path, load_external_data=False).graph.initializer[0].external_data)
    both.raw_data, both.data_location = bytes(6400), TensorProto.EXTERNAL
    large.data_location = stale.data_location = TensorProto.DEFAULT
    stale.external_data.add(key="location", value="gone.bin")
    path.write_bytes(model_of(graph_of([node], [large, stale, both])).SerializeToString())
    with open_model(path) as model:
        assert all(np.array_equal(tensor.read(), want[tensor.name]) for tensor in model)
        assert set(model.names) == set(want)
    twice = large.SerializeToString() + TensorProto(raw_data=bytes(8)).SerializeToString()
    twice = protobuf_wire.bytes_field(7, protobuf_wire.bytes_field(5, twice))
    path.write_bytes(twice)
    assert "tensor large: has its data twice" in refusal(lambda: open_model(path))


def test_tensors_that_share_external_data_are_tied(tmp_path):
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    twin = model.graph.initializer.add()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "twin"
    path.write_bytes(model.SerializeToString())
    with open_model(path) as opened:
        assert opened["twin"].same_as == "cw"
    there_and_back(path, tmp_path / "back.onnx")
    back = onnx.load(tmp_path / "back.onnx", load_external_data=False).graph.initializer
    assert back[0].external_data[1].value == back[-1].external_data[1].value


def test_data_beside_a_model_that_is_not_there_are_not_replaced(tmp_path):
    path = external(tmp_path)
    (tmp_path / "back.onnx.data").write_bytes(b"mine")
    assert "is no part of" in refusal(lambda: there_and_back(path, tmp_path / "back.onnx"))
    assert (tmp_path / "back.onnx.data").read_bytes() == b"mine"


HOSTILE = {
    "up": ({"location": "../secret"}, "no file in the model's folder"),
    "up inside": ({"location": "a/../../secret"}, "no file in the model's folder"),
    "absolute": ({"location": "/etc/passwd"}, "no file in the model's folder"),
    "windows": ({"location": "C:\\secret"}, "no file in the model's folder"),
    "drive": ({"location": "C:secret"}, "no file in the model's folder"),
    "missing": ({"location": "none.bin"}, "there is no such file"),
    "link": ({"location": "link"}, "no file in the model's folder"),
    "folder": ({"location": "folder"}, "no file in the model's folder"),
    "empty": ({"location": ""}, "without a location"),
    "nul": ({"location": "a\0b"}, "no file in the model's folder"),
    "pipe": ({"location": "pipe"}, "no file in the model's folder"),
    "negative": ({"location": "weights.bin", "offset": "-1"}, "no number of bytes"),
    "huge": ({"location": "weights.bin", "offset": "9" * 18}, "which has"),
    "too long": ({"location": "weights.bin", "offset": "100000000"}, "which has"),
    "other length": ({"location": "weights.bin", "length": "5"}, "need"),
    "words": ({"location": "weights.bin", "offset": "0x10"}, "no number of bytes"),
}


@pytest.mark.parametrize(("entries", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_external_data_are_refused(tmp_path, entries, reason):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1728))
    path = external(folder)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].external_data[:]
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    message = refusal(lambda: nncjit.compress(path, tmp_path / "m.nnc"))
    assert reason in message
    assert "tensor cw" in message
    assert "m.onnx" in message


def test_errors_name_node_and_tensor(tmp_path):
    model = nested()
    model.graph.node[1].attribute[0].g.node[0].attribute[0].t.dims[0] = 9  # attributes are sorted
    onnx.save(model, tmp_path / "m.onnx")
    message = refusal(lambda: nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc"))
    assert "node choice (If), else_branch, node c (Constant): tensor choice.else_branch/c: has 256 bytes" in message


@pytest.mark.parametrize("dims", [[-8], [1 << 40, 1 << 40], [7]], ids=str)
def test_shapes_that_do_not_fit_are_refused(tmp_path, dims):
    tensor = TensorProto(name="w", data_type=1, dims=dims, float_data=[1.0] * 8)
    onnx.save(model_of(graph_of([helper.make_node("Identity", ["x"], ["y"])], [tensor])), tmp_path / "m.onnx")
    assert "w" in refusal(lambda: nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc"))


def test_an_unknown_type_is_refused(tmp_path):
    tensor = TensorProto(name="w", data_type=99, dims=[8], raw_data=bytes(8))
    onnx.save(model_of(graph_of([helper.make_node("Identity", ["x"], ["y"])], [tensor])), tmp_path / "m.onnx")
    assert "tensor w: has data_type 99" in refusal(lambda: nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc"))


@pytest.mark.parametrize("data", [b"\0", b"not a model", b"\x3a\xff\xff\xff\xff\x0f", RNG.bytes(500), b"{}" * 99])
def test_what_is_no_model_is_refused(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    assert "m.onnx" in refusal(lambda: nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc"))


def test_a_model_cut_anywhere_is_refused_or_a_model(tmp_path):
    data = network().SerializeToString()
    for stop in [*range(0, 200, 7), *range(200, len(data), 997)]:
        (tmp_path / "m.onnx").write_bytes(data[:stop])

        def attempt():
            with open_model(tmp_path / "m.onnx") as model:
                for tensor in model:
                    tensor.read()

        refusal(attempt)


def test_damaged_models_are_refused_or_models(tmp_path):
    data = bytearray(nested().SerializeToString())
    for _ in range(300):
        damaged = bytearray(data)
        for at in RNG.integers(0, len(data), 3):
            damaged[at] = RNG.integers(0, 256)
        (tmp_path / "m.onnx").write_bytes(damaged)

        def attempt():
            with open_model(tmp_path / "m.onnx") as model:
                for tensor in model:
                    tensor.read()

        refusal(attempt)


def test_messages_inside_each_other_without_end_are_refused(tmp_path):
    data = b""
    for _ in range(150):
        data = b"".join([protobuf_wire.bytes_field(6, data)])  # AttributeProto.g
        for number in (5, 1):
            data = protobuf_wire.bytes_field(number, data)
    (tmp_path / "m.onnx").write_bytes(protobuf_wire.bytes_field(7, data))
    assert "inside each other" in refusal(lambda: nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc"))


def test_tensors_that_do_not_fit_the_graph_are_refused(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    with open_model(tmp_path / "m.onnx") as model:
        arrays, graphs = {tensor.name: tensor.read() for tensor in model}, model.graphs
    wrong = {
        "tensor mb: is in the graph, but not in the stream": {k: v for k, v in arrays.items() if k != "mb"},
        "tensor extra: has no place": arrays | {"extra": floats(4)},
        "tensor cb: is float32[8], the graph wants float32[16]": arrays | {"cb": floats(8)},
        "tensor cb: is float16[16], the graph wants float32[16]": arrays | {"cb": floats(16, dtype=np.float16)},
    }
    for reason, changed in wrong.items():
        (tmp_path / "m.nnc").write_bytes(nncjit.encode(changed, graphs=graphs))
        assert reason in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.onnx"))
    assert not (tmp_path / "back.onnx").exists()


@pytest.mark.parametrize("data", [b"junk", b"\x3a\x02\x0a\x05"])
def test_a_damaged_graph_in_a_stream_is_refused(tmp_path, data):
    stream = nncjit.encode({"w": floats(4)}, graphs=[nncjit.Graph("onnx", data)])
    (tmp_path / "m.nnc").write_bytes(stream)
    assert "m.onnx" in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.onnx"))


def test_a_network_file_needs_its_graph(tmp_path):
    (tmp_path / "m.nnc").write_bytes(nncjit.encode({"w": floats(4)}))
    message = refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.onnx"))
    assert "m.onnx: needs the ONNX graph" in message


def test_weights_of_an_onnx_model_go_anywhere(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc", quantizer="raw")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.npz")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in network().graph.initializer}
    assert all(np.array_equal(array, weights[name]) for name, array in np.load(tmp_path / "m.npz").items())


def test_graphs_of_others_that_hold_their_weights_take_the_decoded_ones(tmp_path):
    model = network()
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    graph = nncjit.Graph("onnx", model.SerializeToString())
    (tmp_path / "m.nnc").write_bytes(nncjit.encode({"cw": 2 * arrays["cw"]}, graphs=[graph], quantizer="raw"))
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.onnx")
    got = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert np.array_equal(got["cw"], 2 * arrays["cw"])
    assert np.array_equal(got["fw"], arrays["fw"])


def test_the_models_of_the_onnx_package_come_back(tmp_path):
    models = sorted(Path(onnx.__file__).parent.glob("backend/test/data/**/*.onnx"))
    assert len(models) > 100
    for path in models:
        with open_model(path) as model, create(tmp_path / "back.onnx", model.infos, graphs=model.graphs) as writer:
            for tensor in model:
                if tensor.same_as is None:
                    writer.put(tensor.name, tensor.read())
        assert_same_tensors(tmp_path / "back.onnx", path)


def assert_same_tensors(got, want):
    for g, w in zip(tensors_in(onnx.load(got)), tensors_in(onnx.load(want)), strict=True):
        assert (g.name, list(g.dims), g.data_type) == (w.name, list(w.dims), w.data_type)
        assert numpy_helper.to_array(g).tobytes() == numpy_helper.to_array(w).tobytes()


def test_rewriting_nothing_gives_the_same_bytes():
    data = memoryview(nested().SerializeToString())
    descent = {"model": {7: "graph"}, "graph": {1: "node"}, "node": {}}
    place = Range(0, len(data))
    assert protobuf_wire.rewrite(data, place, "model", descent, lambda *_: None) == [place]


def test_a_closed_model_says_so(tmp_path):
    path = external(tmp_path)
    model = open_model(path)
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        model["cw"].read()
