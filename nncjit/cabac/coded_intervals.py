"""Which elements of a layer are coded, and the intervals in which they follow each other (spec, sections 5 and 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.encoder_records import INTERVAL
from nncjit.cabac.layer import Layer
from nncjit.cabac.scan import to_scan

Array = NDArray[Any]


def coded_elements(layer: Layer, skipped: Array) -> Array:
    """Whether each element is coded: bool[layer.size] in coding order. `skipped` is bool[rows]."""
    return to_scan(np.repeat(~skipped, layer.width).view(np.uint8), layer).view(np.bool_)


def coded_intervals(layer: Layer, skipped: Array | None) -> Array:
    """The block rows, counted in coded elements; finer where skipped rows move the quantiser: INTERVAL[m], m >= 1."""
    side = layer.block_side
    if layer.dq and layer.width % 4 and skipped is not None:
        return _intervals_of_rows(layer, skipped)
    tops = np.arange(0, max(layer.rows, 1), side)
    intervals = np.zeros(len(tops), INTERVAL)
    if skipped is None:
        intervals["stop"] = np.minimum(tops + side, layer.rows) * layer.width
    else:
        intervals["stop"] = np.cumsum(np.add.reduceat(~skipped, tops, dtype=np.int64)) * layer.width
    if layer.codebook_size == 1:
        intervals["stop"] = 0
    intervals["restart"] = int(layer.restarts)
    return intervals


def _intervals_of_rows(layer: Layer, skipped: Array) -> Array:
    """One interval for each time that the scan meets a row. That of a skipped row is empty, and its zero-steps are in
    the next one.
    """
    side = layer.block_side
    columns = side if layer.scan else layer.width
    widths = np.minimum(columns, layer.width - np.arange(0, layer.width, columns))
    rows = [np.tile(np.arange(top, min(top + side, layer.rows)), len(widths)) for top in range(0, layer.rows, side)]
    lengths = [np.repeat(widths, len(r) // len(widths)) for r in rows]
    skips = skipped[np.concatenate(rows)]
    intervals = np.zeros(len(skips) + 1, INTERVAL)
    intervals["stop"][:-1] = np.cumsum(np.concatenate(lengths) * ~skips)
    intervals["stop"][-1] = intervals["stop"][-2]
    intervals["zero_steps"][1:] = (layer.width & 3) * skips
    if layer.restarts:
        intervals["restart"][np.cumsum([0] + [len(r) for r in rows[:-1]])] = 1
    return intervals
