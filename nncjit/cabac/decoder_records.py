"""The records that the decoder's kernels work on, each declared once.

A *layer* is coded in one or more *segments*, which can be decoded side by side: one for each block row where there are
entry points, else one for the whole layer. A *stream* is the workspace in which one segment is decoded; each worker has
two. `WORK` is what all workers share. The wrapper fills the records; an int64 field named after an array or a record
holds its address, 0 for none.
"""

import numpy as np

from nncjit.cabac.layer import MAX_UNARY_LENGTH, Contexts
from nncjit.jit import record_view

CHUNK = 2048
"""Elements decoded between two looks at the position."""
LONGEST_UNARY = 32
"""Layers with a greater unary length have no state machine."""
NODES = 6 + 2 * LONGEST_UNARY
"""Nodes that each state of the largest state machine has."""

CONTEXT = np.dtype(
    [
        ("lps_ranges", "i8"),  # ranges of the less probable symbol: the word of RANGE_LPS for this context
        ("word", "u4"),  # the packed context, see cabac/tables.py
        ("symbol", "u4"),  # the more probable symbol
    ]
)
"""A context. `lps_ranges` alone decides the next bin, so it is ready beforehand."""

ENTRY = np.dtype([("node", "u2"), ("context", "u2"), ("level", "i2"), ("ends", "u1"), ("escapes", "u1")])
"""An entry of the state machine (pair_decoder_kernels.py). `node` is the index of the next node's entry for bin 0; that
for bin 1 follows it. `context` is the offset of its context in a stream, in bytes. `ends` is 4 where a level ends, the
bytes that it takes. `escapes` is 1 where an Exp-Golomb part follows, and `node` is then 2 * state + negative."""

LAYER = np.dtype(
    [
        # the payload: its 32-bit words, those left over as one more with zeros behind, its length in bits
        ("words", "i8"),
        ("n_words", "i8"),
        ("last_word", "i8"),
        ("n_bits", "i8"),
        # shape, and the sides of a block
        ("rows", "i8"),
        ("width", "i8"),
        ("side_rows", "i8"),
        ("side_columns", "i8"),
        # coding
        ("dq", "i8"),
        ("unary_length", "i8"),
        ("restarts", "i8"),  # 1: the range is set to 256 where a block row begins
        ("plain", "i8"),  # 1: neither base levels nor a codebook decide how a level is coded
        ("coded", "i8"),  # 0: all levels are 0 and take no bins
        ("fixed_sign", "i8"),  # -1 where signs are coded, else 0 (positive) or 1 (negative)
        ("below", "i8"),  # bounds of the magnitude of negative and of positive values
        ("above", "i8"),
        ("base_levels", "i8"),  # int32[rows * width], raster order
        ("history", "i8"),  # uint8[rows * width]: 1 where an earlier update was not zero, raster order
        ("machine", "i8"),  # ENTRY[..]: the state machine
        ("machine_bytes", "i8"),
        # the header
        ("qp_bits", "i8"),
        ("parent", "i8"),
        ("has_row_flags", "i8"),
        ("signalled", "i8"),  # int64[n_signalled]: indices of the signalled contexts
        ("n_signalled", "i8"),
        ("signalled_hdsp", "i8"),  # the same for hdsp_flag 1
        ("n_signalled_hdsp", "i8"),
        ("contexts", "i8"),  # CONTEXT[n_contexts]: as they are initialised
        ("n_contexts", "i8"),
        ("skipped", "i8"),  # uint8[rows]: 1 for a row that is not coded
        # where the levels go, see delivery_kernels.py
        ("kind", "i8"),
        ("out", "i8"),  # the output, raster order, from row `out_row` on
        ("out_row", "i8"),
        ("item_size", "i8"),
        ("levels", "i8"),  # int32[..]: the levels themselves, placed like `out`
        ("lowest", "i8"),
        ("highest", "i8"),
        ("table", "i8"),
        ("step", "f8"),  # a float32
        # the arithmetic decoder, before the header and then behind it
        ("range_", "i8"),
        ("value", "i8"),
        ("bit", "i8"),
        # what the header says
        ("fault", "i8"),
        ("qp_delta", "i8"),
        ("hdsp", "i8"),
        ("n_skipped", "i8"),  # rows; NNCodec sets row_skip_flag also where it skips none
    ]
)

