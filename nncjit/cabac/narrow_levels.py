"""Levels of a huge layer in fewer bytes than four: in one or two, with a list of those that do not fit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import narrow_levels_kernels as kernels
from nncjit.jit import address

Array = NDArray[Any]

STRETCH = 1 << 18
"""Levels that have one type, at most."""


_NONE = np.zeros(0, np.int32)


class _Stretch(NamedTuple):
    levels: Array
    """int8[n], int16[n] or int32[n]; what does not fit is 0."""
    places: Array
    """Of the levels that do not fit, int32[k], ascending."""
    others: Array
    """These levels, int32[k]."""

    @classmethod
    def of(cls, levels: Array) -> _Stretch:
        """A copy of levels, int32[n], in the type that takes the least memory."""
        for dtype, narrow in ((np.int8, kernels.narrow_to_8), (np.int16, kernels.narrow_to_16)):
            found = np.empty(levels.size, dtype)
            n_others = narrow(address(levels), levels.size, address(found, writes=True))
            if 8 * n_others < found.nbytes:
                places = np.flatnonzero(found != levels).astype(np.int32) if n_others else _NONE
                return cls(found, places, levels[places])
        return cls(levels.copy(), _NONE, _NONE)

    def into(self, found: Array, start: int) -> None:
        """Fill an array with the levels from `start` on."""
        narrow = self.levels[start : start + found.size]
        if narrow.dtype == np.int32:
            found[:] = narrow
            return
        widen = kernels.widen_8 if narrow.dtype == np.int8 else kernels.widen_16
        widen(address(narrow), narrow.size, address(found, writes=True))
        if self.places.size:
            some = slice(*np.searchsorted(self.places, (start, start + found.size)))
            found[self.places[some] - start] = self.others[some]


class NarrowLevels:
    """Levels in coding order, appended stretch by stretch and read anywhere."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._stops: list[int] = []

    @classmethod
    def zeros(cls, size: int) -> NarrowLevels:
        """Levels that are all 0."""
        levels, none = cls(), np.zeros(min(size, STRETCH), np.int32)
        for start in range(0, size, STRETCH):
            levels.append(none[: size - start])
        return levels

    @property
    def size(self) -> int:
        """Number of levels."""
        return self._stops[-1] if self._stops else 0

    def append(self, levels: Array) -> None:
        """More levels, int32[n]. They are copied."""
        for start in range(0, levels.size, STRETCH):
            stretch = levels[start : start + STRETCH]
            self._stops.append(self.size + stretch.size)
            self._stretches.append(_Stretch.of(stretch))

    def load(self, start: int, stop: int) -> Array:
        """The levels ``start`` to ``stop`` of these: int32, a copy."""
        found = np.empty(max(stop - start, 0), np.int32)
        k, at = bisect_right(self._stops, start), start
        while at < stop:
            end = min(self._stops[k], stop)
            stretch = self._stretches[k]
            stretch.into(found[at - start : end - start], at - self._stops[k] + stretch.levels.size)
            k, at = k + 1, end
        return found


Levels = Array | NarrowLevels
TOGETHER = 1 << 20
"""Levels of a part, see `parts_of`."""


def load(levels: Levels, start: int, stop: int) -> Array:
    """The levels ``start`` to ``stop``, contiguous; of an array a view."""
    return levels.load(start, stop) if isinstance(levels, NarrowLevels) else levels[start:stop]


def whole(levels: Levels) -> Array:
    """All levels as an array; one that is one already as it is."""
    return levels.load(0, levels.size) if isinstance(levels, NarrowLevels) else levels


def every(levels: Levels, step: int) -> Array:
    """One of each `step` levels, the first among them."""
    if not isinstance(levels, NarrowLevels):
        return levels[::step]
    parts = [part[-start % step :: step] for start, part in parts_of(levels)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def zeros_like(levels: Levels) -> Levels:
    """As many levels that are all 0."""
    return NarrowLevels.zeros(levels.size) if isinstance(levels, NarrowLevels) else np.zeros_like(levels)


def parts_of(levels: Levels) -> Iterator[tuple[int, Array]]:
    """The levels part by part, each with the number of its first one; of an array all at once."""
    together = TOGETHER if isinstance(levels, NarrowLevels) else max(levels.size, 1)
    for start in range(0, levels.size, together):
        yield start, load(levels, start, min(start + together, levels.size))
