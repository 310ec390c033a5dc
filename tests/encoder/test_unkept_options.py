"""What a tensor does not get of what was asked for is said, once for all tensors to which it happens."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration
from nncjit.cli.main import main
from nncjit.errors import NncError, NncWarning
from nncjit.quant import steps

RNG = np.random.default_rng(3)
LAYERS = 5


def layers(spread: float, *shape: int) -> dict[str, np.ndarray]:
    return {f"l{k}": (spread * RNG.standard_normal(shape)).astype(np.float32) for k in range(LAYERS)}


def told_by(arrays: dict[str, np.ndarray], **options: Any) -> tuple[nncjit.EncodedModel | None, list[str]]:
    """The stream, None where it is refused, and all that is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            stream = nncjit.encode(arrays, **options)
        except NncError as error:
            return None, [str(error)]
    assert all(warning.category is NncWarning for warning in caught)
    return stream, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("calibration", [None, "weights"])
@pytest.mark.parametrize("spread", [1e-30, 1e-3, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("density", [0, 2, 7])
def test_any_qp_is_the_step_of_all_matrices_or_that_it_is_not_is_said_once(density, spread, calibration):
    arrays = layers(spread, 24, 20)
    for octave in (-4096, -200, -32, -31, -12, 0, 12, 31, 32, 200, 4095):
        qp = min(max(octave << density, -4096), 4095)
        stream, said = told_by(arrays, qp=qp, qp_density=density, calibration=calibration)
        said = [text for text in said if not text.startswith("calibration has no effect")]
        assert len(said) <= 2, said
        if stream is None:
            assert "qp" in said[0]
            continue
        rows, back = stream.report.tensors, nncjit.decode(stream)
        kept = all(row.step in (None, float(steps.step(qp, density))) for row in rows)
        exact = all(row.step is not None or "not be smaller" in row.note for row in rows)
        there = all(back[name].any() for name in arrays)
        assert (kept and exact and there) == (not said), (qp, said)
        assert all(" l0" in f" {text}" for text in said)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"l1": {"qp": 128}}, r"^rule 'l1': qp is 128, must be in -128\.\.127 where qp_density is 2$"),
        ({"l1": {"qp": 100}}, "^l1: nothing is left"),
        ({"l[12]": {"quality": 1e-3}}, "^l1 and 1 more: nothing is left"),
    ],
)
def test_the_same_holds_for_rules(rules, said):
    with pytest.raises(nncjit.OptionError, match=said) if "rule" in said else pytest.warns(NncWarning, match=said):
        nncjit.encode(layers(1.0, 24, 20), rules=rules)


def test_what_shall_be_zero_is_not_said():
    arrays = layers(1.0, 24, 20) | {"zeros": np.zeros((9, 9), np.float32)}
    for options in ({}, {"zeros": 1.0}, {"zeros": 1.0, "zeros_scope": "model"}):
        assert told_by(arrays, **options)[1] == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_told_once(value):
    arrays = layers(1.0, 24, 20)
    arrays["l1"][2, 3] = value
    assert told_by(arrays)[1] == ["l1: 1 values are not finite in float32; the tensor is stored as it is"]
    arrays["l3"][:2] = value
    assert told_by(arrays)[1] == ["2 tensors are stored as they are, l1 among them: 1 values are not finite in float32"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"qp": -20}, "its step was given"),
        ({"quantizer": "uniform"}, "another quantiser was asked for"),
        ({"quantizer": "raw"}, "as asked for"),
        ({"quantizer": "lossless"}, "as asked for"),
        ({"rules": {"l.": {"scale_rows": True}}}, "it stands in a block"),
    ],
)
def test_a_calibration_that_changes_no_matrix_is_told(options, why):
    arrays = layers(1.0, 24, 20)
    stream, said = told_by(arrays, calibration="weights", **options)
    assert said == [f"calibration has no effect on l0 and 4 more: {why}"]
    without = nncjit.decode(nncjit.encode(arrays, **options))
    assert all(np.array_equal(array, without[name]) for name, array in nncjit.decode(stream).items())
    assert told_by(arrays, calibration="weights", rules={"l0": {"qp": -20}})[1] == []


def test_a_quantizer_that_does_not_pay_is_told():
    assert told_by(layers(1.0, 48, 40), quantizer="codebook")[1] == [
        "l0 and 4 more: a codebook would not be smaller, so the levels are coded without one"
    ]
    few = {name: np.rint(values) for name, values in layers(1.0, 48, 40).items()}
    assert told_by(few, quantizer="auto")[1] == []
    _, said = told_by(layers(1.0, 48, 40), quantizer="codebook", calibration="weights")
    assert [text.partition(" ")[0] for text in said] == ["l0", "calibration"]


@pytest.mark.parametrize("target", ["bits:0.01", "bits:32", "ratio:0.01"])
@pytest.mark.parametrize("calibration", [None, "weights"])
def test_targets_of_many_tensors_that_are_missed_are_told_once(target, calibration):
    _, said = told_by(layers(1.0, 24, 20), rules={".*": target}, calibration=calibration)
    misses = [text for text in said if "reached" in text]
    assert len(misses) == 1
    assert misses[0].startswith("l0: ")
    assert misses[0].endswith("; 4 more tensors miss their targets")


@pytest.mark.parametrize("value", [1e-300, -1e-50, 5e-324])
@pytest.mark.parametrize("shape", [(), (5,), (9, 8), (300, 200)])
def test_float64_that_float32_takes_for_zero_is_kept(shape, value):
    arrays = {"w": np.full(shape, value) * np.float64(1 + RNG.random(shape))}
    with pytest.warns(NncWarning, match="^w: .*stored as it is") if len(shape) > 1 else nullcontext():
        back = nncjit.decode(nncjit.encode(arrays))
    assert np.array_equal(back["w"], arrays["w"])


def test_models_in_several_streams_and_the_command_line_say_it_too(tmp_path, capsys):
    arrays = layers(1.0, 24, 20)
    arrays["l1"][2, 3] = np.nan
    np.savez(tmp_path / "m.npz", **arrays)
    for more in ([], ["--shard-bytes", "4KB"]):
        assert (
            main(["compress", str(tmp_path / "m.npz"), "-o", str(tmp_path / "m.nnc"), "-q", "--qp", "30", *more]) == 0
        )
        assert capsys.readouterr().err.splitlines() == [
            "nncjit: warning: l1: 1 values are not finite in float32; the tensor is stored as it is",
            "nncjit: warning: l0 and 3 more: nothing is left, all values become zero",
        ]


@pytest.mark.parametrize("options", [{"qp": -20}, {"quantizer": "uniform"}, {"scale_rows": True}, {"zeros": 0.5}])
def test_a_loss_that_no_statistics_tell_is_not_reported_as_none(options, tmp_path):
    arrays, calibration = layers(1.0, 24, 20), Calibration()
    for name in arrays:
        calibration.linear(name, (24, 20)).add(RNG.standard_normal((9, 20)), RNG.standard_normal((9, 24)))
    calibration.end_samples(9, output_power=1e4)
    calibration.save(tmp_path / "s.safetensors")
    np.savez(tmp_path / "m.npz", **arrays)
    for target, sharded in ({}, False), ({"quantizer": "raw"}, False), (options, False), (options, True):
        more = {"shard_bytes": 4000} if sharded else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NncWarning)
            given = {"calibration": tmp_path / "s.safetensors", **target, **more}
            loss = nncjit.compress(tmp_path / "m.npz", tmp_path / "m.nnc", **given).loss
        assert (loss is None) == (target is options)
        assert loss is None or (loss > 0) == (not target)
