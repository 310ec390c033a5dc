"""Binarisation: levels into lists of codes (spec, section 5). The first of the encoder's two passes, see
`encode_kernels`.

The plain form, for most layers, does without branches that depend on the data: a mispredicted one costs as much as a
level.
"""

from nncjit.cabac.encoder_records import (
    BASE,
    BYPASS,
    BYPASS_BITS,
    CAP,
    CODES,
    FIXED_SIGN,
    GROUP,
    GTX,
    GTX_TEMPORAL,
    HALVE,
    HEAD,
    HISTORY,
    LEVELS,
    LINES,
    LIST_END,
    MISMATCH,
    MOST_ABOVE,
    MOST_BELOW,
    PLAIN,
    PREVIOUS,
    QUANTISER,
    REM,
    REM_ROW,
    ROW_CODES,
    ROWS,
    SHAPE_CLASS,
    SHAPE_NONZERO,
    SIG_HISTORY,
    SIG_TEMPORAL,
    SIGN,
    STEPS,
    UNARY,
)
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.jit import (
    helper,
    kernel,
    leading_zeros,
    load_i8,
    load_i32,
    load_i64,
    load_u16,
    store_16,
    store_32,
    store_64,
)


@helper
def _put_bypass(place, value, count):
    """Append `count` bypass bins, most significant first; returns the place behind them."""
    while count > BYPASS_BITS:
        count -= BYPASS_BITS
        store_16(place, 0, BYPASS | BYPASS_BITS << 11 | ((value >> count) & 2047))
        place += 2
    if count > 0:
        store_16(place, 0, BYPASS | count << 11 | (value & ((1 << count) - 1)))
        place += 2
    return place


@helper
def _copy_codes(source, place):
    """Copy ROW_CODES codes between addresses."""
    a, b, c, d = load_i64(source, 0), load_i64(source, 1), load_i64(source, 2), load_i64(source, 3)
    e, f = load_i64(source, 4), load_i64(source, 5)
    store_64(place, 0, a)
    store_64(place, 1, b)
    store_64(place, 2, c)
    store_64(place, 3, d)
    store_64(place, 4, e)
    store_64(place, 5, f)


@helper
def _put_rest(place, rem, rem_row, rest):
    """Append the Exp-Golomb part for rest = magnitude - unary length, 1 <= rest < 2^32, without bound. Spec, section
    5."""
    k = 63 - leading_zeros(rest)
    _copy_codes(rem_row, place)
    if k > ROW_CODES:
        _copy_codes(rem_row + 2 * ROW_CODES, place + 2 * ROW_CODES)
    store_16(place, k, (rem + k) << 1)
    place += 2 * k + 2
    if k > BYPASS_BITS:
        return _put_bypass(place, rest - (1 << k), k)
    store_16(place, 0, BYPASS | k << 11 | rest - (1 << k))
    return place + 2 * min(k, 1)


@helper
def _put_large(run, place, value, sign):
    """Append what a value above CAP has after the first HEAD unary codes; sign is 0 or -1."""
    unary, gtx = load_i64(run, UNARY), load_i64(run, GTX)
    stop = min(value, unary)
    if stop > HEAD:
        line = load_i64(run, LINES) - sign * 2 * (unary + ROW_CODES)
        for k in range(HEAD, stop, ROW_CODES):
            _copy_codes(line + 2 * k, place + 2 * (k - HEAD))
        place += 2 * (stop - HEAD)
    if value <= unary:
        store_16(place, -1, 2 * (gtx + 2 * (stop - 1) - sign))
        return place
    return _put_rest(place, load_i64(run, REM), load_i64(run, REM_ROW), value - unary)


