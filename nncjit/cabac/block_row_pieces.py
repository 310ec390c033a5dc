"""The block rows of a large layer in pieces, which threads work on side by side."""

from __future__ import annotations

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
        return [Piece(0, len(intervals), 0)]
    firsts, begin = [0], 0
    for k in np.flatnonzero(intervals["restart"]):
        if starts[k] - begin >= PIECE_SIZE:
            firsts.append(int(k))
            begin = int(starts[k])
    stops = [*firsts[1:], len(intervals)]
    states = _states(prepared, firsts, stops)
    return [Piece(*piece) for piece in zip(firsts, stops, states, strict=True)]


def _states(prepared: PreparedLayer, firsts: list[int], stops: list[int]) -> list[int]:
    """The quantiser's state at the beginning of each piece: what its levels show, else where the piece before leads."""
    if not prepared.layer.dq:
        return [0] * len(firsts)
    levels, transitions = address(prepared.levels), address(TRANSITIONS[1])
    starts, ends = prepared.starts, prepared.intervals["stop"]
    states = [0]
    for before, first, stop in zip(firsts[:-1], firsts[1:], stops[1:], strict=True):
        state = find_state(levels, transitions, starts[first], ends[stop - 1])
        if state < 0:
            state = state_after(levels, transitions, starts[before], starts[first], 8 * states[-1])
        states.append(int(state) >> 3)
    return states
