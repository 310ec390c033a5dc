"""What the bins of a layer cost under each context initialisation (spec, section 12).

`cabac/context_initialisation.py` plans the work and reads the sums.

A context can be initialised in 9 ways, and keeps the pair of shifts that comes with it. The kernel runs all nine beside
each other over the codes of a layer, or of a sample of it, and sums what their bins cost.
"""

import numpy as np

from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_records import (
    BYPASS,
    CANDIDATES,
    CODER_TABLES,
    LEADERS,
    SAMPLE,
    TOTAL,
    view_binariser,
    view_sample,
    view_simulation,
)
from nncjit.cabac.quantiser_state_kernels import find_state, zero_steps
from nncjit.cabac.tables import INITIALISATION_COUNT
from nncjit.jit import (
    field_offset,
    helper,
    kernel,
    larger,
    load_i32,
    load_i64,
    load_u16,
    load_u32,
    smaller,
    store_32,
    store_64,
)

CANDIDATE_ORDER = (0, 3, 4, 7, 8, 1, 2, 5, 6)
"""The initialisations in an order that puts one of each pair of shifts first, the leaders; both of the slowest pair,
whose s0 stays where the initialisation left it."""
LEADER_OF = (0, 1, 2, 3, 4, 0, 0, 2, 2)
ONCE = 128
"""Bins of a context whose cost is not scaled: starting up happens once, also in a sample."""

FAST, SLOW = field_offset(CODER_TABLES, "fast"), field_offset(CODER_TABLES, "slow")
BIAS = field_offset(CODER_TABLES, "bias")
EARLY, LATER = field_offset(CANDIDATES, "early"), field_offset(CANDIDATES, "later")
LEADING, BINS = field_offset(CANDIDATES, "leaders"), field_offset(CANDIDATES, "bins")
ADDED, COST_WORDS = field_offset(CANDIDATES, "added"), (BINS - EARLY) // 8
UNSAMPLED = field_offset(TOTAL, "unsampled")
CANDIDATES_BYTES, SAMPLE_BYTES, TOTAL_BYTES = CANDIDATES.itemsize, SAMPLE.itemsize, TOTAL.itemsize


@helper
def _run_some(first, stop, words, sums, tables, costs, bit):
    """Let the candidates first..stop-1 of one context see a bin, and add its cost to their sums. Returns 0 if no word
    has changed."""
    bias = load_u32(tables + BIAS, bit)
    changes = 0
    for k in range(first, stop):
        word = load_u32(words, k)
        cost = load_i32(costs, ((word + (word >> 16)) >> 2) & 2046)
        store_64(sums, k, load_i64(sums, k) + cost)
        at = word + bias
        change = load_i32(tables + FAST, at >> 7 & 511) + load_i32(tables + SLOW, at >> 23)
        store_32(words, k, word + change)
        changes |= change
    return changes


@helper
def _run_all(context, bit, tables, costs, limit):
    """Let one context see a bin, under all initialisations or, after `limit` bins, the leaders. Returns 0 if no word
    has changed.

    context : address of CANDIDATES
    """
    cost = costs + 4 * bit
    seen = load_i64(context + BINS, 0)
    store_64(context + BINS, 0, seen + 1)
    if seen >= limit:
        return _run_some(0, LEADERS, context, context + LEADING, tables, cost, bit)
    sums = context + (LATER if seen >= ONCE else EARLY)
    changes = _run_some(0, LEADERS, context, sums, tables, cost, bit)
    return changes | _run_some(LEADERS, INITIALISATION_COUNT, context, sums, tables, cost, bit)


@helper
def _repeat(context, count, costs, limit):
    """Let one context, at the address of CANDIDATES, see `count` more bins 0, which do not change it any more."""
    seen = load_i64(context + BINS, 0)
    store_64(context + BINS, 0, seen + count)
    sums = context + (LEADING if seen >= limit else (LATER if seen >= ONCE else EARLY))
    for k in range(LEADERS if seen >= limit else INITIALISATION_COUNT):
        word = load_u32(context, k)
        cost = load_i32(costs, ((word + (word >> 16)) >> 2) & 2046)
        store_64(sums, k, load_i64(sums, k) + count * cost)


@helper
def _simulate_zeros(first, count, transitions, candidates, tables, costs, limit):
    """Simulate a run of zeros: each context of the states that zeros lead through sees its share of them."""
    period, state = 0, 8 * first
    while period == 0 or state != 8 * first:
        period += 1
        state = zero_steps(transitions, state, 1)
    for _ in range(period):
        context = candidates + CANDIDATES_BYTES * 3 * (state >> 3)
        left = count // period
        while left > 0:
            left -= 1
            if _run_all(context, 0, tables, costs, limit) == 0:
                _repeat(context, left, costs, limit)
                left = 0
        state = zero_steps(transitions, state, 1)


