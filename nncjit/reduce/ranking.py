"""Ranking of weights by importance, without sorting and without holding the importances of a model.

An importance is compared through its `key`, a uint32: 0 for a weight that is zero already, else 1 + the bits of the
importance as float32, which grow with it. Keys have 32 bits, so the n-th smallest of any number of them is found with
two histograms of 65536 bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from nncjit.errors import ModelError, OptionError

Keys = Callable[[], Iterable[np.ndarray]]
"""Gives the same uint32 arrays, in the same order, each time it is called."""


class Cut(NamedTuple):
    """The `count` least important: all keys below `key`, and the first `ties` of those equal to it."""

    key: int
    ties: int

    @property
    def threshold(self) -> float:
        """Importance at the cut; 0 where nothing but zeros is cut."""
        return float(np.uint32(max(self.key - 1, 0)).view(np.float32))


def keys_of(values: np.ndarray, sensitivity: np.ndarray | None, name: str) -> np.ndarray:
    """Keys of the importances abs(value) * sensitivity, uint32[shape of values].

    Raises
    ------
    ModelError
        A value is not finite.
    OptionError
        A sensitivity is negative or NaN. Infinity is fine: such a weight goes last.
    """
    if not np.isfinite(values).all():
        raise ModelError(f"{name}: holds NaN or infinity")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        importance = np.abs(values).astype(np.float32, copy=False)
        if sensitivity is not None:
            if not (sensitivity >= 0).all():
                raise OptionError(f"{name}: a sensitivity is negative or NaN")
            importance *= sensitivity
    return keys_from(importance, values == 0)


def keys_from(importance: np.ndarray, is_zero: np.ndarray) -> np.ndarray:
    """Keys of given importances, float32 and not negative. Works in place: the importances are gone afterwards."""
    keys = importance.view(np.uint32)
    keys += np.uint32(1)
    keys[is_zero] = 0
    return keys


def cut_at(keys: Keys, count: int) -> Cut:
    """The cut that separates the `count` smallest keys; ties go by order, the first is cut first.

    `count` is at most the number of keys; for 0 nothing is below the cut.
    """
    if count == 0:
        return Cut(0, 0)
    high = _histogram(keys, lambda part: part >> 16)
    top, left = _bin_of(high, count)
    low = _histogram(keys, lambda part: part[part >> 16 == top] & 0xFFFF)
    bottom, ties = _bin_of(low, left)
    return Cut(top << 16 | bottom, ties)


def _histogram(keys: Keys, part_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    counts = np.zeros(1 << 16, np.int64)
    for part in keys():
        counts += np.bincount(part_of(part.reshape(-1)), minlength=1 << 16)
    return counts


def _bin_of(counts: np.ndarray, count: int) -> tuple[int, int]:
    """The bin that holds the count-th smallest (from 1), and how many of that bin are needed."""
    ends = np.cumsum(counts)
    at = int(np.searchsorted(ends, count))
    return at, count - int(ends[at] - counts[at])


def below(keys: np.ndarray, cut: Cut) -> tuple[np.ndarray, Cut]:
    """Which of these keys are cut, bool[shape of keys], and the cut for the keys that come after them."""
    chosen = keys < cut.key
    if cut.ties:
        ties = np.flatnonzero(keys == cut.key)[: cut.ties]
        chosen.reshape(-1)[ties] = True
        cut = Cut(cut.key, cut.ties - ties.size)
    return chosen, cut
