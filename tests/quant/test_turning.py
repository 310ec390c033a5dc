"""Weights are turned and divided in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.quant.turning import turned_and_divided, turned_shape

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((1, 1), 1), ((3, 5), 0), ((65, 17), 1), ((64, 16), 1), ((16, 130), 1), ((0, 3), 1)),
        *(((5, 6, 3, 2), 1), ((5, 6, 1, 1), 1), ((4, 3, 2), 2), ((70, 2, 9), 0)),
    ],
)
def test_a_dimension_in_front_divided_by_its_factors(shape, axis):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape, dtype=np.float32)
    factors = rng.uniform(0.1, 9, shape[axis]).astype(np.float32)
    turned = turned_and_divided(values, axis, factors)
    wanted = np.moveaxis(values, axis, 0)
    assert turned.shape == turned_shape(shape, axis) == wanted.shape
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, wanted / factors.reshape(-1, *[1] * (len(shape) - 1)))
