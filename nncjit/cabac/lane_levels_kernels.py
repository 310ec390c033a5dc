"""From the log of a group to levels: which lane's level ended where, and what it is (spec, section 5)."""

import numpy as np

from nncjit.cabac.delivery_kernels import FLOAT32
from nncjit.cabac.lane_records import GROUP, LANES, ROW, STEPS, group_at
from nncjit.cabac.lane_step_kernels import ESCAPED, LOG, TABLE_HALF
from nncjit.cabac.lane_tables import BELOW_STATE, ESCAPED_CODE, PLACE_BITS, TABLES
from nncjit.cabac.segment_decoder_kernels import locate
from nncjit.jit import field_offset, helper, inlined, smaller, zero_bytes
from nncjit.jit.vectors import (
    any_lane,
    count_ones,
    load_bytes,
    load_bytes_as_words,
    load_expanded,
    load_words,
    mask_bits,
    mask_of,
    pick,
    repeat_float,
    signed,
    store_packed_bytes,
    store_vector,
    store_words_where,
    to_float,
    turn_bytes,
    words,
)

CODES_AT = field_offset(GROUP, "codes")
LEVELS_OF_PLACES, ODD = field_offset(TABLES, "levels"), field_offset(TABLES, "odd")


@helper
def collect_codes(group_address, n_steps):
    """Move the codes in the log of so many steps to the codes of each lane.

    At most STEPS codes join those of a lane, and STEPS bytes are written behind what it has: see CODES.
    """
    group, log = group_at(group_address), group_address + LOG
    zero_bytes(log + LANES * n_steps, LANES * (STEPS - n_steps))
    turn_bytes(log)
    for lane in range(LANES):
        codes = load_bytes(log + STEPS * lane)
        ended = codes != 0
        n_codes, more = np.int64(group.n_codes[lane]), count_ones(mask_bits(ended))
        store_packed_bytes(group_address + CODES_AT + ROW * lane + n_codes, codes, ended)
        group.n_codes[lane] = n_codes + more
        group.left[lane] = np.int64(group.left[lane]) - more


@inlined
def take_codes(codes, escaped, wanted, low, high, odd_low, odd_high):
    """The levels of 16 codes, and the address of the escaped levels that follow.

    codes   : address of the codes
    escaped : address of the next levels with an Exp-Golomb part
    wanted  : mask of the codes that mean something; the others may be any bytes
    The last four: `levels` and `odd` of the tables, in registers.
    """
    code = load_bytes_as_words(codes)
    odd = 0 - ((code >> BELOW_STATE) & 1)
    level = pick(code, low, high) - (pick(code, odd_low, odd_high) & odd)
    is_escaped = ((code & PLACE_BITS) == ESCAPED_CODE) & wanted
    if any_lane(is_escaped):
        level = load_expanded(escaped, is_escaped, level)
        escaped += 4 * count_ones(mask_bits(is_escaped))
    return level, escaped


@helper
def levels_of_codes(group_address, lane, tables, out):
    """The levels of a lane's codes, in order, to int32[] at `out`, which has room for 15 more than there are."""
    low, high = load_words(tables + LEVELS_OF_PLACES), load_words(tables + LEVELS_OF_PLACES + TABLE_HALF)
    odd_low, odd_high = load_words(tables + ODD), load_words(tables + ODD + TABLE_HALF)
    codes, escaped = group_address + CODES_AT + ROW * lane, group_address + ESCAPED + 4 * ROW * lane
    left = np.int64(group_at(group_address).n_codes[lane])
    while left > 0:
        wanted = mask_of((1 << smaller(left, LANES)) - 1)
        level, escaped = take_codes(codes, escaped, wanted, low, high, odd_low, odd_high)
        store_vector(out, level)
        codes, out, left = codes + LANES, out + 4 * LANES, left - LANES


@helper
def place_codes(layer, group_address, lane, tables):
    """`place_levels` of a lane's codes where elements are levels or float32 products: nothing is stored between."""
    group = group_at(group_address)
    low, high = load_words(tables + LEVELS_OF_PLACES), load_words(tables + LEVELS_OF_PLACES + TABLE_HALF)
    odd_low, odd_high = load_words(tables + ODD), load_words(tables + ODD + TABLE_HALF)
    codes, escaped = group_address + CODES_AT + ROW * lane, group_address + ESCAPED + 4 * ROW * lane
    scaled, step = layer.kind == FLOAT32, repeat_float(np.float32(layer.step))
    width, rows, top = layer.width, group.n_rows[lane], group.row[lane] - layer.out_row
    count = np.int64(group.n_codes[lane])
    row, left, column, columns = locate(layer, rows, group.done[lane])
    while count > 0:
        run = smaller(columns - column, count)
        out = layer.out + 4 * ((top + row) * width + left + column)
        count -= run
        while run > 0:
            n = smaller(run, LANES)
            wanted = mask_of((1 << n) - 1)
            level, escaped = take_codes(codes, escaped, wanted, low, high, odd_low, odd_high)
            if scaled:
                level = words(to_float(signed(level)) * step)
            store_words_where(out, level, wanted)
            codes, out, run = codes + n, out + 4 * LANES, run - n
        row += 1
        column = np.int64(0)
        if row == rows:
            row = np.int64(0)
            left += columns
            columns = smaller(columns, width - left)
