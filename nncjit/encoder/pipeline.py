"""Tensors through a pool of threads, in order, with few in memory.

Small tensors go in bundles: the block rows of a bundle are coded together, which fills the lanes of vectors. A matrix
of few long rows would leave half of the lanes empty, so a bundle has the weights of several. Bundles are coded side by
side, one a thread, those of tiny tensors meanwhile by the caller. The pieces of a large tensor are spread over the same
threads, behind what came before it, and so are those of the last bundle: nothing follows that the other threads could
do meanwhile. Another large tensor is begun beside it where both fit in memory, since a tensor has steps that one thread
takes alone: of a model of matrices of four to twelve million weights, 1.5 of 2 cores were at work. Where there are more
threads than bundles may be in memory, all bundles are shared. Whoever waits for shared pieces does some of them, so a
pool of any size cannot block itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

from nncjit.jit.threads import Pool, done

LARGE = 1 << 22
"""Weights from which a tensor's pieces are spread over all threads."""
TINY = 1 << 13
"""Weights below which a tensor is the caller's own: most of its time goes into Python, of which one thread runs at a
time, so that handing it out would only make the threads wait for each other."""
BUNDLE, MOST_BUNDLED = 1 << 22, 256
"""Weights and tensors of a bundle: its last tensor is the one that reaches them."""
IN_FLIGHT = 3 << 22
"""Weights of small tensors that may be read and not yet handed on: two bundles, whatever their last tensors are."""
LARGE_IN_FLIGHT = 3 << 23
"""The same where a large tensor is to be begun. A larger one is alone, and the caller's own."""

BUNDLES = IN_FLIGHT // BUNDLE
"""That may be in memory: with more threads, all of these are shared."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def bundled(items: Iterable[tuple[Item, int]]) -> Iterator[tuple[list[Item], int]]:
    """The items, each with its size, in bundles with theirs; that of tiny items only is 0. Large items stay alone."""
    bundle: list[Item] = []
    total = largest = 0
    for item, size in items:
        if size >= LARGE and bundle:
            yield bundle, total if largest >= TINY else 0
            bundle, total, largest = [], 0, 0
        bundle.append(item)
        total, largest = total + size, max(largest, size)
        if total >= BUNDLE or len(bundle) >= MOST_BUNDLED:
            yield bundle, total if largest >= TINY else 0
            bundle, total, largest = [], 0, 0
    if bundle:
        yield bundle, total if largest >= TINY else 0


def in_order(
    items: Iterable[tuple[Item, int]], work: Callable[[Item, Executor | None], Result], pool: Executor | None
) -> Iterator[Result]:
    """The results of ``work(item, workers)`` in the order of the items.

    Parameters
    ----------
    items : iterable of (item, size)
        `size` in weights decides between side by side and alone.
    work : callable
        Gets the pool as `workers` for a large item and for the last one unless it is tiny, and with more threads than
        `BUNDLES` for all that are not tiny; else None.
    pool : Executor or None
        The threads; None: all is done by the caller's.
    """
    if pool is None:
        for item, _ in items:
            yield work(item, None)
        return
    shared = pool if isinstance(pool, Pool) and pool.threads > BUNDLES else None
    waiting: deque[tuple[Future[Result], int]] = deque()
    in_flight = 0
    try:
        for item, size, is_last in _until_last(items):
            most = LARGE_IN_FLIGHT if size >= LARGE else IN_FLIGHT
            while waiting and (waiting[0][0].done() or in_flight + size > most):
                in_flight -= waiting[0][1]
                yield waiting.popleft()[0].result()  # under no name, which would keep it while the next are coded
            workers = None if size < TINY else pool if size >= LARGE or is_last else shared
            if size < TINY or size > LARGE_IN_FLIGHT:
                waiting.append((done(work, item, workers), size))
            else:
                waiting.append((pool.submit(work, item, workers), size))
            in_flight += size
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()


def _until_last(items: Iterable[tuple[Item, int]]) -> Iterator[tuple[Item, int, bool]]:
    """The items and their sizes, and whether no other follows."""
    known: tuple[Item, int] | None = None
    for following in items:
        if known is not None:
            yield *known, False
        known = following
    if known is not None:
        yield *known, True
