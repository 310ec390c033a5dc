"""Segments in the lanes of a worker: taken, decoded, delivered and closed, as a stream's are (spec, sections 5 and 7).

`cabac/lane_supply.py` chooses the segments and fills the records. A lane holds one segment; one that ends takes the
next, longest first. Steps go in blocks that no lane can pass its end in, as a step ends one level at most; after each
block codes are collected, and full or finished lanes deliver.
"""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import CONTEXT_SIZE, PACKED
from nncjit.cabac.decoder_records import (
    FINE,
    LAYER,
    OUT_OF_RANGE,
    SEGMENT,
    STREAM,
    TOO_LARGE,
    TRUNCATED,
    WRONG_START,
    layer_at,
    segment_at,
)
from nncjit.cabac.delivery_kernels import FLOAT32
from nncjit.cabac.delivery_kernels import LEVELS as LEVELS_ALONE
from nncjit.cabac.lane_bin_kernels import end_escape, end_level
from nncjit.cabac.lane_levels_kernels import collect_codes, levels_of_codes, place_codes
from nncjit.cabac.lane_records import (
    BELOW_V,
    CODES,
    GROUP,
    GTX,
    IDLE,
    KIND,
    LANE_BITS,
    LANE_WORK,
    LANES,
    NO_END,
    NOBODY,
    REM,
    REST,
    SIG,
    SIGN,
    STEPS,
    group_at,
    kind_at,
    lane_work_at,
    rest_at,
)
from nncjit.cabac.lane_step_kernels import CONTEXTS, LOG, N_ESCAPED, PLACE, POSITION, run_steps
from nncjit.cabac.lane_tables import (
    AT_SIG,
    BELOW_CONTEXT,
    BELOW_LANE,
    BELOW_STATE,
    ESCAPE,
    PLACE_BITS,
    STATE_BITS,
)
from nncjit.cabac.layer import Contexts
from nncjit.cabac.segment_decoder_kernels import LEVELS, place_levels
from nncjit.jit import atomic_add, field_offset, helper, kernel, load_u32, smaller, store_8, store_32
from nncjit.jit.vectors import count_ones, least, load_words, lowest_one, mask_bits, repeat, store_words_where

GROUP_SIZE, KIND_SIZE, LAYER_SIZE, REST_SIZE, SEGMENT_SIZE, STREAM_SIZE = (
    dtype.itemsize for dtype in (GROUP, KIND, LAYER, REST, SEGMENT, STREAM)
)
TAKEN, N_RESTS = field_offset(KIND, "taken"), field_offset(LANE_WORK, "n_rests")
N_BITS, LEFT, N_CODES, TOO_LARGE_AT = (field_offset(GROUP, name) for name in ("n_bits", "left", "n_codes", "too_large"))
MEANINGLESS = LANE_BITS | (128 - 60) << 4 | (2048 - 1000) << 16
"""The context of lanes whose bins mean nothing: 0 is likely."""
FAR_BEHIND = 1 << 20
"""A position behind the end of any payload that is one word long."""
SIG_OF_LAYER, SIGN_OF_LAYER, GTX_OF_LAYER = Contexts.for_unary_length(1).sig, *Contexts.for_unary_length(1)[3:5]


@helper
def empty_lane(group_address, lane):
    """A lane without a segment decodes zeros that nobody wants."""
    group = group_at(group_address)
    group.segment[lane] = 0
    group.left[lane] = NO_END
    group.n_codes[lane] = 0
    group.n_escaped[lane] = 0
    group.too_large[lane] = 0
    group.range_[lane] = 256
    group.window[lane] = 0
    group.position[lane] = FAR_BEHIND
    group.payload[lane] = 0
    group.last_word[lane] = 0
    group.n_bits[lane] = NOBODY
    group.place[lane] = AT_SIG | lane << BELOW_LANE
    for k in range(IDLE + 1):
        group.contexts[k, lane] = MEANINGLESS


@helper
def copy_contexts(group_address, lane, first, contexts, first_of_layer, count):
    """`count` initialised contexts of a layer to a lane."""
    source = contexts + CONTEXT_SIZE * first_of_layer
    at = group_address + CONTEXTS + 4 * (LANES * first + lane)
    for k in range(count):
        store_32(at + 4 * LANES * k, 0, load_u32(source + CONTEXT_SIZE * k, PACKED) | LANE_BITS)


@helper
def put_place(group_address, lane, state, place, context):
    """Set where a lane is in the binarisation."""
    word = place | state << BELOW_STATE | lane << BELOW_LANE | context << BELOW_CONTEXT
    store_32(group_address + PLACE, lane, word)


