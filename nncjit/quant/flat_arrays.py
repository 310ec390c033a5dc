"""What kernels take by address: flat arrays of one type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Levels = NDArray[np.int32]


def flat_floats(values: NDArray[Any]) -> Floats:
    """The values as float32[n], contiguous, in raster order; no copy where they are so already."""
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def flat_levels(levels: NDArray[Any]) -> Levels:
    """The levels as int32[n], contiguous, in raster order; no copy where they are so already."""
    return np.ascontiguousarray(levels, np.int32).reshape(-1)
