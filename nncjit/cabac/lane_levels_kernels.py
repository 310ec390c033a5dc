"""From the log of a group to levels: which lane's level ended where, and what it is (spec, section 5)."""

import numpy as np

from nncjit.cabac.lane_records import GROUP, LANES, ROW, STEPS, group_at
from nncjit.cabac.lane_step_kernels import ESCAPED, LOG, TABLE_HALF
from nncjit.cabac.lane_tables import BELOW_STATE, ESCAPED_CODE, PLACE_BITS, TABLES
from nncjit.jit import field_offset, helper, zero_bytes
from nncjit.jit.vectors import (
    any_lane,
    as_bytes,
    columns_of_bytes,
    count_ones,
    gather,
    lane_numbers,
    load_bytes,
    load_bytes_as_words,
    load_expanded,
    load_words,
    mask_bits,
    pick,
    repeat,
    store_packed_bytes,
    store_vector,
)

CODES_AT = field_offset(GROUP, "codes")
LEVELS_OF_PLACES, ODD = field_offset(TABLES, "levels"), field_offset(TABLES, "odd")


@helper
def collect_codes(group_address, n_steps):
    """Move the codes in the log of so many steps to the codes of each lane.

    The log is turned in two moves: 4 steps of 16 lanes to 16 lanes of 4 steps, then one gather for each lane. At most
    STEPS codes join those of a lane, and STEPS bytes are written behind what it has: see CODES.
    """
    group, log = group_at(group_address), group_address + LOG
    zero_bytes(log + LANES * n_steps, LANES * (STEPS - n_steps))
    for at in range(log, log + LANES * STEPS, 64):
        store_vector(at, columns_of_bytes(load_bytes(at)))
    for lane in range(LANES):
        codes = as_bytes(gather(log, lane_numbers() * LANES + repeat(lane)))
        ended = codes != 0
        n_codes, more = np.int64(group.n_codes[lane]), count_ones(mask_bits(ended))
        store_packed_bytes(group_address + CODES_AT + ROW * lane + n_codes, codes, ended)
        group.n_codes[lane] = n_codes + more
        group.left[lane] = np.int64(group.left[lane]) - more


@helper
def levels_of_codes(group_address, lane, tables, out):
    """The levels of a lane's codes, in order, to int32[] at `out`, which has room for 15 more than there are.

    What is behind the last code is any byte: it may ask for levels behind the last of `escaped`, for which there is
    room in a row.
    """
    group = group_at(group_address)
    low, high = load_words(tables + LEVELS_OF_PLACES), load_words(tables + LEVELS_OF_PLACES + TABLE_HALF)
    odd_low, odd_high = load_words(tables + ODD), load_words(tables + ODD + TABLE_HALF)
    codes, escaped = group_address + CODES_AT + ROW * lane, group_address + ESCAPED + 4 * ROW * lane
    for at in range(0, np.int64(group.n_codes[lane]), LANES):
        code = load_bytes_as_words(codes + at)
        odd = 0 - ((code >> BELOW_STATE) & 1)
        level = pick(code, low, high) - (pick(code, odd_low, odd_high) & odd)
        is_escaped = (code & PLACE_BITS) == ESCAPED_CODE
        if any_lane(is_escaped):
            level = load_expanded(escaped, is_escaped, level)
            escaped += 4 * count_ones(mask_bits(is_escaped))
        store_vector(out + 4 * at, level)