@helper
def open_lane_row(group_address, lane, row):
    """`segment_decoder_kernels.open_block_row` for a lane. Returns a fault, or FINE."""
    group = group_at(group_address)
    layer, segment = layer_at(group.layer[lane]), segment_at(group.segment[lane])
    n_rows = smaller(layer.side_rows, segment.stop_row - row)
    group.row[lane] = row
    group.n_rows[lane] = n_rows
    group.done[lane] = 0
    group.left[lane] = n_rows * layer.width
    unary_length, contexts = layer.unary_length, layer.contexts
    copy_contexts(group_address, lane, SIG, contexts, SIG_OF_LAYER, 24)
    copy_contexts(group_address, lane, SIGN, contexts, SIGN_OF_LAYER, 3)
    copy_contexts(group_address, lane, GTX, contexts, GTX_OF_LAYER, 2 * unary_length)
    copy_contexts(group_address, lane, REM, contexts, GTX_OF_LAYER + 4 * unary_length, 32)
    state = (load_u32(group_address + PLACE, lane) & STATE_BITS) >> BELOW_STATE
    put_place(group_address, lane, state, AT_SIG, SIG + 3 * state)
    if layer.restarts:
        group.range_[lane] = 256
        if np.int64(group.window[lane]) >> BELOW_V >= 256:
            return WRONG_START
    return FINE


@helper
def close_lane(group_address, lane, fault):
    """Write down where and how the lane's segment ended; the lane is empty."""
    group = group_at(group_address)
    segment = segment_at(group.segment[lane])
    segment.end_range = np.int64(group.range_[lane])
    segment.end_value = np.int64(group.window[lane]) >> BELOW_V
    segment.end_bit = np.int64(group.position[lane])
    segment.end_state = (np.int64(group.place[lane]) & STATE_BITS) >> BELOW_STATE
    segment.fault = fault
    if fault == FINE and segment.finished:
        atomic_add(segment.finished, 1)
    empty_lane(group_address, lane)


@helper
def fill_lane(work_address, kind_address, group_address, lane):
    """Let an empty lane open the next segment of the kind that nobody has taken. Returns whether there was one."""
    work, kind, group = lane_work_at(work_address), kind_at(kind_address), group_at(group_address)
    while group.segment[lane] == 0:
        k = atomic_add(kind_address + TAKEN, 1)
        if k >= kind.stop:
            return False
        segment_address = work.segments + SEGMENT_SIZE * k
        segment = segment_at(segment_address)
        layer_address = work.layers + LAYER_SIZE * segment.layer
        layer = layer_at(layer_address)
        group.segment[lane], group.layer[lane] = segment_address, layer_address
        group.payload[lane] = layer.words - work.payloads
        group.last_word[lane] = (layer.n_bits >> 3) - 4
        group.n_bits[lane] = layer.n_bits
        group.range_[lane] = segment.range_
        group.window[lane] = segment.value << BELOW_V
        group.position[lane] = segment.bit
        put_place(group_address, lane, segment.state, AT_SIG, SIG)
        fault = open_lane_row(group_address, lane, segment.first_row)
        if fault:
            close_lane(group_address, lane, fault)
    return True


@helper
def deliver_lane(group_address, lane, tables, chunk):
    """Write the elements of a lane's levels to the output; a lane at the end of its block row opens the next one or
    closes.
    """
    group = group_at(group_address)
    layer, count = layer_at(group.layer[lane]), np.int64(group.n_codes[lane])
    fits = True
    if (layer.kind == FLOAT32 or layer.kind == LEVELS_ALONE) and not layer.levels:
        place_codes(layer, group_address, lane, tables)
    else:
        levels_of_codes(group_address, lane, tables, chunk)
        fits = place_levels(layer, chunk, count, group.row[lane], group.n_rows[lane], group.done[lane])
    group.done[lane] += count
    group.n_codes[lane] = 0
    group.n_escaped[lane] = 0
    fault = FINE
    if group.too_large[lane]:
        fault = TOO_LARGE
    elif np.int64(group.position[lane]) > layer.n_bits:
        fault = TRUNCATED
    elif not fits:
        fault = OUT_OF_RANGE
    elif group.left[lane] > 0:
        return
    else:
        row = group.row[lane] + group.n_rows[lane]
        if row < segment_at(group.segment[lane]).stop_row:
            fault = open_lane_row(group_address, lane, row)
            if fault == FINE:
                return
    close_lane(group_address, lane, fault)


