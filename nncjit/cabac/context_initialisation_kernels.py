"""Choosing the starts of the probability models: the kernel (spec, section 12).

`cabac/context_initialisation.py` plans its work and reads its sums.

Each model can start in 9 ways (and keeps the shifts of its start). The kernel runs all nine beside each other over the
codes of a layer, or of a sample of it, and sums what their bins cost.
"""

from nncjit.cabac.binarisation_kernels import binarise, zero_steps
from nncjit.cabac.encoder_records import (
    BIAS_AT,
    BYPASS,
    CHUNK,
    CODES,
    FAST_AT,
    LEVELS,
    N_MODELS,
    PREVIOUS,
    QUANTISER,
    SLOW_AT,
    STEPS,
    TABLES,
)
from nncjit.cabac.level_statistics_kernels import find_state
from nncjit.jit import helper, kernel, load_i32, load_i64, load_u16, load_u32, store_32, store_64

# Slots of a simulation.
PLAN, N_PLAN, STATES, SUMS, TOTALS, FIRST_WORDS, BIN_COSTS, LIMIT, KEEP_PREVIOUS, AT, SIM_FIELDS = range(11)

# Columns of a plan's row: elements START..STOP-1 after BEFORE zero-steps, a restart before them or not, and how many
# elements one of them stands for, times 256.
START, STOP, BEFORE, RESET, SCALE, PLAN_FIELDS = range(6)

LANES, LEADERS = 9, 5
"""Lanes are the nine starts in an order that puts one of each pair of shifts first; both of the slowest pair, whose s0
stays where the start left it."""
ORDER = (0, 3, 4, 7, 8, 1, 2, 5, 6)
LEADER_OF = (0, 1, 2, 3, 4, 0, 0, 2, 2)
ONCE = 128
"""Bins of a model whose cost is not scaled: starting up happens once, also in a sample."""
MORE, COLUMNS = LANES, LANES + 1
"""Columns of TOTALS behind the lanes."""
SECOND, THIRD, BINS, FOLDED, ROW = LANES, 2 * LANES, 30, 31, 32
"""A row of SUMS: costs of the lanes in the first ONCE bins, after them, of the leaders after LIMIT bins; then the
number of bins since the restart, and what it was when the costs were last added to the totals."""


@helper
def _run_lanes(first, stop, states, sums, tables, costs, bit):
    """Let the lanes first..stop-1 of one model see a bin, and add its cost to their sums. Returns 0 if no word has
    changed."""
    bias = load_u32(tables, BIAS_AT + bit)
    changes = 0
    for lane in range(first, stop):
        word = load_u32(states, lane)
        cost = load_i32(costs, ((word + (word >> 16)) >> 2) & 2046)
        store_64(sums, lane, load_i64(sums, lane) + cost)
        at = word + bias
        change = load_i32(tables, FAST_AT + (at >> 7 & 511)) + load_i32(tables, SLOW_AT + (at >> 23))
        store_32(states, lane, word + change)
        changes |= change
    return changes


@helper
def _run_model(model, bit, states, sums, tables, costs, limit):
    """Let one model see a bin, in all lanes or, after `limit` bins, in the leaders. Returns 0 if no lane has
    changed."""
    row, lanes, cost = sums + 8 * ROW * model, states + 64 * model, costs + 4 * bit
    seen = load_i64(row, BINS)
    store_64(row, BINS, seen + 1)
    if seen >= limit:
        return _run_lanes(0, LEADERS, lanes, row + 8 * THIRD, tables, cost, bit)
    if seen >= ONCE:
        row += 8 * SECOND
    changes = _run_lanes(0, LEADERS, lanes, row, tables, cost, bit)
    return changes | _run_lanes(LEADERS, LANES, lanes, row, tables, cost, bit)


@helper
def _repeat(model, count, states, sums, costs, limit):
    """Let one model see `count` more bins 0, which do not change it any more."""
    row, lanes = sums + 8 * ROW * model, states + 64 * model
    seen = load_i64(row, BINS)
    store_64(row, BINS, seen + count)
    row += 8 * (THIRD if seen >= limit else (SECOND if seen >= ONCE else 0))
    for lane in range(LEADERS if seen >= limit else LANES):
        word = load_u32(lanes, lane)
        cost = load_i32(costs, ((word + (word >> 16)) >> 2) & 2046)
        store_64(row, lane, load_i64(row, lane) + count * cost)


@helper
def _simulate_zeros(first, count, steps, states, sums, tables, costs, limit):
    """Run the lanes over a run of zeros: each model of the states that zeros lead through sees its share of them."""
    period, state = 0, 8 * first
    while period == 0 or state != 8 * first:
        period += 1
        state = (load_i64(steps, 0) >> state) & 56
    for _ in range(period):
        model = 3 * (state >> 3)
        left = count // period
        while left > 0:
            left -= 1
            if _run_model(model, 0, states, sums, tables, costs, limit) == 0:
                _repeat(model, left, states, sums, costs, limit)
                left = 0
        state = (load_i64(steps, 0) >> state) & 56


