"""The records that decoding in lanes works on (spec, section 5), each declared once.

A *group* is the workspace of a worker's 16 lanes: a segment is decoded in each of them, all in the same vectors.
Layers with the same binarisation and quantiser are of one *kind* and share the tables; the lanes of a worker are of one
kind at a time.
"""

import numpy as np

from nncjit.jit import record_view

LANES = 16
LANE_BITS = 0x90000000
"""In the word of a context in a lane, beside those of tables.py: what makes sums signed and shifts whole."""
STEPS = 64
"""Most steps between two looks at the lanes; each step decodes a bin in every lane."""
CODES = 1024
"""A lane delivers when there may be no room for the levels of another STEPS steps."""
ROW = CODES + 64
"""Codes and escaped levels that a lane has room for: what is behind the last one may be written and read."""
LONGEST_UNARY = 11
"""Layers with a greater unary length have more places than fit the registers."""
PLACES = 32
V_BITS, BELOW_V = 0xFF800000, 23
"""Where the offset V is in a window."""
NOBODY = NO_END = 0xFFFFFFFF
"""Payload's length and elements left of a lane without a segment."""

# Contexts: where each family begins in a group; IDLE is for lanes whose bins mean nothing.
SIG, SIGN, GTX, REM = 0, 24, 27, 27 + 2 * LONGEST_UNARY
IDLE = REM + 32

GROUP = np.dtype(
    [
        # vectors, one element for each lane
        ("contexts", "u4", (IDLE + 1, LANES)),  # words as in tables.py, and LANE_BITS
        ("range_", "u4", LANES),
        ("window", "u4", LANES),  # the offset V in bits 23..31, below it bits that follow
        ("position", "u4", LANES),  # bits of the payload that have been read
        ("place", "u4", LANES),  # where a lane is in the binarisation: see lane_tables.py
        ("payload", "u4", LANES),  # where its payload begins, in bytes from the first one
        ("last_word", "u4", LANES),  # where the last four bytes of its payload begin in it
        ("n_bits", "u4", LANES),  # length of its payload, NOBODY in an empty lane
        ("left", "u4", LANES),  # elements of its block row that are still to be decoded
        ("n_codes", "u4", LANES),  # levels in `codes`
        ("n_escaped", "u4", LANES),  # levels in `escaped`
        ("too_large", "u4", LANES),  # 1: a level does not fit
        ("log", "u1", (STEPS, LANES)),  # each step: the code of the level that ended in a lane, 0 where none did
        # a lane's segment, 0 while it is empty, and its layer
        ("segment", "i8", LANES),
        ("layer", "i8", LANES),
        # its block row: `n_rows` rows from `row` on; `done` elements are delivered
        ("row", "i8", LANES),
        ("n_rows", "i8", LANES),
        ("done", "i8", LANES),
        # levels that are decoded and not delivered: codes, and in their order those that have an Exp-Golomb part
        ("codes", "u1", (LANES, ROW)),
        ("escaped", "i4", (LANES, ROW)),
    ]
)

REST = np.dtype(
    [
        ("contexts", "u4", IDLE),
        ("range_", "i8"),
        ("value", "i8"),
        ("bit", "i8"),
        ("state", "i8"),
        ("previous", "i8"),
        ("row", "i8"),
        ("n_rows", "i8"),
        ("done", "i8"),
    ]
)
"""What a lane leaves of a segment to a stream, at the end of a level."""

KIND = np.dtype(
    [
        ("tables", "i8"),  # TABLES[1]
        ("unary_length", "i8"),
        ("dq", "i8"),
        # its segments: LANE_WORK's `segments`[taken..stop] are left
        ("taken", "i8"),
        ("stop", "i8"),
    ]
)

LANE_WORK = np.dtype(
    [
        ("groups", "i8"),  # GROUP[workers]
        ("rests", "i8"),  # REST[n_rests]
        ("n_rests", "i8"),  # those that are in use
        ("streams", "i8"),  # STREAM[workers, 2]: for the chunk of levels on their way to the output
        ("layers", "i8"),  # LAYER[..]
        ("segments", "i8"),  # SEGMENT[..]: of each kind the longest first
        ("payloads", "i8"),  # address of the first payload; all begin within 2^31 bytes
        ("kinds", "i8"),  # KIND[n_kinds]
        ("n_kinds", "i8"),
        ("most_lanes", "i8"),  # lanes that a worker may use
        ("fewest_lanes", "i8"),  # with fewer and no segment left, it hands the segments over to streams
    ]
)

group_at, kind_at, lane_work_at, rest_at = map(record_view, (GROUP, KIND, LANE_WORK, REST))
"""How a kernel sees the record at an address."""
