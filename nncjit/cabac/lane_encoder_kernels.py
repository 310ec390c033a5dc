"""Block rows in the lanes of a worker: opened, coded, and closed as pieces to be joined (spec, sections 5 and 12).

`cabac/lane_encoder.py` fills the records. Steps go in blocks that no lane can pass its row's end in, as a step ends one
level at most; after each block the digits are dealt out to the rows' outputs.
"""

import numpy as np

from nncjit.cabac.arithmetic_encoder_kernels import append
from nncjit.cabac.encoder_records import ENCODER, RESTART, TOO_LARGE, WRONG_STATE, view_encoder, view_restart
from nncjit.cabac.lane_encoder_records import (
    ENCODER_GROUP,
    FULL,
    LANE_CODING,
    LANE_ROW,
    ROOM,
    STEPS,
    encoder_group_at,
    lane_coding_at,
    lane_row_at,
)
from nncjit.cabac.lane_encoder_step_kernels import (
    AFTER_NEGATIVE,
    AFTER_POSITIVE,
    CONTEXTS,
    CURVE,
    DIGITS,
    FOLLOWING,
    LOW,
    LPS_WIDTHS,
    MIRROR,
    N_DIGITS,
    NEXT_STATE,
    PENDING,
    PLACE,
    POINTER,
    RANGE,
    RESTS,
    VALUE,
    run_steps,
)
from nncjit.cabac.lane_records import GTX, IDLE, LANE_BITS, LANES, REM, SIG, SIGN
from nncjit.cabac.lane_tables import (
    AT_SIG,
    BELOW_CONTEXT,
    BELOW_LANE,
    BELOW_STATE,
    ESCAPE,
    KEPT,
    NEGATIVE,
    PLACE_BITS,
    PREFIX_PLACES,
    STATE_BITS,
)
from nncjit.cabac.layer import MAX_LEVEL, Contexts
from nncjit.jit import (
    atomic_add,
    field_offset,
    helper,
    kernel,
    leading_zeros,
    load_i32,
    load_i64,
    load_u16,
    load_u32,
    smaller,
    store_16,
    store_32,
    store_64,
)

GROUP_SIZE, ROW_SIZE = ENCODER_GROUP.itemsize, LANE_ROW.itemsize
ENCODER_SIZE, RESTART_SIZE = ENCODER.itemsize, RESTART.itemsize
OUTPUT, TAKEN = field_offset(ENCODER_GROUP, "output"), field_offset(LANE_CODING, "taken")
LOW_WORD = (1 << 32) - 1
SIG_OF_LAYER, SIGN_OF_LAYER, GTX_OF_LAYER = Contexts.for_unary_length(1).sig, *Contexts.for_unary_length(1)[3:5]
SUFFIX_BITS = 6
"""Of a long suffix that go into low at once."""


@helper
def take_level(group_address, lane, levels, state, dq):
    """The following level of one lane becomes the one that is coded."""
    group = encoder_group_at(group_address)
    level = load_i32(group_address + FOLLOWING, lane)
    pointer, last = load_u32(group_address + POINTER, lane), np.int64(group.last[lane])
    size, bit = abs(level), 1 << lane
    odd = size + (state & dq)
    store_32(group_address + VALUE, lane, odd >> dq)
    group.negative = group.negative & ~bit | (bit if level < 0 else 0)
    group.wrong |= bit if odd & dq and size and pointer <= last else 0
    store_32(group_address + POINTER, lane, pointer + 1)
    store_32(group_address + FOLLOWING, lane, load_u32(levels, smaller(pointer + 1, last)))


@helper
def rest_lane(group_address, lane):
    """A lane without a row waits for nothing: no bin changes it."""
    group = encoder_group_at(group_address)
    group.row[lane] = 0
    store_32(group_address + PLACE, lane, ESCAPE | RESTS | lane << BELOW_LANE | IDLE << BELOW_CONTEXT)
    store_32(group_address + RANGE, lane, 256)
    for at in (LOW, PENDING, POINTER, VALUE, FOLLOWING):
        store_32(group_address + at, lane, 0)
    group.last[lane] = 0
    store_32(group_address + CONTEXTS + 4 * LANES * IDLE, lane, LANE_BITS | 128 << 4 | 2048 << 16)


@helper
def copy_contexts(group_address, lane, first, words, first_of_layer, count):
    """`count` initialised contexts of a layer to a lane."""
    at = group_address + CONTEXTS + 4 * LANES * first
    for k in range(count):
        store_32(at + 4 * LANES * k, lane, load_u32(words, first_of_layer + k) | LANE_BITS)


