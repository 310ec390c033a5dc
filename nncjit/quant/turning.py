"""Weights with their inputs as rows, divided by a factor for each input."""

from __future__ import annotations

import math

import numpy as np

from nncjit.jit import address
from nncjit.quant import turning_kernels as kernels
from nncjit.quant.flat_arrays import Floats


def turned_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with this dimension in front."""
    return (shape[axis], *shape[:axis], *shape[axis + 1 :])


def turned_and_divided(values: Floats, axis: int, factors: Floats) -> Floats:
    """The values with a dimension in front, float32, C-contiguous, its entries divided by the factors in one pass.

    Parameters
    ----------
    values : float32[shape]
        C-contiguous.
    axis : int
        The dimension.
    factors : float32[shape[axis]]
        Finite and not 0.
    """
    outer, count, inner = math.prod(values.shape[:axis]), values.shape[axis], math.prod(values.shape[axis + 1 :])
    turned = np.empty(turned_shape(values.shape, axis), np.float32)
    tile = np.empty(kernels.TILE_ROWS * kernels.TILE_COLUMNS, np.float32)
    factors = np.ascontiguousarray(factors, np.float32)
    assert factors.shape == (count,)
    source, target, scratch = address(values), address(turned, writes=True), address(tile, writes=True)
    kernels.turn_and_divide(source, target, address(factors), outer, count, inner, scratch)
    return turned
