"""What stands before the elements of a layer: flags, skipped rows and the starts of the models (spec, section 5, steps
1 and 2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import encoder_records as er
from nncjit.cabac.layer import Contexts, Layer

Array = NDArray[Any]


def bypass_codes(value: int, n_bits: int) -> Array:
    """The codes of an unsigned number of n bits in bypass bins: uint16[any], without the list's end."""
    codes = []
    while n_bits > 0:
        n = min(n_bits, er.BYPASS_BITS)
        n_bits -= n
        codes.append(er.BYPASS | n << 11 | value >> n_bits & (1 << n) - 1)
    return np.array(codes, np.uint16)


def header_codes(layer: Layer, hdsp: bool, skipped: Array | None, starts: Array) -> Array:
    """The codes of flags, row flags and starts, uint16[any].

    skipped : bool[rows] or None, starts : int64[number of listed models], 0..8
    """
    at = Contexts.for_unary_length(layer.unary_length)
    parts = []
    if layer.has_row_flags:
        if layer.parent:
            parts.append(bypass_codes(int(hdsp), 1))
        parts.append(bypass_codes(int(skipped is not None), 1))
        if skipped is not None:
            parts.append((2 * at.row + skipped).astype(np.uint16))
    list_codes = np.zeros((len(starts), 2), np.uint16)
    list_codes[:, 0] = 2 * at.select + (starts > 0)
    list_codes[:, 1] = er.BYPASS | 3 << 11 | (np.maximum(starts, 1) - 1)
    present = np.ones(list_codes.shape, np.bool_)
    present[:, 1] = starts > 0
    parts.append(list_codes[present])
    return np.concatenate(parts)


def entropy(flags: Array) -> float:
    """The entropy of some flags, bool[n], in bits."""
    n, k = len(flags), int(np.count_nonzero(flags))
    return sum(count * math.log2(n / count) for count in (k, n - k) if count)


def row_flags_pay(skipped: Array, width: int, nonzero: int) -> bool:
    """Whether leaving out these rows, bool[rows], saves more than their flags cost.

    A zero among zeros costs a hundredth of a bit. Before that the models have to learn that zeros have begun, which
    takes them some 20 bins from what a zero costs in the other rows, with `nonzero` levels that are not.
    """
    zero_rows = int(np.count_nonzero(skipped))
    density = nonzero / max(1, (len(skipped) - zero_rows) * width)
    zero_cost = -math.log2(max(1 - density, 1e-3))
    runs = int(np.count_nonzero(skipped[1:] > skipped[:-1]))
    saved = 0.01 * zero_rows * width + runs * zero_cost * 20 * (1 - math.exp(-width / 20))
    return saved > entropy(skipped) + 8
