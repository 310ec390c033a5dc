"""Sums of the values of a weight, by which statistics are told from those of a model with other values.

Each value is added or subtracted, by a sign that its place has in every weight. So what two weights' sums differ by,
squared, is on average what the weights differ by, squared. Without signs, a small shift of all values alike, as
training makes it, would add up to more than another model's values. A model that was stored in half precision, or
trained further, has nearly the same sums.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PARTS = 16
"""Of a weight, in the order of its memory."""
FEWEST = 16 * PARTS
"""Values of a weight that is compared: fewer tell too little."""
MOST = 1 << 20
"""Values that are added up: of more, every so many-th."""
MOST_DISTANCE = 0.5
"""Squared, as a share of the weight's squares. Weights that have nothing in common are 2 apart, on average."""

NEARLY = 0.02
"""Squared, likewise. Half precision is nearer; of weights that have nothing in common, one pair in 10^12 is as near."""


@cache
def _signs(count: int) -> NDArray[np.int8]:
    """1 or -1 for each place: the top bit of a product of its number, as docs/statistics-format.md has it."""
    place = np.arange(count, dtype=np.uint32)
    mixed = place * np.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return 1 - 2 * (mixed >> np.uint32(31)).astype(np.int8)


def weight_sums(values: Array) -> Array:
    """float64[PARTS + 1]: sums over equal parts of the values with their signs, and the sum of the values' squares; of
    many values, some.
    """
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // MOST)]
    bounds = [len(flat) * k // PARTS for k in range(PARTS + 1)]
    signs = _signs(1 << len(flat).bit_length())  # of few lengths, so that they are made once
    sums = [float((flat[a:b] * signs[a:b]).sum(dtype=np.float64)) for a, b in pairwise(bounds)]
    return np.array([*sums, float(np.einsum("i,i->", flat, flat, dtype=np.float64))])


def are_apart(known: Array, found: Array) -> bool:
    """Whether two weights' sums say that their values have little in common."""
    return not _within(MOST_DISTANCE, known, found)


def are_same(known: Array, found: Array) -> bool:
    """Whether two weights' sums say that their values are nearly the same."""
    return _within(NEARLY, known, found)


def _within(share: float, known: Array, found: Array) -> bool:
    power = max(float(known[-1]), float(found[-1]))
    return float(np.square(known[:-1] - found[:-1]).sum()) <= share * power
