"""Tasks of a job on any executor: each writes a file of its own, and only small reports come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from nncjit.errors import ModelError, NncError, OptionError

Task = TypeVar("Task")
Done = TypeVar("Done")

IN_FLIGHT = 64
"""Tasks that are handed to an executor at a time."""


def check_executor(executor: Any) -> None:
    """Refuse what is no executor."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        said = type(executor).__name__
        raise OptionError(f"executor is of type {said}, must have `submit`, as concurrent.futures.Executor has")


def path_for_tasks(path: str | PathLike[str]) -> str:
    """A path that means the same wherever a worker was started; links stay, they may lead elsewhere there."""
    return fspath(Path(path).absolute())


def run_tasks(
    executor: Executor | None, work: Callable[[Task], Done], tasks: Iterable[Task], done: Callable[[Task, Done], None]
) -> None:
    """Do all tasks, here or on an executor, and hand each result on as it comes, in this thread.

    Parameters
    ----------
    executor : Executor or None
        Nothing of it is used but `submit`. None: the tasks are done here, one after the other.
    work : callable
        A function that can be pickled, where the executor asks for it.
    tasks : iterable
    done : callable
        Called with a task and its result.

    Raises
    ------
    NncError
        Of the first task that fails. What is waiting is cancelled, and what is at work is waited for.
    ModelError
        A worker was lost.
    """
    if executor is None:
        for task in tasks:
            done(task, work(task))
        return
    waiting: dict[Future[Done], Task] = {}
    source = iter(tasks)
    try:
        while True:
            for task in islice(source, IN_FLIGHT - len(waiting)):
                waiting[executor.submit(work, task)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                done(waiting.pop(future), _result(future))
    finally:
        for future in waiting:
            future.cancel()
        wait([future for future in waiting if not future.cancelled()])


def _result(future: Future[Done]) -> Done:
    try:
        return future.result()
    except NncError:
        raise
    except Exception as error:
        if _is_lost_worker(error):
            said = str(error) or type(error).__name__
            raise ModelError(f"a worker was lost ({said}): the same call goes on from here") from error
        raise


def _is_lost_worker(error: Exception) -> bool:
    """Whether an executor says so that a worker has died; each kind has a name of its own for it."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in {
        "KilledWorker",
        "CancelledError",
        "TerminatedWorkerError",
    }
