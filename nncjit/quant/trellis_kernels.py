"""The 8-state trellis of dependent quantisation, scalar and exact (spec, section 6).

A level q >= 1 belongs to one of four classes by ``q & 3``, a class to one quantiser (even or odd states) and one
parity of the coded value: 0: even states, parity 0; 1: odd, 1; 2: even, 1; 3: odd, 0. Level 0 is parity 0 in both. So
each state has two branches, the nearest level of each parity, and the four distances of a weight serve all states.

The forward pass keeps the eight path costs in locals and one decision bit for each state: which of two predecessors
won. The traceback turns the bits into states, and finds the level again from the weight, the quantiser and the
parity.
"""

import numpy as np

from nncjit.cabac.tables import DQ_NEXT_STATE
from nncjit.jit import helper, kernel, larger, load_f32, load_i32, smaller, store_32

LIMIT = 2.0**31 - 256
"""Greater |value / step| count as this, so that levels fit into int32."""

UNREACHED = 1e300

WAYS = [
    [(before, parity) for before in range(8) for parity in (0, 1) if DQ_NEXT_STATE[before, parity] == state]
    for state in range(8)
]
"""For each state its two predecessors, ascending, and the parity that leads from there."""


WAYS_BACK = int.from_bytes(
    bytes(sum((before << 1 | parity) << (4 * bit) for bit, (before, parity) in enumerate(ways)) for ways in WAYS),
    "little",
    signed=True,
)
"""Byte s holds predecessor << 1 | parity of state s, four bits for each decision bit."""


@helper
def way_back(state, bit):
    """Predecessor << 1 | parity of the coded value, from a state and its decision bit."""
    return (WAYS_BACK >> (8 * state + 4 * bit)) & 15


@helper
def magnitude(x):
    """|x| up to LIMIT, NaN as 0."""
    size = smaller(abs(x), LIMIT)
    return size if size >= 0.0 else 0.0


@helper
def window(size):
    """First of four successive levels that hold the nearest of each class; at least 1."""
    return larger(np.int64(size) - 1, 1)


@helper
def member(first, kind):
    """The level of a class, 0..3, among the four from `first`."""
    return first + ((kind - first) & 3)


@helper
def distances(size):
    """Squared distances of the best levels: (even states, parity 0), (even, 1), (odd, 0), (odd, 1)."""
    first = window(size)
    to_0 = size - member(first, 0)
    to_1 = size - member(first, 1)
    to_2 = size - member(first, 2)
    to_3 = size - member(first, 3)
    zero = size * size
    return smaller(to_0 * to_0, zero), to_2 * to_2, smaller(to_3 * to_3, zero), to_1 * to_1


@helper
def level_of(size, quantiser, parity):
    """The level that `distances` meant: the nearest of a quantiser (0 even states, 1 odd) and parity."""
    first = window(size)
    level = member(first, (parity ^ quantiser) << 1 | quantiser)
    distance = size - level
    return 0 if parity == 0 and size * size < distance * distance else level


@kernel
def quantise(values, n, inverse, start, end, levels):
    """The levels of least distortion along one path; returns the state in which it starts.

    values  : address of float32[n]
    n       : int
    inverse : float64                1 / step
    start   : int                    state before the first value, 0..7; -1: any
    end     : int                    state after the last value, 0..7; -1: any
    levels  : address of int32[n]    out; holds the decision bits between the passes
    """
    free = 0.0 if start < 0 else UNREACHED
    c0 = 0.0 if start == 0 else free
    c1 = 0.0 if start == 1 else free
    c2 = 0.0 if start == 2 else free
    c3 = 0.0 if start == 3 else free
    c4 = 0.0 if start == 4 else free
    c5 = 0.0 if start == 5 else free
    c6 = 0.0 if start == 6 else free
    c7 = 0.0 if start == 7 else free
    for i in range(n):
        even0, even1, odd0, odd1 = distances(magnitude(np.float64(load_f32(values, i)) * inverse))
        a0, b0 = c0 + even0, c4 + even1
        a1, b1 = c2 + even0, c6 + even1
        a2, b2 = c0 + even1, c4 + even0
        a3, b3 = c2 + even1, c6 + even0
        a4, b4 = c3 + odd1, c7 + odd0
        a5, b5 = c1 + odd1, c5 + odd0
        a6, b6 = c3 + odd0, c7 + odd1
        a7, b7 = c1 + odd0, c5 + odd1
        bits = (
            (b0 < a0)
            | (b1 < a1) << 1
            | (b2 < a2) << 2
            | (b3 < a3) << 3
            | (b4 < a4) << 4
            | (b5 < a5) << 5
            | (b6 < a6) << 6
            | (b7 < a7) << 7
        )
        store_32(levels, i, bits)
        c0, c1, c2, c3 = smaller(a0, b0), smaller(a1, b1), smaller(a2, b2), smaller(a3, b3)
        c4, c5, c6, c7 = smaller(a4, b4), smaller(a5, b5), smaller(a6, b6), smaller(a7, b7)
    state = end
    if end < 0:
        state = cheapest(c0, c1, c2, c3, c4, c5, c6, c7)
    for i in range(n - 1, -1, -1):
        x = np.float64(load_f32(values, i)) * inverse
        back = way_back(state, (load_i32(levels, i) >> state) & 1)
        state = back >> 1
        level = level_of(magnitude(x), state & 1, back & 1)
        store_32(levels, i, -level if x < 0.0 else level)
    return state


@helper
def cheapest(c0, c1, c2, c3, c4, c5, c6, c7):
    """The first state of least cost."""
    state, least = 0, c0
    if c1 < least:
        state, least = 1, c1
    if c2 < least:
        state, least = 2, c2
    if c3 < least:
        state, least = 3, c3
    if c4 < least:
        state, least = 4, c4
    if c5 < least:
        state, least = 5, c5
    if c6 < least:
        state, least = 6, c6
    if c7 < least:
        state = 7
    return state
