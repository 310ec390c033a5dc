"""Threads: how many, and how a kernel runs on them without harm to anyone else in the process.

Kernels hold no GIL, so Python's own threads run them side by side: at once, in every process. Numba's threads, which
stay alive between calls, begin a kernel some 0.1 ms sooner for each of them. But the driver that starts them takes a
second to compile and a third of a second to load, so `run` takes the `prange` road when so many threads have been
started that it would have paid. And Numba's threading layers have limits. *workqueue* aborts the process when two
threads enter it at once, also where the other one runs a parallel function of the user's own. GNU OpenMP aborts a
process that was forked after its first use. And OpenMP's threads wait by spinning, which costs dear where cores are
shared (measured beside 5 busy processes on 2 cores: 30 million weights a second, 48 on Python's threads). So that road
is taken on a layer for many callers (OpenMP, TBB), in a process that is no fork, on a machine with cores to spare.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numba

from nncjit.jit import numba_internals
from nncjit.jit.compile import JIT, parallel_kernel, prange
from nncjit.jit.numba_internals import call_worker
from nncjit.option_values import THREADS, checked, parsed

P = ParamSpec("P")
Result = TypeVar("Result")

WORTH_COMPILING = 10_000
"""Threads that start in the time that the driver of Numba's threads takes to compile."""


