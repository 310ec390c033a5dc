"""The trellis with rate along rows that depend on each other: what a row's levels miss is made up for by later rows.

Inside a row nothing feeds back, so the trellis is the plain one. A row is cut into chains: one in raster order, one for
each block of columns in the block scan, where a chain goes on from row to row of its block. There the next block's
chain begins in state 0, so each chain but the last must end in it; that costs a choice in some thousand values, and
lets four chains advance side by side. Stages as in `trellis_rd_kernels`.

Rows are padded to whole vectors, with zeros. The caller does the feedback between groups of rows by matrix products;
inside a group the kernel does it.
"""

import numpy as np

from nncjit.jit import (
    field_offset,
    helper,
    kernel,
    larger,
    load_f32,
    load_i32,
    load_i64,
    load_u8,
    record_view,
    smaller,
    store_8,
    store_32,
    store_64,
    store_f32,
    zero_bytes,
)
from nncjit.jit.lanes import lane_program
from nncjit.quant import rate_kernels
from nncjit.quant.rate_kernels import SETTING_FIELDS, SIGNS, SIZE_CLASSES, SIZES
from nncjit.quant.trellis_kernels import WAYS
from nncjit.quant.trellis_lanes_kernels import EXACT_BELOW
from nncjit.quant.trellis_rd_kernels import (
    STREAMS,
    best_state,
    emit,
    emit_scalar,
    prepare,
    prepare_scalar,
    start_paths,
    step_back,
    walk,
    walk_scalar,
)

ROW_LANES = 16
"""Rows are padded to a multiple of so many values."""

SUMS = 4
"""Of a row, in squared steps: squares of the distance of targets and levels, of what decoding will miss, of the values,
and of the levels.
"""

_FIELDS = [
    ("targets", "i8"),  # address of float32[rows][stride]: values and what is to be made up for, so far
    ("errors", "i8"),  # address of float32[rows][stride], in: values, out: what decoding will miss of them
    ("sums", "i8"),  # address of float32[rows][SUMS], out
    ("feed", "i8"),  # address of float32[side][side]: row k takes up feed[k][i] of the error of row i < k
    ("side", "i8"),
    ("top", "i8"),  # row of the whole matrix that is row 0 here
    ("rows", "i8"),  # of the whole matrix
    ("width", "i8"),
    ("stride", "i8"),  # of a row of targets, errors and levels
    ("block", "i8"),  # rows and columns of a block of the scan; 0: raster order
    ("states", "i8"),  # address of int64[chains]: where each chain is
    ("was", "i8"),  # address of int64[chains]: 1: its last value is not zero
    ("work", "i8"),  # scratch: float32[room], room a multiple of 16 and at least 4 * longest chain, and the stride
    ("zero", "i8"),  # float32[room]
    ("pairs0", "i8"),  # float32[2 * room]
    ("pairs1", "i8"),  # float32[2 * room]
    ("masks", "i8"),  # uint8[2 * room]
    ("codes", "i8"),  # uint8[room]
    ("path_back", "i8"),  # address of PATH_BACK
    ("layers", "i8"),  # layers side by side in a row
    ("piece", "i8"),  # columns of each; with more than one layer, whole blocks
    ("rates", "i8"),  # address of float32[rows][layers]: factors on the weight of a bit
    ("bit", "f4"),  # its weight before them
    ("step", "f4"),
    ("every", "i8"),  # values after which the rates are worked out anew
    ("since", "i8"),  # values since they were; out
    ("lane_sums", "f4", (SUMS, ROW_LANES)),
    ("costs", "f4", (STREAMS, 8)),
    ("last_nonzero", "i4", (STREAMS, 8)),
]
ROWS = np.dtype([*_FIELDS, *SETTING_FIELDS])
"""Rows to be quantised; `levels` is int32[rows][stride], `values` and `n` are not read."""

_rows_at = record_view(ROWS)
INVERSE, COUNTS_AT, ZERO_RATES, LEVEL_RATES, COSTS, LAST_NONZERO, STEP, LANE_SUMS = (
    field_offset(ROWS, name)
    for name in ("inverse", "counts", "zero_rates", "level_rates", "costs", "last_nonzero", "step", "lane_sums")
)