@helper
def all_zero(near):
    """Whether the GROUP levels from address `near` on are all zero."""
    some = 0
    for k in range(GROUP // 2):
        some |= load_i64(near, k)
    return some == 0


@helper
def zero_steps(steps, state, count):
    """The quantiser's state (times 8) after `count` zero-steps; four of them lead back. Spec, section 6."""
    for _ in range(count & 3):
        state = (load_i64(steps, 0) >> state) & 56
    return state


@helper
def _binarise_plain(run, start, stop):
    """`binarise` for layers without temporal contexts, history and codebook; see there.

    Values up to CAP in magnitude come from a table: a row is the sign's code, for previous value 0, then all others (of
    greater values the first HEAD unary codes), and last, in place of a code, the row's shape: twice the number of codes
    with the significance's; SHAPE_CLASS, SHAPE_NONZERO.
    """
    near, steps = load_i64(run, LEVELS) + 4 * start, load_i64(run, STEPS)
    cap, halve = load_i64(run, CAP), load_i64(run, HALVE)
    middle = load_i64(run, ROWS) + 2 * ROW_CODES * (cap + 1)
    previous, state, mismatch, large = load_i64(run, PREVIOUS), load_i64(run, QUANTISER), 0, 0
    codes = load_i64(run, CODES)
    place = codes
    end = near + 4 * (stop - start)
    while near < end:
        last = near + 4 * GROUP
        if last <= end and all_zero(near) and previous == 0:
            # so many zero-steps lead back to the same state
            while last + 4 * GROUP <= end and all_zero(last):
                last += 4 * GROUP
            store_16(place, 0, BYPASS | state >> 3)
            store_16(place, 1, (last - near) >> 2)
            place += 4
            near = last
            continue
        last = min(last, end)
        while near < last:
            level = load_i32(near, 0)
            near += 4
            sign = level >> 63
            magnitude = (level ^ sign) - sign
            odd = magnitude + ((state >> 3) & halve)
            value = odd >> halve
            row = middle + 2 * ROW_CODES * ((min(value, cap + 1) ^ sign) - sign)
            shape = load_u16(row, ROW_CODES - 1)
            mismatch |= odd & (magnitude | shape >> SHAPE_NONZERO)
            _copy_codes(row, place + 2)
            store_16(place, 1, load_u16(row, 0) + 2 * previous)
            store_16(place, 0, (state * 3 >> 2) + 2 * previous + (shape >> SHAPE_NONZERO))
            place += shape & 255
            if value > cap:
                large |= 2 if magnitude > MAX_LEVEL else 0
                place = _put_large(run, place, value, sign)
            state = (load_i64(steps, magnitude & 3) >> state) & 56
            previous = (shape >> SHAPE_CLASS) & 3
    store_64(run, PREVIOUS, previous)
    store_64(run, QUANTISER, state)
    store_64(run, MISMATCH, load_i64(run, MISMATCH) | mismatch & halve | large)
    return (place - codes) >> 1


@helper
def _put_bounded_rest(place, rem, value, below, most):
    """Append the Exp-Golomb part for a value >= below, at most `most`. Spec, section 5."""
    k, more = 0, 1
    while more:
        more = 1 if value >= below + (1 << k) else 0
        store_16(place, 0, (rem + k) << 1 | more)
        place += 2
        if more:
            below += 1 << k
            k += 1
            more = 1 if k < 32 and most >= below + (1 << k) else 0
    return _put_bypass(place, value - below, k)


@helper
def _binarise_any(run, start, stop):
    """`binarise` for all kinds of layers; see there."""
    levels, base, history = load_i64(run, LEVELS), load_i64(run, BASE), load_i64(run, HISTORY)
    steps, halve, unary, rem = load_i64(run, STEPS), load_i64(run, HALVE), load_i64(run, UNARY), load_i64(run, REM)
    most_below, most_above, fixed_sign = load_i64(run, MOST_BELOW), load_i64(run, MOST_ABOVE), load_i64(run, FIXED_SIGN)
    sig_temporal, sig_history = load_i64(run, SIG_TEMPORAL), load_i64(run, SIG_HISTORY)
    sign, gtx, gtx_temporal = load_i64(run, SIGN), load_i64(run, GTX), load_i64(run, GTX_TEMPORAL)
    previous, state, mismatch, large = load_i64(run, PREVIOUS), load_i64(run, QUANTISER), 0, 0
    codes = load_i64(run, CODES)
    place = codes
    for i in range(start, stop):
        level = load_i32(levels, i)
        negative = 1 if level < 0 else 0
        magnitude = abs(level)
        value = (magnitude + ((state >> 3) & halve)) >> halve
        nonzero = min(value, 1)
        mismatch |= (level ^ (state >> 3)) & min(magnitude, 1)
        large |= 2 if magnitude > MAX_LEVEL or value > (most_below if negative else most_above) else 0
        near = load_i32(base, i) if base else 0
        size = abs(near)
        sig = 3 * (state >> 3) + previous
        if history and load_i8(history, i) == 1:
            sig = sig_history + (state >> 3)
        elif size:
            sig = sig_temporal + 2 * (state >> 3) + (1 if size > 1 else 0)
        store_16(place, 0, sig << 1 | nonzero)
        place += 2
        if nonzero:
            if not fixed_sign:
                model = sign + previous
                if size:
                    model = sign + (4 if near > 0 else 3)
                store_16(place, 0, model << 1 | negative)
                place += 2
            most = most_below if negative else most_above
            coded, more = 1, 1 if most > 1 else 0
            while more:
                j = coded - 1
                model = gtx + 2 * j + negative
                if size:
                    model = gtx_temporal + 2 * j + (0 if size >= j else 1)
                more = 1 if value > coded else 0
                store_16(place, 0, model << 1 | more)
                place += 2
                coded += more
                if coded > unary or coded >= most:
                    break
            if more and coded < most:
                place = _put_bounded_rest(place, rem, value, coded, most)
        state = (load_i64(steps, magnitude & 3) >> state) & 56
        previous = nonzero * (2 - negative)
    store_64(run, PREVIOUS, previous)
    store_64(run, QUANTISER, state)
    store_64(run, MISMATCH, load_i64(run, MISMATCH) | mismatch & halve | large)
    return (place - codes) >> 1


@kernel
def binarise(run, start, stop):
    """Turn the levels start..stop-1 into codes; returns their number. Spec, section 5.

    Reads the first block of slots, of the second PREVIOUS (0, 1 negative, 2 positive), QUANTISER (8 * state) and
    MISMATCH, which it moves on. STEPS is the address of int64[4]: byte s of word (|level| & 3) is 8 * the next state;
    all zero without dependent quantisation. With HALVE 1 levels become values v = (|q| + (s & 1)) / 2. MISMATCH gets
    bit 0 where a level does not fit the state, bit 1 where it is beyond MAX_LEVEL or the bounds; the codes are then
    wrong, but no more than they may be.

    A level writes at most 1 + 1 + UNARY + 32 + 3 codes, and the plain form at most ROW_CODES ahead of its last: CODES
    has room for (stop - start) * (UNARY + 37) + 2 * ROW_CODES of them. CAP is at least the
    lesser of UNARY and HEAD; ROWS is uint16[2 * CAP + 3, ROW_CODES], by value + CAP + 1; LINES uint16[2, UNARY +
    ROW_CODES] and REM_ROW uint16[2 * ROW_CODES] are unary and prefix codes, all bins 1.
    """
    if load_i64(run, PLAIN):
        count = _binarise_plain(run, start, stop)
    else:
        count = _binarise_any(run, start, stop)
    store_32(load_i64(run, CODES) + 2 * count, 0, LIST_END)
    return count
