"""Which segments are decoded in lanes, in what order, and on how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nncjit.cabac import lane_choice
from nncjit.cabac import lane_decoder_kernels as kernels
from nncjit.cabac import lane_records as lr
from nncjit.cabac.lane_reach import within_reach
from nncjit.cabac.lane_tables import tables_of
from nncjit.jit import Table, aligned_zeros
from nncjit.jit.teams import KernelCall, KernelCalls

Array = np.ndarray[Any, Any]

SMALLEST, LARGEST = 1024, 1 << 31
"""Elements of a segment for which a lane pays, and which it can count."""
FEWEST_LANES = 4
"""A step takes as long as 4 steps of a stream in a pair, however many lanes are at work."""
LANE_CYCLES, PAIR_CYCLES = 48, 14
"""What a step of all lanes takes, and a bin of a stream in a pair."""
SMALLEST_PAYLOAD, LARGEST_PAYLOAD, REACH = 4, 1 << 28, 1 << 31
"""Bytes of a payload, and how far from the first one a payload may end: positions and indices have 32 bits."""


@dataclass(frozen=True, slots=True)
class LaneJobs:
    """Segments for the lanes.

    Attributes
    ----------
    chosen : int64[n]
        Their indices: kind by kind, the longest first, those of about the same length in order.
    kinds : list of (unary_length, dq, count)
    payloads : int
        Address of the first payload.
    workers, lanes : int
        How many workers, with how many lanes each.
    """

    chosen: Array
    kinds: list[tuple[int, int, int]]
    payloads: int
    workers: int
    lanes: int


def empty_groups(workers: int) -> Table:
    """Workspaces for the lanes of so many workers."""
    return Table(aligned_zeros(workers, lr.GROUP))


def jobs_for_lanes(
    layers: Array,
    segments: Array,
    size: Array,
    bits: Array,
    regular: Array,
    workers: int,
    wanted: bool | None,
    *,
    shared: bool = False,
) -> LaneJobs | None:
    """Choose what lanes can decode, if they are here and there is enough for them.

    Parameters
    ----------
    layers : LAYER[..]
    segments : SEGMENT[n]
    size, bits : int64[n]
        Elements and bits of the segments.
    regular : bool[n]
        Whether their layers are plain and have a state machine, and they no skipped rows.
    workers : int
        How many threads there are.
    wanted : bool or None
        Whether to decode in lanes; None: where it pays.
    shared : bool
        Whether other work takes the threads that are left. A step takes as long with few lanes as with all, so then
        there are no more workers than have all their lanes full; else all threads, each with fewer lanes.
    """
    if wanted is False or not lane_choice.available():
        return None
    of = segments["layer"]
    payload, n_bits, unary_length, dq = (layers[name][of] for name in ("words", "n_bits", "unary_length", "dq"))
    fits = regular & (unary_length <= lr.LONGEST_UNARY) & (size >= SMALLEST) & (size <= LARGEST)
    fits &= (n_bits >= 8 * SMALLEST_PAYLOAD) & (n_bits <= 8 * LARGEST_PAYLOAD)
    chosen = np.flatnonzero(fits)
    if chosen.size < FEWEST_LANES:
        return None
    first, near = within_reach(payload[chosen], n_bits[chosen] >> 3, bits[chosen], REACH)
    chosen = chosen[near]
    threads, workers = workers, min(workers, len(chosen) // FEWEST_LANES)
    if workers == 0:
        return None
    if shared:  # with another work, each has half of the threads
        threads, workers = -(-threads // 2), min(workers, max(1, (len(chosen) + lr.LANES - FEWEST_LANES) // lr.LANES))
    if not wanted and not (_end_sooner(bits[chosen], workers, threads) and lane_choice.pay(int(size[chosen].sum()))):
        return None
    kind = 2 * unary_length[chosen] + dq[chosen]
    chosen = chosen[np.lexsort((-_length_class(bits[chosen]), kind))]
    numbers, counts = np.unique(kind, return_counts=True)
    kinds = [(int(number) >> 1, int(number) & 1, int(count)) for number, count in zip(numbers, counts, strict=True)]
    lanes = min(lr.LANES, -(-len(chosen) // workers))
    return LaneJobs(chosen, kinds, first, workers, lanes)


def _length_class(bits: Array) -> Array:
    """Segments of one class take the same time within a fifth: which of them is last hardly matters, and in order
    they finish tensor by tensor.
    """
    classes: Array = np.rint(4 * np.log2(np.maximum(bits, 1)))
    return classes


def _end_sooner(bits: Array, workers: int, threads: int) -> bool:
    """Whether segments of so many bits end sooner in lanes than in pairs: one long segment alone is slow in a lane, so
    with many threads it is the last to end.
    """
    total, longest = int(bits.sum()), int(bits.max())
    in_lanes = LANE_CYCLES * max(total / (workers * lr.LANES), longest)
    return in_lanes < PAIR_CYCLES * max(total / threads, 2 * longest)


def decode_jobs(jobs: LaneJobs, table: Table, segments: Array, streams: Table, groups: Table) -> KernelCalls[Table]:
    """Decode the chosen segments in lanes.

    Returns
    -------
    Table
        REST[..]: what is left for streams to go on with, of the segments whose `rest` is set. To be kept as long.
    """
    kinds = Table(np.zeros(len(jobs.kinds), lr.KIND))
    taken = 0
    for record, (unary_length, dq, count) in zip(kinds.records, jobs.kinds, strict=True):
        record["tables"] = kinds.keep(tables_of(unary_length, dq))
        record["unary_length"], record["dq"] = unary_length, dq
        record["taken"], record["stop"] = taken, taken + count
        taken += count
    ordered, work = Table(np.take(segments, jobs.chosen)), Table(np.zeros(1, lr.LANE_WORK))
    rests = Table(np.empty(jobs.workers * len(jobs.kinds) * FEWEST_LANES, lr.REST))
    shared = work.records[0]
    shared["groups"], shared["streams"], shared["layers"] = groups.address, streams.address, table.address
    shared["segments"], shared["payloads"], shared["kinds"] = ordered.address, jobs.payloads, kinds.address
    shared["rests"], shared["n_kinds"] = rests.address, len(jobs.kinds)
    shared["most_lanes"], shared["fewest_lanes"] = jobs.lanes, FEWEST_LANES
    yield KernelCall(kernels.decode_in_lanes, work.address, jobs.workers)
    segments[jobs.chosen] = ordered.records
    return rests