@helper
def open_row(coding_address, group_address, lane):
    """Let a lane that rests take the next row. Returns whether there was one."""
    coding, group = lane_coding_at(coding_address), encoder_group_at(group_address)
    while True:
        if coding.taken >= coding.n_rows:  # asked again and again
            return False
        k = atomic_add(coding_address + TAKEN, 1)
        if k >= coding.n_rows:
            return False
        row_address = coding.rows + ROW_SIZE * k
        row = lane_row_at(row_address)
        piece = view_encoder(row.piece)
        row.end_state, row.faults = row.state, 0
        piece.low, piece.range, piece.pending, piece.position = 0, row.first_range, 7, 0
        if row.first < row.stop:
            break
    unary_length, state = coding.unary_length, row.state
    copy_contexts(group_address, lane, SIG, row.contexts, SIG_OF_LAYER, 24)
    copy_contexts(group_address, lane, SIGN, row.contexts, SIGN_OF_LAYER, 3)
    copy_contexts(group_address, lane, GTX, row.contexts, GTX_OF_LAYER, 2 * unary_length)
    copy_contexts(group_address, lane, REM, row.contexts, GTX_OF_LAYER + 4 * unary_length, 32)
    bit = 1 << lane
    group.row[lane] = row_address
    group.output[lane] = piece.output
    group.too_large[lane] = 0
    group.wrong &= ~bit
    group.last[lane] = row.stop - 1
    store_32(group_address + PENDING, lane, 7)
    store_32(group_address + RANGE, lane, row.first_range)
    place = AT_SIG | state << BELOW_STATE | lane << BELOW_LANE | (SIG + 3 * state) << BELOW_CONTEXT
    store_32(group_address + PLACE, lane, place)
    store_32(group_address + POINTER, lane, row.first)
    store_32(group_address + FOLLOWING, lane, load_u32(coding.levels, row.first))
    take_level(group_address, lane, coding.levels, state, coding.dq)
    return True


@helper
def close_row(group_address, lane, fault):
    """Write down what a lane's row came to; the lane rests."""
    group = encoder_group_at(group_address)
    row = lane_row_at(group.row[lane])
    piece = view_encoder(row.piece)
    piece.position = group.output[lane] - piece.output
    piece.low = load_u32(group_address + LOW, lane)
    piece.pending = load_u32(group_address + PENDING, lane)
    piece.range = load_u32(group_address + RANGE, lane)
    row.end_state = (load_u32(group_address + PLACE, lane) & STATE_BITS) >> BELOW_STATE
    wrong = WRONG_STATE if (group.wrong >> lane) & 1 else 0
    row.faults = fault | wrong | (TOO_LARGE if group.too_large[lane] else 0)
    rest_lane(group_address, lane)


@helper
def put_digit(group_address, lane, low, pending):
    """`flush` for one lane; returns low and pending."""
    if pending >= 16:
        n_digits = load_i64(group_address + N_DIGITS, 0)
        store_32(group_address + DIGITS, n_digits, low >> (pending - 7) | lane << 24)
        store_64(group_address + N_DIGITS, 0, n_digits + 1)
        low &= (1 << (pending - 7)) - 1
        pending -= 16
    return low, pending


@helper
def finish_level(group_address, lane, tables, levels, unary_length, dq):
    """The rest of a level with more bins 1 in its Exp-Golomb prefix than have a place. Spec, sections 3 to 5."""
    group = encoder_group_at(group_address)
    range_, low = load_u32(group_address + RANGE, lane), load_u32(group_address + LOW, lane)
    pending, value = load_u32(group_address + PENDING, lane), load_u32(group_address + VALUE, lane)
    place, negative = load_u32(group_address + PLACE, lane), (group.negative >> lane) & 1
    state, rest, n_bits, more = (place & STATE_BITS) >> BELOW_STATE, value - unary_length, PREFIX_PLACES, 1
    while more:
        at = group_address + CONTEXTS + 4 * LANES * (REM + n_bits)
        word = load_u32(at, lane)
        more = 1 if rest >= 2 << n_bits else 0
        towards_one = ((((word + (word >> 16)) & 8191) ^ 4096) - 4096) >> 7
        lps = ((load_u16(tables + LPS_WIDTHS, abs(towards_one)) >> 8) * ((range_ >> 5) + 1)) >> 4
        range_ -= lps
        if more != (1 if towards_one >= 0 else 0):
            low += range_
            range_ = lps
        shift = leading_zeros(range_) - 55
        range_ <<= shift
        low, pending = put_digit(group_address, lane, low << shift, pending + shift)
        mirrored = word if more else MIRROR - word
        fast = (load_u16(tables + CURVE, (mirrored >> 7) & 31) >> ((word >> 13) & 7)) & ~15
        slow = load_u16(tables + CURVE, (mirrored >> 23) & 31) >> (word >> 29)
        change = slow << 16 | fast
        store_32(at, lane, word + change if more else word - change)
        n_bits += more
    suffix, left = rest - (1 << n_bits), n_bits
    while left > 0:
        n = smaller(left, SUFFIX_BITS)
        left -= n
        low = (low << n) + range_ * ((suffix >> left) & ((1 << n) - 1))
        low, pending = put_digit(group_address, lane, low, pending + n)
    if (value << dq) - (state & dq) > MAX_LEVEL:
        group.too_large[lane] = 1
    after = load_u32(tables + NEXT_STATE, state | (value & 1) << 3) + (AFTER_NEGATIVE if negative else AFTER_POSITIVE)
    place = ((place & (KEPT - NEGATIVE)) + after) & LOW_WORD
    store_32(group_address + PLACE, lane, place)
    store_32(group_address + RANGE, lane, range_)
    store_32(group_address + LOW, lane, low)
    store_32(group_address + PENDING, lane, pending)
    take_level(group_address, lane, levels, (place & STATE_BITS) >> BELOW_STATE, dq)


