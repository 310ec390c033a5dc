"""Work on the block rows of a large layer in pieces, on a pool of threads."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import encoder_records as er
from nncjit.cabac import level_statistics_kernels as survey
from nncjit.cabac.encoder_input import Source

Array = NDArray[Any]

PIECE_SIZE = 1 << 17
"""Elements of a piece, at least: below that the overhead shows."""


class Piece(NamedTuple):
    """Some spans that start with a restart, and the quantiser's state there."""

    first: int
    stop: int
    state: int


def cut(source: Source, workers: Executor | None) -> list[Piece]:
    """The pieces of a layer: one for all without workers or block rows, or where skipped rows move the quantiser."""
    spans = source.spans
    whole = [Piece(0, len(spans), 0)]
    moved = bool(spans[:, er.ZERO_STEPS].any())
    if workers is None or source.coded < 2 * PIECE_SIZE or not source.layer.restarts or moved:
        return whole
    firsts, begin = [0], 0
    starts = np.concatenate([[0], spans[:-1, er.SPAN_STOP]])
    for k in np.flatnonzero(spans[:, er.RESTART]):
        if starts[k] - begin >= PIECE_SIZE:
            firsts.append(int(k))
            begin = int(starts[k])
    stops = [*firsts[1:], len(spans)]
    states = _states(source, firsts, stops)
    return [Piece(*piece) for piece in zip(firsts, stops, states, strict=True)]


def _states(source: Source, firsts: list[int], stops: list[int]) -> list[int]:
    """The quantiser's state at the start of each piece: what its levels show, else where the piece before leads."""
    if not source.layer.dq:
        return [0] * len(firsts)
    levels, steps = source.record[er.LEVELS], source.record[er.STEPS]
    ends = source.spans[:, er.SPAN_STOP]
    states = [0]
    for before, first, stop in zip(firsts[:-1], firsts[1:], stops[1:], strict=True):
        state = survey.find_state(levels, steps, ends[first - 1], ends[stop - 1])
        if state < 0:
            start = ends[before - 1] if before else 0
            state = survey.walk(levels, steps, start, ends[first - 1], 8 * states[-1])
        states.append(int(state) >> 3)
    return states