FIRST, SECOND = ([ways[bit][0] + 8 * ways[bit][1] for ways in WAYS] for bit in (0, 1))
ZERO_IS_LATE = [ways[1][1] == 0 for ways in WAYS]
ZERO_FROM = [next(before for before, parity in ways if parity == 0) for ways in WAYS]
_BY_QUANTISER = [state % 2 for state in range(8)]


def walk_one_program(m, zero, pairs0, pairs1, zero_rates, costs, nonzero, masks, n):
    """n steps of one chain; lane state. As `trellis_rd_kernels.walk_program`, whose comments hold here.

    zero, pairs0, pairs1 : float32[n], [n][2], [n][2]  from `prepare`
    zero_rates : float32[4][8]
    costs      : float32[8]
    nonzero    : int32[8]
    masks      : uint8[n][2]   out: decision bits and zero bits
    """
    rates = [m.load(zero_rates, row) for row in range(4)]
    cost_cell, zero_cell = m.cell(m.load(costs, 0)), m.cell(m.load_int(nonzero, 0) < 1)
    zero_is_late = m.mask(ZERO_IS_LATE)

    def step(i):
        cost, was_zero = cost_cell.get(), zero_cell.get()
        none = m.repeat(zero, i)
        level0, level1 = m.spread(pairs0, i, _BY_QUANTISER), m.spread(pairs1, i, _BY_QUANTISER)
        other_rate = m.select(was_zero, rates[2], rates[3])
        with_zero = none + m.select(was_zero, rates[0], rates[1])
        with_level = level0 + other_rate
        took = with_zero < with_level
        parity0 = m.minimum(with_zero, with_level) + cost
        parity1 = level1 + other_rate + cost
        first, second = m.shuffle(parity0, parity1, FIRST), m.shuffle(parity0, parity1, SECOND)
        late = second < first
        is_zero = m.shuffle(took, took, ZERO_FROM) & ~(late ^ zero_is_late)
        cost_cell.set(m.select(late, second, first))
        zero_cell.set(is_zero)
        m.store_bits(masks, m.times(i, 2), late)
        m.store_bits(masks, m.times(i, 2, 1), is_zero)

    m.loop(n, step)
    m.store(costs, 0, cost_cell.get())


def take_up_program(m, target, error, factor, n):
    """target += factor * error.

    target, error : float32[n][16]
    factor        : float32[1]
    """
    by = m.repeat(factor, 0)
    m.loop(n, lambda row: m.store(target, row, m.load(target, row) + m.load(error, row) * by))


def miss_program(m, target, error, levels, step, inverse, sums, n):
    """What a row's levels miss of its values, and the row's sums.

    target  : float32[n][16]
    error   : float32[n][16]     in: values, out: values - step * level
    levels  : int32[n][16]
    step    : float32[1]
    inverse : float32[1]         1 / step
    sums    : float32[SUMS][16]  out: lane by lane
    """
    size, by = m.repeat(step, 0), m.repeat(inverse, 0)
    totals = [m.cell(m.number(0.0)) for _ in range(SUMS)]

    def one(row):
        level, value = m.to_float(m.load_int(levels, row)), m.load(error, row)
        left = value - level * size
        m.store(error, row, left)
        for total, part in zip(totals, (m.load(target, row) * by - level, left * by, value * by, level), strict=True):
            total.set(total.get() + part * part)

    m.loop(n, one)
    for row, total in enumerate(totals):
        m.store(sums, row, total.get())


walk_one, walk_one_scalar = lane_program(8)(walk_one_program), lane_program(8, scalar=True)(walk_one_program)
take_up, take_up_scalar = lane_program(16)(take_up_program), lane_program(16, scalar=True)(take_up_program)
miss, miss_scalar = lane_program(16)(miss_program), lane_program(16, scalar=True)(miss_program)


