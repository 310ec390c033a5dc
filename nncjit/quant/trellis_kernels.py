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
from nncjit.jit import helper, kernel

LIMIT = 2.0**31 - 256
UNREACHED = 1e300


def _steps_back() -> np.ndarray:
    words = np.zeros(16, np.int64)
    for state in range(8):
        ways = [(before, parity) for before in range(8) for parity in (0, 1) if DQ_NEXT_STATE[before, parity] == state]
        for bit, (before, parity) in enumerate(ways):
            words[2 * state + bit] = before << 2 | (before & 1) << 1 | parity
    return words


STEPS_BACK = _steps_back()
"""int64[16], index 2 * state + decision bit: predecessor << 2 | quantiser << 1 | parity of the coded value."""


@helper
def magnitude(x):
    """|x| as a finite number that an int32 holds, NaN as 0."""
    size = min(abs(x), LIMIT)
    return size if size >= 0.0 else 0.0


@helper
def window(size):
    """First of four successive levels that hold the nearest of each class; at least 1."""
    return max(np.int64(size) - 1, 1)


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
    return min(to_0 * to_0, zero), to_2 * to_2, min(to_3 * to_3, zero), to_1 * to_1


@helper
def level_of(size, quantiser, parity):
    """The level that `distances` meant: the nearest of a quantiser (0 even states, 1 odd) and parity."""
    first = window(size)
    level = member(first, (parity ^ quantiser) << 1 | quantiser)
    distance = size - level
    return 0 if parity == 0 and size * size < distance * distance else level


@kernel
def quantise(values, inverse, start, end, steps_back, levels):
    """The levels of least distortion along one path; returns the state in which it starts.

    values     : float32[n]
    inverse    : float64    1 / step
    start      : int        state before the first value, 0..7; -1: any
    end        : int        state after the last value, 0..7; -1: any
    steps_back : int64[16]  STEPS_BACK
    levels     : int32[n]   out; holds the decision bits between the passes
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
    for i in range(values.size):
        even0, even1, odd0, odd1 = distances(magnitude(np.float64(values[np.uint64(i)]) * inverse))
        a0, b0 = c0 + even0, c4 + even1
        a1, b1 = c2 + even0, c6 + even1
        a2, b2 = c0 + even1, c4 + even0
        a3, b3 = c2 + even1, c6 + even0
        a4, b4 = c3 + odd1, c7 + odd0
        a5, b5 = c1 + odd1, c5 + odd0
        a6, b6 = c3 + odd0, c7 + odd1
        a7, b7 = c1 + odd0, c5 + odd1
        levels[np.uint64(i)] = (
            (b0 < a0)
            | (b1 < a1) << 1
            | (b2 < a2) << 2
            | (b3 < a3) << 3
            | (b4 < a4) << 4
            | (b5 < a5) << 5
            | (b6 < a6) << 6
            | (b7 < a7) << 7
        )
        c0, c1, c2, c3 = min(a0, b0), min(a1, b1), min(a2, b2), min(a3, b3)
        c4, c5, c6, c7 = min(a4, b4), min(a5, b5), min(a6, b6), min(a7, b7)
    state = end
    if end < 0:
        state = cheapest(c0, c1, c2, c3, c4, c5, c6, c7)
    for i in range(values.size - 1, -1, -1):
        x = np.float64(values[np.uint64(i)]) * inverse
        back = steps_back[np.uint64(2 * state + ((levels[np.uint64(i)] >> state) & 1))]
        level = level_of(magnitude(x), (back >> 1) & 1, back & 1)
        levels[np.uint64(i)] = -level if x < 0.0 else level
        state = back >> 2
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
