"""A stream to arrays for somebody who has work with each of them, such as writing it to a file.

A batch is decoded by threads of its own. Meanwhile the caller's thread prepares the next batch, which is Python, and
gets what is ready, which is mostly the system's work. Where nothing is left to do for a tensor but to decode it, that
is each of its block rows as it comes; so when the last batch is done, little of it is left to write.

The other ways were slower. A thread for writing beside the decoder's wakes for each tensor, and competes with the
caller for the interpreter and the file. Many small batches, each on a thread of its own, leave lanes empty at their
ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np

from nncjit.cabac.payload_decoder import count_segments
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Decoded, compose, decoding_of, naming_unit, prepare
from nncjit.decoder.unit_decoder import UnitDecoding, decoded_with, is_raw, prepare_elements
from nncjit.stages import stage
from nncjit.stream.data_units import DataUnit

Array = np.ndarray[Any, Any]

HUGE = 1 << 25
"""Weights from which a tensor may come in pieces that are decoded one after the other."""
PIECE = 1 << 24
"""Weights of such a piece, about."""
FEW = 1 << 20
"""Weights after which the first batch ends, so that decoding begins while others are prepared."""
LOOK = 4e-3
"""Seconds between two looks for block rows that are ready."""


def decode_concurrently(
    units: Iterable[DataUnit], budget: MemoryBudget, *, threads: int | None = None, pieces: bool = False
) -> Iterator[Decoded]:
    """Decode data units of which none builds on another.

    Parameters
    ----------
    units : iterable of DataUnit
    budget : MemoryBudget
    threads : int, optional
        Threads that decode; the caller's is not among them.
    pieces : bool
        Whether tensors may come in pieces. These come in any order, before the stream is known to be sound. Without
        pieces, tensors come in order, each after its batch was checked.

    Raises
    ------
    BitstreamError
        The bytes break the standard. What came before is void.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="nncjit-decoder")
    running: _Batch | None = None
    try:
        for batch in chain(_batches(units, budget, threads, pieces=pieces), [None]):
            if batch is not None:
                batch.start(thread)
            if running is not None:
                yield from running.results()
            running = batch
    finally:
        thread.shutdown(cancel_futures=True)


def _batches(units: Iterable[DataUnit], budget: MemoryBudget, threads: int | None, *, pieces: bool) -> Iterator[_Batch]:
    """All units in order, prepared; huge tensors some block rows or pieces at a time, where they have such."""

    def together(waiting: list[DataUnit]) -> Iterator[_Batch]:
        for batch in budget.batches(waiting):
            yield _Batch([prepare(one) for one in batch], threads, pieces=pieces)

    waiting: list[DataUnit] = []
    seen = 0
    for opened in units:
        before, seen = seen, seen + opened.weights
        in_pieces = pieces and opened.weights >= HUGE and decoded_with(opened, range(1)) is not None
        if not in_pieces:
            waiting.append(opened)
        if in_pieces or before < FEW <= seen:
            yield from together(waiting)
            waiting = []
        if in_pieces:
            for decoding, start in _pieces(opened, budget):
                yield _Batch([decoding], threads, pieces=pieces, start=start)
    yield from together(waiting)


def _pieces(opened: DataUnit, budget: MemoryBudget) -> Iterator[tuple[UnitDecoding, int]]:
    """The tensor of a unit, piece by piece, and where each begins; the payload of block rows is read once."""
    size, first = opened.weights, 0
    with stage("read"), naming_unit(opened):
        payload = None if opened.pieces is not None or is_raw(opened) else opened.unit.payload()
    while first < size:
        here = decoded_with(opened, range(first, min(first + PIECE, size)))
        assert here is not None
        budget.charge(opened, len(here) / size)
        with stage("read"), naming_unit(opened):
            decoding = prepare_elements(opened, here, payload)
        yield decoding, here.start
        first = here.stop


class _Batch:
    """Units that are decoded together.

    Parameters
    ----------
    decodings : list of UnitDecoding
    threads : int or None
    pieces : bool
        Whether block rows are handed out as they come.
    start : int, optional
        Where in its tensor the only decoding begins.
    """

    def __init__(
        self, decodings: list[UnitDecoding], threads: int | None, *, pieces: bool, start: int | None = None
    ) -> None:
        self._decodings, self._start = decodings, start
        self._layers = [(one, one.job.layers[0]) for one in decodings if one.job is not None and one.job.layers]
        self._in_rows = [pieces and one.is_final for one, _ in self._layers]
        counts = [count_segments(layer) for _, layer in self._layers]
        self._stops = np.cumsum([0, *counts])
        self._finished = np.zeros(self._stops[-1], np.int64)
        self._left = np.repeat(np.array(self._in_rows, np.bool_), counts)
        self._run = decoding_of(decodings, threads, self._finished)
        self._future: Future[list[Decoded]] = Future()

    def start(self, thread: ThreadPoolExecutor) -> None:
        """Decode on this thread."""
        self._future = thread.submit(self._decode)

    def _decode(self) -> list[Decoded]:
        """What comes in no block rows."""
        self._run()
        in_rows = {id(one) for (one, _), yes in zip(self._layers, self._in_rows, strict=True) if yes}
        whole = [one for one in self._decodings if id(one) not in in_rows]
        found = [made for one in whole for made in compose(one, parts=self._start is not None)]
        return [replace(made, start=self._start) for made in found]

    def results(self) -> Iterator[Decoded]:
        """Block rows as they come, and what is left when all is decoded."""
        while not wait([self._future], LOOK).done:
            yield from self._block_rows(np.flatnonzero(self._left & (self._finished != 0)))
        whole = self._future.result()
        yield from self._block_rows(np.flatnonzero(self._left))
        yield from whole

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
