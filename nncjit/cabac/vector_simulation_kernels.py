"""What the bins of a layer cost under each context initialisation, all nine in one vector (spec, section 12).

The sums are those of `context_initialisation_kernels.simulate`, which says what is summed and why. Lane i of a vector
is initialisation number i in CANDIDATE_ORDER. The sums of a list of codes stay below 2^32 (2048 bins of a context, each
below 2^20 units); after each list they go to those of 64 bits.
"""

from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.context_initialisation_kernels import (
    ADDED,
    BINS,
    CANDIDATES_BYTES,
    EARLY,
    LATER,
    LEADING,
    ONCE,
    SAMPLE_BYTES,
    add_to_totals,
    begin_sample,
    initialise,
)
from nncjit.cabac.encoder_records import (
    BYPASS,
    LEADERS,
    VECTOR_CANDIDATES,
    VECTOR_TABLES,
    view_binariser,
    view_sample,
    view_simulation,
)
from nncjit.cabac.lane_records import LANE_BITS
from nncjit.cabac.lane_step_kernels import UNSHIFTED
from nncjit.cabac.quantiser_state_kernels import zero_steps
from nncjit.cabac.tables import INITIALISATION_COUNT
from nncjit.jit import (
    field_offset,
    helper,
    inlined,
    kernel,
    load_i64,
    load_u16,
    load_u32,
    smaller,
    store_32,
    store_64,
    zero_bytes,
)
from nncjit.jit.vectors import (
    absolute,
    halves,
    load_words,
    mask_bits,
    pick,
    pick_halves,
    repeat,
    select,
    signed,
    store_vector,
    words,
)

VECTOR_BYTES = VECTOR_CANDIDATES.itemsize
RECENT = field_offset(VECTOR_CANDIDATES, "recent")
LIKELY, UNLIKELY, CURVE = (field_offset(VECTOR_TABLES, name) for name in ("likely", "unlikely", "curve"))
ROW = 64
"""Bytes of a vector."""
AFTER_MIRROR = 0x1000F010
"""MIRROR of the step in lanes, and 1: with it, ~word becomes MIRROR - word."""
ALL, FIRST = (1 << INITIALISATION_COUNT) - 1, (1 << LEADERS) - 1
"""Masks of all initialisations and of the leaders."""


@inlined
def _costs(word, flip, likely_low, likely_high, unlikely_low, unlikely_high):
    """What a bin costs in each lane. flip: all bits 0 for a bin 1, all 1 for a bin 0."""
    towards_one = signed((word + (word >> 16)) << 19) >> 26
    distance = words(absolute(towards_one))
    wrong = signed(words(towards_one) ^ flip) < 0
    return select(wrong, pick(distance, unlikely_low, unlikely_high), pick(distance, likely_low, likely_high))


@inlined
def _changes(word, flip, curve):
    """How much a bin changes the word in each lane, without its sign."""
    turned = (word ^ flip) + (flip & AFTER_MIRROR)
    return words(pick_halves(halves(turned) >> 7, curve) >> (halves(word) >> 13)) & UNSHIFTED


@inlined
def _sums_of(vector, seen, limit):
    """Address of the sums that count the bin number `seen` of a context."""
    return vector + RECENT + (2 * ROW if seen >= limit else (ROW if seen >= ONCE else 0))


@helper
def _simulate_zeros(first, count, transitions, candidates, vectors, tables, limit):
    """Simulate a run of zeros: each context of the states that zeros lead through sees its share of them. Where a word
    has stopped changing, all that is left is one product.
    """
    likely_low, likely_high = load_words(tables + LIKELY), load_words(tables + LIKELY + ROW)
    unlikely_low, unlikely_high = load_words(tables + UNLIKELY), load_words(tables + UNLIKELY + ROW)
    curve, flip = halves(load_words(tables + CURVE)), repeat(-1)
    period, state = 0, 8 * first
    while period == 0 or state != 8 * first:
        period += 1
        state = zero_steps(transitions, state, 1)
    for _ in range(period):
        context, vector = candidates + CANDIDATES_BYTES * 3 * (state >> 3), vectors + VECTOR_BYTES * 3 * (state >> 3)
        left, seen = count // period, load_i64(context + BINS, 0)
        word = load_words(vector)
        while left > 0:
            change = _changes(word, flip, curve)
            active = FIRST if seen >= limit else ALL
            done = (mask_bits(change != 0) & active) == 0
            cost = _costs(word, flip, likely_low, likely_high, unlikely_low, unlikely_high)
            sums = _sums_of(vector, seen, limit)
            store_vector(sums, load_words(sums) + cost)
            word = word - change
            seen += 1
            left -= 1
            if done and left > 0:
                sums = _sums_of(vector, seen, limit)
                store_vector(sums, load_words(sums) + cost * repeat(left))
                seen += left
                left = 0
        store_vector(vector, word)
        store_64(context + BINS, 0, seen)
        state = zero_steps(transitions, state, 1)