@helper
def end_escapes(group_address, log, tables, payloads, unary_length, dq):
    """Levels whose Exp-Golomb part is longer than vectors take, in all lanes of a group that wait for one."""
    waiting = mask_bits((load_words(group_address + PLACE) & ESCAPE) != 0)
    while waiting:
        lane = lowest_one(waiting)
        store_8(log, lane, end_escape(group_address, lane, tables, payloads, unary_length, dq))
        waiting &= waiting - 1


@helper
def run_block(group_address, kind_address, payloads, n_steps):
    """So many steps in all lanes; their codes join those of the lanes."""
    kind = kind_at(kind_address)
    tables, unary_length, dq = kind.tables, kind.unary_length, kind.dq
    done = np.int64(0)
    while done < n_steps:
        done = run_steps(group_address, tables, payloads, done, n_steps, unary_length, dq)
        end_escapes(group_address, group_address + LOG + LANES * (done - 1), tables, payloads, unary_length, dq)
    collect_codes(group_address, n_steps)


@helper
def look_after_lanes(group_address, tables, chunk):
    """After a block: deliver what is full or finished or faulty, and forget what empty lanes have decoded."""
    n_bits, position = load_words(group_address + N_BITS), load_words(group_address + POSITION)
    left, n_codes = load_words(group_address + LEFT), load_words(group_address + N_CODES)
    empty = n_bits == NOBODY
    store_words_where(group_address + LEFT, repeat(NO_END), empty)
    store_words_where(group_address + N_CODES, repeat(0), empty)
    store_words_where(group_address + N_ESCAPED, repeat(0), empty)
    store_words_where(group_address + POSITION, repeat(FAR_BEHIND), empty)
    too_large = load_words(group_address + TOO_LARGE_AT) != 0
    ready = (left == 0) | (n_codes > CODES - STEPS) | (position > n_bits) | too_large
    waiting = mask_bits(ready & ~empty)
    while waiting:
        deliver_lane(group_address, lowest_one(waiting), tables, chunk)
        waiting &= waiting - 1


@helper
def hand_over(work_address, kind_address, group_address, chunk):
    """Leave what is left in the lanes to streams: each segment at the end of a level, with all before delivered."""
    work, kind, group = lane_work_at(work_address), kind_at(kind_address), group_at(group_address)
    for lane in range(LANES):
        if group.segment[lane]:
            end_level(group_address, lane, kind.tables, work.payloads, kind.unary_length, kind.dq)
            deliver_lane(group_address, lane, kind.tables, chunk)
        if group.segment[lane]:
            rest_address = work.rests + REST_SIZE * atomic_add(work_address + N_RESTS, 1)
            rest, place = rest_at(rest_address), np.int64(group.place[lane])
            for k in range(IDLE):
                rest.contexts[k] = group.contexts[k, lane]
            rest.range_ = np.int64(group.range_[lane])
            rest.value = np.int64(group.window[lane]) >> BELOW_V
            rest.bit = np.int64(group.position[lane])
            rest.state, rest.previous = (place & STATE_BITS) >> BELOW_STATE, (place & PLACE_BITS) - AT_SIG
            rest.row, rest.n_rows, rest.done = group.row[lane], group.n_rows[lane], group.done[lane]
            segment_at(group.segment[lane]).rest = rest_address


@helper
def decode_kind(work_address, kind_address, group_address, chunk):
    """Decode segments of a kind until none is left, or too few to fill the lanes."""
    work, kind = lane_work_at(work_address), kind_at(kind_address)
    payloads, fewest, more = work.payloads, work.fewest_lanes, True
    for lane in range(LANES):
        empty_lane(group_address, lane)
    while True:
        empty = mask_bits(load_words(group_address + N_BITS) == NOBODY) & ((1 << work.most_lanes) - 1)
        while more and empty:
            more = fill_lane(work_address, kind_address, group_address, lowest_one(empty))
            empty &= empty - 1
        active = count_ones(mask_bits(load_words(group_address + N_BITS) != NOBODY))
        if not more and active < fewest:
            break
        n_steps = smaller(least(load_words(group_address + LEFT)), STEPS)
        run_block(group_address, kind_address, payloads, n_steps)
        look_after_lanes(group_address, kind.tables, chunk)
    hand_over(work_address, kind_address, group_address, chunk)


@kernel
def decode_in_lanes(work_address, worker):
    """Decode the segments of all kinds, together with the other workers.

    work_address : address of LANE_WORK[1]
    worker       : which one this is
    """
    work = lane_work_at(work_address)
    group, chunk = work.groups + GROUP_SIZE * worker, work.streams + 2 * STREAM_SIZE * worker + LEVELS
    for k in range(work.n_kinds):
        decode_kind(work_address, work.kinds + KIND_SIZE * k, group, chunk)
