"""Sums of the values of a weight, by which statistics are told from those of a model with other values.

Parts of a weight add up to something else in another model: each sum is that of many values with either sign. A model
that was stored in half precision, or trained a little further, has nearly the same sums.
"""

from __future__ import annotations

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


def weight_sums(values: Array) -> Array:
    """float64[PARTS + 1]: sums over equal parts of the values, and the sum of their squares; of many values, some."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // MOST)]
    bounds = [len(flat) * k // PARTS for k in range(PARTS + 1)]
    sums = [float(flat[a:b].sum(dtype=np.float64)) for a, b in pairwise(bounds)]
    return np.array([*sums, float(np.einsum("i,i->", flat, flat, dtype=np.float64))])


def are_apart(known: Array, found: Array) -> bool:
    """Whether two weights' sums say that their values have little in common."""
    power = max(float(known[-1]), float(found[-1]))
    distance = float(np.square(known[:-1] - found[:-1]).sum())
    return distance > MOST_DISTANCE * power
