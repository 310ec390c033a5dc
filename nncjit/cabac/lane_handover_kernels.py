"""A stream goes on with the segment that a lane has left half decoded, at the end of a level (spec, section 5)."""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import CONTEXT_SIZE, enter, set_context
from nncjit.cabac.decoder_records import layer_at, segment_at, stream_at
from nncjit.cabac.lane_records import GTX, LANE_BITS, REM, SIG, SIGN, rest_at
from nncjit.cabac.level_decoder_kernels import GTX as GTX_OF_STREAM
from nncjit.cabac.level_decoder_kernels import SIG as SIG_OF_STREAM
from nncjit.cabac.level_decoder_kernels import SIGN as SIGN_OF_STREAM
from nncjit.jit import helper

BITS_OF_STREAM = 0xFFFFFFFF - LANE_BITS
"""Of a lane's context."""


@helper
def resume_contexts(space, rest, first, at, count):
    """`count` contexts of a lane to a stream; `at` is where they begin in it, in bytes."""
    for k in range(count):
        set_context(space, space + at + CONTEXT_SIZE * k, np.int64(rest.contexts[first + k]) & BITS_OF_STREAM)


@helper
def resume_segment(space, layer_address, segment_address):
    """Make an idle stream ready for the rest of a segment."""
    stream, layer, segment = stream_at(space), layer_at(layer_address), segment_at(segment_address)
    rest = rest_at(segment.rest)
    stream.words, stream.n_words = layer.words, layer.n_words
    stream.last_word, stream.n_bits = layer.last_word, layer.n_bits
    stream.segment, stream.layer = segment_address, layer_address
    stream.row, stream.n_rows, stream.done = rest.row, rest.n_rows, rest.done
    stream.count = stream.n_rows * layer.width
    stream.greatest = 0
    stream.state, stream.previous = rest.state, rest.previous
    stream.node = -1
    stream.range_ = rest.range_
    stream.window = enter(space, rest.value, rest.bit)
    unary_length = layer.unary_length
    resume_contexts(space, rest, SIG, SIG_OF_STREAM, 24)
    resume_contexts(space, rest, SIGN, SIGN_OF_STREAM, 3)
    resume_contexts(space, rest, GTX, GTX_OF_STREAM, 2 * unary_length)
    resume_contexts(space, rest, REM, GTX_OF_STREAM + 4 * unary_length * CONTEXT_SIZE, 32)
