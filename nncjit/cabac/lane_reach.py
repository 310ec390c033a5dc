"""What lanes can reach: they find their bytes by indices of 32 bits from one address on."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def best_start(start: Array, n_bytes: Array, worth: Array, reach: int) -> int:
    """The array from which on the most can be reached. Arrays of one process may lie terabytes apart: small ones in one
    part of the memory, or of each thread, large ones in another.

    Parameters
    ----------
    start, n_bytes : int64[n]
        Address and size of each array.
    worth : ndarray[n]
        What is gained by each one that ends within `reach` bytes of the start.
    reach : int

    Returns
    -------
    int
        An address among `start`.
    """
    order = np.argsort(start, kind="stable")
    begin, stop = start[order], start[order] + n_bytes[order]
    sums = np.concatenate([[0], np.cumsum(worth[order])])
    reached = sums[np.searchsorted(stop, begin + reach)] - sums[:-1]
    return int(begin[np.argmax(reached)])
