"""The one progress bar: on stderr, only where that is a terminal, with the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int, str], None]
"""Called with the weights done, the weights in all, and the name of the tensor at work."""

NAME_WIDTH = 32


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Progress | None]:
    """A function that moves a bar titled `what`; None if stderr is not a terminal, or if `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=" weights", unit_scale=True, leave=False, dynamic_ncols=True, file=sys.stderr) as bar:

        def move(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.set_postfix_str(name[-NAME_WIDTH:], refresh=False)
            bar.update(done - bar.n)

        yield move
