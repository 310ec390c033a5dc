"""Work that asks for kernels instead of calling them, so that somebody else decides on which threads they run.

Such work is a generator: Python that prepares a kernel, yields the `KernelCall`, and goes on when all of it is done.
`finish` runs one here and now, for a caller who has nothing else to do. A `Team` runs several, one behind the other.

In a team nobody waits for anybody. Whoever ends a call last goes on with the Python behind it; who ends earlier takes
what the next work has to do. With threads of its own for each work, all but one are idle twice between two of them:
until the last is done, and until they are started again. And Linux may put two threads that start while a third one is
at work on one core, and leave the other idle: for 40 ms, in traces of two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, NamedTuple, TypeVar

from nncjit.jit import numba_internals, threads
from nncjit.jit.compile import JIT

Result = TypeVar("Result")


class KernelCall(NamedTuple):
    """What `threads.run` takes. Whoever of its workers returns has seen that nothing is left to take."""

    kernel: Any
    argument: int
    workers: int


KernelCalls = Generator[KernelCall, None, Result]
"""Work that yields what is to be run, and returns its result."""


def finish(calls: KernelCalls[Result]) -> Result:
    """Do work as a whole; returns and raises what it does."""
    while True:
        try:
            call = next(calls)
        except StopIteration as end:
            result: Result = end.value
            return result
        threads.run(*call)


class Team:
    """Threads that do work, one after the other.

    Parameters
    ----------
    size : int
        How many threads there are, each from when there is something for it to do.
    name : str
        What their names begin with.
    within : callable, optional
        Makes the context that a thread works in.
    """

    def __init__(
        self, size: int, name: str, within: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self._pool = threads.Pool(size, name)
        self._within = within
        self._lock = threading.Lock()
        self._unfinished, self._is_closed = 0, False

    def start(self, calls: KernelCalls[Result]) -> Future[Result]:
        """Begin work when threads are free, behind what was begun before."""
        future: Future[Result] = Future()
        with self._lock:
            self._unfinished += 1
        self._pool.submit(self._lead, _Work(calls, future))
        return future

    def close(self) -> None:
        """No work will be begun any more: the threads end with what there is, and nobody has to wait for them."""
        with self._lock:
            self._is_closed = True
        self._end_if_done()

    def stop(self) -> None:
        """End: what no thread has begun is left undone, and no thread is left behind."""
        self._pool.shutdown(cancel_futures=True)

    def _end_if_done(self) -> None:
        with self._lock:
            is_done = self._is_closed and not self._unfinished
        if is_done:
            self._pool.shutdown(wait=False)

    def _lead(self, work: _Work[Any]) -> None:
        """From one call to the next, until others are left at work for one: the last of them leads on."""
        try:
            with self._within():
                while (call := work.next_call()) is not None:
                    for _ in range(call.workers - 1):
                        if self._pool.offer(self._help, work) is None:  # those at work end it
                            break
                    if not work.take_part():
                        return
        except BaseException as error:  # noqa: BLE001 - no memory, say: nobody else would hear of it
            work.fail(error)
        with self._lock:
            self._unfinished -= 1
        self._end_if_done()

    def _help(self, work: _Work[Any]) -> None:
        with self._within():
            leads = work.take_part()
        if leads:
            self._lead(work)


class _Work(Generic[Result]):
    """Work under way, for any number of threads. A helper that comes too late may hold it for long, but no result."""

    def __init__(self, calls: KernelCalls[Result], future: Future[Result]) -> None:
        self._calls, self._futures = calls, [future]
        self._lock = threading.Lock()
        self._call: KernelCall | None = None
        self._n_begun = self._n_at_work = 0
        self._error: BaseException | None = None

    def next_call(self) -> KernelCall | None:
        """Go on to the next call, where nobody is at work; None where there is none, and the future is set."""
        if not self._futures:
            return None
        try:
            call = next(self._calls) if self._error is None else self._calls.throw(self._error)
            if JIT:
                numba_internals.compile_worker(call.kernel)
        except StopIteration as end:
            self._futures.pop().set_result(end.value)
            return None
        except BaseException as error:  # noqa: BLE001 - whatever it is, the future has it
            self.fail(error)
            return None
        with self._lock:
            self._call, self._n_begun = call, 0
        return call

    def fail(self, error: BaseException) -> None:
        """End here."""
        if self._futures:
            self._futures.pop().set_exception(error)

    def take_part(self) -> bool:
        """Work for the call, if more workers are wanted. Whether all of it is done with that, and this thread has to go
        on.
        """
        with self._lock:
            call, number = self._call, self._n_begun
            if call is None or number == call.workers:
                return False
            self._n_begun += 1
            self._n_at_work += 1
        try:
            call.kernel(call.argument, number)
        except BaseException as error:  # noqa: BLE001 - of a kernel in plain Python
            self._error = error
        with self._lock:
            self._n_at_work -= 1
            if self._n_at_work:
                return False
            self._call = None
            return True
