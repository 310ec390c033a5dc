"""Where the tasks of a model in several files are done: ``--workers`` and ``--dask``."""

from __future__ import annotations

import os
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from nncjit.errors import ModelError, NncWarning, OptionError


def add_executor(
    parser: ArgumentParser, *, resumes: bool = True, title: str = "several files", each: str = "a file"
) -> None:
    """``--workers`` and ``--dask``, and ``--no-resume`` where something is written."""
    group = parser.add_argument_group(title)
    group.add_argument("--workers", type=int, metavar="N", help=f"processes at work, each on {each} of its own")
    group.add_argument("--dask", metavar="ADDRESS", help="scheduler of a Dask cluster, for example tcp://host:8786")
    if resumes:
        group.add_argument("--no-resume", action="store_true", help="do not go on where an earlier run was ended")


@contextmanager
def executor_of(args: Namespace) -> Iterator[Executor | None]:
    """The executor that the user asked for.

    Raises
    ------
    OptionError
        Two were asked for, or none that can be had.
    """
    if args.dask is not None:
        if args.workers is not None:
            raise OptionError("--workers and --dask contradict each other: the workers of a cluster are its own")
        with _dask(args.dask) as executor:
            yield executor
    elif args.workers is not None:
        if not 1 <= args.workers <= 4096:
            raise OptionError(f"--workers is {args.workers}, must be 1 to 4096")
        if args.threads is None:
            args.threads = max((os.cpu_count() or 1) // args.workers, 1)
        with _processes(args.workers) as executor:
            yield executor
    else:
        yield None


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    from multiprocessing import get_context

    # a process that was forked beside threads may hang
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise OptionError("--dask needs Dask: pip install distributed") from None
    try:
        client = distributed.Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{address}: no Dask scheduler answers ({error})") from None
    with client:
        if not client.nthreads():
            warnings.warn(f"{address}: the cluster has no workers yet, this waits for one", NncWarning, stacklevel=2)
        executor: Executor = client.get_executor(pure=False)
        yield executor
