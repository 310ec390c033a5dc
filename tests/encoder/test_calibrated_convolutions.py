"""Convolutions with statistics: every kind of weight comes back as it lay, at less loss."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration

KINDS = {
    "plain": ((24, 16, 3, 3), 1, 1),
    "pointwise": ((32, 24, 1, 1), 1, 1),
    "sequence": ((24, 16, 5), 1, 1),
    "grouped": ((24, 8, 3, 3), 2, 1),
    "depthwise": ((160, 1, 3, 3), 160, 1),
    "multiplied": ((160, 1, 3, 3), 80, 1),
    "transposed": ((16, 24, 3, 3), 1, 0),
}


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def calibrated(kind):
    """A weight, its statistics, and a function that tells the loss of an error."""
    shape, groups, axis = KINDS[kind]
    rng = np.random.default_rng(1)
    calibration = Calibration()
    sums = calibration.convolution("w", shape, groups=groups, axis=axis)
    record = sums.record
    n = record.inputs
    mixing = (draw(rng, n, n) / np.sqrt(n) + np.eye(n)) * np.geomspace(0.3, 3, n)
    strength = np.geomspace(0.1, 3, groups).astype(np.float32)
    for _ in range(40):
        x = draw(rng, 10, groups, n) @ mixing.astype(np.float32) * strength[:, None]
        sums.add(x.reshape(10, -1), draw(rng, 10, groups * record.outputs))
        calibration.end_samples(1, output_power=1e3)
    metric = sums.coherent.astype(np.float64) / 40

    def loss(error):
        by_input = np.moveaxis(error, axis, 0).reshape(shape[axis], -1, record.taps).transpose(0, 2, 1)
        per_group = by_input.reshape(shape[axis] * record.taps, groups if axis else 1, -1).transpose(1, 0, 2)
        return 0.5 * np.einsum("gio,gij,gjo->", per_group, metric, per_group)

    return {"w": draw(rng, *shape)}, calibration.statistics(), loss


@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_come_back_at_less_loss(kind, tmp_path):
    weights, statistics, loss = calibrated(kind)
    path = tmp_path / "m.nnc"
    report = nncjit.compress(weights, path, calibration=statistics, bits=4)
    assert report.tensors[0].tool == "feedback + LS"
    found = nncjit.decode(path.read_bytes())["w"]
    assert found.shape == weights["w"].shape
    lost = loss(found - weights["w"])
    plain = nncjit.decode(nncjit.encode(weights, bits=4))["w"]
    assert lost < 0.85 * loss(plain - weights["w"])
    if kind != "grouped":  # its groups share a metric
        assert report.loss == pytest.approx(2 * lost / 1e3, rel=0.3)


def test_what_gets_no_more_than_its_step_is_told(tmp_path):
    rng = np.random.default_rng(2)
    calibration = Calibration()
    calibration.convolution("one", (8, 1, 3, 3)).add(draw(rng, 5, 9), draw(rng, 5, 8))
    calibration.convolution("back", (8, 4, 3, 3), groups=2, axis=0).add(draw(rng, 5, 72), draw(rng, 5, 8))
    calibration.end_samples(1, output_power=1.0)
    weights = {"one": draw(rng, 8, 1, 3, 3), "back": draw(rng, 8, 4, 3, 3)}
    report = nncjit.compress(weights, tmp_path / "m.nnc", calibration=calibration.statistics())
    notes = {row.name: row.note for row in report.tensors}
    assert notes == {
        "one": "calibrated step only: one input has no row to feed back to",
        "back": "calibrated step only: its inputs are in groups",
    }
