"""The tables that the encoder's kernels read: the arithmetic coder's, the quantiser's, and the codes of values."""

from __future__ import annotations

from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.encoder_records import (
    BINARISER,
    BYPASS,
    CODER_TABLES,
    HEAD,
    ROW_CODES,
    SHAPE_CLASS,
    SHAPE_NONZERO,
    UNBOUNDED,
)
from nncjit.cabac.layer import Contexts
from nncjit.cabac.tables import DQ_NEXT_STATE, FAST, RANGE_LPS, SLOW, ZERO_BIAS
from nncjit.jit import Table

Array = NDArray[Any]

MOST_TABLED = 63
"""Values whose codes are tabled, at most: with more of them the table would crowd the first-level cache."""


def _coder_tables() -> Array:
    """CODER_TABLES[1]."""
    tables = np.zeros(1, CODER_TABLES)
    widths = RANGE_LPS.view(np.uint8)
    shifts = 8 - np.array([int(width).bit_length() for width in widths])
    tables["lps_ranges"] = RANGE_LPS
    tables["shifted_lps_ranges"] = (widths << shifts).astype(np.uint8).view(np.int64)
    tables["fast"], tables["slow"] = FAST, SLOW
    tables["bias"] = ZERO_BIAS, 1 << 15 | 1 << 31
    return tables


def _transitions(dq: int) -> Array:
    """int64[4]: byte s of word |level| & 3 is 8 * the state after such a level in state s. Spec, section 6."""
    words = [0] * 4
    if dq:
        for low_bits in range(4):
            for state in range(8):
                value = (low_bits + (state & 1)) >> 1
                words[low_bits] |= int(8 * DQ_NEXT_STATE[state, value & 1]) << (8 * state)
    return np.array(words, np.int64)


TABLES = _coder_tables()
TRANSITIONS = (_transitions(0), _transitions(1))
"""Without and with dependent quantisation."""


@lru_cache(maxsize=64)
def blank_binariser(unary_length: int, dq: int) -> Table:
    """BINARISER[1] with all that follows from these two: bounds as without a codebook, and no arrays of a layer. Copy
    it. Spec, section 5.
    """
    at = Contexts.for_unary_length(unary_length)
    most_tabled, value_rows, unary_rows = _value_rows(at, unary_length)
    table = Table(np.zeros(1, BINARISER))
    record = table.records[0]
    record["transitions"] = table.keep(TRANSITIONS[dq])
    record["halve"] = dq
    record["unary_length"] = unary_length
    record["most_below"] = record["most_above"] = UNBOUNDED
    record["n_contexts"] = at.total
    record["sig_temporal"], record["sig_history"], record["sign"] = at.sig_temporal, at.sig_history, at.sign
    record["gtx"], record["gtx_temporal"], record["rem"] = at.gtx, at.gtx_temporal, at.rem
    record["tabled"], record["most_tabled"] = 1, most_tabled
    record["value_rows"], record["unary_rows"] = table.keep(value_rows), table.keep(unary_rows)
    record["prefix_row"] = table.keep((2 * (at.rem + np.arange(2 * ROW_CODES)) + 1).astype(np.uint16))
    return table


def _value_rows(at: Contexts, unary_length: int) -> tuple[int, Array, Array]:
    """`most_tabled`, `value_rows` and `unary_rows`, see BINARISER and the kernel `binarise_by_tables`."""
    short = takewhile(lambda v: len(_value_codes(at, unary_length, v, 0)) < ROW_CODES, range(1, MOST_TABLED + 1))
    most = max(short)
    unary_rows = np.zeros((2, unary_length + ROW_CODES), np.uint16)
    for negative in (0, 1):
        unary_rows[negative, :unary_length] = 2 * (at.gtx + 2 * np.arange(unary_length) + negative) + 1
    value_rows = np.zeros((2 * most + 3, ROW_CODES), np.uint16)
    value_rows[:, -1] = 2
    for value in range(1, most + 2):
        for negative in (0, 1):
            codes = _value_codes(at, unary_length, value, negative)
            if value > most:
                codes = [codes[0], *unary_rows[negative, : min(unary_length, HEAD)]]
            row = value_rows[most + 1 + (-value if negative else value)]
            row[: len(codes)] = codes
            row[-1] = 2 * (1 + len(codes)) | (2 - negative) << SHAPE_CLASS | 1 << SHAPE_NONZERO
    return most, value_rows, unary_rows


def _value_codes(at: Contexts, unary_length: int, value: int, negative: int) -> list[int]:
    """What a value > 0 has after its significance, for previous value 0 and without bound. Spec, section 5."""
    codes = [2 * at.sign + negative]
    codes += [2 * (at.gtx + 2 * j + negative) + (value > j + 1) for j in range(min(value, unary_length))]
    rest = value - unary_length
    if rest > 0:
        k = rest.bit_length() - 1
        codes += [2 * (at.rem + j) + (j < k) for j in range(k + 1)]
        codes += [BYPASS | k << 11 | rest - (1 << k)] * (k > 0)
    return codes
