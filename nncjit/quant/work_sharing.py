"""Work on a large array in pieces, on the caller's thread or on an executor."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from nncjit.jit.threads import share

T = TypeVar("T")

PIECE = 1 << 18
"""Elements of a piece: large enough that handing it out costs nothing, small enough to balance a pool."""


def run_tasks(work: Callable[[int], T], count: int, workers: Executor | None) -> list[T]:
    """Results of ``work(0)`` to ``work(count - 1)``, in order.

    Parameters
    ----------
    work : callable
        Must not depend on other tasks; releases the GIL to gain from `workers`.
    count : int
        Number of tasks.
    workers : Executor or None
        Who does them beside the caller's thread.
    """
    return share([partial(work, k) for k in range(count)], workers)


def run_pieces(work: Callable[[int, int], T], n: int, workers: Executor | None = None, piece: int = PIECE) -> list[T]:
    """Results of ``work(start, stop)`` over 0..n in pieces of so many elements, in order; see `run_tasks`."""
    if n <= piece:
        return [work(0, n)] if n else []
    return run_tasks(lambda k: work(k * piece, min((k + 1) * piece, n)), -(-n // piece), workers)
