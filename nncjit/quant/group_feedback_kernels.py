"""The trellis with rate along a row whose values feed back in groups: the taps of a convolution's kernel.

As in `feedback_kernels`, rows are inputs. But an input has several taps, which lie side by side in the row for each
output, and what one tap misses the later ones of its kernel take up. What was missed depends on the path: each of the
eight survivors carries the errors of its kernel so far, in one lane.
"""

import numpy as np

from nncjit.jit import (
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
)
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.feedback_kernels import FIRST, SECOND, ZERO_FROM, ZERO_IS_LATE
from nncjit.quant.rate_kernels import LEVELS, SETTING_FIELDS, SIGNS, SIZE_CLASSES, SIZES
from nncjit.quant.trellis_kernels import WAYS
from nncjit.quant.trellis_lanes_kernels import EXACT_BELOW
from nncjit.quant.trellis_rd_kernels import UNREACHED

_FIELDS = [
    (
        "targets",
        "i8",
    ),  # address of float32[rows][width], in: values and what earlier rows missed; out: taps too
    ("errors", "i8"),  # address of float32[rows][width], in: values, out: what decoding will miss of them
    ("feed", "i8"),  # address of float32[rows * taps][rows * taps]
    ("relative", "i8"),  # address of float32[rows][taps]: what an error of a tap costs beside the row's others
    ("side", "i8"),  # rows * taps
    ("taps", "i8"),
    ("width", "i8"),  # outputs * taps
    ("x", "i8"),  # scratch: float32[width]
    ("originals", "i8"),  # float32[width]
    ("chosen", "i8"),  # int32[width][8]
    ("masks", "i8"),  # uint8[width]
    ("kept", "i8"),  # float32[taps][8]
    ("inner", "i8"),  # float32[taps][taps]
    ("states", "i8"),  # int32[width]
    ("path_back", "i8"),  # address of PATH_BACK
    ("step", "f4"),
    ("every", "i8"),  # values after which the rates are worked out anew
    ("since", "i8"),  # values since they were; out
    ("state", "i8"),  # of the path; out
    ("was", "i8"),  # 1: the last value is not zero; out
    ("costs", "f4", 8),
    ("last_nonzero", "i4", 8),
]
GROUPS = np.dtype([*_FIELDS, *SETTING_FIELDS])
"""Rows to be quantised; `levels` is int32[rows][width], `values` and `n` are not read."""

_groups_at = record_view(GROUPS)
ZERO_RATES, LEVEL_RATES, COSTS, LAST_NONZERO, COUNTS_AT = (
    field_offset(GROUPS, name) for name in ("zero_rates", "level_rates", "costs", "last_nonzero", "counts")
)

_ODD = [state % 2 == 1 for state in range(8)]
_FROM_FIRST, _FROM_SECOND = ([ways[bit][0] for ways in WAYS] for bit in (0, 1))


def walk_groups_program(
    m, x, originals, inner, relative, level_rates, zero_rates, costs, nonzero, masks, chosen, kept, taps, outputs
):
    """All steps of a row; lane state.

    x, originals : float32[outputs * taps]  targets without what the kernel's earlier taps missed, and values, in steps
    inner        : float32[taps][taps]      tap k takes up inner[k][h] of what tap h < k misses
    relative     : float32[taps]            weight of a tap's distance
    level_rates  : float32[2][LEVELS]
    zero_rates   : float32[4][8]
    costs        : float32[8]
    nonzero      : int32[8]
    masks        : uint8[outputs * taps]    out: decision bits
    chosen       : int32[outputs * taps][8] out: the level that leads to each state
    kept         : float32[taps][8]         scratch: what each survivor missed of its kernel
    """
    rates = [m.load(zero_rates, row) for row in range(4)]
    cost_cell, zero_cell = m.cell(m.load(costs, 0)), m.cell(m.load_int(nonzero, 0) < 1)
    target = m.cell(m.number(0.0))
    zero_is_late, odd = m.mask(ZERO_IS_LATE), m.mask(_ODD)
    kinds = m.select(odd, m.number(3.0), 0.0), m.select(odd, m.number(1.0), m.number(2.0))

    def follow(late, even, other, first, second):
        return m.select(late, m.shuffle(even, other, second), m.shuffle(even, other, first))

    def step(output, k):
        i = m.times(output, taps, k)
        target.set(m.repeat(x, i))

        def take_up(h):
            target.set(target.get() + m.load(kept, h) * m.repeat(inner, m.times(k, taps, h)))

        m.loop(k, take_up)
        v, cost, was_zero, by = target.get(), cost_cell.get(), zero_cell.get(), m.repeat(relative, k)
        size, negative = m.absolute(v), v < 0.0
        table = m.select(negative, m.constant(LEVELS), 0)

        def level_of(kind):
            level = m.rint((size - kind) * 0.25) * 4.0 + kind
            return m.select(level < 1.0, level + 4.0, level)

        def price(level):
            value = (m.to_int(level) + 1) >> 1
            value = m.select(value < LEVELS, value, LEVELS - 1)
            distance = size - level
            return distance * distance * by + m.gather(level_rates, value + table)

        def signed(level):
            return m.select(negative, m.number(0.0) - level, level)

        level0, level1 = level_of(kinds[0]), level_of(kinds[1])
        other_rate = m.select(was_zero, rates[2], rates[3])
        with_zero = size * size * by + m.select(was_zero, rates[0], rates[1])
        with_level = price(level0) + other_rate
        took = with_zero < with_level
        parity0 = m.minimum(with_zero, with_level) + cost
        parity1 = price(level1) + other_rate + cost
        first, second = m.shuffle(parity0, parity1, FIRST), m.shuffle(parity0, parity1, SECOND)
        late = second < first
        cost_cell.set(m.select(late, second, first))
        zero_cell.set(m.shuffle(took, took, ZERO_FROM) & ~(late ^ zero_is_late))
        m.store_bits(masks, i, late)
        q0, q1 = signed(m.select(took, 0.0, level0)), signed(level1)
        m.store(chosen, i, m.to_int(follow(late, q0, q1, FIRST, SECOND)))

        def inherit(h):
            missed = m.load(kept, h)
            m.store(kept, h, follow(late, missed, missed, _FROM_FIRST, _FROM_SECOND))

        m.loop(k, inherit)
        original = m.repeat(originals, i)
        m.store(kept, k, follow(late, original - q0, original - q1, FIRST, SECOND))

    m.loop(outputs, lambda output: m.loop(taps, lambda k: step(output, k)))
    m.store(costs, 0, cost_cell.get())


