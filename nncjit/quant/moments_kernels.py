"""Sums over the weights of a tensor, in one pass and without temporaries, in float64."""

import numpy as np

from nncjit.jit import helper, kernel, load_f32, load_i32, load_i64, record_view, store_64, zero_bytes

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


@kernel
def grain(values, n, small, most_small, counts):
    """The smallest magnitude that counts among the values of a vector.

    values     : address of float32[n]       finite, not all zero
    n          : int
    small      : float     magnitudes below it would be lost to a step that is made for the root mean square
    most_small : float     of so many, not counting zeros
    counts     : address of int64[256]       scratch

    Returns the smallest magnitude above 0 where all values have one sign or more than `most_small` are small, else the
    upper median of the magnitudes above 0.
    """
    least, nonzeros, n_small, signs = np.float32(np.inf), 0, 0, 0
    for i in range(n):
        x = load_f32(values, i)
        if x != 0:
            a = abs(x)
            least = min(least, a)
            nonzeros += 1
            n_small += 1 if a < small else 0
            signs |= 1 if x > 0 else 2
    if signs != 3 or n_small > most_small:
        return np.float64(least)
    return _magnitude_of_rank(values, n, nonzeros // 2 + n - nonzeros, counts)


@helper
def _magnitude_of_rank(values, n, rank, counts):
    """The magnitude that stands at this place, from 0, when all are in order: digit by digit, as the bits of magnitudes
    are ordered like these.
    """
    prefix = 0
    for shift in (24, 16, 8, 0):
        zero_bytes(counts, 8 * 256)
        for i in range(n):
            bits = load_i32(values, i) & 0x7FFFFFFF
            if bits >> shift >> 8 == prefix:
                digit = bits >> shift & 255
                store_64(counts, digit, load_i64(counts, digit) + 1)
        digit = 0
        while rank >= load_i64(counts, digit):
            rank -= load_i64(counts, digit)
            digit += 1
        prefix = prefix << 8 | digit
    return _float_of(prefix)


@helper
def _float_of(bits):
    """The value of a positive, finite float32 by its bits."""
    exponent, mantissa = bits >> 23, bits & 0x7FFFFF
    if exponent == 0:
        return mantissa * 2.0**-149
    return (mantissa | 0x800000) * 2.0 ** (exponent - 150)
