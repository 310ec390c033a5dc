"""The 8-state trellis with rate, four paths at a time, block by block, with the rates of `rate_kernels`.

A piece of a tensor is cut into four streams, which advance side by side: value i of stream s stands at 4 * i + s of
every array here. A block of all four goes through four stages. `prepare` works out, for each value, what its best
level of each class costs and what a zero costs. `walk` goes through the states step by step and leaves two masks of
32 bits: which predecessor won, and whether the path took a zero. A traceback finds the paths. `emit` turns them into
levels. `walk` looks some values beyond the block, so that the state in which a block ends is a good one for what
follows; there the next block starts.

`walk` is a chain of dependent operations: eight states of four streams keep a machine busy that one path would not.
The other stages have 16 values in the lanes.
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
    store_8,
    store_32,
    store_f32,
    zero_bytes,
)
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.rate_kernels import LEVELS, SETTING_FIELDS, SIGNS, SIZE_CLASSES, SIZES
from nncjit.quant.trellis_kernels import WAYS

BLOCK = 4096
LOOK = 64
STREAMS = 4
ROOM = STREAMS * (BLOCK + 2 * LOOK)
"""Values that the scratch arrays hold: of all streams a block, what may be left behind it, and the look beyond."""

UNREACHED = np.float32(1e20)

WORKER = np.dtype(
    [
        # scratch; whole cache lines, so that rows of 16 lanes are aligned
        ("work", "f4", ROOM),
        ("zero", "f4", ROOM),
        ("pairs0", "f4", 2 * ROOM),
        ("pairs1", "f4", 2 * ROOM),
        ("masks", "u1", 2 * ROOM),
        ("codes", "u1", ROOM),  # out, of the last block: predecessor << 2 | zero << 1 | parity
        ("costs", "f4", (STREAMS, 8)),
        ("last_nonzero", "i4", (STREAMS, 8)),
        # what is to be done
        ("path_back", "i8"),  # address of PATH_BACK
        ("cuts", "i8", STREAMS + 1),  # ascending; streams are equally long, or shorter at the tensor's end
        ("cut_states", "i8", STREAMS + 1),  # states at the cuts; -1: any; the values before a cut count as zero
        ("states", "i8", STREAMS),  # of the streams' paths
        ("was", "i8", STREAMS),  # 1: the last value of the stream is not zero
        *SETTING_FIELDS,
    ]
)
"""Four streams of a tensor, and the memory of one worker: about 450 kB."""

_worker_at = record_view(WORKER)
INVERSE, COUNTS_AT, ZERO_RATES, LEVEL_RATES, COSTS, LAST_NONZERO, WORK, ZERO, PAIRS0, PAIRS1, MASKS, CODES = (
    field_offset(WORKER, name)
    for name in (
        *("inverse", "counts", "zero_rates", "level_rates", "costs", "last_nonzero"),
        *("work", "zero", "pairs0", "pairs1", "masks", "codes"),
    )
)


def _path_back() -> np.ndarray:
    words = np.zeros((256, 8), np.uint8)
    for mask in range(256):
        for state, ways in enumerate(WAYS):
            before, parity = ways[(mask >> state) & 1]
            words[mask, state] = before << 2 | parity
    return words


PATH_BACK = _path_back()
"""uint8[256, 8], index decision mask and state: predecessor << 2 | parity of the coded value."""

_LANES = 8 * STREAMS
_STREAM_LANES = range(0, _LANES, 8)

# for each lane: where its state's two predecessors stand among the costs of parity 0 followed by those of parity 1,
# which of the two comes by parity 0, and where that one stands
_FIRST, _SECOND = (
    [lane + ways[bit][0] + _LANES * ways[bit][1] for lane in _STREAM_LANES for ways in WAYS] for bit in (0, 1)
)
_ZERO_IS_LATE = [ways[1][1] == 0 for ways in WAYS] * STREAMS
_ZERO_FROM = [lane + next(before for before, parity in ways if parity == 0) for lane in _STREAM_LANES for ways in WAYS]

_BY_STATE = [*range(8)] * STREAMS
_BY_STREAM = [stream for stream in range(STREAMS) for _ in range(8)]
_BY_STREAM_AND_QUANTISER = [2 * stream + state % 2 for stream in range(STREAMS) for state in range(8)]

# two vectors of 16 into 16 pairs
_LOW_PAIRS = [lane // 2 + 16 * (lane % 2) for lane in range(16)]
_HIGH_PAIRS = [8 + lane for lane in _LOW_PAIRS]


def prepare_program(m, values, inverse, level_rates, zero, pairs0, pairs1, rows):
    """Costs of the branches, without what depends on the state.

    values      : float32[rows][16]
    inverse     : float32[1]           1 / step
    level_rates : float32[2][LEVELS]
    zero        : float32[rows][16]    out: of a zero
    pairs0      : float32[rows][16][2] out: of parity 0, even and odd states
    pairs1      : float32[rows][16][2] out: of parity 1
    """
    scale = m.repeat(inverse, 0)

    def step(row):
        x = m.load(values, row) * scale
        size = m.absolute(x)
        m.store(zero, row, size * size)
        table = m.select(x < 0.0, m.constant(LEVELS), 0)

        def cost(kind):
            level = m.rint((size - float(kind)) * 0.25) * 4.0 + float(kind)
            if kind in (0, 3):
                level = m.select(level < 1.0, level + 4.0, level)
            value = (m.to_int(level) + 1) >> 1
            value = m.select(value < LEVELS, value, LEVELS - 1)
            distance = size - level
            return distance * distance + m.gather(level_rates, value + table)

        for pairs, even, odd in ((pairs0, cost(0), cost(3)), (pairs1, cost(2), cost(1))):
            m.store(pairs, m.times(row, 2), m.shuffle(even, odd, _LOW_PAIRS))
            m.store(pairs, m.times(row, 2, 1), m.shuffle(even, odd, _HIGH_PAIRS))

    m.loop(rows, step)


def walk_program(m, zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, n):
    """n steps of all streams; lane 8 * stream + state.

    zero, pairs0, pairs1 : float32[n][4], [n][4][2], [n][4][2]  from `prepare`
    zero_rates : float32[4][8]    see rate_kernels
    costs      : float32[4][8]    path costs before the first step; out: after the last
    nonzero    : int32[4][8]      1: the last value of the path is not zero
    masks      : uint32[n][2]     out: decision bits and zero bits
    """
    rates = [m.spread(zero_rates, row, _BY_STATE) for row in range(4)]
    cost_cell, zero_cell = m.cell(m.load(costs, 0)), m.cell(m.load_int(nonzero, 0) < 1)
    zero_is_late = m.mask(_ZERO_IS_LATE)

    def step(i):
        cost, was_zero = cost_cell.get(), zero_cell.get()
        none = m.spread(zero, i, _BY_STREAM)
        level0, level1 = m.spread(pairs0, i, _BY_STREAM_AND_QUANTISER), m.spread(pairs1, i, _BY_STREAM_AND_QUANTISER)
        ways = []
        for zero_rate, other_rate in ((rates[0], rates[2]), (rates[1], rates[3])):
            with_zero, with_level = none + zero_rate, level0 + other_rate
            ways.append((with_zero < with_level, m.minimum(with_zero, with_level), level1 + other_rate))
        took = (ways[0][0] & was_zero) | (ways[1][0] & ~was_zero)
        parity0 = m.select(was_zero, ways[0][1], ways[1][1]) + cost
        parity1 = m.select(was_zero, ways[0][2], ways[1][2]) + cost
        first, second = m.shuffle(parity0, parity1, _FIRST), m.shuffle(parity0, parity1, _SECOND)
        late = second < first
        is_zero = m.shuffle(took, took, _ZERO_FROM) & ~(late ^ zero_is_late)
        cost_cell.set(m.select(late, second, first))
        zero_cell.set(is_zero)
        m.store_bits(masks, m.times(i, 2), late)
        m.store_bits(masks, m.times(i, 2, 1), is_zero)

    m.loop(n, step)
    m.store(costs, 0, cost_cell.get())


def emit_program(m, values, inverse, codes, rows):
    """Levels over the values.

    values  : float32[rows][16]  in; out: int32 levels
    inverse : float32[1]         1 / step
    codes   : uint8[rows][16]    predecessor << 2 | zero << 1 | parity
    """
    scale = m.repeat(inverse, 0)

    def step(row):
        code = m.load_u8(codes, row)
        quantiser = (code >> 2) & 1
        kind = m.to_float(((code & 1) ^ quantiser) << 1 | quantiser)
        x = m.load(values, row) * scale
        level = m.rint((m.absolute(x) - kind) * 0.25) * 4.0 + kind
        level = m.select(level < 1.0, level + 4.0, level)
        level = m.to_int(m.select(m.constant(0) < (code & 2), 0.0, level))
        m.store(values, row, m.select(x < 0.0, m.constant(0) - level, level))

    m.loop(rows, step)


prepare, prepare_scalar = lane_program(16)(prepare_program), lane_program(16, scalar=True)(prepare_program)
walk, walk_scalar = lane_program(_LANES)(walk_program), lane_program(_LANES, scalar=True)(walk_program)
emit, emit_scalar = lane_program(16)(emit_program), lane_program(16, scalar=True)(emit_program)


@helper
def step_back(masks, path_back, codes, i, stream, state):
    """Write the code of value i of a stream whose path passes `state` after it; returns the state before it."""
    back = load_u8(path_back, load_u8(masks, 8 * i + stream) * 8 + state)
    zero = (load_u8(masks, 8 * i + 4 + stream) >> state) & 1
    store_8(codes, 4 * i + stream, back | zero << 1)
    return back >> 2


@helper
def trace(at, masks, codes, begin, end):
    """Follow the paths of all streams from `at.states` after values end - 1 back to values `begin`.

    `at.states` becomes the states before these.
    """
    path_back = at.path_back
    s0, s1, s2, s3 = at.states[0], at.states[1], at.states[2], at.states[3]
    for i in range(end - 1, begin - 1, -1):
        s0 = step_back(masks, path_back, codes, i, 0, s0)
        s1 = step_back(masks, path_back, codes, i, 1, s1)
        s2 = step_back(masks, path_back, codes, i, 2, s2)
        s3 = step_back(masks, path_back, codes, i, 3, s3)
    at.states[0], at.states[1], at.states[2], at.states[3] = s0, s1, s2, s3


@helper
def count(levels, codes, counts, begin, end, was, stream, unary_length):
    """Add values begin to end - 1 of a stream to the counts; returns how many are not zero.

    `was` tells whether the value before them is not zero.
    """
    one = np.float32(1.0)
    found = 0
    for i in range(STREAMS * begin + stream, STREAMS * end, STREAMS):
        level, state = load_i32(levels, i), load_u8(codes, i) >> 2
        place = 2 * (2 * state + was)
        was = 1 if level else 0
        found += was
        store_f32(counts, place + was, load_f32(counts, place + was) + one)
        if level:
            negative = 1 if level < 0 else 0
            value = ((-level if negative else level) + 1) >> 1
            store_f32(counts, SIGNS + negative, load_f32(counts, SIGNS + negative) + one)
            place = SIZES + negative * SIZE_CLASSES + rate_kernels.size_class(value, unary_length)
            store_f32(counts, place, load_f32(counts, place) + one)
    return found


@helper
def load_streams(at, work, offset, n):
    """Put n values of each stream side by side, zeros where the tensor ends; returns the rows of 16 that they fill."""
    rows = (STREAMS * n + 15) >> 4
    zero_bytes(work + 4 * STREAMS * n, 4 * (16 * rows - STREAMS * n))
    for stream in range(STREAMS):
        begin = at.cuts[stream] + offset
        source = at.values + 4 * begin
        inside = smaller(larger(at.n - begin, 0), n)
        for i in range(inside):
            store_32(work, STREAMS * i + stream, load_i32(source, i))
        for i in range(inside, n):
            store_32(work, STREAMS * i + stream, 0)
    return rows


@helper
def start_paths(costs, nonzero, state, was, stream):
    """Costs of a stream before its first step: 0 in `state` (-1: in all of them)."""
    for k in range(8):
        store_f32(costs, 8 * stream + k, np.float32(0.0) if state < 0 or state == k else UNREACHED)
        store_32(nonzero, 8 * stream + k, was)


@helper
def best_state(costs, wanted, stream):
    """`wanted`, or where it is -1 the state of least cost."""
    if wanted >= 0:
        return wanted
    state = 0
    for k in range(1, 8):
        if load_f32(costs, 8 * stream + k) < load_f32(costs, 8 * stream + state):
            state = k
    return state


@kernel
def quantise(worker, block):
    """Levels of four streams.

    worker : address of WORKER
    block  : int   values of each stream's first block, LOOK..BLOCK; doubles from block to block up to BLOCK
    """
    at = _worker_at(worker)
    by, counts, zero_rates, level_rates = (
        worker + INVERSE,
        worker + COUNTS_AT,
        worker + ZERO_RATES,
        worker + LEVEL_RATES,
    )
    work, zero, pairs0, pairs1 = worker + WORK, worker + ZERO, worker + PAIRS0, worker + PAIRS1
    costs, nonzero, masks, codes = worker + COSTS, worker + LAST_NONZERO, worker + MASKS, worker + CODES
    unary_length = at.unary_length
    length = at.cuts[1] - at.cuts[0]
    for stream in range(STREAMS):
        at.states[stream], at.was[stream] = at.cut_states[stream], 0
    i = 0
    while i < length:
        rate_kernels.update(at)
        n = length - i if length - i < block + LOOK else block
        last = i + n == length
        steps = n if last else n + LOOK
        rows = load_streams(at, work, i, steps)
        for stream in range(STREAMS):
            start_paths(costs, nonzero, at.states[stream], at.was[stream], stream)
        if at.vector:
            prepare((work, by, level_rates, zero, pairs0, pairs1, rows))
            walk((zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, steps))
        else:
            prepare_scalar((work, by, level_rates, zero, pairs0, pairs1, rows))
            walk_scalar((zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, steps))
        for stream in range(STREAMS):
            # a stream that the next one continues must end where that begins
            at.states[stream] = best_state(costs, at.cut_states[stream + 1] if last else -1, stream)
        trace(at, masks, codes, n, steps)
        ends = at.states[0], at.states[1], at.states[2], at.states[3]
        trace(at, masks, codes, 0, n)
        rows = (STREAMS * n + 15) >> 4
        if at.vector:
            emit((work, by, codes, rows))
        else:
            emit_scalar((work, by, codes, rows))
        for stream in range(STREAMS):
            begin = at.cuts[stream] + i
            target = at.levels + 4 * begin
            inside = smaller(larger(at.cuts[stream + 1] - begin, 0), n)
            for k in range(inside):
                store_32(target, k, load_i32(work, STREAMS * k + stream))
            some = smaller(larger(at.sample, n >> 2), inside)
            found = count(work, codes, counts, 0, some, at.was[stream], stream, unary_length)
            if some < inside and 8 * found < some:
                was = 1 if load_i32(work, STREAMS * (some - 1) + stream) else 0
                count(work, codes, counts, some, inside, was, stream, unary_length)
            at.was[stream] = 1 if load_i32(work, STREAMS * (n - 1) + stream) else 0
        at.states[0], at.states[1], at.states[2], at.states[3] = ends
        i += n
        block = smaller(2 * block, BLOCK)
