"""The first pass of the encoder: levels into lists of codes, for layers of any kind (spec, section 5).

The second pass is in `arithmetic_encoder_kernels`.
"""

from nncjit.cabac.encoder_records import LIST_END, TOO_LARGE, WRONG_STATE, view_binariser
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.cabac.tabled_binarisation_kernels import binarise_by_tables, put_bypass
from nncjit.jit import helper, inlined, kernel, load_i8, load_i32, load_i64, smaller, store_16, store_32


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
    return put_bypass(place, value - below, k)


@inlined
def _put_magnitude(binariser, place, value, most, negative, size):
    """Append the unary codes of a value > 0, at most `most`, and its rest; `size` is the base level's magnitude. Spec,
    section 5.
    """
    gtx, gtx_temporal, unary_length = binariser.gtx, binariser.gtx_temporal, binariser.unary_length
    coded, more = 1, 1 if most > 1 else 0
    while more:
        j = coded - 1
        context = gtx + 2 * j + negative
        if size:
            context = gtx_temporal + 2 * j + (0 if size >= j else 1)
        more = 1 if value > coded else 0
        store_16(place, 0, context << 1 | more)
        place += 2
        coded += more
        if coded > unary_length or coded >= most:
            break
    if more and coded < most:
        place = _put_bounded_rest(place, binariser.rem, value, coded, most)
    return place


@helper
def _binarise_by_rules(binariser, start, stop):
    """`binarise` for any BINARISER."""
    levels, base_levels, history = binariser.levels, binariser.base_levels, binariser.history
    transitions, halve = binariser.transitions, binariser.halve
    most_below, most_above, fixed_sign = binariser.most_below, binariser.most_above, binariser.fixed_sign
    sig_temporal, sig_history, sign = binariser.sig_temporal, binariser.sig_history, binariser.sign
    previous, state, wrong, large = binariser.previous, binariser.state, 0, 0
    codes = binariser.codes
    place = codes
    for i in range(start, stop):
        level = load_i32(levels, i)
        negative = 1 if level < 0 else 0
        magnitude = abs(level)
        value = (magnitude + ((state >> 3) & halve)) >> halve
        nonzero = smaller(value, 1)
        wrong |= (level ^ (state >> 3)) & smaller(magnitude, 1)
        most = most_below if negative else most_above
        large |= TOO_LARGE if magnitude > MAX_LEVEL or value > most else 0
        near = load_i32(base_levels, i) if base_levels else 0
        size = abs(near)
        context = 3 * (state >> 3) + previous
        if history and load_i8(history, i) == 1:
            context = sig_history + (state >> 3)
        elif size:
            context = sig_temporal + 2 * (state >> 3) + (1 if size > 1 else 0)
        store_16(place, 0, context << 1 | nonzero)
        place += 2
        if nonzero:
            if not fixed_sign:
                context = sign + previous
                if size:
                    context = sign + (4 if near > 0 else 3)
                store_16(place, 0, context << 1 | negative)
                place += 2
            place = _put_magnitude(binariser, place, value, most, negative, size)
        state = (load_i64(transitions, magnitude & 3) >> state) & 56
        previous = nonzero * (2 - negative)
    binariser.previous = previous
    binariser.state = state
    binariser.faults |= WRONG_STATE * (wrong & halve) | large
    return (place - codes) >> 1


@kernel
def binarise(binariser, start, stop):
    """Turn the levels start..stop-1 into a list of codes; returns their number. Spec, section 5.

    binariser : address of a BINARISER, whose `previous`, `state` and `faults` move on

    `faults` gets WRONG_STATE where a level does not fit the state, TOO_LARGE where it is beyond MAX_LEVEL or the
    bounds; the codes are then wrong, but no more than they may be.

    A level writes at most 1 + 1 + unary_length + 32 + 3 codes, and the tabled form at most ROW_CODES ahead of its last:
    `codes` has room for (stop - start) * (unary_length + 37) + 2 * ROW_CODES of them.
    """
    record = view_binariser(binariser)
    if record.tabled:
        count = binarise_by_tables(record, start, stop)
    else:
        count = _binarise_by_rules(record, start, stop)
    store_32(record.codes + 2 * count, 0, LIST_END)
    return count
