"""Views of a tensor as a matrix, in blocks, or in bands that fit the cache; and checks that the tools share."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Dimensions, Number, Whole, checked, shown

CHUNK = 1 << 20
"""Elements that a tool works on at a time, so its temporaries never reach the size of the tensor."""


SHARE = Number(0, 1)


def array_of(values: object, name: str) -> np.ndarray:
    """The array itself, or what NumPy makes of it; ModelError for what is no array."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ModelError(f"{name}: is {shown(values)}, must be an array of numbers") from None


def float_array(values: np.ndarray, name: str) -> np.ndarray:
    """The array itself, if it holds floats; ModelError otherwise."""
    array = array_of(values, name)
    if array.dtype.kind != "f":
        raise ModelError(f"{name}: reduction needs float16, float32 or float64, this is {array.dtype}")
    return array


def finite_array(values: np.ndarray, name: str) -> np.ndarray:
    """The array itself, if it holds finite floats only; ModelError otherwise."""
    array = float_array(values, name)
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    for part in chunks(flat.size):
        if not np.isfinite(flat[part]).all():
            raise ModelError(f"{name}: holds NaN or infinity")
    return array


def checked_share(share: float, name: str, what: str = "share") -> float:
    """The share; OptionError unless it is in 0..1 (NaN is refused too)."""
    found: float = checked(f"{name}: {what}", SHARE, share)
    return found


def matrix_shape(shape: tuple[int, ...], rows: int | None = None, name: str = "tensor") -> tuple[int, int]:
    """Rows and columns of the 2-D view: rows = first dimension (1 for a scalar) or as given. Spec, section 5.

    Raises OptionError where the given number of rows does not divide the elements.
    """
    size = prod(shape)
    if rows is None:
        rows = shape[0] if shape else 1
        return rows, prod(shape[1:])
    rows = int(checked(f"{name}: rows", Whole(0, 1 << 62), rows))
    if rows < 1 or size % rows:
        raise OptionError(f"{name}: {rows} rows do not divide the {size} elements of shape {shape}")
    return rows, size // rows


def matrix(values: np.ndarray, rows: int | None = None, name: str = "tensor") -> np.ndarray:
    """The 2-D view (rows, elements / rows) of a tensor."""
    return values.reshape(matrix_shape(values.shape, rows, name))


def chunks(size: int, *, multiple: int = 1, weight: int = 1) -> Iterator[slice]:
    """Slices that cover range(size) in order, whole multiples but the last; about CHUNK elements, `weight` an index."""
    step = multiple * max(CHUNK // max(multiple * weight, 1), 1)
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def bands(shape: tuple[int, ...], height: int) -> Iterator[slice]:
    """Slices of the first axis, whole multiples of `height`, of about CHUNK elements each."""
    return chunks(shape[0], multiple=height, weight=prod(shape[1:]))


def blocked(values: np.ndarray, block: tuple[int, ...], name: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """The view of `values` that has as many axes as `block`, and the block as ints.

    A block has one side for each axis of the tensor, or two sides: then it lies in the 2-D view (out, in...).
    Blocks start at the origin; those at the far edges are cut to the tensor.
    """
    sides: tuple[int, ...] = checked(f"{name}: block", Dimensions(), block)
    if len(sides) not in (2, values.ndim) or not sides:
        raise OptionError(f"{name}: block {sides} must have 2 sides or one for each of the {values.ndim} axes")
    if min(sides) < 1:
        raise OptionError(f"{name}: block {sides} has a side below 1")
    return (values if len(sides) == values.ndim else matrix(values)), sides


def grid_shape(shape: tuple[int, ...], block: tuple[int, ...]) -> tuple[int, ...]:
    """Number of blocks along each axis, cut ones included."""
    return tuple(-(-size // side) for size, side in zip(shape, block, strict=True))


def block_sums(values: np.ndarray, block: tuple[int, ...]) -> np.ndarray:
    """Sum of each block, float64[grid]."""
    sums = values.astype(np.float64) if all(side == 1 for side in block) else values
    for axis, side in enumerate(block):
        if side > 1:
            sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], side), axis=axis, dtype=np.float64)
    return sums


def spread(grid: np.ndarray, block: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Each block's value at each of its elements, [shape]."""
    for axis, side in enumerate(block):
        if side > 1:
            grid = np.repeat(grid, side, axis=axis)
    return grid[tuple(slice(size) for size in shape)]