SEGMENT = np.dtype(
    [
        ("layer", "i8"),  # index of its layer
        ("first_row", "i8"),
        ("stop_row", "i8"),
        # the arithmetic decoder and the quantiser where the segment begins
        ("range_", "i8"),
        ("value", "i8"),
        ("bit", "i8"),
        ("state", "i8"),
        # the same where the next segment of the layer begins; -1 for the last
        ("next_value", "i8"),
        ("next_bit", "i8"),
        ("next_state", "i8"),
        ("stepped", "i8"),  # 1: alone, too, it is decoded by the state machine
        ("finished", "i8"),  # int64[1], or 0: counts up when the segment's elements are all in the output
        ("rest", "i8"),  # REST[1] of lane_records.py, if a lane has left the segment half decoded
        # where and how decoding ended
        ("end_range", "i8"),
        ("end_value", "i8"),
        ("end_bit", "i8"),
        ("end_state", "i8"),
        ("fault", "i8"),
    ]
)

FINE, TRUNCATED, WRONG_START, TOO_LARGE, OUT_OF_RANGE = range(5)
"""Faults."""

STREAM = np.dtype(
    [
        # tables
        ("lps_ranges", "i8", 64),  # RANGE_LPS
        ("fast_down", "u4", 256),  # magnitudes of FAST and SLOW, subtracted for a bin 0 and added for a bin 1
        ("fast_up", "u4", 256),
        ("slow_down", "u4", 256),
        ("slow_up", "u4", 256),
        ("next_state", "i8", (8, 2)),  # DQ_NEXT_STATE
        ("initial_words", "u4", 10),  # INITIAL_WORDS, and one of padding
        # the payload as in LAYER, and the index of the word that is read next
        ("words", "i8"),
        ("n_words", "i8"),
        ("last_word", "i8"),
        ("n_bits", "i8"),
        ("next_word", "i8"),
        ("contexts", CONTEXT, Contexts.for_unary_length(MAX_UNARY_LENGTH).total),
        # the segment and its layer; `segment` is 0 while the stream is idle
        ("segment", "i8"),
        ("layer", "i8"),
        # the block row: `n_rows` rows from `row` on, `count` elements, of which `done` are delivered
        ("row", "i8"),
        ("n_rows", "i8"),
        ("count", "i8"),
        ("done", "i8"),
        ("greatest", "i8"),  # greatest magnitude of a value with an Exp-Golomb part
        # the arithmetic decoder, see arithmetic_decoder_kernels.py, and the quantiser
        ("range_", "i8"),
        ("window", "i8"),
        ("state", "i8"),
        ("previous", "i8"),  # class of the value before: 0 zero, 1 negative, 2 positive
        # a chunk of elements in scan order
        ("chunk", "i4", CHUNK),
        ("base_chunk", "i4", CHUNK),
        ("history_chunk", "u1", CHUNK),
        # the state machine: its node, -1 between two levels, where `state` and `previous` hold; the offset of the
        # node's context in the stream; the table that was copied to `entries`
        ("node", "i8"),
        ("node_context", "i8"),
        ("machine", "i8"),
        ("entries", ENTRY, 8 * NODES * 2),
    ]
)

WORK = np.dtype(
    [
        ("streams", "i8"),  # STREAM[workers, 2]
        ("layers", "i8"),  # LAYER[..]
        ("segments", "i8"),  # SEGMENT[n_all]: first those to be decoded one at a time, then those in pairs
        ("n_single", "i8"),
        ("n_all", "i8"),
        ("taken_single", "i8"),  # segments taken of the first `n_single`, and of all; `n_single` at the start
        ("taken_paired", "i8"),
        ("workers", "i8"),
    ]
)

context_at, entry_at, layer_at, segment_at, stream_at, work_at = map(
    record_view, (CONTEXT, ENTRY, LAYER, SEGMENT, STREAM, WORK)
)
"""How a kernel sees the record at an address."""