walk_groups = lane_program(8)(walk_groups_program)
walk_groups_scalar = lane_program(8, scalar=True)(walk_groups_program)


@helper
def trace_groups(at, levels, state):
    """Write the levels of the path that ends in `state`, and the states before them."""
    for i in range(at.width - 1, -1, -1):
        store_32(levels, i, load_i32(at.chosen, 8 * i + state))
        state = load_u8(at.path_back, load_u8(at.masks, i) * 8 + state) >> 2
        store_32(at.states, i, state)


@helper
def count_groups(at, counts, levels):
    """Add a row's levels to the counts."""
    one = np.float32(1.0)
    was = at.was
    for i in range(at.width):
        level = load_i32(levels, i)
        place = 2 * (2 * load_i32(at.states, i) + was)
        was = 1 if level else 0
        store_f32(counts, place + was, load_f32(counts, place + was) + one)
        if level:
            negative = 1 if level < 0 else 0
            value = ((-level if negative else level) + 1) >> 1
            store_f32(counts, SIGNS + negative, load_f32(counts, SIGNS + negative) + one)
            place = SIZES + negative * SIZE_CLASSES + rate_kernels.size_class(value, at.unary_length)
            store_f32(counts, place, load_f32(counts, place) + one)
    at.was = was


@kernel
def quantise_group_row(groups, row):
    """Levels of one row, which has taken up what the rows before it missed.

    groups : address of GROUPS
    row    : int   0 <= row, (row + 1) * taps <= side
    """
    at = _groups_at(groups)
    taps, width, inner, x, originals = at.taps, at.width, at.inner, at.x, at.originals
    costs, nonzero, step, inverse = groups + COSTS, groups + LAST_NONZERO, at.step, at.inverse
    target, error, levels = at.targets + 4 * row * width, at.errors + 4 * row * width, at.levels + 4 * row * width
    relative = at.relative + 4 * row * taps
    if at.since <= 0:
        rate_kernels.update(at)
        at.since = at.every
    at.since -= width
    for k in range(taps):
        for h in range(taps):
            store_f32(inner, k * taps + h, load_f32(at.feed, (row * taps + k) * at.side + row * taps + h))
    limit = np.float32(EXACT_BELOW / 4)
    for i in range(width):
        store_f32(x, i, smaller(larger(load_f32(target, i) * inverse, -limit), limit))
        store_f32(originals, i, load_f32(error, i) * inverse)
    for state in range(8):
        store_f32(costs, state, np.float32(0.0) if state == at.state else UNREACHED)
        store_32(nonzero, state, at.was)
    arguments = (
        *(x, originals, inner, relative, groups + LEVEL_RATES, groups + ZERO_RATES, costs, nonzero),
        *(at.masks, at.chosen, at.kept, taps, width // taps),
    )
    if at.vector:
        walk_groups(arguments)
    else:
        walk_groups_scalar(arguments)
    best = 0
    for state in range(1, 8):
        if load_f32(costs, state) < load_f32(costs, best):
            best = state
    trace_groups(at, levels, best)
    count_groups(at, groups + COUNTS_AT, levels)
    at.state = best
    for first in range(0, width, taps):
        for k in range(taps):
            i = first + k
            made_up = np.float32(0.0)
            for h in range(k):
                made_up += load_f32(inner, k * taps + h) * load_f32(error, first + h)
            store_f32(target, i, load_f32(target, i) + made_up)
            store_f32(error, i, load_f32(error, i) - step * np.float32(load_i32(levels, i)))