@helper
def trace_chain(at, n, state):
    """Write the codes of a single chain's n values, of the path that ends in `state`."""
    masks, codes, path_back = at.masks, at.codes, at.path_back
    for i in range(n - 1, -1, -1):
        back = load_u8(path_back, load_u8(masks, 2 * i) * 8 + state)
        zero = (load_u8(masks, 2 * i + 1) >> state) & 1
        store_8(codes, i, back | zero << 1)
        state = back >> 2


@helper
def trace_chains(at, n, s0, s1, s2, s3):
    """The same for STREAMS chains side by side: each waits for its own path only."""
    masks, codes, path_back = at.masks, at.codes, at.path_back
    for i in range(n - 1, -1, -1):
        s0 = step_back(masks, path_back, codes, i, 0, s0)
        s1 = step_back(masks, path_back, codes, i, 1, s1)
        s2 = step_back(masks, path_back, codes, i, 2, s2)
        s3 = step_back(masks, path_back, codes, i, 3, s3)


@helper
def count_chain(at, counts, streams, stream, n, was):
    """Add a chain's levels, which are in `work`, to the counts; returns whether the last one is not zero."""
    levels, codes, unary_length = at.work, at.codes, at.unary_length
    one = np.float32(1.0)
    for i in range(stream, streams * n, streams):
        level, state = load_i32(levels, i), load_u8(codes, i) >> 2
        place = 2 * (2 * state + was)
        was = 1 if level else 0
        store_f32(counts, place + was, load_f32(counts, place + was) + one)
        if level:
            negative = 1 if level < 0 else 0
            value = ((-level if negative else level) + 1) >> 1
            store_f32(counts, SIGNS + negative, load_f32(counts, SIGNS + negative) + one)
            place = SIZES + negative * SIZE_CLASSES + rate_kernels.size_class(value, unary_length)
            store_f32(counts, place, load_f32(counts, place) + one)
    return was


@helper
def quantise_chains(at, rows, row, column, chain, streams, n, last_row):
    """Levels of `streams` chains side by side, from `chain` on, in one row: n values of each, from `column` on.

    rows     : address of `at`
    streams  : int   1..STREAMS; where it is 2 or 3, zeros go along that nobody looks at
    last_row : whether this is the last row of the chains' blocks
    """
    work, zero, pairs0, pairs1, masks, codes = at.work, at.zero, at.pairs0, at.pairs1, at.masks, at.codes
    costs, nonzero, by = rows + COSTS, rows + LAST_NONZERO, rows + INVERSE
    first = row * at.stride + column
    lanes = STREAMS if streams > 1 else 1
    vectors = (lanes * n + 15) >> 4
    limit = np.float32(EXACT_BELOW / 2) * at.step
    if streams == lanes:
        zero_bytes(work + 4 * lanes * n, 4 * (16 * vectors - lanes * n))
    else:
        zero_bytes(work, 64 * vectors)
        for stream in range(streams, lanes):
            start_paths(costs, nonzero, 0, 0, stream)
    for stream in range(streams):
        source = at.targets + 4 * (first + stream * at.block)
        for i in range(n):
            value = load_f32(source, i)
            store_f32(work, lanes * i + stream, smaller(larger(value, -limit), limit))
        start_paths(costs, nonzero, load_i64(at.states, chain + stream), load_i64(at.was, chain + stream), stream)
    if at.vector:
        prepare((work, by, rows + LEVEL_RATES, zero, pairs0, pairs1, vectors))
    else:
        prepare_scalar((work, by, rows + LEVEL_RATES, zero, pairs0, pairs1, vectors))
    if lanes == STREAMS:
        if at.vector:
            walk((zero, pairs0, pairs1, rows + ZERO_RATES, costs, nonzero, masks, n))
        else:
            walk_scalar((zero, pairs0, pairs1, rows + ZERO_RATES, costs, nonzero, masks, n))
    elif at.vector:
        walk_one((zero, pairs0, pairs1, rows + ZERO_RATES, costs, nonzero, masks, n))
    else:
        walk_one_scalar((zero, pairs0, pairs1, rows + ZERO_RATES, costs, nonzero, masks, n))
    for stream in range(streams):
        meets = last_row and at.block > 0 and (chain + stream + 1) * at.block < at.width
        store_64(at.states, chain + stream, best_state(costs, 0 if meets else -1, stream))
    states = at.states + 8 * chain
    if lanes == 1:
        trace_chain(at, n, load_i64(states, 0))
    else:
        last = streams - 1
        trace_chains(
            at,
            n,
            load_i64(states, 0),
            load_i64(states, 1),
            load_i64(states, smaller(2, last)),
            load_i64(states, smaller(3, last)),
        )
    if at.vector:
        emit((work, by, codes, vectors))
    else:
        emit_scalar((work, by, codes, vectors))
    for stream in range(streams):
        target = at.levels + 4 * (first + stream * at.block)
        for i in range(n):
            store_32(target, i, load_i32(work, lanes * i + stream))
        was = count_chain(at, rows + COUNTS_AT, lanes, stream, n, load_i64(at.was, chain + stream))
        store_64(at.was, chain + stream, was)


