"""ONNX files with encoded tensors inside: they are ONNX files, run, and become ordinary ones again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.cli.main import main
from nncjit.errors import OptionError
from nncjit.formats import open_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import nncjit.onnx  # noqa: E402

RNG = np.random.default_rng(0)


def init(name, *shape, dtype=np.float32):
    return numpy_helper.from_array((RNG.standard_normal(shape) * 0.1).astype(dtype), name)


def info(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model():
    """Initialisers, a constant, constants in branches, a small bias, int8 levels, a tensor that users may replace."""
    branches = [
        helper.make_graph(
            [
                helper.make_node("Constant", [], [f"c_{name}"], value=init("", 24, 24)),
                helper.make_node("MatMul", ["k", f"c_{name}"], [f"out_{name}"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, None)],
        )
        for name in ("a", "b")
    ]
    levels = numpy_helper.from_array(RNG.integers(-90, 90, (24, 24)).astype(np.int8), "q")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=init("", 32, 24)),
        helper.make_node("Gemm", ["x", "w", "bias"], ["h"], name="fc"),
        helper.make_node("MatMul", ["h", "c"], ["k"]),
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["z"], name="choice", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]),
        helper.make_node("MatMul", ["z", "d"], ["v"]),
        helper.make_node("Add", ["v", "offset"], ["y"]),
    ]
    tensors = [init("w", 48, 32), init("bias", 32), levels, numpy_helper.from_array(np.float32(0.01), "scale")]
    tensors.append(init("offset", 16, 24))
    graph = helper.make_graph(nodes, "main", [info("x", 16, 48), info("offset", 16, 24)], [info("y", 16, 24)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def folder(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")
    return tmp_path


def run(path, **more):
    x = np.random.default_rng(1).standard_normal((16, 48)).astype(np.float32)
    offset = next(numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.name == "offset")
    return ReferenceEvaluator(str(path), **more).run(None, {"x": x, "offset": offset})[0]


@pytest.mark.parametrize("options", [{"quantizer": "raw"}, {"quality": 20}], ids=str)
def test_files_run_as_they_are_and_become_ordinary_ones_again(folder, options):
    nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx", **options)
    onnx.checker.check_model(str(folder / "m.nnc.onnx"))
    nncjit.decompress(folder / "m.nnc.onnx", folder / "back.onnx")
    onnx.checker.check_model(str(folder / "back.onnx"), full_check=True)
    inside = run(folder / "m.nnc.onnx", new_ops=[nncjit.onnx.Decode])
    back, want = run(folder / "back.onnx"), run(folder / "m.onnx")
    assert np.array_equal(inside, back)
    assert np.allclose(back, want, atol=0 if options == {"quantizer": "raw"} else 0.02 * np.abs(want).max())
    if options == {"quantizer": "raw"}:
        got, wanted = onnx.load(folder / "back.onnx"), onnx.load(folder / "m.onnx")
        assert [node.op_type for node in got.graph.node] == [node.op_type for node in wanted.graph.node]
        assert {t.name for t in got.graph.initializer} == {t.name for t in wanted.graph.initializer}
        assert [o.domain for o in got.opset_import] == [o.domain for o in wanted.opset_import]


def test_progress_is_told_and_what_is_not_used_is_said(folder):
    nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx")
    told = []
    with pytest.warns(nncjit.NncWarning, match="shard_size is not used"):
        nncjit.decompress(folder / "m.nnc.onnx", folder / "b.onnx", shard_size=1, progress=lambda *x: told.append(x))
    done, total, names = zip(*told, strict=True)
    with open_model(folder / "m.onnx") as model:
        assert set(names) == set(model.names)
    assert sorted(done) == list(done)
    assert done[-1] == total[0] > 0
    with ThreadPoolExecutor(1) as executor, pytest.raises(nncjit.OptionError, match="an executor decodes the files of"):
        nncjit.decompress(folder / "m.nnc.onnx", folder / "b.onnx", executor=executor)


def test_what_is_coded(folder):
    report = nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx")
    kept = {row.name for row in report.tensors if row.tool == "as it was"}
    assert kept == {"bias", "offset"}
    inside = onnx.load(folder / "m.nnc.onnx")
    decoders = [node for node in inside.graph.node if node.domain == "nncjit"]
    assert {node.output[0] for node in decoders} == {"w", "c", "q"}
    assert report.compressed_bytes == (folder / "m.nnc.onnx").stat().st_size


def test_values_are_those_of_one_stream(folder):
    nncjit.compress(folder / "m.onnx", folder / "m.nnc", bits=5)
    nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx", rules={"bias|offset": "raw"})
    nncjit.decompress(folder / "m.nnc.onnx", folder / "back.onnx")
    want = nncjit.decode(folder / "m.nnc")
    got = {t.name: numpy_helper.to_array(t) for t in onnx.load(folder / "back.onnx").graph.initializer}
    assert got["w"].shape == want["w"].shape
    assert np.array_equal(got["q"], want["q"])


def test_some_tensors_only(folder):
    report = nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx", rules={"w": "raw", ".*": "quality:4"})
    assert {row.name: row.snr for row in report.tensors}["w"] in (None, float("inf"))


def test_the_command_line(folder, capsys):
    assert main(["compress", str(folder / "m.onnx"), "-o", str(folder / "m.nnc.onnx"), "--quality", "3"]) == 0
    assert main(["decompress", str(folder / "m.nnc.onnx"), "-o", str(folder / "back.onnx")]) == 0
    assert np.isfinite(run(folder / "back.onnx")).all()


@pytest.mark.parametrize(
    "options", [{"blocks": True}, {"references": "index"}, {"dry_run": True}, {"bits": -1}], ids=str
)
def test_options_that_do_not_fit_are_refused(folder, options):
    with pytest.raises(OptionError):
        nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx", **options)
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]


def test_only_onnx_is_encoded_inside(folder):
    np.savez(folder / "m.npz", w=np.ones(4))
    assert "only an ONNX file" in refusal(lambda: nncjit.compress(folder / "m.npz", folder / "m.nnc.onnx"))


def damage(path, change):
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)


def of(proto, name):
    return next(node for node in proto.graph.node if node.domain == "nncjit" and node.output[0] == name)


def cut(proto):
    tensor = next(t for t in proto.graph.initializer if t.name == "w.nnc")
    tensor.raw_data = tensor.raw_data[:-9]
    tensor.dims[0] -= 9


def reshape(proto):
    of(proto, "w").attribute[0].ints[:] = [1, 2]


HOSTILE = {
    "w: ": cut,
    "its stream holds float32[48, 32], must be float32[1, 2]": reshape,
    "does not say type and shape": lambda proto: of(proto, "w").attribute.pop(),
    "there are no bytes to decode": lambda proto: of(proto, "w").input.__setitem__(0, "nothing"),
    "makes 'other' of": lambda proto: of(proto, "w").output.__setitem__(0, "other"),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_damaged_files_are_refused(folder, reason):
    nncjit.compress(folder / "m.onnx", folder / "m.nnc.onnx")
    damage(folder / "m.nnc.onnx", HOSTILE[reason])
    assert reason in refusal(lambda: nncjit.decompress(folder / "m.nnc.onnx", folder / "back.onnx"))
    assert not (folder / "back.onnx").exists()


@pytest.mark.parametrize("name", ["m.nnc.onnx", "m.nnc"])
def test_onnxruntime_runs_them(folder, name):
    runtime = pytest.importorskip("onnxruntime")
    nncjit.compress(folder / "m.onnx", folder / name, quality=20)
    nncjit.decompress(folder / name, folder / "back.onnx")
    x = {"x": np.random.default_rng(1).standard_normal((16, 48)).astype(np.float32)}
    sessions = nncjit.onnx.inference_session(folder / name), runtime.InferenceSession(str(folder / "back.onnx"))
    assert np.array_equal(*(session.run(None, x)[0] for session in sessions))


def test_a_name_that_is_taken_is_not_given_to_bytes(folder):
    proto = onnx.load(folder / "m.onnx")
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = ["w.nnc" if name == "h" else name for name in names]
    onnx.save(proto, folder / "taken.onnx")
    nncjit.compress(folder / "taken.onnx", folder / "taken.nnc.onnx", quantizer="raw")
    onnx.checker.check_model(str(folder / "taken.nnc.onnx"))
    assert "w" in [tensor.name for tensor in onnx.load(folder / "taken.nnc.onnx").graph.initializer]
