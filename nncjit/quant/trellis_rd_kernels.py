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

from nncjit.jit import address, helper, kernel, load_f32, load_i32, load_u8, store_8, store_32, store_f32
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.rate_kernels import LEVELS, SIGNS, SIZE_CLASSES, SIZES
from nncjit.quant.trellis_lanes_kernels import WAYS

BLOCK = 4096
LOOK = 64
STREAMS = 4
ROOM = STREAMS * (BLOCK + 2 * LOOK)
"""Values that the scratch arrays hold: of all streams a block, what may be left behind it, and the look beyond."""

UNREACHED = np.float32(1e20)


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
def trace(masks, path_back, codes, begin, end, states):
    """Follow all paths from `states` (int64[4]) after values end - 1 back to values `begin`.

    `states` becomes the states before these.
    """
    s0, s1, s2, s3 = states[0], states[1], states[2], states[3]
    for i in range(end - 1, begin - 1, -1):
        s0 = step_back(masks, path_back, codes, i, 0, s0)
        s1 = step_back(masks, path_back, codes, i, 1, s1)
        s2 = step_back(masks, path_back, codes, i, 2, s2)
        s3 = step_back(masks, path_back, codes, i, 3, s3)
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3


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
def load_streams(values, cuts, offset, n, at):
    """Put n values of each stream side by side, zeros where the tensor ends; returns the rows of 16 that they fill."""
    rows = (STREAMS * n + 15) >> 4
    for k in range(STREAMS * n, 16 * rows):
        at.work[np.uint64(k)] = np.float32(0.0)
    for stream in range(STREAMS):
        begin = cuts[stream] + offset
        inside = min(max(values.size - begin, 0), n)
        for i in range(inside):
            at.work[np.uint64(STREAMS * i + stream)] = values[np.uint64(begin + i)]
        for i in range(inside, n):
            at.work[np.uint64(STREAMS * i + stream)] = np.float32(0.0)
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
def quantise(
    values, cuts, states, block, sample, inverse, weight, unary_length, fade, vector, path_back, counts, at, levels
):
    """Levels of four streams, values[cuts[s]:cuts[s + 1]].

    values       : float32[n]   |value / step| must stay below trellis_lanes_kernels.EXACT_BELOW
    cuts         : int64[5]     ascending; streams are equally long, or shorter at the tensor's end
    states       : int64[5]     states at the cuts; -1: any; the values before a cut count as zero
    block        : int          values of each stream's first block, LOOK..BLOCK; doubles from block to block
    sample       : int          values of a block and stream that are counted, at least; all where zeros abound
    inverse      : float32[1]   1 / step
    weight       : float32      what a bit costs in squared steps
    unary_length : int          1..rate_kernels.LONGEST_UNARY
    fade         : float32      see rate_kernels.update
    vector       : int          1: lane programs as vectors, 0: as scalars; the levels are the same
    path_back    : uint8[256, 8]  PATH_BACK
    counts       : float32[rate_kernels.COUNTS]  in: to start with; out: after the last block
    at           : RdScratch    see trellis_rate
    levels       : int32[n]     out: [cuts[0]:cuts[4]]
    """
    work, zero, pairs0, pairs1 = address(at.work), address(at.zero), address(at.pairs0), address(at.pairs1)
    costs, nonzero, masks, codes = address(at.costs), address(at.nonzero), address(at.masks), address(at.codes)
    zero_rates, level_rates, by = address(at.zero_rates), address(at.level_rates), address(inverse)
    back, counted, whole = address(path_back), address(counts), at.work.view(np.int32)
    length = cuts[1] - cuts[0]
    for stream in range(STREAMS):
        at.states[stream], at.was[stream] = states[stream], 0
    i = 0
    while i < length:
        rate_kernels.update(counts, weight, unary_length, fade, at.zero_rates, at.level_rates)
        n = length - i if length - i < block + LOOK else block
        last = i + n == length
        steps = n if last else n + LOOK
        rows = load_streams(values, cuts, i, steps, at)
        for stream in range(STREAMS):
            start_paths(costs, nonzero, at.states[stream], at.was[stream], stream)
        if vector:
            prepare((work, by, level_rates, zero, pairs0, pairs1, rows))
            walk((zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, steps))
        else:
            prepare_scalar((work, by, level_rates, zero, pairs0, pairs1, rows))
            walk_scalar((zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, steps))
        for stream in range(STREAMS):
            # a stream that the next one continues must end where that begins
            at.states[stream] = best_state(costs, states[stream + 1] if last else -1, stream)
        trace(masks, back, codes, n, steps, at.states)
        for stream in range(STREAMS):
            at.ends[stream] = at.states[stream]
        trace(masks, back, codes, 0, n, at.states)
        rows = (STREAMS * n + 15) >> 4
        if vector:
            emit((work, by, codes, rows))
        else:
            emit_scalar((work, by, codes, rows))
        for stream in range(STREAMS):
            begin = cuts[stream] + i
            inside = min(max(cuts[stream + 1] - begin, 0), n)
            for k in range(inside):
                levels[np.uint64(begin + k)] = whole[np.uint64(STREAMS * k + stream)]
            some = min(max(sample, n >> 2), inside)
            found = count(work, codes, counted, 0, some, at.was[stream], stream, unary_length)
            if some < inside and 8 * found < some:
                was = 1 if whole[STREAMS * (some - 1) + stream] else 0
                count(work, codes, counted, some, inside, was, stream, unary_length)
            at.was[stream] = 1 if whole[STREAMS * (n - 1) + stream] else 0
            at.states[stream] = at.ends[stream]
        i += n
        block = min(2 * block, BLOCK)
