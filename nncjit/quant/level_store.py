"""Where a quantiser leaves its levels: an array, or `NarrowLevels` where not all values are in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from nncjit.cabac.narrow_levels import Array, Levels, NarrowLevels
from nncjit.quant.value_source import Values


class LevelStore:
    """The levels of some values, written window by window, one after another.

    Parameters
    ----------
    values : Values
    """

    def __init__(self, values: Values) -> None:
        fits = values.size <= values.window
        self.levels: Levels = np.empty(values.size, np.int32) if fits else NarrowLevels()

    @contextmanager
    def room(self, start: int, stop: int, low: int | None = None, high: int | None = None) -> Iterator[Array]:
        """Room for the levels `low` to `high`, of which ``start`` to ``stop`` stay; without the former only these."""
        low, high = start if low is None else low, stop if high is None else high
        if isinstance(self.levels, NarrowLevels):
            here = np.empty(high - low, np.int32)
            yield here
            self.levels.append(here[start - low : stop - low])
        else:
            yield self.levels[low:high]
