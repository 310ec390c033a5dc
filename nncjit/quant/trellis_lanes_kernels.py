"""The 8-state trellis in 16 lanes of float32: 16 chunks of a tensor at a time, each with a given first and last state.

Where two chunks meet, the state is chosen first: a Viterbi over a window around the boundary, all 16 boundaries of a
block in the 16 lanes, and the state that its best path passes there. Each chunk then takes the best path between its
two states, so the chunks always join in one valid path, and what is lost against one long trellis is only what lies
beyond the windows.

Layout: row t of a block holds value t of each chunk. The forward pass leaves one byte a lane, bit s for state s
(which of the two predecessors won); the traceback follows 16 states at once and writes the levels over the values.

The distances need no search for the nearest level: with r = a - 4 * rint(a / 4), a = |value / step|, the distance to
the levels q = 0 (mod 4) is |r|, to q = 2 it is 2 - |r|, and likewise for q = 1 and 3 around r - 1. A level 0 is as
good as its parity's other level where it is nearer. All of this is exact enough below EXACT_BELOW, where float32
still holds fractions.
"""

import numpy as np

from nncjit.jit import field_offset, helper, kernel, larger, load_i32, record_view, smaller, store_32, store_f32
from nncjit.jit.lanes import lane_program
from nncjit.quant.trellis_chunks import LANES
from nncjit.quant.trellis_kernels import WAYS, WAYS_BACK

EXACT_BELOW = 2.0**20
"""Largest |value / step| that the lanes are given."""

UNREACHED = np.float32(1e20)

CHUNKS = np.dtype(
    [
        ("values", "i8"),  # address of float32[n]
        ("n", "i8"),
        ("levels", "i8"),  # address of int32[n], out
        ("length", "i8"),  # values of a chunk
        ("window", "i8"),  # values on either side of a boundary, fewer where the tensor ends
        ("depth", "i8"),  # rows in the scratch: max(length, 2 * window)
        ("inverse", "f4"),  # 1 / step; |value / step| stays below EXACT_BELOW
    ]
)
"""A tensor in chunks; kernels do not change it."""

_chunks_at = record_view(CHUNKS)
INVERSE = field_offset(CHUNKS, "inverse")

# The scratch of a worker: float32[8][16] costs, int32[16] states, float32[depth][16] rows, uint8[depth][16] decisions.
STATES, ROWS = 32 * LANES, 36 * LANES


def scratch_size(depth: int) -> int:
    """Bytes of a worker's scratch."""
    return ROWS + 5 * LANES * depth


_BACK_LOW, _BACK_HIGH = np.array([WAYS_BACK]).view(np.int32).tolist()


def way_back(m, state, bit):
    """Predecessor << 1 | parity of each lane, from its state and its decision bit."""
    index = state + state + bit
    table = m.select(state < 4, m.constant(_BACK_LOW), m.constant(_BACK_HIGH))
    return (table >> ((index & 7) << 2)) & 15


def distances(m, size):
    """Distances of `size` to the levels of the classes 0, 2, 3, 1, in the order of `trellis_kernels.distances`."""
    rest = size - m.rint(size * 0.25) * 4.0
    to_0 = m.absolute(rest)
    to_1 = m.absolute(rest - 1.0)
    to_1 = m.minimum(to_1, m.number(4.0) - to_1)
    return to_0, m.number(2.0) - to_0, m.number(2.0) - to_1, to_1


@lane_program(LANES)
def forward(m, values, inverse, costs, decisions, n):
    """n steps of the trellis.

    values    : float32[n][16]
    inverse   : float32[1]       1 / step
    costs     : float32[8][16]   path costs before the first step; out: after the last
    decisions : uint8[n][16]     out
    """
    scale = m.repeat(inverse, 0)
    cells = [m.cell(m.load(costs, state)) for state in range(8)]

    def step(row):
        size = m.absolute(m.load(values, row) * scale)
        zero = size * size
        even0, even1, odd0, odd1 = (distance * distance for distance in distances(m, size))
        branch = ((m.minimum(even0, zero), even1), (m.minimum(odd0, zero), odd1))
        before = [cell.get() for cell in cells]
        word = m.constant(0)
        for state, ((s0, parity0), (s1, parity1)) in enumerate(WAYS):
            first = before[s0] + branch[s0 & 1][parity0]
            second = before[s1] + branch[s1 & 1][parity1]
            late = second < first
            cells[state].set(m.select(late, second, first))
            word = word | m.select(late, m.constant(1 << state), 0)
        m.store_u8(decisions, row, word)

    m.loop(n, step)
    for state, cell in enumerate(cells):
        m.store(costs, state, cell.get())


def _transpose(m, vectors):
    """16 vectors of 16, with lanes and vectors changing places."""
    lanes = range(LANES)
    for bit in (1, 2, 4, 8):
        low = [lane + LANES - bit if lane & bit else lane for lane in lanes]
        high = [lane + LANES if lane & bit else lane + bit for lane in lanes]
        vectors = [
            m.shuffle(vectors[k & ~bit], vectors[k | bit], high if k & bit else low) for k in range(len(vectors))
        ]
    return vectors


@lane_program(LANES)
def spread_chunks(m, values, length, rows, squares):
    """Row t becomes value t of each chunk, for 16 * squares values of each.

    values : float32[16][length]
    length : int                  at least 16 * squares
    rows   : float32[16 * squares][16]  out
    """

    def step(k):
        chunks = [m.load_from(values, m.times(length, lane, m.times(k, LANES))) for lane in range(LANES)]
        for t, row in enumerate(_transpose(m, chunks)):
            m.store(rows, m.times(k, LANES, t), row)

    m.loop(squares, step)


