"""What the encoder wants to know about levels before it codes them: the quantiser's state somewhere, empty rows,
sizes."""

from nncjit.cabac.binarisation_kernels import all_zero
from nncjit.cabac.encoder_records import GROUP
from nncjit.jit import (
    kernel,
    leading_zeros,
    load_i32,
    load_i64,
    load_u8,
    store_8,
    store_64,
)


@kernel
def find_state(levels, steps, start, stop):
    """The quantiser's state (times 8) before level `start`, as levels from there on show it; -1 where they leave it
    open.

    levels : address of int32[at least stop]
    A level that is not 0 shows whether the state is odd, and no two states stay alike in that for more than a few
    levels. So each of the eight is followed until one is left that fits.
    """
    now, first = 0x0706050403020100, 255
    i = start
    while i < stop and first & (first - 1):
        if i + GROUP <= stop and all_zero(levels + 4 * i):
            i += GROUP
            continue
        magnitude = abs(load_i32(levels, i))
        i += 1
        step = load_i64(steps, magnitude & 3)
        after = 0
        for k in range(8):
            state = (now >> (8 * k)) & 7
            if magnitude and (magnitude ^ state) & 1:
                first &= ~(1 << k)
            after |= ((step >> (8 * state)) & 56) >> 3 << (8 * k)
        now = after
    if first == 0 or first & (first - 1):
        return -1
    return 8 * (63 - leading_zeros(first))


@kernel
def walk(levels, steps, start, stop, state):
    """The quantiser's state (times 8) after the levels start..stop-1. levels : address of int32[at least stop]"""
    for i in range(start, stop):
        state = (load_i64(steps, abs(load_i32(levels, i)) & 3) >> state) & 56
    return state


@kernel
def count_sizes(levels, ranges, n, found):
    """Count the levels of some ranges that are not 0, and sum 256 * (1 + log2 of the magnitude) of these, about.

    levels : address of int32[any]
    ranges : address of int64[n, 2], first element and the one behind the last
    found  : address of int64[n, 2], the results
    """
    for k in range(n):
        nonzero, total = 0, 0
        for i in range(load_i64(ranges, 2 * k), load_i64(ranges, 2 * k + 1)):
            magnitude = abs(load_i32(levels, i))
            top = 63 - leading_zeros(magnitude | 1)
            some = min(magnitude, 1)
            nonzero += some
            total += some * ((top << 8) + ((magnitude << 8) >> top))
        store_64(found, 2 * k, nonzero)
        store_64(found, 2 * k + 1, total)


@kernel
def mark_rows(levels, rows, width, block_rows, block_columns, used):
    """Set used[row] to 1 for each row of the matrix that has a non-zero level; returns the number of such levels.

    levels : address of int32[rows * width] in scan order
    block_rows, block_columns : int  sides of a block, >= 1; the whole matrix without block scan
    used   : address of uint8[rows]
    """
    place, total = levels, 0
    for top in range(0, rows, block_rows):
        bottom = min(top + block_rows, rows)
        for left in range(0, width, block_columns):
            count = min(block_columns, width - left)
            for row in range(top, bottom):
                found = 0
                for i in range(count):
                    found += 1 if load_i32(place, i) != 0 else 0
                store_8(used, row, load_u8(used, row) | min(found, 1))
                total += found
                place += 4 * count
    return total
