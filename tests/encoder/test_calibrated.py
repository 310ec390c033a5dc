"""Models with statistics: what is coded with them, and what the decoder finds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nncjit
from nncjit import ModelError, NncWarning, OptionError
from nncjit.calibrate import Calibration, Statistics
from nncjit.encoder.execution import Data
from nncjit.encoder.grouping import items_of
from nncjit.encoder.options import Options
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_encoder import quantised_units
from nncjit.model import Model
from nncjit.quant.input_metric import DAMPING
from nncjit.stages import recording

OUT, IN = 48, 80


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def case():
    """Weights whose inputs differ in strength and go together, and their statistics."""
    rng = np.random.default_rng(0)
    weights = {
        "fc": draw(rng, OUT, IN),
        "keras": draw(rng, IN, OUT),
        "bias": draw(rng, OUT),
        "other": draw(rng, 30, 40)[:20],
        "ids": np.arange(5),
    }
    mixing = draw(rng, IN, IN) * np.geomspace(0.1, 4, IN).astype(np.float32)
    calibration = Calibration()
    for _ in range(60):
        x, g = draw(rng, 6, IN) @ mixing, draw(rng, 6, OUT)
        calibration.linear("fc", (OUT, IN)).add(x, g)
        calibration.linear("keras", (IN, OUT), axis=0).add(x, g)
        power = 2 * float(np.square(g.reshape(-1) @ (x @ weights["fc"].T).reshape(-1)))
        calibration.end_samples(1, output_power=power)
    return weights, calibration.statistics()


def encoded(case, **options):
    weights, statistics = case
    return nncjit.encode(weights, calibration=statistics, **options)


def reported(case, tmp_path, **options):
    weights, statistics = case
    return nncjit.compress(weights, tmp_path / "m.nnc", calibration=statistics, **options)


def loss_of(weights, decoded, statistics):
    total = 0.0
    for name, axis in (("fc", 1), ("keras", 0)):
        e = np.moveaxis(decoded[name] - weights[name], axis, 0).astype(np.float64)
        metric = statistics[name].metric()[0].astype(np.float64)
        metric += DAMPING * np.trace(metric) / IN * np.eye(IN)
        total += 0.5 * np.trace(e.T @ metric @ e)
    return 2 * total / statistics.output_power


def test_weights_come_back_as_they_lay(case):
    weights, _ = case
    decoded = nncjit.decode(encoded(case, bits=6))
    for name, values in weights.items():
        assert decoded[name].shape == values.shape
        assert decoded[name].dtype == values.dtype
        if values.dtype == np.float32:
            assert np.square(decoded[name] - values).mean() < 0.01 * np.square(values).mean()
    assert np.array_equal(decoded["ids"], weights["ids"])


def test_both_layouts_of_a_weight_are_coded_alike(case):
    _, statistics = case
    rng = np.random.default_rng(1)
    w = draw(rng, OUT, IN)
    decoded = nncjit.decode(nncjit.encode({"fc": w, "keras": w.T.copy()}, calibration=statistics, bits=3))
    assert np.abs(decoded["fc"] - decoded["keras"].T).max() < 1.5


@pytest.mark.parametrize("axis", [1, 2])
def test_layers_in_one_tensor_are_coded_with_feedback(tmp_path, axis):
    rng = np.random.default_rng(2)
    stack, calibration = draw(rng, 3, OUT, IN), Calibration()
    mixing = draw(rng, IN, IN) * np.geomspace(0.1, 4, IN).astype(np.float32)
    shape = (3, OUT, IN) if axis == 2 else (3, IN, OUT)
    for _ in range(40):
        calibration.linear("stack", shape, axis=axis).add(draw(rng, 6, IN) @ mixing, draw(rng, 6, OUT))
        calibration.end_samples(1, output_power=1e4)
    weights = {"stack": stack if axis == 2 else np.ascontiguousarray(stack.swapaxes(1, 2))}
    report = nncjit.compress(weights, tmp_path / "m.nnc", calibration=calibration.statistics(), bits=3)
    assert report.tensors[0].tool == "feedback + LS"
    x, errors = draw(rng, 500, IN) @ mixing, []
    for data in ((tmp_path / "m.nnc").read_bytes(), nncjit.encode(weights, bits=3)):
        found = nncjit.decode(data)["stack"]
        assert found.shape == shape
        errors.append(np.square(x @ (found if axis == 1 else found.swapaxes(1, 2)) - x @ stack.swapaxes(1, 2)).mean())
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("name", ["fc", "keras"])
def test_the_decoder_finds_levels_times_step_times_factors_exactly(case, name):
    weights, statistics = case
    model = Model.from_mapping(weights)
    plan = Plan.of((t.info for t in model), Options(), Data(calibration=statistics))
    (item,) = [item for item in items_of(model, plan) if item.tensors[0].name == name]
    (unit,) = quantised_units(item, plan, None)
    scale, matrix = unit.matrices
    wanted = matrix.values((IN, OUT)) * scale.values((IN, 1))
    found = nncjit.decode(encoded(case))[name]
    assert np.array_equal(found if name == "keras" else found.T, wanted)
    assert scale.values((IN,)).max() > 2 * scale.values((IN,)).min() > 0


def test_fewer_bits_or_less_loss_than_without_statistics(case):
    weights, statistics = case
    for bits in (2.0, 4.0):
        calibrated = nncjit.decode(encoded(case, bits=bits))
        plain = nncjit.decode(nncjit.encode(weights, bits=bits))
        assert loss_of(weights, calibrated, statistics) < 0.6 * loss_of(weights, plain, statistics)


@pytest.mark.parametrize("target", [{"bits": 3.0}, {"ratio": 12.0}, {"snr": 20.0}, {"loss": 0.02}, {"loss": 0.3}])
def test_targets_are_met(case, tmp_path, target):
    weights, statistics = case
    report = reported(case, tmp_path, **target)
    ((kind, wanted),) = target.items()
    reached = {"bits": report.bits_per_weight, "ratio": report.ratio, "snr": report.snr, "loss": report.loss}[kind]
    assert reached == pytest.approx(wanted, rel=0.05 if kind == "loss" else 0.011)
    found = loss_of(weights, nncjit.decode((tmp_path / "m.nnc").read_bytes()), statistics)
    assert found == pytest.approx(report.loss, rel=0.05, abs=1e-4)


def test_a_dry_run_is_near(case, tmp_path):
    dry, real = (reported(case, tmp_path, dry_run=dry) for dry in (True, False))
    assert dry.ratio == pytest.approx(real.ratio, rel=0.1)
    assert dry.loss == pytest.approx(real.loss, rel=0.3)


def test_the_default_loses_about_what_it_aims_at(case, tmp_path):
    assert 0.004 < reported(case, tmp_path).loss < 0.03


def test_statistics_that_expect_an_error_as_large_as_the_output_are_told():
    rng = np.random.default_rng(0)
    calibration = Calibration()
    x = draw(rng, 20, IN)
    x[:, 3] *= 1e5
    calibration.linear("fc", (OUT, IN)).add(x, draw(rng, 20, OUT))
    calibration.end_samples(1, output_power=1.0)
    with pytest.warns(NncWarning, match="by the statistics, the output's error is .* times its power"):
        nncjit.encode({"fc": draw(rng, OUT, IN)}, calibration=calibration.statistics())


def test_every_tensor_says_how_it_was_coded(case, tmp_path):
    rows = {row.name: row for row in reported(case, tmp_path).tensors}
    assert rows["fc"].tool == rows["keras"].tool == "feedback + LS"
    assert rows["other"].note == "data-free: no statistics of it"
    assert rows["bias"].note == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantizer": "uniform"}, "another quantiser"),
        ({"qp": -20}, "its step was given"),
        ({"zeros": 0.5}, "weights are changed first"),
        ({"pattern": "2:4"}, "weights are changed first"),
        ({"rank": 4}, "block"),
        ({"scale_rows": True}, "block"),
    ],
)
def test_what_does_not_go_with_statistics_is_told(case, tmp_path, options, said):
    with pytest.warns(NncWarning, match=f"^calibration has no effect on fc and 1 more: .*{said}"):
        rows = {row.name: row for row in reported(case, tmp_path, **options).tensors}
    assert rows["fc"].note.startswith("data-free: ")
    assert said in rows["fc"].note


@pytest.mark.parametrize(
    ("options", "said"),
    [({"profile": 0}, "first edition"), ({"compatible": "nncodec"}, "nncodec does not move dimensions")],
)
def test_where_dimensions_stay_only_the_step_is_calibrated(case, tmp_path, options, said):
    weights, statistics = case
    rows = {row.name: row for row in reported(case, tmp_path, bits=4, **options).tensors}
    for name in ("fc", "keras"):
        assert rows[name].note == f"calibrated step only: {said}" or said in rows[name].note
        assert rows[name].tool == "trellis"
    path = tmp_path / "m.nnc"
    report = nncjit.compress(weights, path, calibration=statistics, loss=0.02, **options)
    assert report.loss == pytest.approx(0.02, rel=0.05)
    assert loss_of(weights, nncjit.decode(path.read_bytes()), statistics) == pytest.approx(report.loss, rel=0.3)


def test_rules_keep_single_tensors_out(case, tmp_path):
    rows = {row.name: row for row in reported(case, tmp_path, rules={"fc": "raw", "keras": {"bits": 2}}).tensors}
    assert rows["fc"].tool == "raw"
    assert rows["keras"].tool == "feedback + LS"
    assert rows["keras"].bits_per_weight == pytest.approx(2, rel=0.02)


def test_threads_change_nothing(case):
    assert encoded(case, threads=1) == encoded(case, threads=2)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(case, dtype):
    weights, statistics = case
    changed = {name: v.astype(dtype) if v.dtype.kind == "f" else v for name, v in weights.items()}
    decoded = nncjit.decode(nncjit.encode(changed, calibration=statistics, bits=5))
    assert decoded["fc"].dtype == dtype
    assert np.square(decoded["fc"] - changed["fc"]).mean() < 0.05


def test_statistics_of_another_model_are_refused(case):
    weights, statistics = case
    with pytest.raises(ModelError, match="of another model"):
        nncjit.encode({"fc": weights["keras"]}, calibration=statistics)
    with pytest.raises(ModelError, match="of another model"):
        nncjit.encode({"else": weights["fc"]}, calibration=statistics)
    with pytest.warns(NncWarning, match="1 weights more than the model has, keras among them"):
        nncjit.encode({"fc": weights["fc"]}, calibration=statistics)


@pytest.mark.parametrize("target", [{}, {"loss": 0.02}, {"bits": 3.0}])
def test_a_model_of_which_much_has_no_statistics_is_told(case, target):
    weights, statistics = case
    more = weights | {"layer": draw(np.random.default_rng(1), 60, 50)}
    with pytest.warns(NncWarning, match="no statistics of 2 of 4 matrices, 33 % of their weights, other among them"):
        nncjit.encode(more, calibration=statistics, **target)


def test_names_that_differ_are_told(case):
    weights, statistics = case
    with pytest.raises(ModelError, match=r"or of other names: it has no fc.*did you mean 'a.fc'"):
        nncjit.encode({f"a.{name}": values for name, values in weights.items()}, calibration=statistics)


def test_what_is_no_calibration_is_refused(case, tmp_path):
    weights, _ = case
    with pytest.raises(OptionError, match="calibration is a dict"):
        nncjit.encode(weights, calibration={})
    with pytest.raises(ModelError, match="no such file"):
        nncjit.encode(weights, calibration=tmp_path / "none.safetensors")
    with pytest.raises(OptionError, match="give a calibration"):
        nncjit.encode(weights, loss=0.1)


def test_a_loss_needs_the_output_s_power():
    calibration = Calibration()
    calibration.linear("w", (4, 3)).add(np.ones((1, 3)), np.ones((1, 4)))
    calibration.end_samples(1)
    weights = {"w": draw(np.random.default_rng(0), 4, 3)}
    with pytest.raises(OptionError, match="power of the output"):
        nncjit.encode(weights, calibration=calibration.statistics())


def test_weights_that_no_sample_reached_are_coded_as_without_statistics(case, tmp_path):
    weights, _ = case
    calibration = Calibration()
    calibration.linear("fc", (OUT, IN))
    calibration.linear("keras", (IN, OUT), axis=0).add(np.zeros((2, IN)), np.ones((2, OUT)))
    calibration.end_samples(1, output_power=1.0)
    with pytest.warns(NncWarning, match="^calibration has no effect on fc and 1 more: no sample reached it"):
        rows = nncjit.compress(weights, tmp_path / "m.nnc", calibration=calibration.statistics()).tensors
    notes = {row.name: row.note for row in rows}
    assert "no sample reached it" in notes["fc"]
    assert "no error of it reaches the output" in notes["keras"]


def test_dead_inputs_and_few_samples_do_no_harm():
    rng = np.random.default_rng(5)
    weights = {"w": draw(rng, 20, 64)}
    calibration = Calibration()
    x = draw(rng, 3, 64)
    x[:, 10:] = 0
    calibration.linear("w", (20, 64)).add(x, draw(rng, 3, 20))
    calibration.end_samples(1, output_power=100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = nncjit.decode(nncjit.encode(weights, calibration=calibration.statistics(), bits=4))["w"]
    assert np.square(decoded - weights["w"]).mean() < 0.5


def test_stages_are_told_apart(case):
    with recording() as recorder:
        encoded(case)
    assert {"factorise", "quantise"} <= {name for name, _ in recorder.costs}


def test_a_path_and_statistics_in_memory_are_alike(case, tmp_path):
    weights = {"fc": case[0]["fc"]}
    calibration = Calibration()
    rng = np.random.default_rng(7)
    for _ in range(20):
        calibration.linear("fc", (OUT, IN)).add(draw(rng, 4, IN), draw(rng, 4, OUT))
        calibration.end_samples(1, output_power=50.0)
    calibration.save(tmp_path / "s.safetensors", precision="float32")
    by_path = nncjit.encode(weights, calibration=str(tmp_path / "s.safetensors"), bits=4)
    in_memory = nncjit.encode(weights, calibration=calibration.statistics(), bits=4)
    a, b = nncjit.decode(by_path)["fc"], nncjit.decode(in_memory)["fc"]
    assert np.mean(a != b) < 0.05  # correlations are rounded


def test_what_no_sample_reached_is_kept_unless_it_shall_be_zero(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"fc": draw(rng, OUT, IN), "pooler": draw(rng, 60, 50), "unknown": draw(rng, 20, 30)}
    calibration = Calibration()
    calibration.unreached("pooler", (60, 50))
    calibration.unreached("fc", (OUT, IN))
    calibration.linear("fc", (OUT, IN)).add(draw(rng, 6, IN), draw(rng, 6, OUT))
    calibration.end_samples(1, output_power=100.0)
    calibration.save(tmp_path / "s.safetensors")
    gone_on = Calibration()
    with Statistics.open(tmp_path / "s.safetensors") as earlier:
        gone_on.merge(earlier)
    assert gone_on.statistics()["pooler"].record.samples == 0
    assert len(gone_on.statistics()) == 2
    sizes = []
    for unreached in ("kept", "zero"):
        report = nncjit.compress(
            weights, tmp_path / "m.nnc", calibration=gone_on.statistics(), unreached=unreached, quality=2.0
        )
        decoded = nncjit.decode(tmp_path / "m.nnc")
        notes = {tensor.name: tensor.note for tensor in report.tensors}
        assert notes["unknown"] == "data-free: no statistics of it"
        assert np.abs(decoded["unknown"] - weights["unknown"]).max() < 0.1
        assert notes["pooler"] == ("zero" if unreached == "zero" else "data-free") + ": no sample reached it"
        assert decoded["pooler"].any() == (unreached == "kept")
        sizes.append((tmp_path / "m.nnc").stat().st_size)
    assert sizes[1] < sizes[0] - 1000
    with pytest.raises(OptionError, match="unreached"):
        nncjit.encode(weights, unreached="dropped")


def test_vectors_get_the_step_that_balances_them(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"fc": draw(rng, OUT, IN), "cheap": draw(rng, 64), "dear": draw(rng, 64), "unseen": draw(rng, 64)}
    weights["keys"] = draw(rng, 64) * np.repeat(np.float32([1, 1e-9]), 32)  # without statistics no step suits it
    calibration = Calibration()
    for _ in range(20):
        calibration.linear("fc", (OUT, IN)).add(draw(rng, 6, IN), draw(rng, 6, OUT))
        for name, strength in (("cheap", 1), ("dear", 16), ("unseen", 0), ("keys", 1)):
            calibration.rows(name, (64,)).add(strength * draw(rng, 1, 64), np.ones((1, 1)))
        calibration.end_samples(1, output_power=1e4)
    calibration.save(tmp_path / "s.safetensors")
    decoded = nncjit.decode(nncjit.encode(weights, calibration=tmp_path / "s.safetensors"))
    error = {name: float(np.square(decoded[name] - weights[name]).mean() ** 0.5) for name in weights}
    assert error["cheap"] == pytest.approx(16 * error["dear"], rel=0.4)
    assert 0 < error["unseen"] < 0.01  # as without statistics
    report = nncjit.compress(weights, tmp_path / "m.nnc", calibration=tmp_path / "s.safetensors")
    notes = {tensor.name: tensor.note for tensor in report.tensors}
    assert notes["unseen"] == "data-free: no error of it reaches the output"
    assert notes["cheap"] == notes["dear"] == notes["keys"] == ""
    assert next(t.bits_per_weight for t in report.tensors if t.name == "keys") < 8
    with pytest.raises(ModelError, match="as another kind"):
        calibration.rows("fc", (OUT,))
