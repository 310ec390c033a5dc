"""A bin of each of 16 rows, and again: the loop in which encoding in lanes spends its time (spec, sections 3 to 6).

As in decoding, places and tables in registers make the binarisation the same for all lanes. A bin is 1 where the value
is above the threshold of its place, or by the sign; there is no list of codes. Since nothing has to be found out before
the next step can begin, one group keeps the processor busy.

The state of a group in registers: `place` (lane_tables.py), `range_`, `low`, `pending`, `value`, `following`,
`pointer`, and the masks `negative` and `wrong`. Lanes that have 16 pending bits put out a *digit*: these bits with
their carry. A level with an Exp-Golomb part waits, as in decoding, until its suffix is put in.

Addresses stay inside their arrays: contexts come from the tables, which name those of the group only; `pointer` is
clamped to the row's last level; at most one digit a lane is put out by each flush, and `MOST_DIGITS` counts these.
"""

from nncjit.cabac.lane_encoder_records import ENCODER_GROUP, ESCAPE_STEPS
from nncjit.cabac.lane_records import SIG
from nncjit.cabac.lane_step_kernels import MIRROR, UNSHIFTED
from nncjit.cabac.lane_tables import (
    AT_REM,
    AT_SIG,
    AT_SIGN,
    BELOW_LANE,
    BELOW_NEXT,
    BELOW_STATE,
    ENDS,
    ESCAPE,
    KEPT,
    NEGATIVE,
    PLACE_BITS,
    TABLES,
    place_word,
)
from nncjit.jit import field_offset, helper, inlined, load_i64, smaller, store_64
from nncjit.jit.vectors import (
    absolute,
    any_lane,
    compress_words,
    count_ones,
    gather,
    halves,
    high_product,
    lane_numbers,
    leading_zero_bits,
    load_words,
    mask_bits,
    mask_of,
    minimum,
    pick,
    pick_halves,
    repeat,
    scatter,
    select,
    signed,
    store_vector,
    words,
)

CONTEXTS, RANGE, LOW, PENDING, PLACE, VALUE, FOLLOWING, POINTER, LAST = (
    field_offset(ENCODER_GROUP, name)
    for name in ("contexts", "range_", "low", "pending", "place", "value", "following", "pointer", "last")
)
NEGATIVES, WRONG, N_DIGITS, DIGITS = (
    field_offset(ENCODER_GROUP, name) for name in ("negative", "wrong", "n_digits", "digits")
)
ZERO, ONE, NEXT_STATE, CURVE, LPS_WIDTHS = (
    field_offset(TABLES, name) for name in ("zero", "one", "next_state", "curve", "lps_widths")
)
RESTS = 1 << 13
"""In the place word of a lane without a row, beside ESCAPE: it waits for nothing."""
AFTER_NEGATIVE, AFTER_POSITIVE = (place_word(AT_SIG + previous, SIG + previous) for previous in (1, 2))
TABLE_HALF = 64
DIGIT_BITS, BELOW_DIGIT = 16, 7
"""A digit takes the upper bits of the pending + 9 that low has, all but pending - 7."""


@inlined
def flush(low, pending, at):
    """Put out a digit in the lanes that have one; returns low, pending and the address after the digits."""
    full = pending >= 16
    below = (pending - 7) & 31
    digit = select(full, low >> below, 0)
    store_vector(at, compress_words(digit | lane_numbers() << 24, full))
    low = low - (digit << below)
    pending = select(full, pending - 16, pending)
    return low, pending, at + 4 * count_ones(mask_bits(full))


@inlined
def take_levels(ends, levels, last, dq, place, value, following, pointer, negative, wrong):
    """In the lanes of a mask, the following level becomes the one that is coded; returns the last five, changed."""
    size = words(absolute(signed(following)))
    odd = size + ((place >> BELOW_STATE) & dq)
    value = select(ends, odd >> dq, value)
    wrong = wrong | ends & ((odd & dq) != 0) & (size != 0) & (pointer <= last)
    negative = negative & ~ends | ends & (signed(following) < 0)
    pointer = select(ends, pointer + 1, pointer)
    following = gather(levels, minimum(pointer, last))
    return value, following, pointer, negative, wrong


