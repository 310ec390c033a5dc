"""One bin in each of 16 lanes, and again: the loop in which decoding in lanes spends its time (spec, sections 3 to 6).

All lanes do the same, wherever they are in the binarisation: a place is a number, what follows it stands in two tables
of 32 words, and these are in registers. So a step loads and stores memory for the contexts only. What follows a bin 0
and a bin 1 is known before the bin, so both contexts are gathered meanwhile, unless gathers are slow. What is rare and
long, the Exp-Golomb part of a level, makes its lane wait, with a less probable symbol of width 0, so that nothing
changes. Behind a refill one branch serves all lanes that wait.

The state of a group in registers: `place` (lane_tables.py), `range_` in bits 23..31, `window` (V in bits 23..31, 23
bits that follow below), `position` (bits read), and `word`, the context of the next bin. A bin takes at most 7 bits, so
the window lasts for 3 steps.

Addresses stay inside their arrays whatever a payload holds: contexts come from the tables, which name those of the
group only; a lane's payload is read at a position that `bits_from` clamps to its last four bytes.
"""

import numpy as np

from nncjit.cabac.lane_records import BELOW_V, GROUP, LANES, ROW, SIG, V_BITS
from nncjit.cabac.lane_tables import (
    AT_REM,
    AT_SIG,
    AT_SIGN,
    BELOW_LANE,
    BELOW_NEXT,
    BELOW_STATE,
    ENDS,
    ESCAPE,
    ESCAPED_CODE,
    KEPT,
    NEGATIVE,
    PLACE_BITS,
    STATE_BITS,
    TABLES,
    place_word,
)
from nncjit.jit import field_offset, helper, inlined, smaller
from nncjit.jit.processor import has_slow_gathers
from nncjit.jit.vectors import (
    absolute,
    any_lane,
    count_ones,
    gather,
    gather_unaligned,
    halves,
    high_product,
    lane_numbers,
    leading_zero_bits,
    load_bytes_as_words,
    load_words,
    mask_bits,
    minimum,
    pick,
    pick_halves,
    repeat,
    scatter,
    scatter_where,
    select,
    shift_left,
    signed,
    store_low_bytes,
    store_vector,
    swap_bytes,
    to_float,
    to_int,
    words,
)

CONTEXTS, RANGE, WINDOW, POSITION, PLACE, PAYLOAD, LAST_WORD, N_ESCAPED, LOG, ESCAPED = (
    field_offset(GROUP, name)
    for name in (
        *("contexts", "range_", "window", "position", "place", "payload", "last_word"),
        *("n_escaped", "log", "escaped"),
    )
)
ZERO, ONE, NEXT_STATE, CURVE, LPS_WIDTHS = (
    field_offset(TABLES, name) for name in ("zero", "one", "next_state", "curve", "lps_widths")
)
MIRROR = 0x1000F00F
"""A bin 0 changes a context's word as a bin 1 changes MIRROR - word, the other way."""
UNSHIFTED = 0xFFFFFFF0
"""Without the low bits of the fast estimator's change that its place in the word has no room for."""
AFTER_NEGATIVE, AFTER_POSITIVE = (place_word(AT_SIG + previous, SIG + previous) for previous in (1, 2))
"""What joins the place word after an Exp-Golomb part."""
REFILL_STEPS = 3
"""The bits that a window has in store are enough for so many steps, or for a suffix and one step less."""
PATIENCE = 4
"""Refills that lanes wait through, all together, until they are served. From 3 to 8 the time is the same."""
AHEAD = not has_slow_gathers()
"""Whether the contexts after a bin 0 and a bin 1 are gathered both, before it is known which one is needed."""
TABLE_HALF = 64
"""Bytes of the 16 words in the first of two registers."""


@inlined
def bits_from(payloads, payload, last_word, position):
    """25 bits and more of each payload from a position on, from the top of a word; zeros behind the payload's end."""
    byte = minimum(position >> 3, last_word)
    return shift_left(swap_bytes(gather_unaligned(payloads, payload + byte)), position - (byte << 3))


@inlined
def refill(payloads, payload, last_word, window, position, ahead, filled):
    """Fill the windows again, from bits that were fetched when they were filled before, so that nothing waits.

    ahead  : the bits that follow the window of then
    filled : the position of then, at most 25 before that of now
    Returns the window and the bits ahead of it.
    """
    window = window | (ahead >> 1) >> (31 - (position - filled))
    return window, bits_from(payloads, payload, last_word, position + BELOW_V)


