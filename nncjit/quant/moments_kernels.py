"""Sums over the weights of a tensor, in one pass and without temporaries, in float64."""

import numpy as np

from nncjit.jit import (
    float_of_bits,
    helper,
    inlined,
    kernel,
    larger,
    load_f32,
    load_i32,
    load_i64,
    record_view,
    smaller,
    store_64,
    zero_bytes,
)
from nncjit.jit.vectors import element, load_floats_as_doubles, load_ints_as_doubles, repeat_double

MOMENTS = np.dtype([("total", "f8"), ("power", "f8"), ("peak", "f8"), ("non_finite", "i8")])
"""Sum, sum of squares and largest magnitude of the finite values, and the number of the others."""

PRODUCTS = np.dtype([("power", "f8"), ("mixed", "f8"), ("square", "f8")])
"""Sums of value * value, value * level and level * level."""

_moments_at, _products_at = record_view(MOMENTS), record_view(PRODUCTS)


BLOCK = 1 << 11
"""Values that are looked at twice, so that they stay in the cache; a multiple of 8."""
INFINITE = 0x7F800000
"""The bits of the least magnitude that is not finite."""


@helper
def _largest_bits(values, n):
    """The greatest magnitude, as the bits of a float32, which are ordered as magnitudes are."""
    most = 0
    for i in range(n):
        most = larger(most, load_i32(values, i) & 0x7FFFFFFF)
    return most


@inlined
def _sum(x, first):
    """The sum of eight sums, of which the first has gone on."""
    front = (first + element(x, 4)) + (element(x, 1) + element(x, 5))
    return front + ((element(x, 2) + element(x, 6)) + (element(x, 3) + element(x, 7)))


@helper
def _sums(values, n):
    """Sum and sum of squares of finite values. Eight sums side by side hide how long an addition takes."""
    total = power = repeat_double(0.0)
    whole = n & ~7
    for i in range(0, whole, 8):
        x = load_floats_as_doubles(values + 4 * i)
        total, power = total + x, power + x * x
    first_total, first_power = element(total, 0), element(power, 0)
    for i in range(whole, n):
        x = np.float64(load_f32(values, i))
        first_total, first_power = first_total + x, first_power + x * x
    return _sum(total, first_total), _sum(power, first_power)


@helper
def _finite_sums(values, n):
    """The same where some values are not finite: sum, sum of squares, bits of the greatest magnitude, and how many are
    not finite.
    """
    total, power, most, bad = 0.0, 0.0, 0, 0
    for i in range(n):
        bits = load_i32(values, i) & 0x7FFFFFFF
        if bits < INFINITE:
            x = np.float64(load_f32(values, i))
            total, power, most = total + x, power + x * x, larger(most, bits)
        else:
            bad += 1
    return total, power, most, bad


@kernel
def moments(values, n, sums):
    """Moments of an array.

    values : address of float32[n]
    n      : int
    sums   : address of MOMENTS     out
    """
    total, power, peak, non_finite = 0.0, 0.0, 0, 0
    for first in range(0, n, BLOCK):
        count, at = smaller(BLOCK, n - first), values + 4 * first
        most, bad = _largest_bits(at, count), 0
        if most < INFINITE:
            t, p = _sums(at, count)
        else:
            t, p, most, bad = _finite_sums(at, count)
        total, power, peak, non_finite = total + t, power + p, larger(peak, most), non_finite + bad
    out = _moments_at(sums)
    out.total, out.power, out.peak, out.non_finite = total, power, np.float64(float_of_bits(peak)), non_finite


@kernel
def products(values, levels, n, sums):
    """Products of values and levels.

    values : address of float32[n]
    levels : address of int32[n]
    n      : int
    sums   : address of PRODUCTS    out
    """
    power = mixed = square = repeat_double(0.0)
    whole = n & ~7
    for i in range(0, whole, 8):
        x, q = load_floats_as_doubles(values + 4 * i), load_ints_as_doubles(levels + 4 * i)
        power, mixed, square = power + x * x, mixed + x * q, square + q * q
    first_power, first_mixed, first_square = element(power, 0), element(mixed, 0), element(square, 0)
    for i in range(whole, n):
        x, q = np.float64(load_f32(values, i)), np.float64(load_i32(levels, i))
        first_power, first_mixed, first_square = first_power + x * x, first_mixed + x * q, first_square + q * q
    out = _products_at(sums)
    out.power, out.mixed, out.square = _sum(power, first_power), _sum(mixed, first_mixed), _sum(square, first_square)


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
            least = smaller(least, a)
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
    return np.float64(float_of_bits(prefix))
