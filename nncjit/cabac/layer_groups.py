"""A huge layer in groups of block rows, of which one at a time has its levels as int32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.block_row_pieces import pieces_of
from nncjit.cabac.coded_intervals import coded_elements, coded_intervals
from nncjit.cabac.context_initialisation import LayerPart, Selection
from nncjit.cabac.encoder_input import PreparedLayer
from nncjit.cabac.encoder_tables import TRANSITIONS
from nncjit.cabac.lane_records import LANES
from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import NarrowLevels
from nncjit.cabac.quantiser_state_kernels import find_state, state_after
from nncjit.jit import address
from nncjit.jit.threads import count

Array = NDArray[Any]

GROUP = 1 << 24
"""Levels of a group, about, at least one block row."""
THREADS = 4
"""For which these are enough: more get more, so that there are block rows for all their lanes."""
PART = 1 << 21
"""Levels of a part, about: less than a processor's cache holds."""
SHOWS = 1 << 12
"""Levels that mostly show in which state the quantiser is."""

_NO_LEVELS = np.zeros(0, np.int32)


def can_go_in_groups(layer: Layer, selection: Selection) -> bool:
    """Whether the block rows of a layer are coded independently of each other, but for the quantiser's state."""
    return layer.restarts and not layer.codebook_size and not layer.temporal and selection != "reference"


class LayerGroups:
    """The groups of a layer.

    Parameters
    ----------
    levels : NarrowLevels
        In coding order.
    layer : Layer
    skipped : bool[rows] or None
        The rows that are left out.
    """

    def __init__(self, levels: NarrowLevels, layer: Layer, skipped: Array | None) -> None:
        intervals = coded_intervals(layer, skipped)
        starts = np.concatenate([[0], intervals["stop"][:-1]]).astype(np.int64)
        self.outline = PreparedLayer(layer, _NO_LEVELS, None, None, intervals, starts)
        self.levels = levels if skipped is None else _kept(levels, layer, skipped)
        """Those that are coded."""
        self.bounds = list(pairwise(_cut(intervals["stop"], GROUP * -(-count() // THREADS))))
        """Of the groups, counted in intervals."""

    def prepared(self, first: int, last: int, state: int) -> PreparedLayer:
        """Some intervals, with the quantiser's state before them."""
        outline = self.outline
        intervals, starts = outline.intervals[first:last].copy(), outline.starts[first:last]
        start, stop = int(starts[0]), int(intervals["stop"][-1])
        intervals["stop"] -= start
        return PreparedLayer(outline.layer, self.levels.load(start, stop), None, None, intervals, starts - start, state)

    def parts(self, workers: Executor | None) -> Iterator[Callable[[], LayerPart]]:
        """What gives parts smaller than groups, of which a sample is looked at. Their states are those that their
        levels show, else where the ones before lead.
        """

        def part(first: int, last: int, state: int) -> LayerPart:
            prepared = self.prepared(first, last, state)
            return LayerPart(first, prepared, pieces_of(prepared, workers))

        state = before = 0
        for first, last in pairwise(_cut(self.outline.intervals["stop"], PART)):
            if self.outline.layer.dq and first:
                state = self._state_after(before, first, state)
            yield partial(part, first, last, state)
            before = first

    def _state_after(self, first: int, last: int, state: int) -> int:
        """The quantiser's state after some intervals."""
        transitions, stop = address(TRANSITIONS[1]), int(self.outline.starts[last])
        following = self.levels.load(stop, min(stop + SHOWS, self.outline.coded))
        shown = int(find_state(address(following), transitions, 0, following.size))
        if shown < 0:
            levels = self.levels.load(int(self.outline.starts[first]), stop)
            shown = int(state_after(address(levels), transitions, 0, levels.size, 8 * state))
        return shown >> 3


def _cut(stops: Array, size: int) -> list[int]:
    """Where groups of about `size` levels begin and the last one ends, counted in intervals. Lanes are full where the
    intervals of a group are a multiple of them.
    """
    n_groups = max(round(int(stops[-1]) / size), 1)
    together = -(-len(stops) // n_groups)
    if together > LANES // 2:
        together = -(-together // LANES) * LANES
    return [*range(0, len(stops), together), len(stops)]


def _kept(levels: NarrowLevels, layer: Layer, skipped: Array) -> NarrowLevels:
    """The levels without skipped rows."""
    kept, side, width = NarrowLevels(), layer.block_side, layer.width
    together = max(GROUP // (side * width), 1) * side
    for top, bottom in pairwise([*range(0, layer.rows, together), layer.rows]):
        here = levels.load(top * width, bottom * width)
        kept.append(here[coded_elements(layer._replace(rows=bottom - top), skipped[top:bottom])])
    return kept
