"""A model over a grid: sizes and measures are those of the files, and what is gained is said in words."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from convert.models import OddExecutor
from safetensors.numpy import load_file, save_file

import nncjit
from nncjit.demo import digits
from nncjit.errors import ModelError, OptionError
from nncjit.reduce import Axis, Group, channel_scores, plan_pruning
from nncjit.report import metrics
from nncjit.report.evaluate import Request, evaluate
from nncjit.report.evaluation import Evaluation, Measured, Point
from nncjit.report.grid import series
from nncjit.report.rival import Rival
from nncjit.report.task import Task, load

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "w": (0.1 * RANDOM.standard_t(5, (60, 80))).astype(np.float32),
    "b": RANDOM.standard_normal(60, dtype=np.float32),
    "steps": np.array(7),
}


def likeness(weights):
    """How alike the outputs are, in percent, and how many weights there are."""
    inputs = np.random.default_rng(1).standard_normal((80, 40))
    wanted, found = (w["w"].astype(float) @ inputs for w in (WEIGHTS, weights))
    return {"likeness": 100 * metrics.cosine(wanted, found), "weights": sum(a.size for a in weights.values())}


RANKED = nncjit.Options(rules={"hidden.weight": {"rank": 16}})

TASK = Task("alike", likeness, "likeness", True, "a matrix and its outputs")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path)
    return path


def test_points_are_what_the_codec_makes(model, tmp_path):
    found = evaluate(Request(model=model, curves=series(["bits=3,6", "quantizer=trellis,uniform"])))
    assert [point.curve for point in found.points] == ["nncjit, quantizer=trellis"] * 2 + [
        "nncjit, quantizer=uniform"
    ] * 2
    for point in found.points:
        report = nncjit.compress(model, tmp_path / "again.nnc", **point.options)
        assert point.bytes == report.compressed_bytes
        assert point.ratio == pytest.approx(report.ratio)
        assert point.measures["snr"] == pytest.approx(metrics.model_snr(WEIGHTS, nncjit.decode(tmp_path / "again.nnc")))
        assert point.encode_seconds > 0
        assert point.decode_seconds > 0
        assert point.encode_peak is None
    assert found.original.measures == {"snr": math.inf}
    assert (found.main, found.weights, found.original_bytes) == ("snr", 4861, 4 * 4860 + 8)
    (line,) = found.gains()
    assert line.startswith("at equal quality, nncjit, quantizer=uniform needs ")
    assert "more bytes than nncjit, quantizer=trellis (average over SNR of the weights " in line


def test_a_task_is_asked_at_every_point(model):
    told = []
    request = Request(model=model, curves=series(["quality=0.25,2"]), task=TASK)
    found = evaluate(request, lambda *args: told.append(args))
    assert found.original.measures["likeness"] == pytest.approx(100.0)
    coarse, fine = (point.measures["likeness"] for point in found.points)
    assert coarse < fine < 100.0
    assert all(point.measures["weights"] == 4861 and point.task_seconds > 0 for point in found.points)
    assert [done for done, total, _ in told] == [0, 1]
    assert found.curves[0].qualities == (coarse, fine)


class Closed:
    """An executor that was shut down."""

    def submit(self, work, *args):
        raise RuntimeError("cannot schedule new futures after shutdown")


def test_points_on_an_executor_are_those_measured_here(model):
    request = Request(model=model, curves=series(["quality=0.25,2"]), task=TASK)
    here, told = evaluate(request), []
    there = evaluate(replace(request, executor=OddExecutor()), lambda *args: told.append(args))
    assert [(p.options, p.bytes, p.measures) for p in there.points] == [
        (p.options, p.bytes, p.measures) for p in here.points
    ]
    assert [done for done, total, _ in told] == [0, 1]
    with pytest.raises(OptionError, match="takes no tasks: cannot schedule"):
        evaluate(replace(request, executor=Closed()))
    with pytest.raises(OptionError, match="must have `submit`"):
        evaluate(replace(request, executor=3))
    local = Task("local", lambda weights: {"n": 1.0}, "n")
    with pytest.raises(OptionError, match="task local: it cannot be sent to workers"):
        evaluate(replace(request, task=local, executor=OddExecutor()))


def test_tasks_are_loaded_where_they_are_sent(tmp_path, monkeypatch):
    (tmp_path / "task_to_send.py").write_text("MAIN = ('n', True)\ndef measure(weights): return {'n': len(weights)}\n")
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(load("task_to_send.py"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent)({"w": 1}) == {"n": 1.0}
    assert pickle.loads(pickle.dumps(load("nncjit.demo.digits"))).main == "top1"


def test_nncodec_stands_beside_us(model, rival_python):
    request = Request(model=model, curves=series(["quality=0.3,0.6,1.2"]), rival=Rival(rival_python))
    found = evaluate(request)
    theirs = [point for point in found.points if point.curve == "NNCodec"]
    assert len(theirs) >= 2
    assert theirs[0].measures["snr"] == pytest.approx(found.points[2].measures["snr"], abs=4)
    assert theirs[-1].bytes < min(p.bytes for p in found.points[:3]) or len(theirs) == 12
    assert [line for line in found.gains() if "nncjit needs" in line and "than NNCodec" in line]
    chosen = evaluate(Request(model=model, curves=series(["bits=4"]), rival=Rival(rival_python), rival_qps=[-20, -12]))
    assert [point.options for point in chosen.points] == [{"bits": 4}, {"qp": -20}, {"qp": -12}]


@pytest.mark.slow
def test_peak_memory_is_that_of_a_process(model):
    found = evaluate(Request(model=model, curves=series(["bits=4"]), memory=True))
    (point,) = found.points
    assert 30e6 < point.encode_peak < 1e9
    assert 30e6 < point.decode_peak < 1e9


def test_factors_are_used_as_such_where_the_task_takes_them():
    request = Request(model=digits.MODEL, curves=series(["bits=3"], RANKED), task=load("nncjit.demo.digits"))
    (point,) = evaluate(request).points
    assert point.factored_seconds > 0
    (plain,) = evaluate(replace(request, curves=series(["bits=3"]))).points
    assert plain.factored_seconds is None
    assert plain.task_peak is None


def digits_pruned(share):
    """Half of the hidden neurons of the digits network, or another share."""
    weights = load_file(digits.MODEL)
    members = (Axis("hidden.weight", 0), Axis("hidden.bias", 0), Axis("output.weight", 1))
    groups = [Group("hidden", 128, members)]
    return plan_pruning(weights, groups, channel_scores(weights, groups), share=share)


def test_a_pruned_model_is_used_with_the_shapes_that_it_has():
    request = Request(
        model=digits.MODEL,
        curves=series(["bits=3"]),
        task=load("nncjit.demo.digits"),
        pruning=digits_pruned(0.5),
    )
    found = evaluate(request)
    (point,) = found.points
    gone = 64 * (512 + 1 + 10)
    assert found.pruned.weights == found.weights - gone
    assert found.pruned.bytes == found.original_bytes - 4 * gone
    assert found.pruned.measures["top1"] > 50
    assert math.isfinite(found.pruned.measures["snr"])
    assert point.measures["snr"] < found.pruned.measures["snr"]
    assert point.bits_per_weight == pytest.approx(3, rel=0.02)


@pytest.mark.slow
def test_memory_of_inference_is_that_of_a_process_which_does_nothing_else():
    request = Request(
        model=digits.MODEL,
        curves=series(["bits=3"], RANKED),
        task=load("nncjit.demo.digits"),
        memory=True,
        pruning=digits_pruned(0.1),
    )
    found = evaluate(request)
    (point,) = found.points
    for peak in (found.original.task_peak, found.pruned.task_peak, point.task_peak, point.factored_peak):
        assert 10e6 < peak < point.encode_peak


def test_weights_that_the_task_cannot_use_are_refused_before_any_work(tmp_path):
    save_file({"v": np.ones((3, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="task alike cannot use these weights: KeyError: 'w'"):
        evaluate(Request(model=tmp_path / "other.safetensors", curves=series([]), task=TASK))


def test_a_model_without_floats_has_nothing_to_trade(tmp_path):
    save_file({"n": np.arange(9)}, tmp_path / "integers.safetensors")
    with pytest.raises(ModelError, match="holds no floats, so there is no quality to trade for size"):
        evaluate(Request(model=tmp_path / "integers.safetensors", curves=series([])))


def made(*points, main="top1", original=80.0, higher=True):
    """An evaluation with points (curve, bits per weight, quality)."""
    return Evaluation(
        model="m",
        task="t",
        title="",
        main=main,
        higher_is_better=higher,
        weights=1000,
        original_bytes=4000,
        original=Measured({main: original}),
        points=tuple(
            Point(
                curve=curve,
                options={"k": k},
                bytes=int(125 * bits),
                ratio=bits / 0.32,
                bits_per_weight=bits,
                measures={main: quality},
                encode_seconds=1.0,
                decode_seconds=1.0,
            )
            for k, (curve, bits, quality) in enumerate(points)
        ),
    )


def test_what_is_gained_is_said_for_useful_qualities_only():
    found = made(
        *[("nncjit", 0.9 * bits, q) for bits, q in ((1, 20), (2, 60), (3, 78), (4, 80))],
        *[("NNCodec", bits, q) for bits, q in ((1, 20), (2, 60), (3, 78), (4, 80))],
    )
    assert found.gains() == [
        "at equal quality, nncjit needs 10.0 % fewer bytes than NNCodec (average over top-1 accuracy 72 to 80 %)"
    ]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["gains"] == found.gains()


def test_what_cannot_be_compared_is_said_too():
    found = made(("nncjit", 1, 20), ("nncjit", 2, 30), ("NNCodec", 3, 79), ("NNCodec", 4, 80))
    assert found.gains() == ["no comparison: NNCodec and nncjit have no quality in common: choose grids that overlap"]
    assert made(("nncjit", 1, 20), ("nncjit", 2, 30)).gains() == []


@pytest.mark.parametrize(("higher", "sign"), [(True, 1), (False, -1)])
def test_the_smallest_that_is_nearly_unchanged(higher, sign):
    points = [("nncjit", 1, 70), ("nncjit", 2, 79.3), ("nncjit", 3, 80), ("NNCodec", 1, 60), ("NNCodec", 2, 70)]
    turned = [(curve, bits, 80 + sign * (q - 80)) for curve, bits, q in points]
    found = made(*turned, higher=higher).nearly_unchanged(1.0)
    assert found["nncjit"].bits_per_weight == 2
    assert found["NNCodec"] is None
    assert made(*turned, higher=higher).nearly_unchanged(0.5)["nncjit"].bits_per_weight == 3
    assert made(*turned, original=math.inf).nearly_unchanged() == {}
