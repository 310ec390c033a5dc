"""Segments with contexts of updates, or with a bounded codebook but no state machine for it (spec, section 5).

Most streams have none, so this is a kernel of its own, compiled when a stream needs it. Such segments are decoded one
at a time, level by level.
"""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    CONTEXT_SIZE,
    decode_bin,
    decode_even_bin,
    next_state,
)
from nncjit.cabac.decoder_records import STREAM, layer_at, stream_at, work_at
from nncjit.cabac.level_decoder_kernels import GTX, SIG, SIG_HISTORY, SIG_TEMPORAL, SIGN, rest_of_level
from nncjit.cabac.payload_decoder_kernels import STREAM_SIZE, TAKEN_SINGLE, take
from nncjit.cabac.segment_decoder_kernels import LEVELS, begin_chunk, finish_levels, locate
from nncjit.jit import (
    copy_bytes,
    field_offset,
    helper,
    kernel,
    larger,
    load_i32,
    load_u8,
    smaller,
    store_32,
    zero_bytes,
)

BASE_LEVELS, HISTORY = (field_offset(STREAM, name) for name in ("base_chunk", "history_chunk"))
"""Where these chunks begin in a stream, in bytes."""


@helper
def gather_context(space, count):
    """Base levels and history of the next `count` elements, in scan order, to the stream's chunk."""
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    base, history = layer.base_levels, layer.history if layer.hdsp else np.int64(0)
    if base == 0:
        zero_bytes(space + BASE_LEVELS, 4 * count)
    if history == 0:
        zero_bytes(space + HISTORY, count)
    width, rows = layer.width, stream.n_rows
    row, left, column, columns = locate(layer, stream.n_rows, stream.done)
    done = np.int64(0)
    while done < count:
        index, run = (stream.row + row) * width + left + column, smaller(columns - column, count - done)
        if base:
            copy_bytes(space + BASE_LEVELS + 4 * done, base + 4 * index, 4 * run)
        if history:
            copy_bytes(space + HISTORY + done, history + index, run)
        done += run
        row += 1
        column = np.int64(0)
        if row == rows:
            row = np.int64(0)
            left += columns
            columns = smaller(columns, width - left)


@helper
def context_levels(
    space,
    unary_length,
    dq,
    fixed_sign,
    below,
    above,
    bases,
    histories,
    count,
    target,
    state,
    previous,
    range_,
    window,
):
    """`level_decoder_kernels.plain_levels` with all that a layer can have. Spec, sections 5 and 6.

    fixed_sign   : -1 where signs are coded, else 0 (positive) or 1 (negative)
    below, above : bounds of the magnitude of negative and positive values, UNBOUNDED without codebook
    bases        : address of int32[count], the base levels; zeros where base levels choose no contexts
    histories    : address of uint8[count], 1 where an earlier update was not zero; zeros without history
    """
    most = np.int64(0)
    gtx, gtx_temporal = space + GTX, space + GTX + 2 * CONTEXT_SIZE * unary_length
    rem = space + GTX + 4 * CONTEXT_SIZE * unary_length
    for k in range(count):
        base = load_i32(bases, k)
        size = abs(base)
        context = space + SIG + CONTEXT_SIZE * (3 * state + previous)
        if load_u8(histories, k):
            context = space + SIG_HISTORY + CONTEXT_SIZE * state
        elif size > 0:
            context = space + SIG_TEMPORAL + CONTEXT_SIZE * (2 * state + (1 if size > 1 else 0))
        level = np.int64(0)
        bin, range_, window = decode_bin(space, context, range_, window)
        if bin:
            negative = fixed_sign
            if fixed_sign < 0:
                context = space + SIGN + CONTEXT_SIZE * (previous if size == 0 else 3 + (1 if base > 0 else 0))
                negative, range_, window = decode_even_bin(space, context, range_, window)
            previous = 2 - negative
            bound = below if negative else above
            level = np.int64(1)
            j = np.int64(0)
            while bin and j < unary_length and level < bound:
                context = gtx + CONTEXT_SIZE * (2 * j + negative)
                if size > 0:
                    context = gtx_temporal + CONTEXT_SIZE * (2 * j + (0 if size >= j else 1))
                bin, range_, window = decode_bin(space, context, range_, window)
                level += bin
                j += 1
            if bin and level < bound:
                level, range_, window = rest_of_level(space, rem, bound, level, range_, window)
                most = larger(most, level)
            if dq:
                after = next_state(space, state, level)
                level = 2 * level - (state & 1)
                state = after
            level = (level ^ -negative) + negative
        else:
            previous = np.int64(0)
            if dq:
                state = next_state(space, state, 0)
        store_32(target, k, level)
    return state, previous, most, range_, window


@helper
def context_chunk(space):
    """Decode and deliver the next chunk of a stream."""
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    count, coded = begin_chunk(space)
    state, previous, greatest = stream.state, stream.previous, np.int64(0)
    range_, window = stream.range_, stream.window
    if coded:
        gather_context(space, count)
        state, previous, greatest, range_, window = context_levels(
            space,
            layer.unary_length,
            layer.dq,
            layer.fixed_sign,
            layer.below,
            layer.above,
            space + BASE_LEVELS,
            space + HISTORY,
            count,
            space + LEVELS,
            state,
            previous,
            range_,
            window,
        )
    finish_levels(space, count, state, previous, greatest, range_, window)


@kernel
def decode_context_share(work_address, worker):
    """Take segments and decode them until none is left. Arguments as in `payload_decoder_kernels.decode_share`."""
    work = work_at(work_address)
    space = work.streams + 2 * STREAM_SIZE * worker
    stream = stream_at(space)
    while True:
        take(space, work_address, TAKEN_SINGLE, work.n_single)
        if stream.segment == 0:
            break
        while stream.segment:
            context_chunk(space)
