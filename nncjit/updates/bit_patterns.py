"""Differences without loss: of integers, and of floats by their bit patterns.

The patterns of floats, taken in the order of their values, are integers in which neighbouring floats differ by one. So
the difference between two checkpoints is small wherever a weight has moved little. Both kinds wrap around, so that any
two values have a difference and no bit is ever lost.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.quant.work_sharing import PIECE
from nncjit.stream.integer_limbs import peak

Array = np.ndarray[Any, Any]

GLANCE = 1 << 10
"""Elements that are compared at first."""


def difference(new: Array, base: Array, dtype: str) -> Array:
    """The integers that lead from one storage array to another of the same dtype and shape.

    Returns
    -------
    ndarray
        Signed integers as wide as the dtype; unsigned ones, with the sign as lowest bit, where a signed one would be
        more than the coder can hold.
    """
    unsigned, signed = _integers(dtype)
    gap = (_ordered(new, dtype) - _ordered(base, dtype)).view(signed)
    if peak(gap) > MAX_LEVEL:
        gap = ((gap << 1) ^ (gap >> (8 * signed.itemsize - 1))).view(unsigned)
    return gap.reshape(new.shape)


def add(base: Array, gap: Array, dtype: str) -> Array:
    """The storage array to which a difference leads, see `difference`; any shape."""
    unsigned, _ = _integers(dtype)
    flat = gap.reshape(-1)
    if flat.dtype.kind == "u":
        flat = (flat >> 1) ^ (~(flat & 1) + flat.dtype.type(1))
    return _values(_ordered(base, dtype) + flat.view(unsigned), dtype).reshape(base.shape)


def fits(gap_dtype: str, dtype: str) -> bool:
    """Whether integers of one dtype can be a difference of another's."""
    kind, width = dtypes.find(gap_dtype), dtypes.find(dtype)
    return kind.kind in "iu" and width.kind != "o" and kind.storage.itemsize == width.storage.itemsize


def names_of(dtype: str) -> tuple[str, str]:
    """The dtypes of a difference: signed, unsigned."""
    bits = 8 * dtypes.find(dtype).storage.itemsize
    return f"int{bits}", f"uint{bits}"


def _integers(dtype: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    width = dtypes.find(dtype).storage.itemsize
    return np.dtype(f"u{width}"), np.dtype(f"i{width}")


def _ordered(storage: Array, dtype: str) -> Array:
    """The patterns as unsigned integers, flat; those of floats in the order of the values, modulo 2^bits."""
    unsigned, signed = _integers(dtype)
    patterns = np.ascontiguousarray(storage).reshape(-1).view(unsigned)
    if dtypes.find(dtype).kind != "f":
        return patterns
    return _folded(patterns, unsigned, signed)


def _values(patterns: Array, dtype: str) -> Array:
    unsigned, signed = _integers(dtype)
    if dtypes.find(dtype).kind == "b":
        patterns = patterns & 1
    if dtypes.find(dtype).kind == "f":
        patterns = _folded(patterns, unsigned, signed)
    return np.ascontiguousarray(patterns).view(dtypes.find(dtype).storage)


def _folded(patterns: Array, unsigned: np.dtype[Any], signed: np.dtype[Any]) -> Array:
    """Negative floats turned round, below the positive ones; done twice it gives the patterns back."""
    below = patterns.view(signed) >> (8 * signed.itemsize - 1)
    turned: Array = patterns ^ (below.view(unsigned) >> 1)
    return turned


def are_equal(one: Array, other: Array) -> bool:
    """Whether two storage arrays of one shape have the same bits. Where they differ, one mostly sees it at once."""
    a, b = _bits(one), _bits(other)
    starts = (0, *range(GLANCE, a.size, PIECE))
    return all(np.array_equal(a[i:j], b[i:j]) for i, j in pairwise((*starts, a.size)))


def _bits(storage: Array) -> Array:
    """The values as unsigned integers, of complex128 two each, so that NaN is equal to itself and 0 not to -0."""
    return np.ascontiguousarray(storage).reshape(-1).view(f"u{min(storage.dtype.itemsize, 8)}")
