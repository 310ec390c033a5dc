"""A stream: one segment of a layer while it is decoded, in a workspace of its own (spec, sections 5 and 7).

A segment is one or more block rows. It is decoded in scan order, a chunk of elements at a time, into a small array of
the workspace that stays in the first-level cache; `deliver` moves the chunk to its places in the tensor and, where
asked, turns levels into values. The bytes can say what they want: exactly the elements of the segment are written, and
the position is compared with the payload's end after each chunk.
"""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    BITS,
    DATA,
    ENGINE_SIZE,
    MODEL,
    MODELS,
    V_BIT,
    bits_read,
    enter,
    next_state,
)
from nncjit.cabac.level_decoder_kernels import context_levels, plain_levels
from nncjit.jit import (
    copy_bytes,
    helper,
    load_f32,
    load_i32,
    load_i64,
    load_u8,
    store_64,
    store_f32,
    zero_bytes,
)

# Slots of a layer's record, an int64[LAYER_FIELDS]: the payload as in a workspace; shape and coding; what stands before
# the elements; addresses of its arrays (0 for none); and what its header said.
L_DATA, L_WHOLE, L_LAST, L_BITS = range(4)
ROWS, WIDTH, SIDE_ROWS, SIDE_COLUMNS, DQ, UNARY, RESTARTS, PLAIN, CODED, FIXED_SIGN, BELOW, ABOVE = range(4, 16)
QP_BITS, PARENT, ROW_FLAGS, LISTED, N_LISTED, LISTED_HDSP, N_LISTED_HDSP, N_MODELS = range(16, 24)
FIRST_MODELS, SKIPPED, OUT, BASE, HISTORY, MACHINE, N_MACHINE, SCALED, STEP = range(24, 33)
L_SPAN, L_VALUE, L_BIT, FAULT, QP_DELTA, HDSP, SKIPS, LAYER_FIELDS = range(33, 41)

# Slots of a segment's record, an int64[SEGMENT_FIELDS]: its rows; the engine where it starts; whether it goes bin by
# bin also when it is alone (pair_kernels.py); and where and how it ended.
LAYER, FIRST_ROW, STOP_ROW, AT_SPAN, AT_VALUE, AT_BIT, AT_STATE, STEPPED = range(8)
END_SPAN, END_VALUE, END_BIT, END_STATE, END_FAULT, SEGMENT_FIELDS = range(8, 14)

FINE, TRUNCATED, WRONG_START, TOO_LARGE = range(4)
"""Faults."""

# A stream's places in its workspace, in 64-bit words. SEGMENT is the address of its segment's record, 0 for an idle
# stream, RECORD that of its layer's. The block row has N_ROWS rows from row ROW on and COUNT elements, DONE of them
# delivered. NODE: see pair_kernels.py.
SEGMENT, RECORD, ROW, N_ROWS, COUNT, DONE, MOST, SPAN, WINDOW, STATE, PREVIOUS, NODE = range(
    ENGINE_SIZE, ENGINE_SIZE + 12
)
CHUNK = 2048
"""Elements decoded between two looks at the position."""
LEVELS = ENGINE_SIZE + 12
BASES = LEVELS + CHUNK // 2
HISTORIES = BASES + CHUNK // 2
STREAM_SIZE = HISTORIES + CHUNK // 8

MAX_INT32 = (1 << 31) - 1


@helper
def open_segment(space, layer, segment):
    """Make an idle stream ready for a segment; both are addresses of records."""
    for k in range(4):
        store_64(space, DATA + k, load_i64(layer, L_DATA + k))
    store_64(space, SEGMENT, segment)
    store_64(space, RECORD, layer)
    store_64(space, STATE, load_i64(segment, AT_STATE))
    store_64(space, SPAN, load_i64(segment, AT_SPAN))
    store_64(space, WINDOW, enter(space, load_i64(segment, AT_VALUE), load_i64(segment, AT_BIT)))
    open_block_row(space, layer, segment, load_i64(segment, FIRST_ROW))


@helper
def open_block_row(space, layer, segment, row):
    """Fresh models, no previous value, a range of 256 where there are entry points. Spec, section 5, steps 3 and 4."""
    rows = min(load_i64(layer, SIDE_ROWS), load_i64(segment, STOP_ROW) - row)
    store_64(space, ROW, row)
    store_64(space, N_ROWS, rows)
    store_64(space, COUNT, rows * load_i64(layer, WIDTH))
    store_64(space, DONE, 0)
    store_64(space, MOST, 0)
    store_64(space, PREVIOUS, 0)
    store_64(space, NODE, -1)
    copy_bytes(space + MODELS, load_i64(layer, FIRST_MODELS), MODEL * load_i64(layer, N_MODELS))
    if load_i64(layer, RESTARTS):
        store_64(space, SPAN, 256)
        if load_i64(space, WINDOW) >> V_BIT >= 256:
            close_segment(space, WRONG_START)
    elif rows * load_i64(layer, WIDTH) == 0:
        close_segment(space, FINE)


@helper
def close_segment(space, fault):
    """Write down where and how the segment ended; the stream is idle."""
    segment, window = load_i64(space, SEGMENT), load_i64(space, WINDOW)
    store_64(segment, END_SPAN, load_i64(space, SPAN))
    store_64(segment, END_VALUE, window >> V_BIT)
    store_64(segment, END_BIT, bits_read(space, window))
    store_64(segment, END_STATE, load_i64(space, STATE))
    store_64(segment, END_FAULT, fault)
    store_64(space, SEGMENT, 0)