@inlined
def step(
    contexts, log, zero_low, zero_high, one_low, one_high, next_low, next_high, curve, widths,
    place, range_, window, position, word,
):  # fmt: skip
    """A bin in each lane.

    contexts : address of the group's
    log      : address of the 16 bytes for the codes of levels that end here
    The next eight: the tables, in registers. Returns place, range_, window, position and word afterwards.
    """
    index, kept, waits = place >> BELOW_LANE, place & KEPT, (place & ESCAPE) != 0
    if_zero = pick(place, zero_low, zero_high)
    after_one = pick(place, one_low, one_high) | kept
    after_zero = if_zero | kept
    after_zero = after_zero + pick(after_zero >> BELOW_STATE, next_low, next_high)
    if AHEAD:
        index_zero, index_one = after_zero >> BELOW_LANE, after_one >> BELOW_LANE
        word_zero, word_one = gather(contexts, index_zero), gather(contexts, index_one)
    # the less probable symbol: its width is that for the largest range, scaled
    towards_one = signed((word + (word >> 16)) << 19) >> 26
    widest = pick_halves(halves(words(absolute(towards_one))), widths)
    width = words(high_product(widest, halves(((range_ >> (BELOW_V + 1)) | 15) + 1))) << BELOW_V
    split = select(waits, range_, range_ - width)
    less = window >= split
    window = select(less, window - split, window)
    range_ = select(less, width, split)
    shift = leading_zero_bits(range_)
    range_, window, position = range_ << shift, window << shift, position + shift
    zero = less ^ (towards_one < 0)
    zero_here = zero & ~waits
    ends = ((if_zero & ENDS) != 0) & zero_here
    store_low_bytes(log, select(ends, place, 0))
    place = select(zero_here, after_zero, select(waits, place, after_one))
    if not AHEAD:
        index_next = place >> BELOW_LANE
        word_next = gather(contexts, index_next)
    # adaptation: both estimators at once, in the halves of the word
    mirrored = select(zero, MIRROR - word, word)
    change = words(pick_halves(halves(mirrored) >> 7, curve) >> (halves(word) >> 13)) & UNSHIFTED
    word = select(zero, word - change, word + change)
    scatter(contexts, index, word)
    # a context that comes again was gathered before this change; after a bin 1 none does
    if AHEAD:
        word = select(zero, select(index_zero == index, word, word_zero), word_one)
    else:
        word = select(index_next == index, word, word_next)
    return place, range_, window, position, word


@inlined
def finish_escapes(group, log, next_low, next_high, unary_length, dq, place, range_, window, position):
    """The suffixes of up to 5 bits in lanes that wait, whose windows are full. Lanes with more bits go on waiting.

    log              : address of the codes of the last step
    unary_length, dq : in all lanes
    """
    served = ((place & ESCAPE) != 0) & ((place & PLACE_BITS) != AT_SIGN)
    n_bits = (place & PLACE_BITS) - AT_REM
    below = BELOW_V - n_bits
    range_ = range_ >> BELOW_V
    suffix = words(to_int(to_float(signed(window >> (below & 31))) / to_float(signed(range_))))
    n_bits = select(served, n_bits, 0)
    window = select(served, (window - ((suffix * range_) << (below & 31))) << n_bits, window)
    position = position + n_bits
    value = (repeat(1) << n_bits) + unary_length + suffix
    state = (place >> BELOW_STATE) & 7
    level = (value << dq) - (state & dq)
    negative = (place & NEGATIVE) != 0
    level = select(negative, 0 - level, level)
    n_escaped = load_words(group + N_ESCAPED)
    scatter_where(group + ESCAPED, lane_numbers() * ROW + n_escaped, level, served)
    store_vector(group + N_ESCAPED, select(served, n_escaped + 1, n_escaped))
    store_low_bytes(log, select(served, ESCAPED_CODE | place & STATE_BITS, load_bytes_as_words(log)))
    after = place & (KEPT - NEGATIVE) | (value & 1) << BELOW_NEXT
    after = after + pick(after >> BELOW_STATE, next_low, next_high)
    after = after + select(negative, repeat(AFTER_NEGATIVE), repeat(AFTER_POSITIVE))
    return select(served, after, place), window, position


@helper
def run_steps(group, tables, payloads, first, count, unary_length, dq):
    """Steps `first` to `count` of a group, or until a lane waits for what only `end_escape` can do.

    group    : address
    payloads : address that the payloads of lanes count from
    Returns which step comes next.
    """
    lengths, parities = repeat(unary_length), repeat(dq)
    zero_low, zero_high = load_words(tables + ZERO), load_words(tables + ZERO + TABLE_HALF)
    one_low, one_high = load_words(tables + ONE), load_words(tables + ONE + TABLE_HALF)
    next_low, next_high = load_words(tables + NEXT_STATE), load_words(tables + NEXT_STATE + TABLE_HALF)
    curve, widths = halves(load_words(tables + CURVE)), halves(load_words(tables + LPS_WIDTHS))
    place, range_ = load_words(group + PLACE), load_words(group + RANGE) << BELOW_V
    window, position = load_words(group + WINDOW), load_words(group + POSITION)
    payload, last_word = load_words(group + PAYLOAD), load_words(group + LAST_WORD)
    contexts, log = group + CONTEXTS, group + LOG
    word = gather(contexts, place >> BELOW_LANE)
    window = window & V_BITS | bits_from(payloads, payload, last_word, position) >> (32 - BELOW_V)
    ahead, filled = bits_from(payloads, payload, last_word, position + BELOW_V), position
    k, unserved, steps, waited = first, False, np.int64(REFILL_STEPS), np.int64(0)
    while k < count and not unserved:
        stop = smaller(k + steps, count)
        steps = np.int64(REFILL_STEPS)
        while k < stop:
            place, range_, window, position, word = step(
                contexts, log + LANES * k,
                zero_low, zero_high, one_low, one_high, next_low, next_high, curve, widths,
                place, range_, window, position, word,
            )  # fmt: skip
            k += 1
        window, ahead = refill(payloads, payload, last_word, window, position, ahead, filled)
        filled = position
        waited += count_ones(mask_bits((place & ESCAPE) != 0))
        if waited >= PATIENCE:
            waited = np.int64(0)
            place, window, position = finish_escapes(
                group, log + LANES * (k - 1), next_low, next_high, lengths, parities, place, range_, window, position
            )
            steps = np.int64(REFILL_STEPS - 1)  # the suffix took up to 5 bits
            word = gather(contexts, place >> BELOW_LANE)
            unserved = any_lane((place & ESCAPE) != 0)
    store_vector(group + PLACE, place)
    store_vector(group + RANGE, range_ >> BELOW_V)
    store_vector(group + WINDOW, window)
    store_vector(group + POSITION, position)
    return k