@lane_program(LANES)
def gather_chunks(m, rows, length, values, squares):
    """The way back of `spread_chunks`; words of four bytes of any kind."""

    def step(k):
        square = [m.load(rows, m.times(k, LANES, t)) for t in range(LANES)]
        for lane, chunk in enumerate(_transpose(m, square)):
            m.store_to(values, m.times(length, lane, m.times(k, LANES)), chunk)

    m.loop(squares, step)


@lane_program(LANES)
def last_states(m, costs, states):
    """The first state of least cost of each lane.

    costs  : float32[8][16]
    states : int32[1][16]    out
    """
    least, state = m.load(costs, 0), m.constant(0)
    for other in range(1, 8):
        cost = m.load(costs, other)
        better = cost < least
        least, state = m.select(better, cost, least), m.select(better, m.constant(other), state)
    m.store(states, 0, state)


@lane_program(LANES)
def trace(m, decisions, states, n):
    """Follow the decisions back over n steps.

    decisions : uint8[n][16]
    states    : int32[1][16]  in: states after the last step; out: before the first
    """
    cell = m.cell(m.load_int(states, 0))

    def step(row):
        state = cell.get()
        cell.set(way_back(m, state, (m.load_u8(decisions, row) >> state) & 1) >> 1)

    m.loop_down(n, step)
    m.store(states, 0, cell.get())


@lane_program(LANES)
def emit(m, values, inverse, decisions, states, n):
    """Follow the decisions back over n steps and write the levels over the values.

    values    : float32[n][16]  in; out: int32 levels
    inverse   : float32[1]      1 / step
    decisions : uint8[n][16]
    states    : int32[1][16]    states after the last step
    """
    scale = m.repeat(inverse, 0)
    cell = m.cell(m.load_int(states, 0))

    def step(row):
        state = cell.get()
        back = way_back(m, state, (m.load_u8(decisions, row) >> state) & 1)
        cell.set(back >> 1)
        quantiser = (back >> 1) & 1
        kind = m.to_float(((back & 1) ^ quantiser) << 1 | quantiser)
        x = m.load(values, row) * scale
        size = m.absolute(x)
        level = kind + m.rint((size - kind) * 0.25) * 4.0
        near_zero = (m.number(2.5) < kind) & (size < 1.5)
        level = m.to_int(m.select(near_zero, 0.0, level))
        m.store(values, row, m.select(x < 0.0, m.constant(0) - level, level))

    m.loop_down(n, step)


@helper
def fill(p, n, number):
    """Store a float32 n times."""
    for i in range(n):
        store_f32(p, i, number)


@helper
def boundary_states(chunks, scratch, first):
    """Write the states in which the 16 chunks from value `first` on end, each from a window around its end."""
    at = _chunks_at(chunks)
    costs, states, rows, decisions = scratch, scratch + STATES, scratch + ROWS, scratch + ROWS + 4 * LANES * at.depth
    window = at.window
    for lane in range(LANES):
        begin = first + (lane + 1) * at.length - window
        source = at.values + 4 * begin
        inside = larger(-begin, 0), larger(smaller(2 * window, at.n - begin), 0)
        for t in range(inside[0]):
            store_32(rows, t * LANES + lane, 0)
        for t in range(inside[0], inside[1]):
            store_32(rows, t * LANES + lane, load_i32(source, t))
        for t in range(inside[1], 2 * window):
            store_32(rows, t * LANES + lane, 0)
    fill(costs, 8 * LANES, np.float32(0.0))
    forward((rows, chunks + INVERSE, costs, decisions, 2 * window))
    last_states((costs, states))
    trace((decisions + window * LANES, states, window))


@kernel
def quantise_blocks(chunks, scratch, first, count, start):
    """Levels of `count` blocks of 16 chunks; returns the state after the last one.

    chunks  : address of CHUNKS
    scratch : address of scratch_size(depth) bytes
    first   : int  where the first block starts
    count   : int  first + count * 16 * length <= n
    start   : int  state before the first value; -1: taken from the window around it (first >= 16 * length)
    """
    at = _chunks_at(chunks)
    costs, states, rows, decisions = scratch, scratch + STATES, scratch + ROWS, scratch + ROWS + 4 * LANES * at.depth
    length, by = at.length, chunks + INVERSE
    block = LANES * length
    if start < 0:
        boundary_states(chunks, scratch, first - block)
        start = load_i32(states, LANES - 1)
    for base in range(first, first + count * block, block):
        boundary_states(chunks, scratch, base)
        fill(costs, 8 * LANES, UNREACHED)
        for lane in range(LANES):
            before = start if lane == 0 else load_i32(states, lane - 1)
            store_f32(costs, before * LANES + lane, np.float32(0.0))
        start = load_i32(states, LANES - 1)
        source, target = at.values + 4 * base, at.levels + 4 * base
        spread_chunks((source, length, rows, length // LANES))
        for t in range(length // LANES * LANES, length):
            for lane in range(LANES):
                store_32(rows, t * LANES + lane, load_i32(source, lane * length + t))
        forward((rows, by, costs, decisions, length))
        emit((rows, by, decisions, states, length))
        gather_chunks((rows, length, target, length // LANES))
        for t in range(length // LANES * LANES, length):
            for lane in range(LANES):
                store_32(target, lane * length + t, load_i32(rows, t * LANES + lane))
    return start
