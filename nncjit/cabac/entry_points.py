"""Entry points: where the block rows of a coded matrix begin in its payload (spec, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class EntryPoint(NamedTuple):
    """What a decoder needs to begin at a block row."""

    value: int
    """The decoder's 9-bit offset there, 0..255."""
    state: int
    """The quantiser's state there, 0..7; 0 without dependent quantisation."""
    offset: int
    """Bits read since the block row before it began."""


def as_array(points: Iterable[EntryPoint]) -> np.ndarray:
    """The points as int64[n, 3], one row (value, state, offset) each: what `LayerJob.points` takes."""
    return np.array([tuple(point) for point in points], np.int64).reshape(-1, 3)
