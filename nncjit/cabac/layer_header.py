"""What precedes the elements of a layer: flags, skipped rows and context initialisations (spec, section 5, steps 1 and
2).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.encoder_records import BYPASS, BYPASS_BITS, LIST_END
from nncjit.cabac.layer import Contexts, Layer

Array = NDArray[Any]


def bypass_codes(value: int, n_bits: int) -> Array:
    """The codes of an unsigned number of n bits in bypass bins: uint16[any], without the list's end."""
    codes = []
    while n_bits > 0:
        n = min(n_bits, BYPASS_BITS)
        n_bits -= n
        codes.append(BYPASS | n << 11 | value >> n_bits & (1 << n) - 1)
    return np.array(codes, np.uint16)


@lru_cache(maxsize=1 << 10)
def listed_number(value: int, n_bits: int) -> tuple[Array, int]:
    """The codes of a signed number of n bits in two's complement, a list with its end, and how many they are."""
    codes = bypass_codes(value & ((1 << n_bits) - 1), n_bits)
    return np.concatenate([codes, [LIST_END, 0]]).astype(np.uint16), len(codes)


def header_codes(layer: Layer, hdsp: bool, skipped: Array | None, initialisations: Array) -> Array:
    """The codes of flags, row flags and context initialisations, uint16[any], without the list's end.

    Parameters
    ----------
    layer : Layer
    hdsp : bool
        Whether the history is used.
    skipped : bool[rows], optional
        The rows that are left out; None: row_skip_flag is 0.
    initialisations : int64[number of signalled contexts]
        0..8
    """
    at = Contexts.for_unary_length(layer.unary_length)
    parts = []
    if layer.has_row_flags:
        if layer.parent:
            parts.append(bypass_codes(int(hdsp), 1))
        parts.append(bypass_codes(int(skipped is not None), 1))
        if skipped is not None:
            parts.append((2 * at.row + skipped).astype(np.uint16))
    choices = np.zeros((len(initialisations), 2), np.uint16)
    choices[:, 0] = 2 * at.select + (initialisations > 0)
    choices[:, 1] = BYPASS | 3 << 11 | (np.maximum(initialisations, 1) - 1)
    present = np.ones(choices.shape, np.bool_)
    present[:, 1] = initialisations > 0
    parts.append(choices[present])
    return np.concatenate(parts)
