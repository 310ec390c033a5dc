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
def squared_error(values, levels, step):
    """Sum of squares of values - step * levels, each product rounded to float32 as the decoder does.

    values : float32[n]  contiguous
    levels : int32[n]    contiguous
    step   : float32     value of one level
    """
    total = 0.0
    for i in range(values.size):
        d = np.float64(values[i]) - np.float64(step * np.float32(levels[i]))
        total += d * d
    return total
