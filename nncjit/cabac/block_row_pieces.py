"""The block rows of a large layer in pieces, which threads work on side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from nncjit.cabac.encoder_input import PreparedLayer
from nncjit.cabac.encoder_tables import TRANSITIONS
from nncjit.cabac.quantiser_state_kernels import find_state, state_after
from nncjit.jit import address

PIECE_SIZE = 1 << 17
"""Elements of a piece, at least: below that the overhead shows."""


class Piece(NamedTuple):
    """Some intervals of a layer, from the beginning of a block row on."""

    first: int
    """The first interval."""
    stop: int
    """The one after the last."""
    state: int
    """The quantiser's state at the beginning, 0..7."""


def pieces_of(prepared: PreparedLayer, workers: Executor | None) -> list[Piece]:
    """The pieces of a layer: one for all without workers or block rows, or where skipped rows move the quantiser."""
    intervals, starts = prepared.intervals, prepared.starts
    small = workers is None or prepared.coded < 2 * PIECE_SIZE or not prepared.layer.restarts
    if small or intervals["zero_steps"].any():
        return [Piece(0, len(intervals), prepared.state)]
    firsts, begin = [0], 0
    for k in np.flatnonzero(intervals["restart"]):
        if starts[k] - begin >= PIECE_SIZE:
            firsts.append(int(k))
            begin = int(starts[k])
    stops = [*firsts[1:], len(intervals)]
    return [Piece(*piece) for piece in zip(firsts, stops, states_before(prepared, firsts), strict=True)]


def states_before(prepared: PreparedLayer, firsts: Sequence[int]) -> list[int]:
    """The quantiser's state before each of these intervals: what its levels show, else where the ones before lead."""
    if not prepared.layer.dq:
        return [0] * len(firsts)
    levels, transitions = address(prepared.levels), address(TRANSITIONS[1])
    starts = [*prepared.starts[list(firsts)].tolist(), prepared.coded]
    states = [prepared.state]
    for before, start, stop in zip(starts[:-2], starts[1:-1], starts[2:], strict=True):
        state = find_state(levels, transitions, start, stop)
        if state < 0:
            state = state_after(levels, transitions, before, start, 8 * states[-1])
        states.append(int(state) >> 3)
    return states
