"""The numbers of the standard (``tables.json``) and the packed forms that the kernels read.

A context is two estimators, s0 (8 bits) and s1 (12 bits), with shifts h0 and h1 (spec, section 4). Kernels
keep it in one 32-bit word so that an update is two table loads and two additions, without signs or variable shifts::

    word = (s0 + 128) << 4 | (h0 - 4) << 13 | (s1 + 2048) << 16 | (h1 - 4) << 29

With t = word for a bin 1 and t = word + ZERO_BIAS for a bin 0 (the bias turns floor into ceiling):

* ``(t >> 7) & 255`` and ``t >> 23`` index FAST and SLOW, the signed and pre-shifted changes of s0 and s1 (second half
  of each: bin 1);
* ``p = ((word + (word >> 16)) >> 7) & 63`` is the probability class: bit 5 of p is the more probable symbol,
  and ``RANGE_LPS[p] >> ((range >> 2) & 0x38) & 255`` the width of the less probable one;
* ``((word + (word >> 16)) >> 3) & 1023`` indexes BIN_COST.
"""

import json
from importlib import resources

import numpy as np

_SPEC = json.loads(resources.files("nncjit.cabac").joinpath("tables.json").read_text(encoding="utf-8"))

INITIALISATION_COUNT = 9
"""Number of ways in which a context can be initialised."""

ZERO_BIAS = (127 << 16) + (7 << 4)


def _initial_words() -> np.ndarray:
    words = [
        (s0 + 128) << 4 | h0 << 13 | (t - 16 * s0 + 2048) << 16 | (h1 - 4) << 29
        for h0, h1, t, s0 in _SPEC["context_init"]
    ]
    return np.array(words, np.uint32)


def _update_tables() -> tuple[np.ndarray, np.ndarray]:
    fast, slow = np.zeros(512, np.int32), np.zeros(512, np.int32)
    curve = _SPEC["delta"]
    for shift in range(4):
        for k in range(33):
            up, down = curve[min(k, 31)] >> (shift + 4), curve[min(32 - k, 31)] >> (shift + 4)
            fast[256 + shift * 64 + k], fast[shift * 64 + k] = up << 4, -(down << 4)
            slow[256 + shift * 64 + k], slow[shift * 64 + k] = up << 16, -(down << 16)
    return fast, slow


def _range_words() -> np.ndarray:
    """int64[64]: for each probability class the eight widths, one byte for each value of range >> 5 & 7."""
    words = np.zeros(64, np.int64)
    for p in range(64):
        row = min(abs(p - 32), 31)
        words[p] = np.uint64(sum(_SPEC["rlps"][quarter][row] << (8 * quarter) for quarter in range(8))).view(np.int64)
    return words


INITIAL_WORDS = _initial_words()
UPDATE_CURVE = np.array(_SPEC["delta"], np.uint16)
"""uint16[32]: change of an estimator by its distance from the end, before it is shifted (spec, section 4)."""
FAST, SLOW = _update_tables()
RANGE_LPS = _range_words()
BIN_COST = np.ascontiguousarray(np.array(_SPEC["bits_q15"], np.int32).reshape(-1, 2))
"""int32[1024, 2]: cost of a bin 0 and of a bin 1 in units of 2^-15 bit, by 512 + (t >> 3)."""
DQ_NEXT_STATE = np.array(_SPEC["dq_next_state"], np.int64)
"""int64[8, 2]: next quantiser state by state and parity of the coded value (spec, section 6)."""
