"""Tasks of a job on any executor: each writes a file of its own, and only small reports come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager, suppress
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

from nncjit.errors import ModelError, NncError, OptionError
from nncjit.remote import is_url

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
    return path if is_url(path) else fspath(Path(path).absolute())


def run_tasks(
    executor: Executor | None,
    work: Callable[[Task], Done],
    tasks: Iterable[Task],
    done: Callable[[Task, Done], None],
    *,
    kept: bool = False,
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
    kept : bool
        Whether a later call goes on from what is done.

    Raises
    ------
    NncError
        Of the first task that fails. What is waiting is cancelled, and what is at work is waited for and handed on.
    ModelError
        A worker was lost, or had too little memory.
    OptionError
        The executor takes no tasks.
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
                with _told(kept=kept):
                    waiting[_submitted(executor, work, task)] = task
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                task = waiting.pop(future)
                with _told(kept=kept):
                    result = future.result()
                done(task, result)
    except BaseException:
        _end(waiting, done)
        raise


def _submitted(executor: Executor, work: Callable[[Task], Done], task: Task) -> Future[Done]:
    try:
        future = executor.submit(work, task)
    except BrokenExecutor:
        raise
    except (RuntimeError, ValueError, OSError) as error:  # it was shut down, or cannot reach its workers
        raise OptionError(f"the executor takes no tasks: {error}") from error
    if not isinstance(future, Future):
        raise OptionError(f"the executor's submit gives a {type(future).__name__}, must be a concurrent.futures.Future")
    return future


def _end(waiting: dict[Future[Done], Task], done: Callable[[Task, Done], None]) -> None:
    """Cancel what waits, wait for what is at work, and hand on what came of it."""
    for future in waiting:
        future.cancel()
    for future in wait(future for future in waiting if not future.cancelled()).done:
        with suppress(BaseException):  # what ended the job is told, not what follows from it
            done(waiting[future], future.result())


@contextmanager
def _told(*, kept: bool) -> Iterator[None]:
    """Say what went wrong with an executor in words of ours."""
    try:
        yield
    except NncError:
        raise
    except MemoryError as error:
        raise ModelError(f"a worker ran out of memory ({error}): let fewer work at a time") from error
    except OSError as error:
        raise ModelError(f"{error.filename or 'a task'}: {(error.strerror or str(error)).lower()}") from error
    except Exception as error:
        if _is_lost_worker(error):
            said = str(error) or type(error).__name__
            goes_on = "goes on from here" if kept else "begins again"
            raise ModelError(f"a worker was lost ({said}): the same call {goes_on}") from error
        raise


def _is_lost_worker(error: Exception) -> bool:
    """Whether an executor says so that a worker has died; each kind has a name of its own for it."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in {
        "KilledWorker",
        "CancelledError",
        "TerminatedWorkerError",
    }
