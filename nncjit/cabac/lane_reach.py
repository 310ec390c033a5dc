"""What lanes can reach: they find their bytes by indices of 32 bits from one address on."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def within_reach(start: Array, n_bytes: Array, worth: Array, reach: int) -> tuple[int, Array]:
    """The address from which on the most can be reached, and what can. Arrays of one process may lie terabytes apart:
    small ones in one part of the memory, or of each thread, large ones in another.

    Parameters
    ----------
    start, n_bytes : int64[n]
        Address and size of each array.
    worth : ndarray[n]
        What is gained by each array that ends within `reach` bytes of the address.
    reach : int

    Returns
    -------
    int
        An address among `start`.
    bool[n]
        Which arrays end within reach of it.
    """
    order = np.argsort(start, kind="stable")
    begin, stop = start[order], start[order] + n_bytes[order]
    sums = np.concatenate([[0], np.cumsum(worth[order])])
    reached = sums[np.searchsorted(stop, begin + reach)] - sums[:-1]
    first = int(begin[np.argmax(reached)])
    return first, (start >= first) & (start + n_bytes - first < reach)
