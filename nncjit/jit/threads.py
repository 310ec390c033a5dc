"""Threads: how many, and how kernels run on them without harm to anyone else in the process.

Kernels hold no GIL, so Python's own threads run them side by side. Numba has threads too. Starting those takes some 0.1
ms less, but their driver takes a second to compile and a third of a second to load. They also differ: *workqueue*
aborts the process when two threads enter it at once, GNU OpenMP one that was forked after its first use, and threads of
OpenMP wait by spinning, which costs dear where cores are shared.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from nncjit.jit import numba_internals
from nncjit.jit.compile import JIT
from nncjit.option_values import THREADS, checked, parsed

Result = TypeVar("Result")


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


class Pool(ThreadPoolExecutor):
    """An executor that tells how many threads it has."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="nncjit")
        self.threads = threads


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


def share(tasks: Sequence[Callable[[], Result]], workers: Executor | None) -> list[Result]:
    """The results of the tasks, in order. The caller works too, so that a pool whose threads all wait here cannot lock
    up. After an error, whoever meets it, no further task begins. The error that is raised is that of the first task
    that has one, since those before it have begun.
    """
    if workers is None or len(tasks) < 2:
        return [task() for task in tasks]
    results: dict[int, Result] = {}
    errors: dict[int, Exception] = {}
    waiting = deque(enumerate(tasks))

    def help_out() -> None:
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
            except BaseException:
                waiting.clear()
                raise

    helpers = [workers.submit(help_out) for _ in range(min(len(tasks) - 1, 64))]
    try:
        help_out()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()
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
        numba_internals.compile_worker(kernel)
        try:
            with ThreadPoolExecutor(workers - 1) as executor:
                others = [executor.submit(kernel, argument, k) for k in range(1, workers)]
                kernel(argument, 0)
            for other in others:
                other.result()
        except RuntimeError:  # no thread can be started: the interpreter is ending, or a limit is reached
            pass
        else:
            return
    for k in range(workers):
        kernel(argument, k)


if hasattr(os, "register_at_fork"):
    guard = numba_internals.fork_guard()
    if guard is not None:
        # The child of a parent that was compiling on another thread would wait for Numba's lock for ever.
        os.register_at_fork(before=guard.acquire, after_in_parent=guard.release, after_in_child=guard.release)