@helper
def enter_block_row(at, chains):
    """The coder goes on from the last chain's state, and forgets its last value."""
    state = load_i64(at.states, chains - 1)
    for chain in range(chains):
        store_64(at.states, chain, state if chain == 0 else 0)
        store_64(at.was, chain, 0)


@helper
def weigh_layer(at, place, column):
    """Work out the rates for the layer of this column in row `place`; the counts fade when they would without it."""
    weight = at.bit * load_f32(at.rates, place * at.layers + column // at.piece)
    if at.since <= 0 or weight != at.weight:
        fade = at.fade
        if at.since > 0:
            at.fade = np.float32(1.0)
        at.weight = weight
        rate_kernels.update(at)
        at.fade = fade
        if at.since <= 0:
            at.since = at.every


@kernel
def quantise_rows(rows, first, stop):
    """Levels of the rows first to stop - 1, each after what the rows before it in this call have missed.

    rows  : address of ROWS
    first : int
    stop  : int   first <= stop <= side, top + stop <= rows
    """
    at = _rows_at(rows)
    vectors = at.stride >> 4
    block, width = at.block, at.width
    chains = (width + block - 1) // block if block else 1
    whole = width // block if block else 0
    layers, piece = at.layers, at.piece
    for row in range(first, stop):
        target, error = at.targets + 4 * row * at.stride, at.errors + 4 * row * at.stride
        for i in range(first, row):
            factor = at.feed + 4 * (row * at.side + i)
            if at.vector:
                take_up((target, at.errors + 4 * i * at.stride, factor, vectors))
            else:
                take_up_scalar((target, at.errors + 4 * i * at.stride, factor, vectors))
        place = at.top + row
        if layers == 1:
            weight = at.bit * load_f32(at.rates, place)
            if at.since <= 0 or weight != at.weight:
                at.weight = weight
                rate_kernels.update(at)
                at.since = at.every
            at.since -= width
        if block and place and place % block == 0:
            enter_block_row(at, chains)
        last_row = block > 0 and (place % block == block - 1 or place == at.rows - 1)
        chain, column = 0, 0
        while column < width:
            streams, n = 1, smaller(width - column, block) if block else piece
            if chain < whole:
                inside = width if layers == 1 else column - column % piece + piece
                streams = smaller(smaller(STREAMS, whole - chain), (inside - column) // block)
            if layers > 1:
                weigh_layer(at, place, column)
                at.since -= streams * n
            quantise_chains(at, rows, row, column, chain, streams, n, last_row)
            column += streams * n
            chain += streams if block else 0
        levels = at.levels + 4 * row * at.stride
        if at.vector:
            miss((target, error, levels, rows + STEP, rows + INVERSE, rows + LANE_SUMS, vectors))
        else:
            miss_scalar((target, error, levels, rows + STEP, rows + INVERSE, rows + LANE_SUMS, vectors))
        for k in range(SUMS):
            total = np.float32(0.0)
            for lane in range(ROW_LANES):
                total += at.lane_sums[k, lane]
            store_f32(at.sums, row * SUMS + k, total)
