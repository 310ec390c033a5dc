"""The uniform quantiser."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncjit.cabac.layer import MAX_LEVEL
from nncjit.jit import JIT
from nncjit.quant import work_sharing as pieces
from nncjit.quant.steps import step
from nncjit.quant.uniform import largest_magnitude, uniform
from quant.oracle import case, cases, weights

pytestmark = pytest.mark.kernel
FLOATS = st.floats(-1e30, 1e30, width=32)


def rounded(values, size):
    """round(float32 product), halves away from zero, by Python's own numbers."""
    inverse = np.float32(1.0) / np.float32(size)
    scaled = [float(np.float32(value) * inverse) for value in values]
    return [int(math.copysign(math.floor(abs(x) + 0.5), x)) for x in scaled]


@pytest.mark.parametrize("path", cases(dependent=False, rated=False), ids=lambda path: path.stem)
def test_vectors_without_rate_have_these_levels(path):
    meta, values, levels, _ = case(path)
    assert (uniform(values, step(meta["qp"], meta["qp_density"])) == levels).all()


@given(arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32)), st.integers(-60, 20))
def test_levels_are_rounded_half_away_from_zero(values, qp):
    size = step(qp, 2)
    wanted = rounded(values, size)
    if max(map(abs, wanted), default=0) < 2**30 - 64:
        assert uniform(values, size).tolist() == wanted


def test_halves_and_their_neighbours():
    values = np.float32([0.49999997, 0.5, -0.5, 1.5, 2.5, -2.5, 8388609.0, 4194304.5, 1e-45])
    assert uniform(values, 1.0).tolist() == [0, 1, -1, 2, 3, -3, 8388609, 4194305, 0]


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_any_number_gets_a_level_in_range(values):
    with np.errstate(invalid="ignore", over="ignore"):
        levels = uniform(values, 2.0**-20)
    assert (np.abs(levels.astype(np.int64)) <= MAX_LEVEL).all()
    assert (levels[np.isnan(values)] == 0).all()


@given(arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32)))
def test_largest_magnitude_sees_everything(values):
    wanted = float(np.abs(values).max(initial=0)) if np.isfinite(values).all() else math.inf
    assert largest_magnitude(values) == wanted


def test_workers_change_nothing(monkeypatch):
    monkeypatch.setattr(pieces.run_pieces, "__defaults__", (None, 1000 if JIT else 10))
    values = weights(10007 if JIT else 107)
    with ThreadPoolExecutor(3) as pool:
        assert (uniform(values, 0.01, workers=pool) == uniform(values, 0.01)).all()
        assert largest_magnitude(values, workers=pool) == np.abs(values).max()
