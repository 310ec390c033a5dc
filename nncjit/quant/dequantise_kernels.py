"""Kernels from levels back to values."""

import numpy as np

from nncjit.jit import kernel


@kernel
def scale(levels, step, values):
    """values = step * level, the level taken as float32 first.

    levels : int32[n]
    step   : float32
    values : float32[n]  out; may be the memory of levels
    """
    for i in range(levels.size):
        values[i] = step * np.float32(levels[i])


@kernel
def look_up(indices, table, zero, values):
    """values = table[index + zero]; indices outside of the table are clamped.

    indices : int32[n]    coded values, 0 where the table's entry `zero` is meant
    table   : float32[m]  m >= 1
    zero    : int         0..m - 1
    values  : float32[n]  out
    """
    last = table.size - 1
    for i in range(indices.size):
        values[i] = table[np.uint64(min(max(indices[i] + zero, 0), last))]
