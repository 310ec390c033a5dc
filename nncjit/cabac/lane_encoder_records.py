"""The records that encoding in lanes works on, each declared once (spec, sections 5 and 12).

A *row* is a block row, or a layer that has none: it begins with a known range, 256 or that of the codes before, and
known contexts, so it can be coded by itself from low = 0, and `arithmetic_encoder_kernels.append` joins the rows of a
layer. 16 rows are coded side by side, one in each lane of a
group; a lane whose row ends takes the next.
"""

import numpy as np

from nncjit.cabac.lane_records import IDLE, LANES
from nncjit.jit import record_view

STEPS = 255
"""Most steps between two looks at the lanes; each step codes a bin in every lane."""
ESCAPE_STEPS = 3
"""Steps after which lanes that wait are served."""
MOST_PUT = 40
"""Digits that a lane puts out, at most, for an Exp-Golomb part with a long suffix."""
MOST_DIGITS = LANES * (STEPS + STEPS // ESCAPE_STEPS + 1 + MOST_PUT) + LANES
"""Digits between two looks: one for each step and each time that waiting lanes are served, and room for a vector."""
ROOM = 2 * (STEPS + STEPS // ESCAPE_STEPS + 1 + MOST_PUT)
"""Bytes that a row writes between two looks, at most."""
FRONT = 4
"""Bytes before a row's output that are its own as well: the one before the first may be read and written."""
FULL = 4
"""Bit of a row's faults beside those of a binariser: its output is too small."""

ENCODER_GROUP = np.dtype(
    [
        # vectors, one element for each lane
        ("contexts", "u4", (IDLE + 1, LANES)),  # words as in tables.py, with bits 28 and 31 set
        ("range_", "u4", LANES),
        ("low", "u4", LANES),  # pending + WINDOW bits, and a carry
        ("pending", "u4", LANES),  # below 16 between steps
        ("place", "u4", LANES),  # where a lane is in the binarisation, see lane_tables.py; RESTS without a row
        ("value", "u4", LANES),  # magnitude of the value that is being coded
        ("following", "u4", LANES),  # the level after it
        ("pointer", "u4", LANES),  # index of that level
        ("last", "u4", LANES),  # index of the row's last level
        # masks, one bit for each lane
        ("negative", "i8"),  # the level that is being coded is negative
        ("wrong", "i8"),  # a level did not fit the quantiser's state
        # numbers of each lane
        ("row", "i8", LANES),  # address of its row, 0 without
        ("output", "i8", LANES),  # where its next digit goes
        ("too_large", "i8", LANES),  # 1: a level is beyond MAX_LEVEL
        # digits of 16 bits and a carry, with the lane in the upper byte, in the order in which they came
        ("n_digits", "i8"),
        ("digits", "u4", MOST_DIGITS),
    ]
)

LANE_ROW = np.dtype(
    [
        ("first", "i8"),  # its levels: first..stop-1 of LANE_CODING's
        ("stop", "i8"),
        ("state", "i8"),  # the quantiser's at its start, 0..7
        ("first_range", "i8"),
        ("contexts", "i8"),  # uint32[n_contexts], the words at its start
        ("piece", "i8"),  # ENCODER: output and capacity are given, all else of a piece is written
        ("end_state", "i8"),  # written: the state after it
        ("faults", "i8"),  # written
    ]
)

LANE_CODING = np.dtype(
    [
        ("groups", "i8"),  # ENCODER_GROUP[workers]
        ("tables", "i8"),  # TABLES, see lane_tables.py
        ("thresholds", "i8"),  # uint32[PLACES]: a bin is 1 where the value is greater
        ("levels", "i8"),  # the address that the rows' indices count from, as int32
        ("unary_length", "i8"),
        ("dq", "i8"),
        ("rows", "i8"),  # LANE_ROW[n_rows]
        ("n_rows", "i8"),
        ("taken", "i8"),  # rows that lanes have taken
    ]
)

encoder_group_at, lane_row_at, lane_coding_at = map(record_view, (ENCODER_GROUP, LANE_ROW, LANE_CODING))
