"""Kernels of codebooks: how often each level occurs, and from levels to the entries of a codebook and back."""

import numpy as np

from nncjit.jit import kernel, larger, load_i32, load_i64, record_view, smaller, store_32, store_64

EXTENT = np.dtype([("low", "i8"), ("high", "i8")])
"""Smallest and largest level."""

_extent_at = record_view(EXTENT)


@kernel
def tally(levels, n, low, counts):
    """Count levels.

    levels : address of int32[n]  low .. low + m - 1
    n      : int
    low    : int
    counts : address of int64[m]  element level - low is added to
    """
    for i in range(n):
        place = load_i32(levels, i) - low
        store_64(counts, place, load_i64(counts, place) + 1)


@kernel
def extent(levels, n, ends):
    """Smallest and largest level.

    levels : address of int32[n]
    n      : int                  at least 1
    ends   : address of EXTENT    out
    """
    low = high = np.int32(load_i32(levels, 0))
    for i in range(n):
        level = np.int32(load_i32(levels, i))
        low = smaller(low, level)
        high = larger(high, level)
    out = _extent_at(ends)
    out.low, out.high = low, high


@kernel
def look_up(levels, n, low, table, size, out):
    """out = table[level - low]; levels outside of the table take its nearest end.

    levels : address of int32[n]
    n      : int
    low    : int
    table  : address of int32[size]
    size   : int                     at least 1
    out    : address of int32[n]     out; may be `levels`
    """
    for i in range(n):
        place = smaller(larger(load_i32(levels, i) - low, 0), size - 1)
        store_32(out, i, load_i32(table, place))