@helper
def _simulate_codes(codes, count, transitions, candidates, vectors, tables, limit):
    """Simulate a list of codes; returns the number of bypass bins."""
    likely_low, likely_high = load_words(tables + LIKELY), load_words(tables + LIKELY + ROW)
    unlikely_low, unlikely_high = load_words(tables + UNLIKELY), load_words(tables + UNLIKELY + ROW)
    curve = halves(load_words(tables + CURVE))
    stop, bypassed = codes + 2 * count, 0
    while codes < stop:
        code = load_u16(codes, 0)
        codes += 2
        if code < BYPASS:
            context, vector = candidates + CANDIDATES_BYTES * (code >> 1), vectors + VECTOR_BYTES * (code >> 1)
            seen = load_i64(context + BINS, 0)
            store_64(context + BINS, 0, seen + 1)
            flip = repeat((code & 1) - 1)
            word, sums = load_words(vector), _sums_of(vector, seen, limit)
            cost = _costs(word, flip, likely_low, likely_high, unlikely_low, unlikely_high)
            store_vector(sums, load_words(sums) + cost)
            store_vector(vector, word + ((_changes(word, flip, curve) ^ flip) - flip))
        elif (code >> 11) & 15:
            bypassed += (code >> 11) & 15
        else:
            zeros = load_u16(codes, 0)
            _simulate_zeros(code & 7, zeros, transitions, candidates, vectors, tables, limit)
            codes += 2
    return bypassed


@helper
def _collect(candidates, vectors, n_contexts):
    """Move the sums of a list of codes to those of 64 bits."""
    for k in range(n_contexts):
        context, recent = candidates + CANDIDATES_BYTES * k, vectors + VECTOR_BYTES * k + RECENT
        if load_i64(context + BINS, 0) > load_i64(context + ADDED, 0):
            for i in range(INITIALISATION_COUNT):
                store_64(context + EARLY, i, load_i64(context + EARLY, i) + load_u32(recent, i))
                store_64(context + LATER, i, load_i64(context + LATER, i) + load_u32(recent + ROW, i))
            for i in range(LEADERS):
                store_64(context + LEADING, i, load_i64(context + LEADING, i) + load_u32(recent + 2 * ROW, i))
            zero_bytes(recent, 3 * ROW)


@helper
def _initialise_vectors(vectors, initial_words, n_contexts):
    """Initialise all contexts in all ways."""
    for k in range(n_contexts):
        for i in range(INITIALISATION_COUNT):
            store_32(vectors + VECTOR_BYTES * k, i, load_u32(initial_words, i) | LANE_BITS)


@kernel
def simulate_in_vectors(simulation, binariser):
    """`simulate` with vectors; see there.

    simulation : address of a SIMULATION, whose `vectors` are all zero
    binariser  : address of a BINARISER
    """
    work, levels = view_simulation(simulation), view_binariser(binariser)
    candidates, vectors, tables, limit = work.candidates, work.vectors, work.vector_tables, work.limit
    n_contexts, weight = levels.n_contexts, 256
    initialise(work, n_contexts)
    _initialise_vectors(vectors, work.initial_words, n_contexts)
    for k in range(work.n_samples):
        sample = view_sample(work.samples + SAMPLE_BYTES * k)
        weight = begin_sample(work, levels, sample, weight)
        if sample.restart:
            _initialise_vectors(vectors, work.initial_words, n_contexts)
        start, stop, bypassed = sample.start, sample.stop, 0
        while start < stop:
            middle = smaller(start + levels.chunk, stop)
            count = binarise(binariser, start, middle)
            bypassed += _simulate_codes(levels.codes, count, levels.transitions, candidates, vectors, tables, limit)
            _collect(candidates, vectors, n_contexts)
            start = middle
        work.bypassed += bypassed * weight
        work.index = stop
    add_to_totals(work, n_contexts, weight / 256)
