"""The binarisation of levels as tables of 32 words, for decoding in lanes (spec, sections 4 to 6).

A *place* says which bin comes next: 3 for the sign and 3 for significance, by sign class of the previous value; then
``2 * j + negative`` for the bins "greater than j"; then 4 for the Exp-Golomb prefix. The *place word* of a lane::

    bits 0..2   state of the quantiser            bit 10      NEGATIVE: in a prefix, the level's sign
    bits 3..7   place                             bit 11      ESCAPE: a prefix has ended, the lane waits
    bits 8, 9   (in entries only) NEXT            bit 12      ENDS: (in entries only) a level ends here
    bits 16..   16 * index of the context

After a bin 1 it becomes ``one[place] | state and NEGATIVE``. After a bin 0 it becomes ``(zero[place] | NEGATIVE) +
next_state[8 * NEXT + state]``: NEXT is 0 after an even value, 1 after an odd one, and 2 where no value has ended;
`next_state` also holds the offset of the contexts of significance. ESCAPE with a place of a prefix: that many bins 1
(0 to 3) came before the 0. ESCAPE with place 0: four bins 1, the prefix is not at its end.

The *code* of a level is the low byte of the place word that it ended with, never 0. Places of the sign cannot end a
level: `ESCAPED_CODE` stands for a level with an Exp-Golomb part, which is kept elsewhere.
"""

from functools import lru_cache

import numpy as np

from nncjit.cabac.lane_records import GTX, IDLE, LONGEST_UNARY, PLACES, REM, SIG, SIGN
from nncjit.cabac.tables import DQ_NEXT_STATE, RANGE_LPS, UPDATE_CURVE
from nncjit.jit import record_view

NEGATIVE, ESCAPE, ENDS = 1 << 10, 1 << 11, 1 << 12
AT_SIGN, AT_SIG, AT_GTX, AT_REM = 0, 3, 6, 6 + 2 * LONGEST_UNARY
"""Where each family of places begins."""
ESCAPED_CODE = 1 << 3
STATE_BITS, PLACE_BITS = 7, 31 << 3

TABLES = np.dtype(
    [
        ("zero", "u4", PLACES),
        ("one", "u4", PLACES),
        ("next_state", "u4", PLACES),
        ("curve", "u2", PLACES),  # of an estimator's change, see the step
        ("lps_widths", "u2", PLACES),  # by distance from the even class: width of the less probable symbol << 8
        ("levels", "i4", PLACES),  # by place: the level in an even state
        ("odd", "i4", PLACES),  # what an odd state takes away from it
    ]
)
tables_at = record_view(TABLES)


def place_word(place: int, context: int, flags: int = 0) -> int:
    """The word of a place, in state 0."""
    return place << 3 | flags | 16 * context << 16


@lru_cache(maxsize=32)
def tables_of(unary_length: int, dq: int) -> np.ndarray:
    """The tables of a kind: TABLES[1]."""
    tables = np.zeros(1, TABLES)
    zero, one, next_state = (tables[name][0] for name in ("zero", "one", "next_state"))
    for state in range(8):
        for odd in range(2):
            after = int(DQ_NEXT_STATE[state, odd]) * dq
            next_state[state + 8 * odd] = after | 16 * 3 * after << 16
        next_state[state + 16] = state
    for previous in range(3):
        zero[AT_SIG + previous] = place_word(AT_SIG, SIG, ENDS)
        one[AT_SIG + previous] = place_word(AT_SIGN + previous, SIGN + previous)
        zero[AT_SIGN + previous] = place_word(AT_GTX, GTX, 2 << 8)
        one[AT_SIGN + previous] = place_word(AT_GTX + 1, GTX + 1)
    for j in range(unary_length):
        for negative in range(2):
            at, previous = 2 * j + negative, 2 - negative
            zero[AT_GTX + at] = place_word(AT_SIG + previous, SIG + previous, ENDS | (j + 1 & 1) << 8)
            more = place_word(AT_GTX + at + 2, GTX + at + 2)
            last = place_word(AT_REM, REM, NEGATIVE * negative)
            one[AT_GTX + at] = last if j == unary_length - 1 else more
            sign = 1 - 2 * negative
            tables["levels"][0, AT_GTX + at] = sign * (j + 1) << dq
            tables["odd"][0, AT_GTX + at] = sign * dq
    for j in range(4):
        zero[AT_REM + j] = place_word(AT_REM + j, IDLE, ESCAPE | 2 << 8)
        one[AT_REM + j] = place_word(0, IDLE, ESCAPE) if j == 3 else place_word(AT_REM + j + 1, REM + j + 1)
    tables["curve"] = UPDATE_CURVE
    tables["lps_widths"] = (RANGE_LPS[32:].view(np.uint64) >> np.uint64(56)) << np.uint64(8)
    tables.flags.writeable = False
    return tables
