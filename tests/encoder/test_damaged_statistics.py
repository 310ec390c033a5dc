"""Statistics that are damaged, odd, or of another model: one clear error, or a guard that is told, and never a model
that is silently ruined."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from rewritten_statistics import rewritten

import nncjit
from nncjit import ModelError, NncError, NncWarning
from nncjit.calibrate import Calibration, Statistics
from nncjit.calibrate.statistics_file import Arrays
from nncjit.encoder.execution import Data
from nncjit.encoder.options import Options
from nncjit.encoder.plan import Plan
from nncjit.model import Role, TensorInfo

IN, OUT = 24, 40
HUGE, SMALL = np.float32(1e30), np.float32(1e-30)


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """One weight of each kind, and the file of their statistics."""
    rng = np.random.default_rng(0)
    weights = {
        "fc": draw(rng, OUT, IN),
        "conv": draw(rng, 16, 8, 3, 3),
        "depthwise": draw(rng, 12, 1, 3, 3),
        "words": draw(rng, 200, 8),
        "places": draw(rng, 20, 8),
        "bias": draw(rng, 64),
        "stack": draw(rng, 3, 16, 12),
    }
    calibration = Calibration()
    for _ in range(20):
        calibration.linear("fc", (OUT, IN)).add(draw(rng, 6, IN), draw(rng, 6, OUT))
        calibration.convolution("conv", (16, 8, 3, 3)).add(draw(rng, 9, 72), draw(rng, 9, 16))
        calibration.convolution("depthwise", (12, 1, 3, 3), groups=12).add(draw(rng, 9, 108), draw(rng, 9, 12))
        calibration.table("words", (200, 8)).add(rng.integers(0, 100, 6), draw(rng, 6, 8))
        calibration.table("places", (20, 8), positions=True).add(np.arange(6), draw(rng, 6, 8))
        calibration.rows("bias", (64,)).add(draw(rng, 1, 64), np.ones((1, 1)))
        calibration.linear("stack", (3, 16, 12), axis=2).add(draw(rng, 6, 12), draw(rng, 6, 16))
        calibration.end_samples(1, output_power=1e4)
    for name, values in weights.items():
        calibration.values(name, values)
    path = tmp_path_factory.mktemp("damaged") / "s.safetensors"
    calibration.save(path)
    return weights, path


def sound(case, options, arrays_change=lambda _: None, metadata_change=lambda _: None):
    """Whether every weight is about what it was; what was warned of; what was refused."""
    weights, path = case

    def change(arrays, metadata):
        arrays_change(arrays)
        metadata_change(metadata)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            decoded = nncjit.decode(nncjit.encode(weights, calibration=rewritten(path, change), **options))
        except NncError as error:
            return False, [], str(error)
    assert {warning.category for warning in told} <= {NncWarning}
    lost = {name: np.square(decoded[name] - w).mean() / np.square(w).mean() for name, w in weights.items()}
    return max(lost.values()) < 0.5, [str(warning.message) for warning in told], ""


def multiplied(suffix, factor, some=slice(None)):
    def change(arrays):
        for name in arrays:
            if name.endswith(suffix):
                arrays[name] = arrays[name].copy()
                arrays[name][some] *= factor

    return change


def of_weight(name, value):
    return lambda arrays: arrays.update({name: value(arrays[name]) if callable(value) else value})


def powered(power):
    def change(metadata):
        facts = json.loads(metadata["statistics"])
        facts["output_power"] = power
        metadata["statistics"] = json.dumps(facts)

    return change


@pytest.mark.parametrize("options", [{"quality": 2.0}, {"bits": 6.0}, {"loss": 0.002}])
@pytest.mark.parametrize("power", [1e300, 5e-324, 1e-40])
def test_a_power_that_the_metrics_contradict_is_refused(case, options, power):
    assert "the output's power is" in sound(case, options, metadata_change=powered(power))[2]


def test_a_model_of_which_nothing_is_left_by_a_power_that_is_too_high_is_told(case):
    first, second = sound(case, {}, metadata_change=powered(1e11))[1]
    assert "next to nothing is left" in first
    assert second == "fc and 5 more: nothing is left, all values become zero"


def test_without_the_power_a_size_can_be_hit_all_the_same(case):
    assert sound(case, {"bits": 6.0}, metadata_change=powered(0)) == (True, [], "")
    assert "power of the output" in sound(case, {"loss": 0.01}, metadata_change=powered(0))[2]


@pytest.mark.parametrize("factor", [1e30, 1e-30, 1e-44])
def test_metrics_of_an_absurd_scale_are_refused(case, factor):
    assert "damaged statistics" in sound(case, {"bits": 6.0}, multiplied(":diagonal", np.float32(factor)))[2]


@pytest.mark.parametrize("name", ["fc", "conv", "depthwise", "words", "places", "bias", "stack"])
@pytest.mark.parametrize("factor", [HUGE, SMALL, np.float32(0)])
def test_one_weight_of_an_absurd_scale_ruins_nothing(case, name, factor):
    """It is refused, or coded as without statistics. A vector of which nothing is felt may go."""
    is_fine, _, error = sound(case, {"bits": 8.0}, multiplied(f"{name}:diagonal", factor))
    assert is_fine or "damaged statistics" in error or (name == "bias" and factor == SMALL)


@pytest.mark.parametrize("name", ["fc", "conv", "words"])
@pytest.mark.parametrize("factor", [HUGE, np.float32(0)])
def test_one_input_of_an_absurd_scale_ruins_nothing(case, name, factor):
    is_fine, _, error = sound(case, {"bits": 8.0}, multiplied(f"{name}:diagonal", factor, slice(1, 2)))
    assert is_fine or "damaged statistics" in error


def changed_corner(correlations, value):
    changed = correlations.copy()
    changed[:, 0, 1] = value
    return changed


@pytest.mark.parametrize("name", ["fc", "conv", "words"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: changed_corner(c, 0.9), "not symmetric"),
        (lambda c: changed_corner(c, 3), "above 1"),
        (lambda c: changed_corner(c, np.nan), "above 1"),
        (np.zeros_like, "with itself"),
        (lambda c: -np.ones_like(c), "with itself"),
        (lambda c: np.where(np.eye(c.shape[1], dtype=bool), c, np.float16(-1)), "far from positive"),
        (lambda c: c.astype(np.float64) * 1e300, "with itself"),
        (lambda c: c.astype(np.int32), "int32"),
        (lambda c: c[:, :-1], "instead of floats"),
    ],
)
def test_correlations_that_are_none_are_refused(case, name, change, said):
    assert said in sound(case, {"bits": 6.0}, of_weight(f"{name}:correlation", change))[2]


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("fc:diagonal", np.full(IN, np.nan, np.float32), "not finite"),
        ("fc:diagonal", np.full(IN, 1e300), "not finite"),
        ("fc:diagonal", np.full(IN, -1, np.float32), "negative diagonal"),
        ("fc:diagonal", np.ones(5, np.float32), "instead of floats"),
        ("fc:diagonal", np.ones(IN, np.int64), "instead of floats"),
        ("words:energy", np.full(200, -1, np.float32), "negative energy"),
        ("words:energy", np.full(200, np.inf, np.float32), "not finite"),
        ("words:uses", np.ones(200, np.float32), "instead of integers"),
        ("fc:sums", np.ones(3, np.float32), "instead of floats"),
        ("fc:sums", np.full(17, np.nan, np.float32), "not finite"),
    ],
)
def test_numbers_that_are_none_are_refused(case, what, value, said):
    assert said in sound(case, {"bits": 6.0}, of_weight(what, value))[2]


@pytest.mark.parametrize("what", ["fc:diagonal", "conv:correlation", "words:energy", "places:uses"])
def test_what_is_missing_is_named_when_the_file_is_opened(case, what):
    path = rewritten(case[1], lambda arrays, _: arrays.pop(what))
    with pytest.raises(ModelError, match=f"damaged.safetensors: damaged statistics: {what} is missing"):
        Statistics.open(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(case, tmp_path, share):
    whole = case[1].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match=r"cut\.safetensors"):
        Statistics.open(tmp_path / "cut.safetensors")


@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_statistics_of_other_values_are_told(case, tmp_path):
    weights, path = case
    rng = np.random.default_rng(1)
    others = {name: draw(rng, *w.shape) for name, w in weights.items()}
    with pytest.warns(NncWarning, match="of other values than those of 4 of 4 weights, fc among them"):
        report = nncjit.compress(others, tmp_path / "m.nnc", calibration=path)
    assert report.tensors[0].note == "calibrated on other values"
    calibration = Calibration()
    calibration.values("fc", np.full((OUT, IN), np.inf))
    calibration.values("fc", np.full((OUT, IN), 1e38))
    nearly = {name: (w + 0.1 * draw(rng, *w.shape)).astype(np.float16) for name, w in weights.items()}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        nncjit.encode(nearly, calibration=path)
    assert all("nothing is left" in str(warning.message) for warning in told)


LAYOUTS = {
    "linear": ((20, 20), "linear", {}),
    "inputs first": ((20, 20), "linear", {"axis": 0}),
    "stack": ((3, 20, 20), "linear", {"axis": 2}),
    "convolution": ((16, 16, 3, 3), "convolution", {}),
    "transposed convolution": ((16, 16, 3, 3), "convolution", {"axis": 0}),
    "table": ((20, 20), "table", {}),
}


@pytest.mark.parametrize("options", [{}, {"bits": 3.0}, {"compatible": "nncodec"}])
@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
@pytest.mark.parametrize("name", LAYOUTS)
def test_square_weights_are_not_coded_by_statistics_of_their_transposes(name, options):
    rng = np.random.default_rng(2)
    shape, kind, keywords = LAYOUTS[name]
    weights = {name: draw(rng, *shape), "one": draw(rng, 30, 20), "two": draw(rng, 30, 20)}
    calibration = Calibration()
    for _ in range(8):
        for n, sums in (
            ("one", calibration.linear("one", (30, 20))),
            ("two", calibration.linear("two", (30, 20))),
            (name, getattr(calibration, kind)(name, shape, **keywords)),
        ):
            if n == name and kind == "table":
                sums.add(rng.integers(0, 20, 6), draw(rng, 6, 20))
            else:
                sums.add(draw(rng, 6, sums.record.inputs), draw(rng, 6, sums.record.outputs))
        calibration.end_samples(1, output_power=1e4)
    for n, values in weights.items():
        calibration.values(n, values)
    found = calibration.statistics()
    nncjit.encode(weights, calibration=found, **options)
    one, other = (1, 2) if name == "stack" else (0, 1)
    turned = weights | {name: np.ascontiguousarray(weights[name].swapaxes(one, other))}
    with pytest.raises(ModelError, match=f"{name}: the statistics are of this weight with its dimensions in another"):
        nncjit.encode(turned, calibration=found, **options)
    half = {n: w.astype(np.float16) for n, w in turned.items()}
    with pytest.raises(ModelError, match="in another order"):
        nncjit.encode(half, calibration=found, **options)


@pytest.mark.parametrize(("kind", "shape"), [("linear", (20, 20)), ("convolution", (20, 20, 3))])
@pytest.mark.parametrize(("axis", "outputs"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_what_the_format_tells_of_a_weight_parts_it_from_its_transpose(kind, shape, axis, outputs):
    """Without its values, as an adapter that does not tell them leaves it."""
    rng = np.random.default_rng(3)
    infos = [TensorInfo("w", shape, "float32", role=Role("weight", "layer", outputs))]
    calibration = Calibration()
    for _ in range(8):
        sums = getattr(calibration, kind)("w", shape, axis=axis)
        sums.add(draw(rng, 6, sums.record.inputs), draw(rng, 6, sums.record.outputs))
        calibration.end_samples(1, output_power=1e2)
    data = Data(calibration=calibration.statistics())
    if axis != outputs:
        assert Plan.of(infos, Options(), data).loss_per_bit > 0
        return
    with pytest.raises(ModelError, match="w: the statistics are of this weight with its dimensions in another order"):
        Plan.of(infos, Options(), data)


def test_what_is_known_of_the_values_is_kept_when_statistics_are_gone_on_with(case):
    going_on = Calibration()
    with Statistics.open(case[1]) as earlier:
        going_on.merge(earlier)
        assert np.array_equal(going_on.statistics()["fc"].sums(), earlier["fc"].sums())


@pytest.mark.parametrize(("factor", "target"), [(2.0**-24, {"bits": 3.0}), (1e8, {"ratio": 10.0})])
@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_the_scale_of_all_metrics_does_not_count_where_a_size_is_wanted(case, factor, target):
    weights, path = case
    found = []
    with Statistics.open(path) as known:
        for times in (1.0, factor):
            arrays = [_times(known[name], np.float32(times)) for name in known]
            facts = {"loss": known.loss, "samples": known.samples, "output_power": known.output_power}
            found.append(nncjit.encode(weights, calibration=Statistics.of(arrays, facts), **target))
    assert len(found[1]) == pytest.approx(len(found[0]), rel=0.02)
    errors = [np.square(nncjit.decode(data)["fc"] - weights["fc"]).mean() for data in found]
    assert errors[1] == pytest.approx(errors[0], rel=0.15)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**40])
@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_the_unit_of_the_loss_does_not_count(case, factor):
    weights, path = case
    with Statistics.open(path) as known:
        arrays = [_times(known[name], np.float32(factor)) for name in known]
        facts = {"loss": known.loss, "samples": known.samples, "output_power": factor * known.output_power}
        scaled = Statistics.of(arrays, facts)
        as_it_is = Statistics.of([_times(known[n], 1) for n in known], {**facts, "output_power": known.output_power})
        assert nncjit.encode(weights, calibration=scaled) == nncjit.encode(weights, calibration=as_it_is)


def _times(found, factor):
    is_table = found.record.kind == "table" or found.positions
    energy, uses = (found.energy().astype(np.float32), found.uses()) if is_table else (None, None)
    return Arrays(found.record, found.metric() * factor, energy, uses, found.positions)
