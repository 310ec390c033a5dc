"""What one lane does alone, by scalars: long Exp-Golomb parts, and the way to the end of a level (spec, section 5).

The state and the words are those of the vectors, see lane_step_kernels.py; each helper loads and stores its lane.
"""

import numpy as np

from nncjit.cabac.lane_records import BELOW_V, LANES, REM, V_BITS, group_at
from nncjit.cabac.lane_step_kernels import (
    AFTER_NEGATIVE,
    AFTER_POSITIVE,
    CONTEXTS,
    LAST_WORD,
    MIRROR,
    PAYLOAD,
    PLACE,
    POSITION,
    RANGE,
    WINDOW,
)
from nncjit.cabac.lane_tables import (
    AT_GTX,
    AT_REM,
    AT_SIG,
    AT_SIGN,
    BELOW_CONTEXT,
    BELOW_STATE,
    ENDS,
    ESCAPE,
    ESCAPED_CODE,
    KEPT,
    NEGATIVE,
    PLACE_BITS,
    PREFIX_PLACES,
    STATE_BITS,
    tables_at,
)
from nncjit.jit import byteswap32, helper, leading_zeros, load_u32, smaller, store_32

LOW_WORD = (1 << 32) - 1
MAX_INT32 = (1 << 31) - 1


@helper
def refill_lane(group_address, lane, payloads, window, position):
    """`refill` for one lane."""
    byte = smaller(position >> 3, load_u32(group_address + LAST_WORD, lane))
    shift = position - 8 * byte
    following = np.int64(0)
    if shift < 32:
        at = payloads + load_u32(group_address + PAYLOAD, lane) + byte
        following = (byteswap32(load_u32(at, 0)) << shift) & LOW_WORD
    return window & V_BITS | following >> 9


@helper
def lane_bin(group_address, lane, tables, payloads, context):
    """A regular bin of one lane. context: index of its context. Spec, sections 3 and 4."""
    record = tables_at(tables)
    at = group_address + CONTEXTS + 4 * (LANES * context + lane)
    word = load_u32(at, 0)
    range_, position = load_u32(group_address + RANGE, lane), load_u32(group_address + POSITION, lane)
    window = refill_lane(group_address, lane, payloads, load_u32(group_address + WINDOW, lane), position)
    towards_one = ((((word + (word >> 16)) & 8191) ^ 4096) - 4096) >> 7
    lps = ((np.int64(record.lps_widths[abs(towards_one)]) >> 8) * ((range_ >> 5) + 1)) >> 4
    range_ -= lps
    split = range_ << BELOW_V
    less = window >= split
    bin = (1 if towards_one >= 0 else 0) ^ (1 if less else 0)
    if less:
        window -= split
        range_ = lps
    mirrored = word if bin else MIRROR - word
    fast = (np.int64(record.curve[(mirrored >> 7) & 31]) >> ((word >> 13) & 7)) & ~15
    slow = np.int64(record.curve[(mirrored >> 23) & 31]) >> (word >> 29)
    change = slow << 16 | fast
    store_32(at, 0, word + change if bin else word - change)
    shift = leading_zeros(range_) - 55
    store_32(group_address + RANGE, lane, range_ << shift)
    store_32(group_address + WINDOW, lane, window << shift)
    store_32(group_address + POSITION, lane, position + shift)
    return bin


@helper
def lane_bypass(group_address, lane, payloads, n):
    """n bypass bins of one lane as a number."""
    range_, position = load_u32(group_address + RANGE, lane), load_u32(group_address + POSITION, lane)
    window, number = load_u32(group_address + WINDOW, lane), np.int64(0)
    while n > 0:
        window = refill_lane(group_address, lane, payloads, window, position)
        size = smaller(n, 12)
        more = (window >> (BELOW_V - size)) // range_
        window = ((window - ((more * range_) << (BELOW_V - size))) << size) & LOW_WORD
        position += size
        number = number << size | more
        n -= size
    store_32(group_address + WINDOW, lane, window)
    store_32(group_address + POSITION, lane, position)
    return number


@helper
def end_escape(group_address, lane, tables, payloads, unary_length, dq):
    """The rest of a level whose lane waits: its code. The level itself goes to `escaped`. Spec, section 5."""
    group, record = group_at(group_address), tables_at(tables)
    place = load_u32(group_address + PLACE, lane)
    n_bits, more = (place & PLACE_BITS) - AT_REM, 0
    if place & PLACE_BITS == AT_SIGN:
        n_bits, more = np.int64(PREFIX_PLACES), 1
    while more and n_bits < 32:
        more = lane_bin(group_address, lane, tables, payloads, REM + n_bits)
        n_bits += more
    value = unary_length + (1 << n_bits) + lane_bypass(group_address, lane, payloads, n_bits)
    if n_bits == 32 or value > MAX_INT32 >> dq:
        group.too_large[lane] = 1
    state, negative = (place & STATE_BITS) >> BELOW_STATE, 1 if place & NEGATIVE else 0
    level = (value << dq) - (state & dq)
    n_escaped = np.int64(group.n_escaped[lane])
    group.escaped[lane, n_escaped] = np.int32(wrapped(-level if negative else level))
    group.n_escaped[lane] = n_escaped + 1
    after = np.int64(record.next_state[state + 8 * (value & 1)]) + (AFTER_NEGATIVE if negative else AFTER_POSITIVE)
    store_32(group_address + PLACE, lane, ((place & (KEPT - NEGATIVE)) + after) & LOW_WORD)
    return place & STATE_BITS | ESCAPED_CODE


@helper
def wrapped(number):
    """The low 32 bits of a number, as an int32."""
    return ((number & LOW_WORD) ^ (1 << 31)) - (1 << 31)


@helper
def end_level(group_address, lane, tables, payloads, unary_length, dq):
    """Decode what is left of a level in one lane, if any; it joins the lane's codes."""
    group, record = group_at(group_address), tables_at(tables)
    place = load_u32(group_address + PLACE, lane)
    code = np.int64(0)
    while code == 0 and not AT_SIG <= place & PLACE_BITS < AT_GTX:
        now = place & PLACE_BITS
        if lane_bin(group_address, lane, tables, payloads, place >> BELOW_CONTEXT):
            place = np.int64(record.one[now]) | place & KEPT
        else:
            entry = np.int64(record.zero[now])
            if entry & ENDS:
                code = place & 255
            after = entry | place & KEPT
            place = (after + np.int64(record.next_state[(after >> BELOW_STATE) & 31])) & LOW_WORD
        store_32(group_address + PLACE, lane, place)
        if place & ESCAPE:
            code = end_escape(group_address, lane, tables, payloads, unary_length, dq)
    if code:
        n_codes = np.int64(group.n_codes[lane])
        group.codes[lane, n_codes] = code
        group.n_codes[lane] = n_codes + 1
        group.left[lane] = np.int64(group.left[lane]) - 1