@helper
def deal_digits(group_address):
    """Write the digits to the outputs of their rows, each with its carry into the one before."""
    n_digits = load_i64(group_address + N_DIGITS, 0)
    for k in range(n_digits):
        digit = load_u32(group_address + DIGITS, k)
        lane = digit >> 24
        at = load_i64(group_address + OUTPUT, lane)
        before, place = load_u16(at - 2, 0), at - 2
        sum_ = ((before & 255) << 8 | before >> 8) + ((digit >> 16) & 1)
        store_16(place, 0, (sum_ & 255) << 8 | (sum_ >> 8) & 255)
        while sum_ >> 16:
            place -= 2
            before = load_u16(place, 0)
            sum_ = ((before & 255) << 8 | before >> 8) + 1
            store_16(place, 0, (sum_ & 255) << 8 | (sum_ >> 8) & 255)
        store_16(at, 0, (digit & 255) << 8 | (digit >> 8) & 255)
        store_64(group_address + OUTPUT, lane, at + 2)
    store_64(group_address + N_DIGITS, 0, 0)


@helper
def _levels_left(group, lane):
    """Levels of a lane's row that are not coded, with the one that is being coded."""
    return np.int64(group.last[lane]) + 2 - np.int64(group.pointer[lane])


@helper
def _is_full(group, lane):
    """Whether a lane's row might write beyond its output before the next look."""
    piece = view_encoder(lane_row_at(group.row[lane]).piece)
    return group.output[lane] + ROOM > piece.output + piece.capacity


@kernel
def encode_rows(coding_address, worker):
    """Code rows in lanes until none is left that nobody has taken.

    coding_address : address of a LANE_CODING
    worker         : which group to work with

    No address depends on levels: pointers stay in the rows, outputs are looked at before each block of steps, which
    writes ROOM bytes to a row at most.

    A lane either codes one row or rests, and `taken` counts the rows that lanes have begun: each of these is coded,
    given up since its output is full, or in one lane. So all is done when all lanes rest although each was offered a
    row.
    """
    coding = lane_coding_at(coding_address)
    group_address = coding.groups + GROUP_SIZE * worker
    group = encoder_group_at(group_address)
    tables, levels, unary_length, dq = coding.tables, coding.levels, coding.unary_length, coding.dq
    group.negative = group.wrong = group.n_digits = 0
    for lane in range(LANES):
        rest_lane(group_address, lane)
    while True:
        count, busy = STEPS, False
        for lane in range(LANES):
            if group.row[lane] or open_row(coding_address, group_address, lane):
                count = smaller(count, _levels_left(group, lane))
                busy = True
        if not busy:
            return
        done = 0
        while done < count:
            done = run_steps(group_address, tables, coding.thresholds, levels, done, count, unary_length, dq)
            for lane in range(LANES):
                if load_u32(group_address + PLACE, lane) & (ESCAPE | RESTS | PLACE_BITS) == ESCAPE:
                    finish_level(group_address, lane, tables, levels, unary_length, dq)
            deal_digits(group_address)
            for lane in range(LANES):
                if group.row[lane] and _is_full(group, lane):
                    close_row(group_address, lane, FULL)
        for lane in range(LANES):
            if group.row[lane] and _levels_left(group, lane) == 0:
                close_row(group_address, lane, 0)


@kernel
def join_rows(encoder, rows, n_rows, restarts):
    """Append the pieces of a layer's rows to an encoder's output, which has room for them, and note the restarts.

    encoder  : address of an ENCODER
    rows     : address of LANE_ROW[n_rows]
    restarts : address of RESTART[n_rows]    out
    """
    coder = view_encoder(encoder)
    for k in range(n_rows):
        row, restart = lane_row_at(rows + ROW_SIZE * k), view_restart(restarts + RESTART_SIZE * k)
        restart.bits = 8 * coder.position + coder.pending
        restart.state = row.state
        restart.low = coder.low & 511
        append(encoder, row.piece)
