"""The uniform quantiser with rate, block by block with the rates of `rate_kernels`.

What a level costs depends on the value before it only through whether that is zero. So `prepare` works out for 16
values at once the best level that is not zero, and whether it beats the zero after a zero and after another value;
then one bit runs through the block and picks.
"""

import numpy as np

from nncjit.jit import (
    copy_bytes,
    field_offset,
    helper,
    kernel,
    larger,
    load_f32,
    load_i32,
    load_u8,
    record_view,
    smaller,
    store_32,
    store_f32,
    zero_bytes,
)
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.rate_kernels import LEVELS, SETTING_FIELDS, SIGNS, SIZE_CLASSES, SIZES

BLOCK = 8192

WORKER = np.dtype([("work", "f4", BLOCK), ("codes", "u1", BLOCK), *SETTING_FIELDS])
"""Scratch, first because rows of 16 lanes want to be aligned, and a tensor."""

_worker_at = record_view(WORKER)
INVERSE, COUNTS_AT, ZERO_RATES, LEVEL_RATES, WORK, CODES = (
    field_offset(WORKER, name) for name in ("inverse", "counts", "zero_rates", "level_rates", "work", "codes")
)


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
def quantise(worker, start, stop, block):
    """Levels of values start to stop - 1.

    worker      : address of WORKER
    start, stop : int   0 <= start <= stop <= n; the value before `start` counts as zero
    block       : int   values of the first block, 1..BLOCK; doubles from block to block up to BLOCK
    """
    at = _worker_at(worker)
    levels, unary_length = at.levels, at.unary_length
    by, counts, work, codes = worker + INVERSE, worker + COUNTS_AT, worker + WORK, worker + CODES
    zero_rates, level_rates = worker + ZERO_RATES, worker + LEVEL_RATES
    was = 0
    i = start
    while i < stop:
        rate_kernels.update(at)
        n = smaller(stop - i, block)
        rows = (n + 15) >> 4
        copy_bytes(work, at.values + 4 * i, 4 * n)
        zero_bytes(work + 4 * n, 4 * (16 * rows - n))
        if at.vector:
            prepare((work, by, zero_rates, level_rates, codes, rows))
        else:
            prepare_scalar((work, by, zero_rates, level_rates, codes, rows))
        before = was
        for k in range(n):
            was = (load_u8(codes, k) >> was) & 1
            store_32(levels, i + k, load_i32(work, k) & -was)
        some = smaller(larger(at.sample, n >> 2), n)
        found = count(levels, counts, i, i + some, before, unary_length)
        if some < n and 8 * found < some:
            was_some = 1 if load_i32(levels, i + some - 1) else 0
            count(levels, counts, i + some, i + n, was_some, unary_length)
        i += n
        block = smaller(2 * block, BLOCK)