@helper
def locate(space, layer, k):
    """Where the k-th element of the block row stands, in scan order. Spec, section 7.

    Returns its row in the block row, the first column of its block, its column in the block, and the block's width.
    """
    width, side, rows = load_i64(layer, WIDTH), load_i64(layer, SIDE_COLUMNS), load_i64(space, N_ROWS)
    left = k // (rows * side) * side
    columns = min(side, width - left)
    row = (k - left * rows) // columns
    return row, left, k - left * rows - row * columns, columns


@helper
def gather_context(space, layer, count):
    """Base levels and history of the next `count` elements, in scan order, to BASES and HISTORIES."""
    base, history = load_i64(layer, BASE), load_i64(layer, HISTORY) if load_i64(layer, HDSP) else np.int64(0)
    if base == 0:
        zero_bytes(space + 8 * BASES, 4 * count)
    if history == 0:
        zero_bytes(space + 8 * HISTORIES, count)
    width, rows = load_i64(layer, WIDTH), load_i64(space, N_ROWS)
    row, left, column, columns = locate(space, layer, load_i64(space, DONE))
    done = np.int64(0)
    while done < count:
        index, run = (load_i64(space, ROW) + row) * width + left + column, min(columns - column, count - done)
        if base:
            copy_bytes(space + 8 * BASES + 4 * done, base + 4 * index, 4 * run)
        if history:
            copy_bytes(space + 8 * HISTORIES + done, history + index, run)
        done += run
        row += 1
        column = np.int64(0)
        if row == rows:
            row = np.int64(0)
            left += columns
            columns = min(columns, width - left)


@helper
def deliver(space, layer, count):
    """`count` more levels are decoded: move them to their places, scaled if asked, and look at the position.

    Then the stream goes on to the next block row, or closes its segment.
    """
    out, scaled, step = load_i64(layer, OUT), load_i64(layer, SCALED), load_f32(layer, 2 * STEP)
    width, rows = load_i64(layer, WIDTH), load_i64(space, N_ROWS)
    row, left, column, columns = locate(space, layer, load_i64(space, DONE))
    done, levels = load_i64(space, DONE) + count, space + 8 * LEVELS
    stop = levels + 4 * count
    while levels < stop:
        index, run = (load_i64(space, ROW) + row) * width + left + column, min(columns - column, (stop - levels) >> 2)
        if scaled:
            for i in range(run):
                store_f32(out, index + i, step * np.float32(load_i32(levels, i)))
        else:
            copy_bytes(out + 4 * index, levels, 4 * run)
        levels += 4 * run
        row += 1
        column = np.int64(0)
        if row == rows:
            row = np.int64(0)
            left += columns
            columns = min(columns, width - left)
    store_64(space, DONE, done)
    segment = load_i64(space, SEGMENT)
    if load_i64(space, MOST) > MAX_INT32 >> load_i64(layer, DQ):
        close_segment(space, TOO_LARGE)
    elif bits_read(space, load_i64(space, WINDOW)) > load_i64(space, BITS):
        close_segment(space, TRUNCATED)
    elif done == load_i64(space, COUNT):
        row = load_i64(space, ROW) + load_i64(space, N_ROWS)
        if row < load_i64(segment, STOP_ROW):
            open_block_row(space, layer, segment, row)
        else:
            close_segment(space, FINE)


@helper
def solo_chunk(space):
    """Decode and deliver the next chunk of one stream, level by level."""
    layer, levels = load_i64(space, RECORD), space + 8 * LEVELS
    unary_length, dq, coded = load_i64(layer, UNARY), load_i64(layer, DQ), load_i64(layer, CODED)
    state, previous, most = load_i64(space, STATE), load_i64(space, PREVIOUS), np.int64(0)
    span, window = load_i64(space, SPAN), load_i64(space, WINDOW)
    count = min(CHUNK, load_i64(space, COUNT) - load_i64(space, DONE))
    if load_i64(layer, SKIPS):
        row, _left, column, columns = locate(space, layer, load_i64(space, DONE))
        count = min(count, columns - column)
        if load_u8(load_i64(layer, SKIPPED), load_i64(space, ROW) + row):
            coded = np.int64(0)
            if dq and column == 0:
                for _ in range(load_i64(layer, WIDTH) & 3):  # four zeros lead back to the same state
                    state = next_state(space, state, 0)
    if coded == 0:
        zero_bytes(levels, 4 * count)
    elif load_i64(layer, PLAIN) and load_i64(layer, HDSP) == 0:
        state, previous, most, span, window = plain_levels(
            space, unary_length, dq, count, levels, state, previous, span, window
        )
    else:
        gather_context(space, layer, count)
        state, previous, most, span, window = context_levels(
            space,
            unary_length,
            dq,
            load_i64(layer, FIXED_SIGN),
            load_i64(layer, BELOW),
            load_i64(layer, ABOVE),
            space + 8 * BASES,
            space + 8 * HISTORIES,
            count,
            levels,
            state,
            previous,
            span,
            window,
        )
    store_64(space, SPAN, span)
    store_64(space, WINDOW, window)
    store_64(space, STATE, state)
    store_64(space, PREVIOUS, previous)
    store_64(space, MOST, most)
    deliver(space, layer, count)
