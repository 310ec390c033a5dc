"""Tensors that have grown or shrunk: the part that two shapes have in common, from the first element on."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fitted(array: Array, shape: tuple[int, ...]) -> Array:
    """The array cut, or filled up with zeros, to a shape of as many dimensions; itself where it has that shape.

    What a receiver has of a tensor in its new shape: there a difference is coded, which to zeros is the value itself.
    """
    if array.shape == shape:
        return array
    result = np.zeros(shape, array.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    result[common] = array[common]
    return result
