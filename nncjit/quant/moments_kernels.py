"""Sums over the weights of a tensor, in one pass and without temporaries, in float64.

Arrays are indexed directly: the loops call no helper with an array, and cost about 1 ns a weight.
"""

import numpy as np

from nncjit.jit import kernel


@kernel
def moments(values, sums):
    """Sum, sum of squares, largest magnitude and number of non-finite values of an array.

    values : float32[n]  contiguous
    sums   : float64[4]  receives sum, sum of squares and largest magnitude of the finite values, number of the others
    """
    total, power, peak, bad = 0.0, 0.0, 0.0, 0
    for x in values:
        a = abs(np.float64(x))
        if a <= 3.4028234663852886e38:
            total += np.float64(x)
            power += a * a
            peak = max(peak, a)
        else:
            bad += 1
    sums[0] = total
    sums[1] = power
    sums[2] = peak
    sums[3] = bad


@kernel
def products(values, levels, sums):
    """Sums of products of values and levels.

    values : float32[n]  contiguous
    levels : int32[n]    contiguous
    sums   : float64[3]  receives the sums of value * value, value * level and level * level
    """
    power, mixed, size = 0.0, 0.0, 0.0
    for i in range(values.size):
        x, q = np.float64(values[i]), np.float64(levels[i])
        power += x * x
        mixed += x * q
        size += q * q
    sums[0] = power
    sums[1] = mixed
    sums[2] = size