def count(threads: int | None = None) -> int:
    """The number of threads to use.

    Parameters
    ----------
    threads : int, optional
        What the caller wants. None: the environment's ``NNCJIT_THREADS`` if set, else every core this process may use.

    Raises
    ------
    OptionError
        Not a whole number in the range of `THREADS`.
    """
    if threads is not None:
        return int(checked("threads", THREADS, threads))
    text = os.environ.get("NNCJIT_THREADS")
    return int(parsed("NNCJIT_THREADS", THREADS, text)) if text else _usable_cores()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def done(task: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
    """The result of a task that is done here and now, or its error, where others come later."""
    future: Future[Result] = Future()
    try:
        future.set_result(task(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - whatever it is, the future has it
        future.set_exception(error)
    return future


_this_thread = threading.local()


class Pool(ThreadPoolExecutor):
    """An executor that tells how many threads it may have, and does with those that there are.

    The system may start no more of them, as in a container with a limit. Python's own executors start none when the
    main thread has ended, though others go on, and `atexit` handlers. Where there is none, who submits a task does it.

    Python's own does not wait for a thread whose start a signal has interrupted, though it works: this one does.
    """

    def __init__(self, threads: int, name: str = "nncjit") -> None:
        begun: list[threading.Thread] = []  # each before it takes anything to do
        super().__init__(threads, name, lambda: begun.append(threading.current_thread()))
        self.threads, self._begun = threads, begun

    def submit(self, task: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        """Have a task done, here and now where there is no thread for it."""
        future = self.offer(task, *args, **kwargs)
        if future is None:
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            return done(task, *args, **kwargs)
        return future

    def offer(self, task: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result] | None:
        """Have a task done by a thread; None where there is none for it, and when the pool was shut down.

        None also for a signal handler that has interrupted this in any pool: Python's own would wait for ever for the
        lock that the code below it holds.
        """
        if getattr(_this_thread, "is_submitting", False):
            return None
        _this_thread.is_submitting = True
        try:
            return super().submit(task, *args, **kwargs)
        except RuntimeError:
            return None
        finally:
            _this_thread.is_submitting = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End, as Python's own."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for thread in self._begun:
                thread.join()

    def _adjust_thread_count(self) -> None:
        """Python's own, which starts a thread for a task where none is idle."""
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                self._work_queue.get_nowait()  # the task, which nobody will do
                raise


@contextmanager
def pool(threads: int | None = None) -> Iterator[Pool | None]:
    """An executor of `count(threads)` threads for kernels that hold no GIL; None for one thread."""
    number = count(threads)
    if number == 1:
        yield None
        return
    executor = Pool(number)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def share(tasks: Sequence[Callable[[], Result]], workers: Executor | None, *, most_helpers: int = 64) -> list[Result]:
    """The results of the tasks, in order. The caller works too, so that a pool whose threads all wait here cannot lock
    up. After an error, whoever meets it, no further task begins. The error that is raised is that of the first task
    that has one, since those before it have begun.

    When this returns or raises, no task runs any more, and none will begin: the caller may free what they work on, also
    where a signal has interrupted it here.
    """
    if workers is None or len(tasks) < 2:
        return [task() for task in tasks]
    results: dict[int, Result] = {}
    errors: dict[int, Exception] = {}
    waiting = deque(enumerate(tasks))
    busy: deque[None] = deque()

    def work_off() -> None:
        while True:
            try:
                k, task = waiting.popleft()
            except IndexError:
                return
            try:
                results[k] = task()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
                waiting.clear()
                errors[k] = error

    def help_out() -> None:
        busy.append(None)  # before a task is taken: who sees none that is busy and none that waits knows that all ended
        try:
            work_off()
        finally:
            busy.pop()

    try:
        helpers = [workers.submit(help_out) for _ in range(min(len(tasks) - 1, most_helpers))]
        work_off()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
    except BaseException:
        waiting.clear()
        while busy:
            with suppress(BaseException):  # another signal: what the first one has raised is on its way
                time.sleep(1e-3)
        raise
    if errors:
        raise errors[min(errors)]
    return [results[k] for k in range(len(tasks))]


def run(kernel: Any, argument: int, workers: int) -> None:
    """Call ``kernel(argument, k)`` for each k below `workers`, side by side; returns when all are done.

    Parameters
    ----------
    kernel : kernel of two int64
        Its workers must share the work among themselves: they may run at once or one after another, in any order.
    argument : int
        Usually the address of an array with the real arguments, which the caller keeps alive.
    workers : int
    """
    if workers > 1 and JIT:
        _layer.wanted(workers - 1)
        if _layer.carries(workers):
            before = numba.get_num_threads()
            numba.set_num_threads(max(before, workers))  # of this thread only
            try:
                _fan_out(numba_internals.code_address(kernel), argument, workers)
            finally:
                numba.set_num_threads(before)
            return
        numba_internals.compile_worker(kernel)
        with Pool(workers - 1) as executor:
            share([partial(kernel, argument, k) for k in range(workers)], executor, most_helpers=workers - 1)
        return
    for k in range(workers):
        kernel(argument, k)


@parallel_kernel
def _fan_out(function, argument, workers):  # type: ignore[no-untyped-def]
    """The one `prange`. It knows the kernel by its address, so that neither is compiled into the other."""
    for k in prange(workers):
        call_worker(function, argument, k)


def compile_driver() -> None:
    """Compile what starts Numba's threads, to be on disk from now on."""
    if JIT and "calls by address" in numba_internals.AVAILABLE:
        _fan_out.compile((numba.int64,) * 3)


class _ThreadingLayer:
    """What this process may ask of Numba's threading layer."""

    def __init__(self) -> None:
        # Who loads this module with the layer already running may be a fork of the process that started it.
        self._doubtful = _running_layer() is not None
        self._name: str | None = None
        self._started = 0

    def wanted(self, threads: int) -> None:
        """Count threads besides the caller's: to start them anew is what Numba's driver saves."""
        self._started += threads

    def carries(self, workers: int) -> bool:
        """Whether `prange` is safe and fast here, can have so many threads, and pays by now."""
        if self._started < WORTH_COMPILING:
            return False
        if self._doubtful or workers > numba.config.NUMBA_NUM_THREADS or self.is_crowded():
            return False
        if self._name is None:
            self._name = self._start()
        return self._name in ("omp", "tbb")

    def _start(self) -> str:
        if "calls by address" not in numba_internals.AVAILABLE:
            return "none"
        try:
            numba.get_num_threads()  # starts the layer
        except Exception:  # noqa: BLE001 - whatever stops Numba, a layer that is not there, say
            return "none"
        return _running_layer() or "none"

    def is_crowded(self) -> bool:
        """Whether more work than cores has been waiting for them in the last minute."""
        return hasattr(os, "getloadavg") and os.getloadavg()[0] > _usable_cores() + 1

    def forked(self) -> None:
        self._doubtful = True


def _running_layer() -> str | None:
    """The name of Numba's threading layer, once it is running."""
    try:
        name: str = numba.threading_layer()
    except ValueError:
        return None
    return name


_layer = _ThreadingLayer()

if hasattr(os, "register_at_fork"):
    guard = numba_internals.fork_guard()
    if guard is not None:
        # The child of a parent that was compiling on another thread would wait for Numba's lock for ever.
        os.register_at_fork(before=guard.acquire, after_in_parent=guard.release, after_in_child=guard.release)
    os.register_at_fork(after_in_child=_layer.forked)
