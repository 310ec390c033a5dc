"""Kernels of the uniform quantiser. Each does one contiguous piece of a tensor."""

import numpy as np

from nncjit.jit import kernel, larger, load_f32, load_i32, smaller, store_32

ZERO = np.float32(0.0)
HALF = np.float32(0.5)
ONE = np.float32(1.0)
LIMIT = np.float32(2.0**30 - 64)
"""Greater |value / step| count as this, the last float32 below 2^30."""


@kernel
def largest(values, n):
    """Largest of the words with their signs cleared: the float32 of largest magnitude, NaN above infinity.

    values : address of float32[n]
    n      : int
    """
    most = np.int32(0)
    for i in range(n):
        most = larger(most, np.int32(load_i32(values, i)) & np.int32(0x7FFFFFFF))
    return most


@kernel
def round_half_away(values, n, inverse, levels):
    """levels = round(values * inverse), halves away from zero; NaN gives 0, and magnitudes end at LIMIT.

    values  : address of float32[n]
    n       : int
    inverse : float32                1 / step
    levels  : address of int32[n]    out
    """
    for i in range(n):
        x = load_f32(values, i) * inverse
        size = smaller(abs(x), LIMIT)
        size = size if size >= ZERO else ZERO
        whole = np.float32(np.int32(size))
        # exact in float32, unlike the truncation of size + 0.5
        whole += ONE if size - whole >= HALF else ZERO
        level = np.int32(whole)
        store_32(levels, i, -level if x < ZERO else level)
