"""One bin in each of 16 lanes, and again: the loop in which decoding in lanes spends its time (spec, sections 3 to 6).

All lanes do the same, wherever they are in the binarisation: a place is a number, what follows it stands in two tables
of 32 words, and these are in registers. So a step loads and stores memory for the contexts only, one gather and one
scatter. What is rare and long, the Exp-Golomb part of a level, makes its lane wait, with a less probable symbol of
width 0, so that nothing changes, until the next refill; there one branch serves all waiting lanes.

The state of a group in registers: `place` (lane_tables.py), `range_`, `window` (V in bits 23..31, 23 bits that follow
below), `position` (bits read). A bin takes at most 7 bits, so the window lasts for 3 steps.

Addresses stay inside their arrays whatever a payload holds: contexts come from the tables, which name those of the
group only; a lane's payload is read at a position that `refill` clamps to its last four bytes.
"""

from nncjit.cabac.lane_records import BELOW_V, GROUP, LANES, ROW, SIG, V_BITS
from nncjit.cabac.lane_tables import (
    AT_SIG,
    ENDS,
    ESCAPE,
    ESCAPED_CODE,
    NEGATIVE,
    PLACE_BITS,
    STATE_BITS,
    TABLES,
    place_word,
)
from nncjit.jit import field_offset, helper, inlined
from nncjit.jit.vectors import (
    absolute,
    any_lane,
    gather,
    gather_unaligned,
    halves,
    high_product,
    lane_numbers,
    leading_zero_bits,
    load_bytes_as_words,
    load_words,
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
REFILL_STEPS = 3
TABLE_HALF = 64
"""Bytes of the 16 words in the first of two registers."""


@inlined
def refill(payloads, payload, last_word, window, position):
    """The window with all bits below V; zeros behind the payload's end."""
    byte = minimum(position >> 3, last_word)
    following = shift_left(swap_bytes(gather_unaligned(payloads, payload + byte)), position - (byte << 3))
    return window & V_BITS | following >> 9


@inlined
def step(
    contexts, log, zero_low, zero_high, one_low, one_high, next_low, next_high, curve, widths,
    place, range_, window, position,
):  # fmt: skip
    """A bin in each lane.

    contexts : address of the group's
    log      : address of the 16 bytes for the codes of levels that end here
    The next eight: the tables, in registers. Returns place, range_, window and position afterwards.
    """
    index = (place >> 16) + lane_numbers()
    word = gather(contexts, index)
    waits = (place & ESCAPE) != 0
    now = place >> 3
    if_zero, if_one = pick(now, zero_low, zero_high), pick(now, one_low, one_high)
    kept = place & (STATE_BITS | NEGATIVE)
    after_zero = pick((if_zero >> 5) & 0x18 | kept, next_low, next_high)
    # the less probable symbol: its width is that for the largest range, scaled
    towards_one = signed((word + (word >> 16)) << 19) >> 26
    probable_zero = towards_one < 0
    widest = pick_halves(halves(words(absolute(towards_one))), widths)
    width = words(high_product(widest, halves(((range_ >> 1) | 15) + 1)))
    width = select(waits, 0, width)
    range_ = range_ - width
    split = range_ << BELOW_V
    less = window >= split
    window = select(less, window - split, window)
    range_ = select(less, width, range_)
    shift = leading_zero_bits(range_) - BELOW_V
    range_, window, position = range_ << shift, window << shift, position + shift
    zero = less ^ probable_zero
    zero_here = zero & ~waits
    ends = ((if_zero & ENDS) != 0) & zero_here
    store_low_bytes(log, select(ends, place, 0))
    stays_or_one = select(waits, place, if_one | kept)
    place = select(zero_here, (if_zero | place & NEGATIVE) + after_zero, stays_or_one)
    # adaptation: both estimators at once, in the halves of the word
    mirrored = select(zero, MIRROR - word, word)
    change = words(pick_halves(halves(mirrored) >> 7, curve) >> (halves(word) >> 13)) & UNSHIFTED
    scatter(contexts, index, select(zero, word - change, word + change))
    return place, range_, window, position


@inlined
def finish_escapes(group, log, next_low, next_high, unary_length, dq, place, range_, window, position):
    """The suffixes of up to 3 bits in lanes that wait, whose windows are full. Lanes with more bits go on waiting.

    log              : address of the codes of the last step
    unary_length, dq : in all lanes
    """
    served = ((place & ESCAPE) != 0) & ((place & PLACE_BITS) != 0)
    n_bits = (place >> 3) & 3
    below = BELOW_V - n_bits
    suffix = words(to_int(to_float(signed(window >> below)) / to_float(signed(range_))))
    window = select(served, (window - ((suffix * range_) << below)) << n_bits, window)
    position = select(served, position + n_bits, position)
    value = (repeat(1) << n_bits) + unary_length + suffix
    state = place & STATE_BITS
    level = (value << dq) - (state & dq)
    negative = (place & NEGATIVE) != 0
    level = select(negative, 0 - level, level)
    n_escaped = load_words(group + N_ESCAPED)
    scatter_where(group + ESCAPED, lane_numbers() * ROW + n_escaped, level, served)
    store_vector(group + N_ESCAPED, select(served, n_escaped + 1, n_escaped))
    store_low_bytes(log, select(served, state | ESCAPED_CODE, load_bytes_as_words(log)))
    after = pick(state | (value & 1) << 3, next_low, next_high)
    after = after + select(negative, repeat(AFTER_NEGATIVE), repeat(AFTER_POSITIVE))
    return select(served, after, place), window, position


@helper
def run_steps(a, b, tables, payloads, first, count, unary_length, dq):
    """Steps `first` to `count` of two groups, or until a lane waits for what only `finish_level` can do.

    a, b     : addresses of the groups
    payloads : address that the groups' payloads count from
    Returns which step comes next.
    """
    lengths, parities = repeat(unary_length), repeat(dq)
    zero_low, zero_high = load_words(tables + ZERO), load_words(tables + ZERO + TABLE_HALF)
    one_low, one_high = load_words(tables + ONE), load_words(tables + ONE + TABLE_HALF)
    next_low, next_high = load_words(tables + NEXT_STATE), load_words(tables + NEXT_STATE + TABLE_HALF)
    curve, widths = halves(load_words(tables + CURVE)), halves(load_words(tables + LPS_WIDTHS))
    place_a, range_a, window_a, position_a = (
        load_words(a + PLACE),
        load_words(a + RANGE),
        load_words(a + WINDOW),
        load_words(a + POSITION),
    )
    place_b, range_b, window_b, position_b = (
        load_words(b + PLACE),
        load_words(b + RANGE),
        load_words(b + WINDOW),
        load_words(b + POSITION),
    )
    window_a = refill(payloads, load_words(a + PAYLOAD), load_words(a + LAST_WORD), window_a, position_a)
    window_b = refill(payloads, load_words(b + PAYLOAD), load_words(b + LAST_WORD), window_b, position_b)
    k, unserved = first, False
    while k < count and not unserved:
        stop = min(k + REFILL_STEPS, count)
        while k < stop:
            place_a, range_a, window_a, position_a = step(
                a + CONTEXTS, a + LOG + LANES * k,
                zero_low, zero_high, one_low, one_high, next_low, next_high, curve, widths,
                place_a, range_a, window_a, position_a,
            )  # fmt: skip
            place_b, range_b, window_b, position_b = step(
                b + CONTEXTS, b + LOG + LANES * k,
                zero_low, zero_high, one_low, one_high, next_low, next_high, curve, widths,
                place_b, range_b, window_b, position_b,
            )  # fmt: skip
            k += 1
        window_a = refill(payloads, load_words(a + PAYLOAD), load_words(a + LAST_WORD), window_a, position_a)
        window_b = refill(payloads, load_words(b + PAYLOAD), load_words(b + LAST_WORD), window_b, position_b)
        if any_lane((place_a & ESCAPE) != 0):
            place_a, window_a, position_a = finish_escapes(
                a, a + LOG + LANES * (k - 1), next_low, next_high, lengths, parities,
                place_a, range_a, window_a, position_a,
            )  # fmt: skip
            window_a = refill(payloads, load_words(a + PAYLOAD), load_words(a + LAST_WORD), window_a, position_a)
            unserved |= any_lane((place_a & ESCAPE) != 0)
        if any_lane((place_b & ESCAPE) != 0):
            place_b, window_b, position_b = finish_escapes(
                b, b + LOG + LANES * (k - 1), next_low, next_high, lengths, parities,
                place_b, range_b, window_b, position_b,
            )  # fmt: skip
            window_b = refill(payloads, load_words(b + PAYLOAD), load_words(b + LAST_WORD), window_b, position_b)
            unserved |= any_lane((place_b & ESCAPE) != 0)
    store_vector(a + PLACE, place_a)
    store_vector(a + RANGE, range_a)
    store_vector(a + WINDOW, window_a)
    store_vector(a + POSITION, position_a)
    store_vector(b + PLACE, place_b)
    store_vector(b + RANGE, range_b)
    store_vector(b + WINDOW, window_b)
    store_vector(b + POSITION, position_b)
    return k
