"""The uniform quantiser with rate, block by block with the rates of `rate_kernels`.

What a level costs depends on the value before it only through whether that is zero. So `prepare` works out for 16
values at once the best level that is not zero, and whether it beats the zero after a zero and after another value;
then one bit runs through the block and picks.
"""

import numpy as np

from nncjit.jit import address, helper, kernel, load_f32, load_i32, load_u8, store_32, store_f32
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.rate_kernels import LEVELS, SIGNS, SIZE_CLASSES, SIZES

BLOCK = 8192


def prepare_program(m, values, inverse, zero_rates, level_rates, codes, rows):
    """Best levels that are not zero, over the values, and when to take them.

    values      : float32[rows][16]   in; out: int32 levels
    inverse     : float32[1]          1 / step
    zero_rates  : float32[4][8]       see rate_kernels; state 0 is used
    level_rates : float32[2][LEVELS]
    codes       : uint8[rows][16]     out: bit 0: take it after a zero, bit 1: after another value
    """
    scale = m.repeat(inverse, 0)
    margins = [m.repeat(zero_rates, 16 + 8 * was) - m.repeat(zero_rates, 8 * was) for was in (0, 1)]

    def step(row):
        x = m.load(values, row) * scale
        size = m.absolute(x)
        table = m.select(x < 0.0, m.constant(LEVELS), 0)

        def cost(level):
            value = m.to_int(level)
            value = m.select(value < LEVELS, value, LEVELS - 1)
            distance = size - level
            return distance * distance + m.gather(level_rates, value + table)

        near = m.rint(size)
        near = m.select(near < 1.0, 1.0, near)
        below = m.select(near < 2.0, 1.0, near - 1.0)
        near_cost, below_cost = cost(near), cost(below)
        take_below = below_cost < near_cost
        level = m.to_int(m.select(take_below, below, near))
        gain = size * size - m.select(take_below, below_cost, near_cost)
        code = m.select(margins[0] < gain, m.constant(1), 0) | m.select(margins[1] < gain, m.constant(2), 0)
        m.store(values, row, m.select(x < 0.0, m.constant(0) - level, level))
        m.store_u8(codes, row, code)

    m.loop(rows, step)


prepare = lane_program(16)(prepare_program)
prepare_scalar = lane_program(16, scalar=True)(prepare_program)


@helper
def count(levels, counts, begin, end, was, unary_length):
    """Add levels[begin:end] to the counts; `was`: whether the one before is non-zero. Returns how many are."""
    one = np.float32(1.0)
    found = 0
    for i in range(begin, end):
        level = load_i32(levels, i)
        place = 2 * was
        was = 1 if level else 0
        found += was
        store_f32(counts, place + was, load_f32(counts, place + was) + one)
        if level:
            negative = 1 if level < 0 else 0
            store_f32(counts, SIGNS + negative, load_f32(counts, SIGNS + negative) + one)
            value = -level if negative else level
            place = SIZES + negative * SIZE_CLASSES + rate_kernels.size_class(value, unary_length)
            store_f32(counts, place, load_f32(counts, place) + one)
    return found


@kernel
def quantise(
    values,
    start,
    stop,
    block,
    sample,
    inverse,
    weight,
    unary_length,
    fade,
    vector,
    counts,
    work,
    codes,
    zero_rates,
    level_rates,
    levels,
):
    """Levels of values[start:stop].

    values       : float32[n]  |value / step| must stay below trellis_lanes_kernels.EXACT_BELOW
    start, stop  : int         the value before `start` counts as zero
    block        : int         values of the first block, 1..BLOCK; doubles from block to block up to BLOCK
    sample       : int         values of a block that are counted, at least; all where zeros abound
    inverse      : float32[1]  1 / step
    weight       : float32     what a bit costs in squared steps
    unary_length : int         1..rate_kernels.LONGEST_UNARY
    fade         : float32     see rate_kernels.update
    vector       : int         1: lane programs as vectors, 0: as scalars; the levels are the same
    counts       : float32[rate_kernels.COUNTS]  in: to start with; out: after the last block
    work         : float32[BLOCK]                scratch
    codes        : uint8[BLOCK]                  scratch
    zero_rates   : float32[4, 8]                 scratch
    level_rates  : float32[2, LEVELS]            scratch
    levels       : int32[n]    out: [start:stop]
    """
    places = address(work), address(inverse), address(zero_rates), address(level_rates), address(codes)
    out = address(levels)
    was = 0
    i = start
    while i < stop:
        rate_kernels.update(counts, weight, unary_length, fade, zero_rates, level_rates)
        n = min(stop - i, block)
        rows = (n + 15) >> 4
        for k in range(n):
            work[np.uint64(k)] = values[np.uint64(i + k)]
        for k in range(n, 16 * rows):
            work[np.uint64(k)] = np.float32(0.0)
        if vector:
            prepare((places[0], places[1], places[2], places[3], places[4], rows))
        else:
            prepare_scalar((places[0], places[1], places[2], places[3], places[4], rows))
        before = was
        for k in range(n):
            was = (load_u8(places[4], k) >> was) & 1
            store_32(out, i + k, load_i32(places[0], k) & -was)
        some = min(max(sample, n >> 2), n)
        found = count(out, address(counts), i, i + some, before, unary_length)
        if some < n and 8 * found < some:
            count(out, address(counts), i + some, i + n, 1 if levels[i + some - 1] else 0, unary_length)
        i += n
        block = min(2 * block, BLOCK)
