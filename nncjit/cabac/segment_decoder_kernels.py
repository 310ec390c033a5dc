"""A stream: one segment of a layer while it is decoded, in a workspace of its own (spec, sections 5 and 7).

A segment is one or more block rows. It is decoded in scan order, a chunk of elements at a time, into a small array of
the workspace that stays in the first-level cache; `deliver` moves the chunk to its places in the tensor. The bytes can
say what they want: exactly the elements of the segment are written, and the position is compared with the payload's end
after each chunk.
"""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import CONTEXT_SIZE, CONTEXTS, V_BIT, bits_read, enter, next_state
from nncjit.cabac.decoder_records import (
    CHUNK,
    FINE,
    OUT_OF_RANGE,
    STREAM,
    TOO_LARGE,
    TRUNCATED,
    WRONG_START,
    layer_at,
    segment_at,
    stream_at,
)
from nncjit.cabac.delivery_kernels import deliver_run
from nncjit.cabac.level_decoder_kernels import plain_levels
from nncjit.jit import atomic_add, copy_bytes, field_offset, helper, load_u8, smaller, zero_bytes

LEVELS = field_offset(STREAM, "chunk")
"""Where the chunk begins in a stream, in bytes."""

MAX_INT32 = (1 << 31) - 1


@helper
def open_segment(space, layer_address, segment_address):
    """Make an idle stream ready for a segment."""
    stream, layer, segment = stream_at(space), layer_at(layer_address), segment_at(segment_address)
    stream.words, stream.n_words = layer.words, layer.n_words
    stream.last_word, stream.n_bits = layer.last_word, layer.n_bits
    stream.segment, stream.layer = segment_address, layer_address
    stream.state, stream.range_ = segment.state, segment.range_
    stream.window = enter(space, segment.value, segment.bit)
    open_block_row(space, segment.first_row)


@helper
def open_block_row(space, row):
    """Contexts as initialised, no previous value, a range of 256 where there are entry points. Spec, section 5, steps 3
    and 4.
    """
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    stream.row = row
    stream.n_rows = smaller(layer.side_rows, segment_at(stream.segment).stop_row - row)
    stream.count = stream.n_rows * layer.width
    stream.done = 0
    stream.greatest = 0
    stream.previous = 0
    stream.node = -1
    copy_bytes(space + CONTEXTS, layer.contexts, CONTEXT_SIZE * layer.n_contexts)
    if layer.restarts:
        stream.range_ = 256
        if stream.window >> V_BIT >= 256:
            close_segment(space, WRONG_START)
    elif stream.count == 0:
        close_segment(space, FINE)


@helper
def close_segment(space, fault):
    """Write down where and how the segment ended; the stream is idle."""
    stream = stream_at(space)
    segment = segment_at(stream.segment)
    segment.end_range = stream.range_
    segment.end_value = stream.window >> V_BIT
    segment.end_bit = bits_read(space, stream.window)
    segment.end_state = stream.state
    segment.fault = fault
    if fault == FINE and segment.finished:
        atomic_add(segment.finished, 1)
    stream.segment = 0


@helper
def locate(layer, rows, k):
    """Where the k-th element of a block row of so many rows is, in scan order. Spec, section 7.

    Returns its row in the block row, the first column of its block, its column in the block, and the block's width.
    """
    side = layer.side_columns
    left = k // (rows * side) * side
    columns = smaller(side, layer.width - left)
    row = (k - left * rows) // columns
    return row, left, k - left * rows - row * columns, columns


@helper
def place_levels(layer, levels, count, first_row, rows, done):
    """Write the elements of the `count` levels that follow the first `done` of a block row to the output.

    levels          : address of int32[count], in scan order
    first_row, rows : of the block row
    Returns whether all levels are in range.
    """
    width, top, fits = layer.width, first_row - layer.out_row, True
    row, left, column, columns = locate(layer, rows, done)
    stop = levels + 4 * count
    while levels < stop:
        run = smaller(columns - column, (stop - levels) >> 2)
        fits &= deliver_run(layer, levels, run, (top + row) * width + left + column)
        levels += 4 * run
        row += 1
        column = np.int64(0)
        if row == rows:
            row = np.int64(0)
            left += columns
            columns = smaller(columns, width - left)
    return fits


@helper
def deliver(space, count):
    """`count` more levels are decoded: write their elements to the output, and look at the position.

    Then the stream goes on to the next block row, or closes its segment.
    """
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    fits = place_levels(layer, space + LEVELS, count, stream.row, stream.n_rows, stream.done)
    stream.done += count
    if stream.greatest > MAX_INT32 >> layer.dq:
        close_segment(space, TOO_LARGE)
    elif bits_read(space, stream.window) > stream.n_bits:
        close_segment(space, TRUNCATED)
    elif not fits:
        close_segment(space, OUT_OF_RANGE)
    elif stream.done == stream.count:
        row = stream.row + stream.n_rows
        if row < segment_at(stream.segment).stop_row:
            open_block_row(space, row)
        else:
            close_segment(space, FINE)


@helper
def begin_chunk(space):
    """How many levels come next, and whether they are coded. Those that are not are zeros already.

    It is a chunk at most, and where rows are skipped, levels of one row.
    """
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    count, coded = smaller(CHUNK, stream.count - stream.done), layer.coded
    if layer.n_skipped:
        row, _left, column, columns = locate(layer, stream.n_rows, stream.done)
        count = smaller(count, columns - column)
        if load_u8(layer.skipped, stream.row + row):
            coded = np.int64(0)
            if layer.dq and column == 0:
                for _ in range(layer.width & 3):  # four zeros lead back to the same state
                    stream.state = next_state(space, stream.state, 0)
    if coded == 0:
        zero_bytes(space + LEVELS, 4 * count)
    return count, coded


@helper
def finish_levels(space, count, state, previous, greatest, range_, window):
    """After `count` levels: save the stream, and deliver."""
    stream = stream_at(space)
    stream.state, stream.previous, stream.greatest = state, previous, greatest
    stream.range_, stream.window = range_, window
    deliver(space, count)


@helper
def solo_chunk(space):
    """Decode and deliver the next chunk of one stream, level by level."""
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    count, coded = begin_chunk(space)
    state, previous, greatest = stream.state, stream.previous, np.int64(0)
    range_, window = stream.range_, stream.window
    if coded:
        state, previous, greatest, range_, window = plain_levels(
            space, layer.unary_length, layer.dq, count, space + LEVELS, state, previous, range_, window
        )
    finish_levels(space, count, state, previous, greatest, range_, window)
