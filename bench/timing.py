"""Time two ways of doing the same work so that the ratio can be trusted on a machine that others use too."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from nncjit.jit.threads import count

Run = Callable[[], object]

RIVAL = importlib.util.find_spec("nncodec") is not None
"""Whether NNCodec can be timed in this process."""


def best_time(run: Run, rounds: int) -> float:
    """Least thread CPU time of some runs, seconds: for work of one thread. A busy neighbour hardly matters."""
    return _best(run, rounds, time.thread_time)


def best_wall(run: Run, rounds: int) -> float:
    """Least wall time of some runs, seconds: for work of many threads."""
    return _best(run, rounds, time.perf_counter)


def median_ratio(run: Run, other: Run, rounds: int) -> float:
    """Median of wall time beside that of another run, over pairs of runs one after the other; who is first alternates.

    What disturbs a machine for a while disturbs both of a pair. The best of each could come from different whiles.
    """
    pairs = [(run, other), (other, run)] * -(-rounds // 2)
    for one in pairs[0]:
        one()
    ratios = []
    for first, second in pairs:
        times = {one: best_wall(one, 1) for one in (first, second)}
        ratios.append(times[run] / times[other])
    return statistics.median(ratios)


def clock() -> float:
    """Cycles a second of the core this runs on, from a chain of instructions whose latency is known."""
    links = 10_000_000
    _chain(np.int64(1), 1)
    return LINK_CYCLES * links / best_time(lambda: _chain(np.int64(12345), links), 5)


LINK_CYCLES = 4
"""A multiplication takes three and an exclusive or one, on all x86-64 of the last ten years and on today's ARM."""


@njit(nogil=True)
def _chain(factor, links):
    x = factor
    for k in range(links):
        x = (x * factor) ^ k
    return x


def cores_at_hand() -> float:
    """How many cores' work the machine does at once. A virtual one shows cores whose time it may not get."""
    links, threads = 100_000_000, count()
    _chain(np.int64(1), 1)

    def together(number: int) -> None:
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(lambda k: _chain(np.int64(k), links), range(number)))

    return threads * best_wall(lambda: together(1), 1) / best_wall(lambda: together(threads), 1)


ENOUGH = 1.0
"""Seconds of a rival's run that need not be repeated."""


def ratio(theirs: Run, ours: Run, rounds: int = 5) -> float:
    """Their thread CPU time divided by ours."""
    return rival_time(theirs) / best_time(ours, rounds)


def rival_time(run: Run, clock: Callable[[], float] = time.thread_time) -> float:
    """The time of a run that is slow and steady: the better of two, or one where it is long."""
    first = _best(run, 1, clock)
    return first if first > ENOUGH else min(first, _best(run, 1, clock))


def _best(run: Run, rounds: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(rounds):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)
