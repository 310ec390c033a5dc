"""Which segments are decoded in which way, and by how many threads (spec, section 5).

There are three: in lanes, in pairs, and one at a time. Lanes take what is plain and large enough, where there is enough
of it and the machine has them (`lane_supply.py`); what they leave half done, and shorter segments, goes in pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit.cabac import decoder_records as dr
from nncjit.cabac import lane_supply
from nncjit.cabac.context_decoder_kernels import decode_context_share
from nncjit.cabac.payload_decoder_kernels import decode_share
from nncjit.cabac.tables import DQ_NEXT_STATE, FAST, INITIAL_WORDS, RANGE_LPS, SLOW
from nncjit.jit import JIT, Table, numba_internals
from nncjit.jit.teams import KernelCall, KernelCalls

Array = np.ndarray[Any, Any]

PAIRED_RATE, PAIRED_SIZE = 5.4, 1024
"""Segments below this many bits an element, and of at least this many elements, are decoded two at a time."""

STEPPED_RATES = (1.0, 3.6)
"""Between these the state machine is the faster way for one stream alone, too."""

WORTH_A_THREAD = 1 << 14
"""Elements for which it pays to wake another thread."""


def _idle_stream() -> Array:
    """The bytes of a stream without a segment."""
    stream = np.zeros(1, dr.STREAM)
    stream["lps_ranges"] = RANGE_LPS
    stream["fast_down"], stream["fast_up"] = abs(FAST).reshape(2, -1)
    stream["slow_down"], stream["slow_up"] = abs(SLOW).reshape(2, -1)
    stream["next_state"] = DQ_NEXT_STATE
    stream["initial_words"][:, : INITIAL_WORDS.size] = INITIAL_WORDS
    return stream.view(np.uint8)


_IDLE_STREAM = _idle_stream()


class Workspaces:
    """What the workers of a call work in.

    Attributes
    ----------
    workers : int
    lanes : bool or None
        Whether to decode in lanes; None: where it pays.
    shared : bool
        Whether other work takes the threads that this leaves.
    streams : Table
        STREAM[workers, 2].
    """

    def __init__(self, workers: int, lanes: bool | None = None, *, shared: bool = False) -> None:
        self.workers, self.lanes, self.shared = workers, lanes, shared
        streams = np.empty((2 * workers, _IDLE_STREAM.size), np.uint8)
        streams[:] = _IDLE_STREAM
        self.streams = Table(streams.reshape(-1).view(dr.STREAM))
        self._groups: Table | None = None

    @property
    def groups(self) -> Table:
        """GROUP[workers]; made when lanes are first used."""
        if self._groups is None:
            self._groups = lane_supply.empty_groups(self.workers)
        return self._groups


def decode_segments(table: Table, segments: Array, skips: Array, workspaces: Workspaces) -> KernelCalls[None]:
    """Decode the segments of the layers in a table.

    Parameters
    ----------
    table : Table
        LAYER[..].
    segments : SEGMENT[n]
        They get their ends and faults.
    skips : bool[n]
        Which of them hold skipped rows.
    workspaces : Workspaces
    """
    layers, segment_layer = table.records, segments["layer"]
    width, n_bits, machine, hdsp = (layers[name][segment_layer] for name in ("width", "n_bits", "machine", "hdsp"))
    size = width * (segments["stop_row"] - segments["first_row"])
    stop_bit = np.where(segments["next_bit"] >= 0, segments["next_bit"], n_bits)
    bits = stop_bit - segments["bit"]
    rate = bits / np.maximum(size, 1)
    segments["stepped"] = (rate >= STEPPED_RATES[0]) & (rate <= STEPPED_RATES[1])
    regular, plain = (machine != 0) & ~skips & (hdsp == 0), layers["plain"][segment_layer] != 0
    segments["stepped"] |= regular & ~plain
    workers = max(1, min(workspaces.workers, len(segments), int(size.sum()) // WORTH_A_THREAD))
    left, half_done = np.ones(len(segments), np.bool_), np.zeros(len(segments), np.bool_)
    jobs = lane_supply.jobs_for_lanes(
        layers, segments, size, bits, regular & plain, workers, workspaces.lanes, shared=workspaces.shared
    )
    if jobs is not None:
        rests = yield from lane_supply.decode_jobs(jobs, table, segments, workspaces.streams, workspaces.groups)
        table.keep(rests.records)
        half_done = segments["rest"] != 0
        left[jobs.chosen] = half_done[jobs.chosen]
    paired = half_done | regular & ((size >= PAIRED_SIZE) & (rate < PAIRED_RATE) | ~plain)
    special = ~regular & (~plain | (hdsp != 0))
    for kernel, of_kernel in ((decode_context_share, special), (decode_share, ~special)):
        yield from _decode_in_streams(
            kernel, table, segments, np.flatnonzero(left & of_kernel), size, paired, workspaces, workers
        )


def _decode_in_streams(
    kernel: Any,
    table: Table,
    segments: Array,
    left: Array,
    size: Array,
    paired: Array,
    workspaces: Workspaces,
    workers: int,
) -> KernelCalls[None]:
    """The segments that are left: the largest first, those that can be paired last, where they fill the time left."""
    if left.size == 0:
        return
    order = left[np.lexsort((-size[left], paired[left]))]
    ordered, work = Table(np.take(segments, order)), Table(np.zeros(1, dr.WORK))
    n_single = len(order) - int(np.count_nonzero(paired[order]))
    workers = min(workers, len(order))
    shared = work.records[0]
    shared["streams"], shared["layers"], shared["segments"] = workspaces.streams.address, table.address, ordered.address
    shared["n_single"] = shared["taken_paired"] = n_single
    shared["n_all"], shared["workers"] = len(order), workers
    yield KernelCall(kernel, work.address, workers)
    segments[order] = ordered.records


def compile_contexts() -> None:
    """Compile the kernel for layers with contexts of updates, to be on disk from now on."""
    if JIT:
        numba_internals.compile_worker(decode_context_share)
