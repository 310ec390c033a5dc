"""Whether rows that are all zero are left out of a layer (spec, section 5, step 1)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.layer import Layer
from nncjit.cabac.level_statistics_kernels import mark_nonzero_rows
from nncjit.cabac.narrow_levels import Levels, NarrowLevels, load
from nncjit.jit import address

Array = NDArray[Any]
RowSkip = bool | Literal["auto"]

TOGETHER = 1 << 20
"""Levels of a huge layer that are looked at together, at least one block row."""


def skipped_rows(levels: Levels, layer: Layer, row_skip: RowSkip) -> Array | None:
    """The rows to leave out, bool[rows]; None: code them all.

    Parameters
    ----------
    levels : int32[layer.size], contiguous, or NarrowLevels, in coding order
    layer : Layer
    row_skip : bool or "auto"
        All rows that are zero, none, or "auto": those that are zero if that makes the layer smaller.
    """
    if row_skip is False or not layer.has_row_flags:
        return None
    zero, nonzeros = _zero_rows(levels, layer)
    if row_skip is True:
        return zero
    if not zero.any() or (layer.dq and layer.scan and layer.width % 4):
        return None
    return zero if _row_flags_pay(zero, layer.width, nonzeros) else None


def entropy(flags: Array) -> float:
    """The entropy of some flags, bool[n], in bits."""
    n, k = len(flags), int(np.count_nonzero(flags))
    return sum(count * math.log2(n / count) for count in (k, n - k) if count)


def _zero_rows(levels: Levels, layer: Layer) -> tuple[Array, int]:
    """Which rows of the matrix are all zero, bool[rows], and how many levels are not zero."""
    marks = np.zeros(layer.rows, np.uint8)
    side, width = layer.block_side, layer.width
    columns = side if layer.scan else max(width, 1)
    together = max(TOGETHER // (side * width), 1) * side if isinstance(levels, NarrowLevels) else layer.rows
    nonzeros = 0
    for top in range(0, layer.rows, together):
        rows = min(together, layer.rows - top)
        here = load(levels, top * width, (top + rows) * width)
        nonzeros += int(mark_nonzero_rows(address(here), rows, width, side, columns, address(marks, writes=True) + top))
    return marks == 0, nonzeros


def _row_flags_pay(skipped: Array, width: int, nonzeros: int) -> bool:
    """Whether leaving out these rows, bool[rows], saves more than their flags cost.

    A zero among zeros costs a hundredth of a bit. Before that the contexts have to learn that zeros have begun, which
    takes them some 20 bins, each at first as dear as a zero in the other rows, where `nonzeros` levels are not zero.
    """
    zero_rows = int(np.count_nonzero(skipped))
    density = nonzeros / max(1, (len(skipped) - zero_rows) * width)
    zero_cost = -math.log2(max(1 - density, 1e-3))
    runs = int(np.count_nonzero(skipped[1:] > skipped[:-1]))
    saved = 0.01 * zero_rows * width + runs * zero_cost * 20 * (1 - math.exp(-width / 20))
    return saved > entropy(skipped) + 8
