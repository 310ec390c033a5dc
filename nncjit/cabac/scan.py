"""Reordering between raster order and the order in which a layer is coded."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.layer import Layer
from nncjit.cabac.scan_kernels import reorder
from nncjit.errors import OptionError
from nncjit.jit import address
from nncjit.jit.threads import share
from nncjit.stages import staged

Array = NDArray[Any]

STRIP = 1 << 17
"""Elements that are reordered together, at least one block row: enough that handing them out costs nothing."""


@staged("scan")
def to_scan(array: Array, layer: Layer, *, overwrite: bool = False, workers: Executor | None = None) -> Array:
    """The elements in coding order. Spec, section 7.

    Parameters
    ----------
    array : ndarray of `layer.size` elements, any shape and any dtype
        In raster order.
    layer : Layer
    overwrite : bool
        Reorder in the array's own memory where it is contiguous, which saves a copy of it.
    workers : Executor, optional
        Threads that share the block rows.

    Returns
    -------
    ndarray, 1-D, contiguous; without block scan, or with `overwrite`, a view of `array` where that is contiguous.

    Raises
    ------
    OptionError
        The array has another number of elements than the layer.
    """
    raster = _flat(array, layer)
    if layer.scan == 0:
        return raster
    in_place = overwrite and raster.flags.writeable
    flat = raster if in_place else np.empty_like(raster)

    block_rows = max(1, STRIP // max(layer.block_side * layer.width, 1))

    def strip(top: int) -> None:
        """Some block rows. They fill the same range in both orders, so that in place a copy of them is enough."""
        rows = min(layer.block_side * block_rows, layer.rows - top)
        part, here = layer._replace(rows=rows), slice(top * layer.width, (top + rows) * layer.width)
        reorder_rows(raster[here].copy() if in_place else raster[here], flat[here], part, 0, rows, to_flat=True)

    share([partial(strip, top) for top in range(0, layer.rows, layer.block_side * block_rows)], workers)
    return flat


@staged("scan")
def from_scan(flat: Array, layer: Layer) -> Array:
    """The elements in raster order, 1-D: what `to_scan` was given. Spec, section 7."""
    flat = _flat(flat, layer)
    if layer.scan == 0:
        return flat
    raster = np.empty_like(flat)
    reorder_rows(raster, flat, layer, 0, layer.rows, to_flat=False)
    return raster


def reorder_rows(raster: Array, flat: Array, layer: Layer, first_row: int, stop_row: int, *, to_flat: bool) -> None:
    """Do the part of `to_scan` (or of `from_scan`) for the rows of some whole block rows; for use from several threads.

    `first_row` is a multiple of the block side, `stop_row` too or the number of rows; both arrays are 1-D, contiguous,
    of `layer.size` elements of the same size.
    """
    size = raster.itemsize
    reorder(
        address(raster, writes=not to_flat),
        address(flat, writes=to_flat),
        first_row,
        stop_row,
        layer.width * size,
        layer.block_side,
        layer.block_side * size,
        int(to_flat),
    )


def _flat(array: Array, layer: Layer) -> Array:
    if array.size != layer.size:
        raise OptionError(f"an array of shape {array.shape} does not fit a layer of {layer.rows} x {layer.width}")
    return np.ascontiguousarray(array).reshape(-1)