@helper
def _simulate_codes(codes, count, transitions, candidates, tables, costs, limit):
    """Simulate a list of codes; returns the number of bypass bins."""
    stop, bypassed = codes + 2 * count, 0
    while codes < stop:
        code = load_u16(codes, 0)
        codes += 2
        if code < BYPASS:
            bit, context = code & 1, candidates + CANDIDATES_BYTES * (code >> 1)
            seen = load_i64(context + BINS, 0)
            if seen < limit:
                _run_all(context, bit, tables, costs, limit)
            else:
                store_64(context + BINS, 0, seen + 1)
                _run_some(0, LEADERS, context, context + LEADING, tables, costs + 4 * bit, bit)
        elif (code >> 11) & 15:
            bypassed += (code >> 11) & 15
        else:
            _simulate_zeros(code & 7, load_u16(codes, 0), transitions, candidates, tables, costs, limit)
            codes += 2
    return bypassed


@helper
def add_to_totals(simulation, n_contexts, scale):
    """Add the costs to the totals, as for `scale` times the bins, and clear them.

    Starting up happens once: the first ONCE bins cost what they cost, and what an initialisation saves there is not
    multiplied. Where there were no others to scale, their cost under initialisation 0 stands for the rest, as
    `unsampled`.
    """
    for k in range(n_contexts):
        context, total = simulation.candidates + CANDIDATES_BYTES * k, simulation.totals + TOTAL_BYTES * k
        seen, added = load_i64(context + BINS, 0), load_i64(context + ADDED, 0)
        if seen > added:
            late = seen - larger(smaller(seen, ONCE), added)
            factor = (scale * (seen - added) - (seen - added - late)) / larger(late, 1)
            for i in range(INITIALISATION_COUNT):
                later = load_i64(context + LATER, i) + load_i64(context + LEADING, LEADER_OF[i])
                store_64(total, i, load_i64(total, i) + load_i64(context + EARLY, i) + np.int64(later * factor))
            if late == 0:
                unsampled = np.int64(load_i64(context + EARLY, 0) * (scale - 1))
                store_64(total + UNSAMPLED, 0, load_i64(total + UNSAMPLED, 0) + unsampled)
            for i in range(COST_WORDS):
                store_64(context + EARLY, i, 0)
            store_64(context + ADDED, 0, seen)


@helper
def initialise(simulation, n_contexts):
    """Initialise all contexts in all ways."""
    for k in range(n_contexts):
        context = simulation.candidates + CANDIDATES_BYTES * k
        store_64(context + BINS, 0, 0)
        store_64(context + ADDED, 0, 0)
        for i in range(INITIALISATION_COUNT):
            store_32(context, i, load_u32(simulation.initial_words, i))


@helper
def _enter(sample, binariser, end):
    """Set the binariser's state and previous value as they are before a sample, from the levels around it."""
    levels, transitions = binariser.levels, binariser.transitions
    # what follows shows the state, or has so few levels that it does not matter
    state = find_state(levels, transitions, sample.start, end) if load_i64(transitions, 0) else 0
    binariser.state = larger(state, 0)
    level = load_i32(levels, sample.start - 1)
    binariser.previous = 1 if level < 0 else (2 if level > 0 else 0)


@helper
def begin_sample(work, levels, sample, weight):
    """Set the binariser, the candidates and the totals to the start of a sample; `weight` is that of the one before.
    Returns the sample's.
    """
    if sample.start > work.index:
        _enter(sample, levels, view_sample(work.samples + SAMPLE_BYTES * (work.n_samples - 1)).stop)
    levels.state = zero_steps(levels.transitions, levels.state, sample.zero_steps)
    if sample.restart or weight != sample.weight:
        add_to_totals(work, levels.n_contexts, weight / 256)
    if sample.restart:
        initialise(work, levels.n_contexts)
        if not work.keep_previous:
            levels.previous = 0
    return sample.weight


@kernel
def simulate(simulation, binariser):
    """Sum the costs of the nine initialisations of each context over some samples, in units of 2^-15 bit.

    simulation : address of a SIMULATION, whose candidates, totals and `bypassed` are all zero
    binariser  : address of a BINARISER, whose `previous` and `state` hold at element `index`

    From `limit` bins of a context on only the leaders run; the others, whose words have come close to their leader's by
    then, are taken to cost the same.
    """
    work, levels = view_simulation(simulation), view_binariser(binariser)
    candidates, tables, costs, limit = work.candidates, work.tables, work.bin_costs, work.limit
    weight = 256
    initialise(work, levels.n_contexts)
    for k in range(work.n_samples):
        sample = view_sample(work.samples + SAMPLE_BYTES * k)
        weight = begin_sample(work, levels, sample, weight)
        start, stop, bypassed = sample.start, sample.stop, 0
        while start < stop:
            middle = smaller(start + levels.chunk, stop)
            count = binarise(binariser, start, middle)
            bypassed += _simulate_codes(levels.codes, count, levels.transitions, candidates, tables, costs, limit)
            start = middle
        work.bypassed += bypassed * weight
        work.index = stop
    add_to_totals(work, levels.n_contexts, weight / 256)
