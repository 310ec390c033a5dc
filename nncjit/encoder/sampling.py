"""Samples of a tensor: runs of weights, evenly spread, long enough for the contexts of the coder to mean something."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nncjit.quant.value_source import Values, as_values

RUN = 1 << 11
"""Length of a run."""
GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, less their whole parts, are spread evenly, however many they are."""


def runs(values: np.ndarray | Values, wanted: int) -> np.ndarray:
    """A copy of about `wanted` elements in raster order, 1-D, in runs; of all of them where there are not more."""
    flat = as_values(values)
    if flat.size <= wanted:
        return np.array(flat.load(0, flat.size))
    return np.concatenate([flat.load(start, start + RUN) for start in _starts(flat.size, wanted)])


def coded_runs(
    part: Callable[[int, int], np.ndarray], rows: int, width: int, block_side: int, wanted: int
) -> np.ndarray:
    """About `wanted` elements of a matrix, in runs of the order in which it is coded.

    With block scan, these are pieces of blocks, of many rows each: a run of one row would have the spread of that row,
    and the coder finds it easier than what it will see.

    Parameters
    ----------
    part : callable
        Gives the elements ``start`` to ``stop`` in raster order, 1-D.
    rows, width : int
        Of the matrix, which has more elements than are wanted.
    block_side : int
        Of the blocks that are coded one after the other; 0: the matrix is coded in raster order.
    wanted : int

    Returns
    -------
    ndarray, 1-D, new
    """
    if not block_side:
        return np.concatenate([part(start, start + RUN) for start in _starts(rows * width, wanted)])
    tall, wide = min(max(RUN // block_side, 1), rows), min(block_side, width)
    count = -(-wanted // (tall * wide))
    found = []
    for k in range(count):
        top = int((k + 0.5) / count * (rows // tall)) * tall
        left = int((k + 0.5) * GOLDEN % 1.0 * (width // wide)) * wide
        strip = part(top * width, (top + tall) * width).reshape(tall, width)
        found.append(strip[:, left : left + wide].reshape(-1))
    return np.concatenate(found)


def _starts(size: int, wanted: int) -> list[int]:
    """Where runs begin."""
    starts: list[int] = np.linspace(0, size - RUN, -(-wanted // RUN)).astype(np.int64).tolist()
    return starts
