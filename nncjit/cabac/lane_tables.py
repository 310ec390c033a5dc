"""The binarisation of levels as tables of 32 words, for decoding and encoding in lanes (spec, sections 4 to 6).

A *place* says which bin comes next: 1 for the sign; 3 for significance, by sign class of the previous value; then
``2 * j + negative`` for the bins "greater than j"; then 6 for the Exp-Golomb prefix. The *place word* of a lane::

    bits 0..4   place                             bit 11      ESCAPE: a prefix has ended, the lane waits
    bits 5..7   state of the quantiser            bit 12      ENDS: (in entries only) a level ends here
    bits 8, 9   (in entries only) NEXT            bits 16..19 number of the lane
    bit 10      NEGATIVE: in a prefix, the sign   bits 20..   index of the context

So ``word >> 16`` is where the lane's context is among those of a group. A bin keeps the bits of KEPT. After a bin 1
the word becomes ``one[place] | kept``. After a bin 0 it becomes ``t + next_state[t >> 5 & 31]`` for ``t = zero[place] |
kept``: NEXT is 0 after an even value, 1 after an odd one, and 2 where no value has ended; `next_state` also moves the
context to those of the new state. ESCAPE with a place of a prefix: that many bins 1 (0 to 5) came before the 0. ESCAPE
with the place of a sign: six bins 1, the prefix is not at its end.

The *code* of a level is the low byte of the place word that it ended with, never 0, since no level ends with its sign.
`ESCAPED_CODE` stands for a level with an Exp-Golomb part, which is kept elsewhere.
"""

from functools import lru_cache

import numpy as np

from nncjit.cabac.lane_records import GTX, IDLE, LONGEST_UNARY, PLACES, REM, SIG, SIGN
from nncjit.cabac.tables import DQ_NEXT_STATE, RANGE_LPS, UPDATE_CURVE
from nncjit.jit import record_view

NEGATIVE, ESCAPE, ENDS = 1 << 10, 1 << 11, 1 << 12
AT_SIGN, AT_SIG, AT_GTX, AT_REM = 0, 1, 4, 4 + 2 * LONGEST_UNARY
"""Where each family of places begins."""
PREFIX_PLACES = PLACES - AT_REM
"""Bins of an Exp-Golomb prefix that have a place."""
ESCAPED_CODE = AT_REM
PLACE_BITS, BELOW_STATE, BELOW_NEXT, BELOW_LANE, BELOW_CONTEXT = 31, 5, 8, 16, 20
STATE_BITS = 7 << BELOW_STATE
KEPT = STATE_BITS | NEGATIVE | 15 << BELOW_LANE

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
    """The word of a place, in state 0 and lane 0."""
    return place | flags | context << BELOW_CONTEXT


@lru_cache(maxsize=32)
def tables_of(unary_length: int, dq: int) -> np.ndarray:
    """The tables of a kind: TABLES[1]."""
    tables = np.zeros(1, TABLES)
    zero, one, next_state = (tables[name][0] for name in ("zero", "one", "next_state"))
    for state in range(8):
        for odd in range(2):
            after = int(DQ_NEXT_STATE[state, odd]) * dq
            change = (after - state << BELOW_STATE) + (3 * after << BELOW_CONTEXT)
            next_state[state + 8 * odd] = change & 0xFFFFFFFF
    for previous in range(3):
        zero[AT_SIG + previous] = place_word(AT_SIG, SIG, ENDS)
        one[AT_SIG + previous] = place_word(AT_SIGN, SIGN + previous)
    zero[AT_SIGN] = place_word(AT_GTX, GTX, 2 << BELOW_NEXT)
    one[AT_SIGN] = place_word(AT_GTX + 1, GTX + 1)
    for j in range(unary_length):
        for negative in range(2):
            at, previous = 2 * j + negative, 2 - negative
            odd = (j + 1 & 1) << BELOW_NEXT
            zero[AT_GTX + at] = place_word(AT_SIG + previous, SIG + previous, ENDS | odd)
            more = place_word(AT_GTX + at + 2, GTX + at + 2)
            last = place_word(AT_REM, REM, NEGATIVE * negative)
            one[AT_GTX + at] = last if j == unary_length - 1 else more
            sign = 1 - 2 * negative
            tables["levels"][0, AT_GTX + at] = sign * (j + 1) << dq
            tables["odd"][0, AT_GTX + at] = sign * dq
    for j in range(PREFIX_PLACES):
        zero[AT_REM + j] = place_word(AT_REM + j, IDLE, ESCAPE | 2 << BELOW_NEXT)
        one[AT_REM + j] = place_word(AT_REM + j + 1, REM + j + 1)
    one[PLACES - 1] = place_word(AT_SIGN, IDLE, ESCAPE)
    tables["curve"] = UPDATE_CURVE
    tables["lps_widths"] = (RANGE_LPS[32:].view(np.uint64) >> np.uint64(56)) << np.uint64(8)
    tables.flags.writeable = False
    return tables
