"""Samples of a tensor: runs of weights, evenly spread, long enough for the contexts of the coder to mean something."""

from __future__ import annotations

import numpy as np

RUN = 1 << 11
"""Length of a run."""


def runs(flat: np.ndarray, wanted: int) -> np.ndarray:
    """A copy of about `wanted` elements of a 1-D array, in runs; all of it where it is not longer."""
    if flat.size <= wanted:
        return flat.copy()
    count = -(-wanted // RUN)
    starts = np.linspace(0, flat.size - RUN, count).astype(np.int64)
    return np.concatenate([flat[start : start + RUN] for start in starts])
