"""Sums over the weights of a tensor, in one pass and without temporaries, in float64."""

import numpy as np

from nncjit.jit import kernel, load_f32, load_i32, record_view

MOMENTS = np.dtype([("total", "f8"), ("power", "f8"), ("peak", "f8"), ("non_finite", "i8")])
"""Sum, sum of squares and largest magnitude of the finite values, and the number of the others."""

PRODUCTS = np.dtype([("power", "f8"), ("mixed", "f8"), ("square", "f8")])
"""Sums of value * value, value * level and level * level."""

_moments_at, _products_at = record_view(MOMENTS), record_view(PRODUCTS)


@kernel
def moments(values, n, sums):
    """Moments of an array.

    values : address of float32[n]
    n      : int
    sums   : address of MOMENTS     out
    """
    total, power, peak, bad = 0.0, 0.0, 0.0, 0
    for i in range(n):
        x = np.float64(load_f32(values, i))
        a = abs(x)
        if a <= 3.4028234663852886e38:
            total += x
            power += a * a
            peak = max(peak, a)
        else:
            bad += 1
    out = _moments_at(sums)
    out.total, out.power, out.peak, out.non_finite = total, power, peak, bad


@kernel
def products(values, levels, n, sums):
    """Products of values and levels.

    values : address of float32[n]
    levels : address of int32[n]
    n      : int
    sums   : address of PRODUCTS    out
    """
    power, mixed, square = 0.0, 0.0, 0.0
    for i in range(n):
        x, q = np.float64(load_f32(values, i)), np.float64(load_i32(levels, i))
        power += x * x
        mixed += x * q
        square += q * q
    out = _products_at(sums)
    out.power, out.mixed, out.square = power, mixed, square
