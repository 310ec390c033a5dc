"""Telling how far the work is: to a function of the caller, or by the one progress bar."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nncjit.errors import OptionError
from nncjit.terminal_text import ellipsis, showable

__all__ = ["Progress", "progress_bar", "reporting"]

Progress = Callable[[int, int, str], object]
"""Called with the weights (or batches) done, how many there are in all, and what is at work: a tensor's name."""

NAME_WIDTH = 32
BEAT = 1.0
"""Seconds between two looks of the bar at the clock."""


@contextmanager
def reporting(progress: Any, what: str, unit: str = "weights") -> Iterator[Progress | None]:
    """What an argument `progress` asks for: a function is called, True shows a bar titled `what`, None is silence.

    Raises
    ------
    OptionError
        It is none of these.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _bar(what, unit) as move:
            yield move
    elif callable(progress):
        yield progress
    else:
        said = " ".join(repr(progress).split())[:60]
        raise OptionError(f"progress is {said}, must be True, or a function of three arguments")


@contextmanager
def progress_bar(what: str, *, quiet: bool, unit: str = "weights") -> Iterator[Progress | None]:
    """The bar of the command line: only where stderr is a terminal, and not if `quiet`."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    with _bar(what, unit) as move:
        yield move


@contextmanager
def _bar(what: str, unit: str) -> Iterator[Progress]:
    """A function that moves a bar on stderr. It is there at once, and its clock goes on where nothing moves it."""
    from tqdm import tqdm

    bar = tqdm(desc=what, total=0, unit=f" {unit}", unit_scale=True, leave=False, dynamic_ncols=True, file=sys.stderr)
    bar.set_postfix_str("reading")
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            bar.refresh()

    def move(done: int, total: int, name: str) -> None:
        if done < bar.n:  # something else begins: its time is its own
            bar.reset(total)
        bar.total = total
        bar.set_postfix_str(ellipsis(showable(name, sys.stderr), NAME_WIDTH, sys.stderr), refresh=False)
        bar.update(done - bar.n)

    clock = threading.Thread(target=beat, name="nncjit progress", daemon=True)
    with suppress(RuntimeError):  # no thread can be started: the bar moves when there is something to tell
        clock.start()
    try:
        yield move
    finally:
        ended.set()
        if clock.ident is not None:
            clock.join()
        bar.close()
