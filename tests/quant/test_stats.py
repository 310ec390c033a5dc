"""Sums over weights are right, in pieces and on threads, and whatever the weights are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nncjit.jit import JIT
from nncjit.quant import work_sharing as pieces
from nncjit.quant.moments import grain, moments, products

pytestmark = pytest.mark.kernel

SIZE = 3 * pieces.PIECE + 17 if JIT else 300


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32) * np.float32(0.1)


def test_moments_are_numpys_and_do_not_depend_on_threads(values):
    found = moments(values.reshape(-1, 1))
    wide = values.astype(np.float64)
    assert found.size == SIZE
    assert found.mean == pytest.approx(wide.mean(), abs=1e-12)
    assert found.power == pytest.approx(np.square(wide).mean(), rel=1e-12)
    assert found.peak == np.abs(values).max()
    assert found.non_finite == 0
    with ThreadPoolExecutor(3) as workers:
        assert moments(values, workers) == found


def test_values_that_are_not_finite_are_counted_and_left_out(values):
    values[[0, 5, SIZE - 1]] = np.nan, np.inf, -np.inf
    found = moments(values)
    rest = values[np.isfinite(values)].astype(np.float64)
    assert found.non_finite == 3
    assert found.power == pytest.approx(np.square(rest).sum() / (SIZE - 3), rel=1e-12)
    assert found.peak == np.abs(rest).max()


def test_nothing_has_no_moments():
    assert moments(np.empty(0, np.float32)) == (0, 0.0, 0.0, 0.0, 0)
    assert products(np.empty(0, np.float32), np.empty(0, np.int32)) == (0.0, 0.0, 0.0)


def test_products_give_the_error_of_any_step(values):
    levels = np.rint(values / 0.03).astype(np.int32)
    found = products(values, levels)
    for step in (0.03, 0.031):
        error = np.square(values.astype(np.float64) - step * levels).sum()
        assert found.error(step) == pytest.approx(error, rel=1e-9)
    assert found.unbiased_step == pytest.approx(found.power / float(values.astype(np.float64) @ levels))
    with ThreadPoolExecutor(3) as workers:
        assert products(values, levels, workers) == found


def _vectors():
    """Vectors of all sizes and magnitudes, some of one sign, some with zeros, equal values, or a wide range."""
    rng = np.random.default_rng(1)
    for k in range(120 if JIT else 30):
        v = (rng.standard_normal(rng.integers(1, 90)) * 10.0 ** rng.integers(-44, 30)).astype(np.float32)
        if k % 6 == 1:
            v = np.abs(v)
        elif k % 6 == 2:
            v = v * np.exp(4 * rng.standard_normal(v.size)).astype(np.float32)
        elif k % 6 == 3:
            v[rng.random(v.size) < 0.5] = 0
        elif k % 6 == 4:
            v = np.sign(v) * np.float32(3)
        elif k % 6 == 5:
            v = -np.abs(v)
        if v.any():
            yield v


def test_the_grain_is_the_smallest_magnitude_or_the_upper_median():
    for v in _vectors():
        sizes = np.sort(np.abs(v[v != 0]))
        for small, most in ((0.0, 0), (float(np.median(sizes)), 2), (float(sizes[-1]), len(sizes))):
            one_sign = v.min() >= 0 or v.max() <= 0
            wanted = sizes[0] if one_sign or (sizes < small).sum() > most else sizes[len(sizes) // 2]
            assert grain(v, small, most) == wanted
