"""Ideas on the rates that the quantiser of rows counts with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.ideas.idea_curves import Idea, as_it_is
from bench.ideas.subjects import Subject
from nncjit.calibrate import Statistics
from nncjit.jit import Table
from nncjit.quant import feedback, problem
from nncjit.quant.feedback import RowLevels

Kind = Any
"""One of the trellises of `nncjit.quant.feedback`."""


def counting(kind: Kind, fade: float, every: int, start: np.ndarray | None) -> tuple[Kind, list[Table]]:
    """A trellis that works its rates out after so many values, and the records of its calls."""
    records: list[Table] = []

    class Counting(kind):  # type: ignore[misc]
        def _worker(self) -> Table:
            if start is not None:
                self.counts = start
            worker = super()._worker()
            worker.records[0]["fade"], worker.records[0]["every"] = fade, every
            records.append(worker)
            return worker

    return Counting, records


@contextmanager
def other_trellis(change: Callable[[Kind, tuple[Any, ...]], RowLevels]) -> Iterator[None]:
    """Matrices are quantised by another function of the kind of trellis and its arguments."""
    kept = problem.quantise_rows

    def quantise(*args: Any, overwrite: bool) -> RowLevels:  # noqa: ARG001 - some ideas need the values twice
        return change(feedback._GroupTrellis if args[-1].taps > 1 else feedback._FeedbackTrellis, args)  # noqa: SLF001

    problem.quantise_rows = quantise
    try:
        yield
    finally:
        problem.quantise_rows = kept


def memory(fade: float, every: int) -> Idea:
    """Counts of other values: fading more or less, worked out sooner or later."""

    def change(kind: Kind, args: tuple[Any, ...]) -> RowLevels:
        return counting(kind, fade, every, None)[0](*args).run()

    return _encoding(change)


def _of_first_pass(kind: Kind, args: tuple[Any, ...]) -> RowLevels:
    first, records = counting(kind, 1.0, feedback.EVERY, None)
    first(*args).run()
    counts = records[-1].records[0]["counts"].copy()
    return counting(kind, 1.0, 1 << 60, counts)[0](*args).run()


def _encoding(change: Callable[[Kind, tuple[Any, ...]], RowLevels]) -> Idea:
    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:
        with other_trellis(change):
            return as_it_is(subject, known, quality)

    return encode


of_first_pass = _encoding(_of_first_pass)
"""All rows are quantised twice, the second time by the counts of the whole matrix that the first one gave."""
