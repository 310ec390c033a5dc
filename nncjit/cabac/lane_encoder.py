"""Block rows of layers coded side by side in the lanes of vectors.

Layers are put into a `RowQueue`, and are coded when the first of them is wanted: the more rows there are, from whatever
layers, the fuller the lanes. What cannot be coded here gives None, and goes another way.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import lane_choice
from nncjit.cabac import lane_encoder_kernels as kernels
from nncjit.cabac.arithmetic_encoder import ArithmeticEncoder
from nncjit.cabac.block_row_pieces import states_before
from nncjit.cabac.encoder_input import PreparedLayer, check_faults
from nncjit.cabac.encoder_records import ENCODER, RESTART, TOO_LARGE, WRONG_STATE
from nncjit.cabac.lane_encoder_records import ENCODER_GROUP, FRONT, FULL, LANE_CODING, LANE_ROW, ROOM
from nncjit.cabac.lane_reach import within_reach
from nncjit.cabac.lane_records import LANES, LONGEST_UNARY, PLACES
from nncjit.cabac.lane_tables import AT_GTX, AT_REM, AT_SIG, tables_of
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.jit import CompiledLater, Table, address
from nncjit.jit.threads import share

Array = NDArray[Any]

FEWEST_ROWS = 5
"""Rows as long as the longest for which lanes pay: a step takes as long as some four bins of one encoder."""
LEAST_BYTES, SPARE_BITS = 2, 6
"""Room of a level in a row's output: bytes at least, and bits beside those of the mean magnitude."""
LONG = 1 << 24
"""Levels of a layer that gets no more room than it is likely to take."""
MORE = 4
"""How many times as much room a row gets that had too little."""
WORTH_COMPILING = 1 << 27
"""Weights whose encoding in lanes saves as much time as it takes to compile them."""
REACH = 1 << 33
"""Bytes from the first levels to the last: indices have 31 bits."""


_NO_LEVELS = np.zeros(0, np.int32)

ROWS_KERNEL = CompiledLater(kernels.encode_rows, WORTH_COMPILING)


def can_code(prepared: PreparedLayer) -> bool:
    """Whether the block rows of a layer, or the layer where it has none, can be coded in lanes, on this machine."""
    layer, intervals = prepared.layer, prepared.intervals
    plain = prepared.base is None and prepared.history is None and not layer.codebook_size
    whole_rows = (len(intervals) == 1 or bool(intervals["restart"].all())) and not intervals["zero_steps"].any()
    return plain and whole_rows and prepared.coded > 0 and layer.unary_length <= LONGEST_UNARY and lanes_here()


def lanes_here() -> bool:
    """Whether this machine has vectors for lanes, and they are wanted."""
    return lane_choice.available()


def compile_rows() -> None:
    """Compile the coding of rows now, where it can be."""
    if lanes_here():
        ROWS_KERNEL.compile()


class QueuedLayer:
    """A layer whose rows are coded, or will be."""

    def __init__(self, queue: RowQueue, prepared: PreparedLayer, contexts: Array, range_: int) -> None:
        self._queue, self.prepared, self.contexts = queue, prepared, contexts
        self.has_restarts = bool(prepared.intervals["restart"][0])
        self.first_range = 256 if self.has_restarts else range_
        self.longest = int((prepared.intervals["stop"] - prepared.starts).max())
        self.rows: Array | None = None
        """LANE_ROW[n], once they are coded."""
        self.pieces: Table | None = None

    def append_to(self, encoder: ArithmeticEncoder) -> Array | None:
        """Append the rows to what an encoder has written; returns the restarts, RESTART[k].

        None where the layer has to be coded in another way: its rows are too few, or too far away.

        Raises
        ------
        OptionError
            A level is beyond `MAX_LEVEL`, or does not fit the quantiser's state.
        """
        self._queue.run()
        if self.rows is None or self.pieces is None:
            return None
        rows = self.rows
        faults = int(np.bitwise_or.reduce(rows["faults"]))
        if faults or (rows["end_state"][:-1] != rows["state"][1:]).any():
            levels = self.prepared.levels
            too_large = max(int(levels.max()), -int(levels.min())) > MAX_LEVEL  # in a wrong state, lanes may not see it
            check_faults(TOO_LARGE if too_large else WRONG_STATE, levels, self.prepared.layer)
        self.prepared = replace(self.prepared, levels=_NO_LEVELS)  # a huge layer has no room beside its payload
        restarts = np.zeros(len(rows), RESTART)
        encoder.append_rows(Table(rows), self.pieces, restarts)
        return restarts if self.has_restarts else restarts[:0]

    def give_more_room(self, rows: Array) -> None:
        """Larger outputs for the rows of these numbers, which had to be given up."""
        if rows.size and self.pieces is not None:
            _give_room(self.pieces, rows, MORE * self.pieces.records["capacity"][rows])


class RowQueue:
    """Layers that are coded together.

    Parameters
    ----------
    workers : Executor, optional
        Threads that share the work. The bytes are the same as without.
    """

    def __init__(self, workers: Executor | None = None) -> None:
        self._workers = workers
        self._waiting: list[QueuedLayer] = []

    def add(self, prepared: PreparedLayer, contexts: Array, range_: int) -> QueuedLayer:
        """Let a layer wait. `contexts` are the words of its contexts at the start and at restarts, uint32[n]; `range_`
        is that of the encoder before it.
        """
        queued = QueuedLayer(self, prepared, contexts, range_)
        self._waiting.append(queued)
        return queued

    def run(self) -> None:
        """Code all that waits."""
        waiting, self._waiting = self._waiting, []

        def kind(queued: QueuedLayer) -> tuple[int, int]:
            return queued.prepared.layer.unary_length, queued.prepared.layer.dq

        for _, layers in groupby(sorted(waiting, key=kind), kind):
            _code(list(layers), self._workers)


