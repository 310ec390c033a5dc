"""Kernels of the uniform quantiser. Each does one contiguous piece of a tensor."""

import numpy as np

from nncjit.jit import kernel

ZERO = np.float32(0.0)
HALF = np.float32(0.5)
ONE = np.float32(1.0)
LIMIT = np.float32(2.0**30 - 64)


@kernel
def largest(bits):
    """Largest of the words with their signs cleared: the float32 of largest magnitude, NaN above infinity.

    bits : int32[n]  float32 words
    """
    most = np.int32(0)
    for i in range(bits.size):
        most = max(most, bits[i] & np.int32(0x7FFFFFFF))
    return most


@kernel
def round_half_away(values, inverse, levels):
    """levels = round(values * inverse), halves away from zero; NaN gives 0, and magnitudes end at 2^30 - 64.

    values  : float32[n]
    inverse : float32     1 / step
    levels  : int32[n]    out
    """
    for i in range(values.size):
        x = values[i] * inverse
        size = min(abs(x), LIMIT)
        size = size if size >= ZERO else ZERO
        whole = np.float32(np.int32(size))
        # exact in float32, unlike the truncation of size + 0.5
        whole += ONE if size - whole >= HALF else ZERO
        level = np.int32(whole)
        levels[i] = -level if x < ZERO else level
