"""Binarisation by tables, for layers without temporal contexts, history and codebook (spec, section 5).

These are most layers. The loop does without branches that depend on the data: a mispredicted one costs as much as a
level.
"""

from nncjit.cabac.encoder_records import (
    BYPASS,
    BYPASS_BITS,
    GROUP,
    HEAD,
    ROW_CODES,
    SHAPE_CLASS,
    SHAPE_NONZERO,
    TOO_LARGE,
    WRONG_STATE,
)
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.cabac.quantiser_state_kernels import all_zero
from nncjit.jit import helper, leading_zeros, load_i32, load_i64, load_u16, smaller, store_16, store_64


@helper
def put_bypass(place, value, count):
    """Append `count` bypass bins, most significant first; returns the place after them."""
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
def _put_rest(place, rem, prefix_row, rest):
    """Append the Exp-Golomb part for rest = magnitude - unary length, 1 <= rest < 2^32, without bound. Spec, section
    5."""
    k = 63 - leading_zeros(rest)
    _copy_codes(prefix_row, place)
    if k > ROW_CODES:
        _copy_codes(prefix_row + 2 * ROW_CODES, place + 2 * ROW_CODES)
    store_16(place, k, (rem + k) << 1)
    place += 2 * k + 2
    if k > BYPASS_BITS:
        return put_bypass(place, rest - (1 << k), k)
    store_16(place, 0, BYPASS | k << 11 | rest - (1 << k))
    return place + 2 * smaller(k, 1)


@helper
def _put_large(binariser, place, value, sign):
    """Append what a value without a row of its own has after the first HEAD unary codes; sign is 0 or -1."""
    unary_length = binariser.unary_length
    stop = smaller(value, unary_length)
    if stop > HEAD:
        row = binariser.unary_rows - sign * 2 * (unary_length + ROW_CODES)
        for k in range(HEAD, stop, ROW_CODES):
            _copy_codes(row + 2 * k, place + 2 * (k - HEAD))
        place += 2 * (stop - HEAD)
    if value <= unary_length:
        store_16(place, -1, 2 * (binariser.gtx + 2 * (stop - 1) - sign))
        return place
    return _put_rest(place, binariser.rem, binariser.prefix_row, value - unary_length)


@helper
def binarise_by_tables(binariser, start, stop):
    """`binarise` for a BINARISER that is `tabled`.

    Values up to `most_tabled` in magnitude have a row in `value_rows`: the sign's code, for previous value 0, then all
    others (of greater values the first HEAD unary codes), and last, in place of a code, the row's shape: twice the
    number of codes with the significance's; SHAPE_CLASS, SHAPE_NONZERO.
    """
    near, transitions = binariser.levels + 4 * start, binariser.transitions
    most_tabled, halve = binariser.most_tabled, binariser.halve
    middle = binariser.value_rows + 2 * ROW_CODES * (most_tabled + 1)
    previous, state, wrong, large = binariser.previous, binariser.state, 0, 0
    codes = binariser.codes
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
        last = smaller(last, end)
        while near < last:
            level = load_i32(near, 0)
            near += 4
            sign = level >> 63
            magnitude = (level ^ sign) - sign
            odd = magnitude + ((state >> 3) & halve)
            value = odd >> halve
            row = middle + 2 * ROW_CODES * ((smaller(value, most_tabled + 1) ^ sign) - sign)
            shape = load_u16(row, ROW_CODES - 1)
            wrong |= odd & (magnitude | shape >> SHAPE_NONZERO)
            _copy_codes(row, place + 2)
            store_16(place, 1, load_u16(row, 0) + 2 * previous)
            store_16(place, 0, (state * 3 >> 2) + 2 * previous + (shape >> SHAPE_NONZERO))
            place += shape & 255
            if value > most_tabled:
                large |= TOO_LARGE if magnitude > MAX_LEVEL else 0
                place = _put_large(binariser, place, value, sign)
            state = (load_i64(transitions, magnitude & 3) >> state) & 56
            previous = (shape >> SHAPE_CLASS) & 3
    binariser.previous = previous
    binariser.state = state
    binariser.faults |= WRONG_STATE * (wrong & halve) | large
    return (place - codes) >> 1