def _code(layers: list[QueuedLayer], workers: Executor | None) -> None:
    """Code the rows of layers with one binarisation, longest first, if lanes pay for them."""
    levels = [queued.prepared.levels for queued in layers]
    start, n_bytes = np.array([address(each) for each in levels]), np.array([each.nbytes for each in levels])
    coded = np.array([queued.prepared.coded for queued in layers])
    base, near = within_reach(start, n_bytes, coded, REACH)
    layers = [queued for queued, yes in zip(layers, near, strict=True) if yes]
    layers.sort(key=lambda queued: queued.longest)
    total = sum(queued.prepared.coded for queued in layers)
    while layers and total < FEWEST_ROWS * layers[-1].longest:  # its lane would be busy when the others have ended
        total -= layers.pop().prepared.coded
    if not layers or not ROWS_KERNEL.pays(total):
        return
    layer = layers[0].prepared.layer
    coding = Table(np.zeros(1, LANE_CODING))
    stops = np.cumsum([len(queued.prepared.intervals) for queued in layers])
    rows = np.zeros(int(stops[-1]), LANE_ROW)
    for queued, part in zip(layers, np.split(rows, stops[:-1]), strict=True):
        queued.pieces = _fill(part, queued, (address(queued.prepared.levels) - base) >> 2)
    work = coding.records[0]
    tasks = max(1, min(len(rows) // FEWEST_ROWS, LANES)) if workers is not None else 1
    groups = Table(np.zeros(tasks, ENCODER_GROUP))
    work["groups"], work["levels"] = groups.address, base
    work["tables"], work["thresholds"] = coding.keep(tables_of(*layer[3:1:-1])), coding.keep(_thresholds(layer[3]))
    work["unary_length"], work["dq"] = layer.unary_length, layer.dq
    left = np.argsort(rows["first"] - rows["stop"], kind="stable")
    while left.size:
        ordered = np.copy(rows[left])
        work["rows"], work["n_rows"], work["taken"] = address(ordered, writes=True), len(ordered), 0
        share([partial(kernels.encode_rows, coding.address, k) for k in range(tasks)], workers)
        rows[left] = ordered
        left = left[ordered["faults"] & FULL != 0]
        for queued, stop in zip(layers, stops.tolist(), strict=True):
            first = stop - len(queued.prepared.intervals)
            queued.give_more_room(left[(left >= first) & (left < stop)] - first)
    for queued, part in zip(layers, np.split(rows, stops[:-1]), strict=True):
        queued.rows = np.copy(part)


def _fill(rows: Array, queued: QueuedLayer, first: int) -> Table:
    """Fill LANE_ROW[n] for a layer whose levels begin with number `first`; returns the rows' outputs, ENCODER[n]."""
    prepared = queued.prepared
    intervals, starts = prepared.intervals, prepared.starts
    pieces = Table(np.zeros(len(intervals), ENCODER))
    sizes = (_room_of_a_level(prepared.levels) * (intervals["stop"] - starts)).astype(np.int64) + ROOM
    _give_room(pieces, np.arange(len(intervals)), sizes)
    rows["first"], rows["stop"] = first + starts, first + intervals["stop"]
    rows["state"] = states_before(prepared, range(len(intervals)))
    rows["first_range"] = queued.first_range
    rows["contexts"] = pieces.keep(queued.contexts)
    rows["piece"] = pieces.address + ENCODER.itemsize * np.arange(len(intervals))
    return pieces


def _room_of_a_level(levels: Array) -> float:
    """Bytes that a level takes, about, and hardly more: its bits grow with the logarithm of its magnitude. Long layers
    have long rows, whose mean hardly differs, and their room counts.
    """
    some = levels[:: max(1, levels.size >> 12)]
    mean = float(np.abs(some, dtype=np.float64).mean()) if some.size else 0.0
    room = (math.log2(1 + mean) + SPARE_BITS) / 8
    return room if levels.size >= LONG else max(LEAST_BYTES, math.ceil(room))


def _give_room(pieces: Table, chosen: Array, sizes: Array) -> None:
    """Outputs of these sizes for some of the ENCODERs, in bytes, in memory that the table keeps."""
    ends = np.cumsum(sizes + FRONT)
    output = pieces.keep(np.empty(int(ends[-1]), np.uint8), writes=True)
    pieces.records["output"][chosen], pieces.records["capacity"][chosen] = output + ends - sizes, sizes


@lru_cache(maxsize=LONGEST_UNARY)
def _thresholds(unary_length: int) -> Array:
    """uint32[PLACES]: the bin of a place is 1 where the value is greater."""
    thresholds = np.full(PLACES, 0xFFFFFFFF, np.uint32)  # signs are not decided by it
    thresholds[AT_SIG:AT_GTX] = 0
    for j in range(unary_length):
        thresholds[AT_GTX + 2 * j : AT_GTX + 2 * j + 2] = j + 1
    thresholds[AT_REM:] = unary_length + (2 << np.arange(PLACES - AT_REM)) - 1
    return thresholds
