"""Kernels of codebooks: how often each level occurs, and from levels to the entries of a codebook and back."""

import numpy as np

from nncjit.jit import kernel


@kernel
def tally(levels, low, counts):
    """Count levels.

    levels : int32[n]  low .. low + m - 1
    low    : int
    counts : int64[m]  counts[level - low] is added to
    """
    for i in range(levels.size):
        counts[np.uint64(levels[i] - low)] += 1


@kernel
def extent(levels, ends):
    """Smallest and largest level.

    levels : int32[n]  n >= 1
    ends   : int64[2]  out
    """
    low = high = levels[0]
    for i in range(levels.size):
        low = min(low, levels[i])
        high = max(high, levels[i])
    ends[0], ends[1] = low, high


@kernel
def look_up(levels, low, table, out):
    """out = table[level - low]; levels outside of the table take its nearest end.

    levels : int32[n]
    low    : int
    table  : int32[m]  m >= 1
    out    : int32[n]  out; may be `levels`
    """
    last = table.size - 1
    for i in range(levels.size):
        out[i] = table[np.uint64(min(max(levels[i] - low, 0), last))]
