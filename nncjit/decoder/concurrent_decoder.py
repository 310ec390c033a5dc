"""A stream to arrays for somebody who has work with each of them, such as writing it to a file.

Batches are decoded by a team of threads, one behind the other without a gap. Meanwhile the caller's thread prepares the
next batch, which is Python, and gets what is ready, which is mostly the system's work. Where nothing is left to do for
a tensor but to decode it, that is each of its block rows as it comes; so when the last batch is done, little of it is
left to write. The first batch begins while the headers behind it are still read, and what depends on all of them, such
as the file's own header, is made meanwhile.

The other ways were slower. A thread for writing beside the decoder's wakes for each tensor, and competes with the
caller for the interpreter and the file. Many small batches leave lanes empty at their ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, Self

import numpy as np

from nncjit.cabac.lane_records import LANES
from nncjit.cabac.payload_decoder import count_segments
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Decoded, compose, decoding_of, naming_unit, prepare
from nncjit.decoder.unit_decoder import UnitDecoding, decoded_with, is_raw, prepare_elements
from nncjit.jit import threads as thread_counts
from nncjit.jit.teams import KernelCalls, Team
from nncjit.stages import stage
from nncjit.stream.data_units import DataUnit

Array = np.ndarray[Any, Any]

HUGE = 1 << 25
"""Weights from which a tensor may come in pieces that are decoded one after the other."""
PIECE = 1 << 24
"""Weights of such a piece, about."""
FEW = 1 << 20
"""Weights after which the first batch ends, so that decoding begins while what follows is read and prepared."""
LOOK = 4e-3
"""Seconds between two looks for block rows that are ready."""
IN_FLIGHT, IN_FLIGHT_PER_THREAD = 1 << 27, 1 << 23
"""Bytes that the arrays of all batches may take that are at work or being handed on, where these are more than two. Of
wide tensors, a batch fills the lanes of one or two threads only.
"""
TURN = 1e-3
"""Seconds that the caller leaves the interpreter to the first batch. Its kernels need none, but they are started from
Python, and threads that do not wait take turns of 5 ms.
"""


class ConcurrentDecoder:
    """Data units of which none builds on another, decoded beside the caller's thread. A context manager, behind which
    nothing is decoded any more.

    Parameters
    ----------
    budget : MemoryBudget
    threads : int, optional
        Threads that decode; the caller's is not among them.
    """

    def __init__(self, budget: MemoryBudget, threads: int | None = None) -> None:
        self._budget, self._threads = budget, thread_counts.count(threads)
        self._team = Team(self._threads, "nncjit-decoder", partial(stage, "decode"))
        self._running: deque[_Batch] = deque()
        self._begun: Iterator[_Batch] = iter(())
        self._rest: list[DataUnit] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._team.stop()

    def begin(self, units: Iterable[DataUnit]) -> list[DataUnit]:
        """Take data units, once. Decoding begins with the first of them, while the others are read.

        Parameters
        ----------
        units : iterable of DataUnit

        Returns
        -------
        list of DataUnit
            All of them.
        """
        taken: list[DataUnit] = []
        weights = n_begun = 0
        for opened in units:
            taken.append(opened)
            before, weights = weights, weights + opened.weights
            if before < FEW <= weights < HUGE:
                n_begun = len(taken)
                self._begun = self._together(taken[:n_begun])
                self._start(next(self._begun))
                self._running[0].wait(TURN)
        self._rest = taken[n_begun:]
        return taken

    def results(self, *, pieces: bool = False) -> Iterator[Decoded]:
        """All tensors of the units.

        Parameters
        ----------
        pieces : bool
            Whether tensors may come in pieces. These come in any order, before the stream is known to be sound. Without
            pieces, tensors come in order, each after its batch was checked.

        Raises
        ------
        BitstreamError
            The bytes break the standard. What came before is void.
        """
        for batch in chain(self._begun, self._batches(pieces=pieces)):
            self._start(batch)
            size = batch.n_bytes
            del batch  # or its arrays would be there as long as those of the batch that takes its place
            while not self._has_room_for(size):
                yield from self._oldest(pieces=pieces)
        self._team.close()
        while self._running:
            yield from self._oldest(pieces=pieces)

    def _has_room_for(self, size: int) -> bool:
        """Whether there may be a batch more, of so many bytes."""
        count = len(self._running)
        most = IN_FLIGHT + IN_FLIGHT_PER_THREAD * self._threads
        return count < 2 or (count <= self._threads and sum(one.n_bytes for one in self._running) + size <= most)

    def _start(self, batch: _Batch) -> None:
        batch.start(self._team)
        self._running.append(batch)

    def _oldest(self, *, pieces: bool) -> Iterator[Decoded]:
        """All of the oldest batch, and meanwhile what is ready of the others, where tensors may come in pieces."""
        while pieces and not self._running[0].wait(LOOK):
            for batch in self._running:
                yield from batch.block_rows()
        yield from self._running.popleft().rest(pieces=pieces)

    def _together(self, units: list[DataUnit]) -> Iterator[_Batch]:
        for batch in self._budget.batches(units):
            yield _Batch([prepare(one) for one in batch], self._threads)

    def _batches(self, *, pieces: bool) -> Iterator[_Batch]:
        """All units that have not begun, in order, prepared; huge tensors some block rows or pieces at a time, where
        they have such and may come so.
        """
        waiting: list[DataUnit] = []
        for opened in self._rest:
            if not (pieces and opened.weights >= HUGE and decoded_with(opened, range(1)) is not None):
                waiting.append(opened)
                continue
            yield from self._together(waiting)
            waiting = []
            for decoding, start in _pieces(opened, self._budget):
                yield _Batch([decoding], self._threads, start=start)
        yield from self._together(waiting)


def _pieces(opened: DataUnit, budget: MemoryBudget) -> Iterator[tuple[UnitDecoding, int]]:
    """The tensor of a unit, piece by piece, and where each begins; the payload of block rows is read once."""
    size, first, most = opened.weights, 0, _weights_of_piece(opened)
    with stage("read"), naming_unit(opened):
        payload = None if opened.pieces is not None or is_raw(opened) else opened.unit.payload()
    while first < size:
        here = decoded_with(opened, range(first, min(first + most, size)))
        assert here is not None
        budget.charge(opened, len(here) / size)
        with stage("read"), naming_unit(opened):
            decoding = prepare_elements(opened, here, payload)
        yield decoding, here.start
        first = here.stop


def _weights_of_piece(opened: DataUnit) -> int:
    """About `PIECE`, and block rows for all lanes of some threads, where there are so many: those that would be left
    over take as long as full lanes.
    """
    one = decoded_with(opened, range(1))
    assert one is not None
    full = LANES * len(one)
    return PIECE // full * full or PIECE


class _Batch:
    """Units that are decoded together.

    Parameters
    ----------
    decodings : list of UnitDecoding
    threads : int
    start : int, optional
        Where in its tensor the only decoding begins.
    """

    def __init__(self, decodings: list[UnitDecoding], threads: int, *, start: int | None = None) -> None:
        self._decodings, self._start = decodings, start
        self._layers = [(one, one.job.layers[0]) for one in decodings if one.job is not None and one.job.layers]
        counts = [count_segments(layer) for _, layer in self._layers]
        self._stops = np.cumsum([0, *counts])
        self._finished = np.zeros(self._stops[-1], np.int64)
        self._left = np.repeat(np.array([one.is_final for one, _ in self._layers], np.bool_), counts)
        self._calls = decoding_of(decodings, threads, self._finished, shared=True)
        self.n_bytes = sum(array.nbytes for one in decodings for array in one.arrays)
        self._future: Future[list[list[Decoded]]] = Future()

    def start(self, team: Team) -> None:
        """Decode on the threads of a team."""
        self._future = team.start(self._decode())

    def wait(self, seconds: float) -> bool:
        """Whether it is decoded after so many seconds at most."""
        return bool(wait([self._future], seconds).done)

    def _decode(self) -> KernelCalls[list[list[Decoded]]]:
        """The tensors of each unit; none where its block rows are all that there is to hand out."""
        yield from self._calls
        return [[] if one.is_final else self._composed(one) for one in self._decodings]

    def _composed(self, one: UnitDecoding) -> list[Decoded]:
        return [replace(made, start=self._start) for made in compose(one, parts=self._start is not None)]

    def block_rows(self) -> Iterator[Decoded]:
        """Those that are decoded by now and were not handed out before, each where it is all of what is left to do."""
        yield from self._block_rows(np.flatnonzero(self._left & (self._finished != 0)))

    def rest(self, *, pieces: bool) -> Iterator[Decoded]:
        """When all is decoded: with `pieces`, what `block_rows` did not hand out; else whole tensors in order."""
        composed = self._future.result()
        if pieces:
            yield from self._block_rows(np.flatnonzero(self._left))
        for one, made in zip(self._decodings, composed, strict=True):
            yield from made if pieces or not one.is_final else self._composed(one)

    def _block_rows(self, segments: Array) -> Iterator[Decoded]:
        """Hand out these segments; neighbours together."""
        self._left[segments] = False
        owners = np.searchsorted(self._stops, segments, "right") - 1
        runs = np.flatnonzero((np.diff(segments) != 1) | (np.diff(owners) != 0)) + 1
        for begin, end in pairwise([0, *runs.tolist(), len(segments)] if len(segments) else []):
            owner = owners[begin]
            first = self._stops[owner]
            yield self._rows(owner, int(segments[begin] - first), int(segments[end - 1] + 1 - first))

    def _rows(self, owner: int, first: int, stop: int) -> Decoded:
        decoding, job = self._layers[owner]
        (array,), (part,) = decoding.arrays, decoding.opened.parts
        if self._start is None and stop - first == count_segments(job):
            return Decoded(part, array, decoding.opened)
        grain = job.layer.block_side * job.layer.width
        elements = array.reshape(-1)[first * grain : stop * grain]
        return Decoded(part, elements, decoding.opened, (self._start or 0) + first * grain)
