"""Time two ways of doing the same work so that the ratio can be trusted on a machine that others use too."""

from __future__ import annotations

import time
from collections.abc import Callable

Run = Callable[[], object]


def best_time(run: Run, rounds: int) -> float:
    """Least thread CPU time of some runs, seconds: for work of one thread. A busy neighbour hardly matters."""
    return _best(run, rounds, time.thread_time)


def best_wall(run: Run, rounds: int) -> float:
    """Least wall time of some runs, seconds: for work of many threads."""
    return _best(run, rounds, time.perf_counter)


def _best(run: Run, rounds: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(rounds):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)