@inlined
def step(
    contexts, levels, last, dq, zero_low, zero_high, one_low, one_high, next_low, next_high, most_low, most_high, curve,
    widths, place, range_, low, pending, value, following, pointer, negative, wrong, at,
):  # fmt: skip
    """A bin in each lane.

    contexts : address of the group's
    levels   : address that pointers count from
    last, dq : in all lanes
    The next ten: the tables, in registers; `most` are the thresholds.
    at       : address for digits
    Returns the rest, changed.
    """
    index, kept, waits = place >> BELOW_LANE, place & KEPT, (place & ESCAPE) != 0
    word = gather(contexts, index)
    if_zero = pick(place, zero_low, zero_high)
    after_one = pick(place, one_low, one_high) | kept
    after_zero = if_zero | kept
    after_zero = after_zero + pick(after_zero >> BELOW_STATE, next_low, next_high)
    one = (value > pick(place, most_low, most_high)) | negative & ((place & PLACE_BITS) == AT_SIGN)
    zero_here = ~(one | waits)
    ends = ((if_zero & ENDS) != 0) & zero_here
    place = select(zero_here, after_zero, select(waits, place, after_one))
    value, following, pointer, negative, wrong = take_levels(
        ends, levels, last, dq, place, value, following, pointer, negative, wrong
    )
    # the less probable symbol: its width is that for the largest range, scaled
    towards_one = signed((word + (word >> 16)) << 19) >> 26
    widest = pick_halves(halves(words(absolute(towards_one))), widths)
    width = words(high_product(widest, halves(((range_ >> 1) | 15) + 1)))
    width = select(waits, 0, width)
    range_ = range_ - width
    unlikely = ~(one ^ (towards_one < 0) | waits)
    low = select(unlikely, low + range_, low)
    range_ = select(unlikely, width, range_)
    shift = leading_zero_bits(range_) - 23
    range_, low, pending = range_ << shift, low << shift, pending + shift
    low, pending, at = flush(low, pending, at)
    # adaptation: both estimators at once, in the halves of the word
    mirrored = select(one, word, MIRROR - word)
    change = words(pick_halves(halves(mirrored) >> 7, curve) >> (halves(word) >> 13)) & UNSHIFTED
    scatter(contexts, index, select(one, word + change, word - change))
    return place, range_, low, pending, value, following, pointer, negative, wrong, at


@inlined
def put_suffixes(
    levels, last, dq, unary_length, next_low, next_high, place, range_, low, pending, value, following, pointer,
    negative, wrong, at,
):  # fmt: skip
    """The suffixes of up to 5 bits of lanes that wait, in bypass bins; lanes with more bits go on waiting."""
    served = ((place & (ESCAPE | RESTS)) == ESCAPE) & ((place & PLACE_BITS) != AT_SIGN)
    n_bits = select(served, (place & PLACE_BITS) - AT_REM, 0)
    rest = value - unary_length - (repeat(1) << n_bits)
    low = select(served, (low << n_bits) + rest * range_, low)
    pending = pending + n_bits
    low, pending, at = flush(low, pending, at)
    after = place & (KEPT - NEGATIVE) | (value & 1) << BELOW_NEXT
    after = after + pick(after >> BELOW_STATE, next_low, next_high)
    after = after + select(negative, repeat(AFTER_NEGATIVE), repeat(AFTER_POSITIVE))
    place = select(served, after, place)
    value, following, pointer, negative, wrong = take_levels(
        served, levels, last, dq, place, value, following, pointer, negative, wrong
    )
    return place, low, pending, value, following, pointer, negative, wrong, at


@helper
def run_steps(group, tables, thresholds, levels, first, count, unary_length, dq):
    """Steps `first` to `count` of a group, or until a lane waits for what only `finish_level` can do.

    group, tables, thresholds, levels : addresses, see LANE_CODING
    Returns which step comes next.
    """
    lengths, parities = repeat(unary_length), repeat(dq)
    zero_low, zero_high = load_words(tables + ZERO), load_words(tables + ZERO + TABLE_HALF)
    one_low, one_high = load_words(tables + ONE), load_words(tables + ONE + TABLE_HALF)
    next_low, next_high = load_words(tables + NEXT_STATE), load_words(tables + NEXT_STATE + TABLE_HALF)
    most_low, most_high = load_words(thresholds), load_words(thresholds + TABLE_HALF)
    curve, widths = halves(load_words(tables + CURVE)), halves(load_words(tables + LPS_WIDTHS))
    last = load_words(group + LAST)
    place, range_, low, pending = (
        load_words(group + PLACE),
        load_words(group + RANGE),
        load_words(group + LOW),
        load_words(group + PENDING),
    )
    value, following, pointer = (
        load_words(group + VALUE),
        load_words(group + FOLLOWING),
        load_words(group + POINTER),
    )
    negative, wrong = mask_of(load_i64(group + NEGATIVES, 0)), mask_of(load_i64(group + WRONG, 0))
    at = group + DIGITS + 4 * load_i64(group + N_DIGITS, 0)
    k, unserved = first, False
    while k < count and not unserved:
        stop = smaller(k + ESCAPE_STEPS, count)
        while k < stop:
            place, range_, low, pending, value, following, pointer, negative, wrong, at = step(
                group + CONTEXTS, levels, last, parities,
                zero_low, zero_high, one_low, one_high, next_low, next_high, most_low, most_high, curve, widths,
                place, range_, low, pending, value, following, pointer, negative, wrong, at,
            )  # fmt: skip
            k += 1
        if any_lane((place & (ESCAPE | RESTS)) == ESCAPE):
            place, low, pending, value, following, pointer, negative, wrong, at = put_suffixes(
                levels, last, parities, lengths, next_low, next_high,
                place, range_, low, pending, value, following, pointer, negative, wrong, at,
            )  # fmt: skip
            unserved = any_lane((place & (ESCAPE | RESTS)) == ESCAPE)
    store_vector(group + PLACE, place)
    store_vector(group + RANGE, range_)
    store_vector(group + LOW, low)
    store_vector(group + PENDING, pending)
    store_vector(group + VALUE, value)
    store_vector(group + FOLLOWING, following)
    store_vector(group + POINTER, pointer)
    store_64(group + NEGATIVES, 0, mask_bits(negative))
    store_64(group + WRONG, 0, mask_bits(wrong))
    store_64(group + N_DIGITS, 0, (at - group - DIGITS) >> 2)
    return k