@helper
def _simulate_codes(codes, count, steps, states, sums, tables, costs, limit, bypassed):
    """Run the lanes over a list of codes; returns `bypassed` plus the number of bypass bins."""
    stop = codes + 2 * count
    while codes < stop:
        symbol = load_u16(codes, 0)
        codes += 2
        if symbol < BYPASS:
            bit, model = symbol & 1, symbol >> 1
            row = sums + 8 * ROW * model
            seen = load_i64(row, BINS)
            if seen < limit:
                _run_model(model, bit, states, sums, tables, costs, limit)
            else:
                store_64(row, BINS, seen + 1)
                _run_lanes(0, LEADERS, states + 64 * model, row + 8 * THIRD, tables, costs + 4 * bit, bit)
        elif (symbol >> 11) & 15:
            bypassed += (symbol >> 11) & 15
        else:
            _simulate_zeros(symbol & 7, load_u16(codes, 0), steps, states, sums, tables, costs, limit)
            codes += 2
    return bypassed


@helper
def _fold(sums, totals, n_models, scale):
    """Add the sums to the totals, as for `scale` times the bins, and clear them.

    Starting up happens once: the first ONCE bins cost what they cost, and what a start saves there is not multiplied.
    Where there were no others to scale, their cost with start 0 stands for the rest, in MORE.
    """
    for model in range(n_models):
        row, total = sums + 8 * ROW * model, totals + 8 * COLUMNS * model
        seen, folded = load_i64(row, BINS), load_i64(row, FOLDED)
        if seen > folded:
            late = seen - max(min(seen, ONCE), folded)
            factor = (scale * (seen - folded) - (seen - folded - late)) / max(late, 1)
            for lane in range(LANES):
                later = load_i64(row, SECOND + lane) + load_i64(row, THIRD + LEADER_OF[lane])
                store_64(total, lane, load_i64(total, lane) + load_i64(row, lane) + int(later * factor))
            if late == 0:
                store_64(total, MORE, load_i64(total, MORE) + int(load_i64(row, 0) * (scale - 1)))
            for k in range(BINS):
                store_64(row, k, 0)
            store_64(row, FOLDED, seen)


@helper
def _reset(states, sums, first_words, n_models):
    """Put all models to their starts."""
    for model in range(n_models):
        store_64(sums, ROW * model + BINS, 0)
        store_64(sums, ROW * model + FOLDED, 0)
        for lane in range(LANES):
            store_32(states, 16 * model + lane, load_u32(first_words, lane))


@kernel
def simulate(run, sim):
    """Sum the costs of the nine starts of each model over the rows of a plan, in units of 2^-15 bit.

    run : address of a record as `binarise` takes it; PREVIOUS and QUANTISER as at element AT
    sim : address of int64[SIM_FIELDS]: numbers, and addresses of
        PLAN    int64[N_PLAN, PLAN_FIELDS], one row at least, in the order of their elements
        STATES  uint32[n, 16]; n is N_MODELS
        SUMS    int64[n, ROW], all zero
        TOTALS  int64[n * COLUMNS + 1], the result: a row a model, last the number of bypass bins times 256
        FIRST_WORDS, BIN_COSTS  uint32[9], the words of the starts in the order of the lanes; int32[1024, 2]

    From LIMIT bins of a model on only the leaders run; the others, whose words have come close to their leader's by
    then, are taken to cost the same. With KEEP_PREVIOUS 1 a restart leaves the previous value as it is.
    """
    plan, states, sums, totals = load_i64(sim, PLAN), load_i64(sim, STATES), load_i64(sim, SUMS), load_i64(sim, TOTALS)
    costs, limit, keep = load_i64(sim, BIN_COSTS), load_i64(sim, LIMIT), load_i64(sim, KEEP_PREVIOUS)
    first_words, n_models = load_i64(sim, FIRST_WORDS), load_i64(run, N_MODELS)
    levels, codes, tables = load_i64(run, LEVELS), load_i64(run, CODES), load_i64(run, TABLES)
    chunk, steps = load_i64(run, CHUNK), load_i64(run, STEPS)
    dq = load_i64(steps, 0)
    at, scale = load_i64(sim, AT), 256
    end = load_i64(plan + 8 * PLAN_FIELDS * (load_i64(sim, N_PLAN) - 1), STOP)
    _reset(states, sums, first_words, n_models)
    for k in range(load_i64(sim, N_PLAN)):
        row = plan + 8 * PLAN_FIELDS * k
        start, stop, reset = load_i64(row, START), load_i64(row, STOP), load_i64(row, RESET)
        if start > at:
            # what follows shows the state, or has so few levels that it does not matter
            store_64(run, QUANTISER, max(find_state(levels, steps, start, end) if dq else 0, 0))
            level = load_i32(levels, start - 1)
            store_64(run, PREVIOUS, 1 if level < 0 else (2 if level > 0 else 0))
        store_64(run, QUANTISER, zero_steps(steps, load_i64(run, QUANTISER), load_i64(row, BEFORE)))
        if reset or scale != load_i64(row, SCALE):
            _fold(sums, totals, n_models, scale / 256)
        if reset:
            _reset(states, sums, first_words, n_models)
            if not keep:
                store_64(run, PREVIOUS, 0)
        scale = load_i64(row, SCALE)
        bypassed = 0
        while start < stop:
            middle = min(start + chunk, stop)
            count = binarise(run, start, middle)
            bypassed = _simulate_codes(codes, count, steps, states, sums, tables, costs, limit, bypassed)
            start = middle
        store_64(totals, n_models * COLUMNS, load_i64(totals, n_models * COLUMNS) + bypassed * scale)
        at = stop
    _fold(sums, totals, n_models, scale / 256)
