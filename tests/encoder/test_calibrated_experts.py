"""Experts that are stacked in one tensor, each with a metric of its own."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration

EXPERTS, IN = 4, 48
UNLIKE = np.array([8, 4, 2, 1])
"""Samples that reach each expert."""


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def stacked(outputs, axis, rng):
    """Weights, what each expert's inputs are drawn by, and statistics by expert, in common, and one by one."""
    shape = (EXPERTS, outputs, IN) if axis == 2 else (EXPERTS, IN, outputs)
    stack = draw(rng, *shape)
    mixing = [draw(rng, IN, IN) * rng.permutation(np.geomspace(0.05, 2, IN)).astype(np.float32) for _ in UNLIKE]
    apart, shared, alone = Calibration(), Calibration(), Calibration()
    for k, count in enumerate(10 * UNLIKE):
        for _ in range(count):
            x, g = draw(rng, 6, IN) @ mixing[k], draw(rng, 6, outputs)
            apart.linear("w", shape, axis=axis, apart=True).add(x, g, layer=k)
            shared.linear("w", shape, axis=axis).add(x, g)
            alone.linear(f"w{k}", shape[1:], axis=axis - 1).add(x, g)
    for calibration in (apart, shared, alone):
        calibration.end_samples(10, output_power=1e5)
    alone.alike([f"w{k}" for k in range(EXPERTS)])
    return stack, mixing, (apart, shared, alone)


def lost(stack, found, mixing, axis):
    """The error of the outputs, each expert as often as it is used."""
    errors = (found - stack).astype(np.float64)
    errors = errors.swapaxes(1, 2) if axis == 2 else errors
    return sum(n * np.square(mixing[k] @ errors[k]).mean() for k, n in enumerate(UNLIKE))


@pytest.mark.parametrize(("axis", "outputs"), [(1, 40), (2, 64)])
def test_a_metric_for_each_expert_is_better_than_one_for_all(axis, outputs, tmp_path):
    stack, mixing, (apart, shared, alone) = stacked(outputs, axis, np.random.default_rng(0))
    apart.save(tmp_path / "s.safetensors", precision="float32")
    report = nncjit.compress({"w": stack}, tmp_path / "m.nnc", calibration=tmp_path / "s.safetensors", bits=3)
    assert report.tensors[0].tool == "feedback + LS"
    own = lost(stack, nncjit.decode(tmp_path / "m.nnc")["w"], mixing, axis)
    in_common = nncjit.decode(nncjit.encode({"w": stack}, bits=3, calibration=shared.statistics()))["w"]
    assert own < 0.75 * lost(stack, in_common, mixing, axis)
    one_by_one = nncjit.decode(
        nncjit.encode({f"w{k}": one for k, one in enumerate(stack)}, bits=3.1, calibration=alone.statistics())
    )
    # steps of their own serve inputs better that differ in strength from expert to expert
    assert own < 2 * lost(stack, np.stack([one_by_one[f"w{k}"] for k in range(EXPERTS)]), mixing, axis)


def test_experts_that_no_token_reached_have_the_mean_metric():
    rng = np.random.default_rng(1)
    calibration = Calibration()
    sums = calibration.linear("w", (3, 8, 5), axis=2, apart=True)
    for _ in range(50):
        for layer in (0, 2):
            sums.add(draw(rng, 4, 5), draw(rng, 4, 8), layer=layer)
    calibration.end_samples(50)
    found = calibration.statistics()["w"].metric()
    assert np.allclose(found[1], (found[0] + found[2]) / 3, rtol=0.1, atol=1e-3)
    going_on = Calibration()
    going_on.merge(calibration.statistics())
    assert np.allclose(going_on.statistics()["w"].metric(), found, rtol=0.1, atol=0.05 * found.max())


@pytest.mark.parametrize("layer", [-1, 3, 1.5, None])
def test_a_layer_that_is_not_there_is_refused(layer):
    sums = Calibration().linear("w", (3, 8, 5), axis=2, apart=True)
    with pytest.raises(nncjit.OptionError, match="layer"):
        sums.add(np.ones((2, 5)), np.ones((2, 8)), layer=layer)
