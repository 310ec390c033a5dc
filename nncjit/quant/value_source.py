"""Values that are taken window by window, so that those of a huge tensor need not all be in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol

import numpy as np

from nncjit.quant.flat_arrays import Floats

WINDOW = 1 << 23
"""Values that are in memory at a time, about."""


class Values(Protocol):
    """Values that can be loaded piece by piece, as often as wanted."""

    @property
    def size(self) -> int:
        """Number of values."""
        ...

    @property
    def window(self) -> int:
        """How many of them should be loaded at a time."""
        ...

    def load(self, start: int, stop: int, workers: Executor | None = None) -> Any:
        """The values ``start`` to ``stop``: 1-D and contiguous, not to be written to."""
        ...


class ArrayValues:
    """The values of a 1-D array, all of which are one window."""

    __slots__ = ("_array", "size", "window")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array, self.size, self.window = array, array.size, max(array.size, 1)

    def load(self, start: int, stop: int, workers: Executor | None = None) -> np.ndarray[Any, Any]:  # noqa: ARG002
        """See `Values`."""
        return self._array[start:stop]


def as_values(values: np.ndarray[Any, Any] | Values) -> Values:
    """An array of any shape as `Values`, in raster order; others as they are."""
    return ArrayValues(values.reshape(-1)) if isinstance(values, np.ndarray) else values


def as_floats(values: np.ndarray[Any, Any] | Values) -> Values:
    """The same, float32 and contiguous."""
    if isinstance(values, np.ndarray):
        return ArrayValues(np.ascontiguousarray(values, np.float32).reshape(-1))
    return values


class Window(NamedTuple):
    """Some values, and more on either side of them."""

    start: int
    """The first of these values, in the whole."""
    stop: int
    low: int
    """The first that is loaded."""
    floats: Floats
    """From `low` on, to the last that is loaded."""


def windows(
    values: Values,
    stop: int,
    unit: int,
    workers: Executor | None = None,
    *,
    before: int = 0,
    after: int = 0,
) -> Iterator[Window]:
    """The values 0 to `stop` in windows.

    Parameters
    ----------
    values : Values
    stop : int
    unit : int
        Of which a window that is not the last has a multiple.
    workers : Executor, optional
        Threads that share the loading.
    before, after : int
        How many values on either side are loaded with each window, where there are so many.
    """
    size = -(-values.window // unit) * unit
    for start in range(0, stop, size):
        end = min(start + size, stop)
        low = max(start - before, 0)
        yield Window(start, end, low, values.load(low, min(end + after, values.size), workers))
