"""What the plan wants to know of a tensor before it chooses a step, and what quantising it cost."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nncjit.cabac import narrow_levels
from nncjit.cabac.narrow_levels import Levels, NarrowLevels
from nncjit.jit import address
from nncjit.quant import moments_kernels as kernels
from nncjit.quant.flat_arrays import Floats, flat_floats, flat_levels
from nncjit.quant.value_source import Values, as_floats, windows
from nncjit.quant.work_sharing import PIECE, run_pieces


class _Scratch(threading.local):
    """Where kernels leave sums for the thread that called them."""

    def __init__(self) -> None:
        self.moments, self.products = np.empty(1, kernels.MOMENTS), np.empty(1, kernels.PRODUCTS)
        self.counts = np.empty(256, np.int64)
        self.at_moments, self.at_products, self.at_counts = (
            address(array, writes=True) for array in (self.moments, self.products, self.counts)
        )


_scratch = _Scratch()


class Moments(NamedTuple):
    """Sums over the finite values of a tensor."""

    size: int
    mean: float
    power: float
    """Mean square."""
    peak: float
    """Largest magnitude."""
    non_finite: int
    """Number of NaN and infinite values."""

    @classmethod
    def of_sums(cls, size: int, total: float, power: float, peak: float, non_finite: float) -> Moments:
        """The moments from the sums of a tensor of so many values."""
        n = max(size - int(non_finite), 1)
        return cls(size, total / n, power / n, peak, int(non_finite))

    @property
    def energy(self) -> float:
        """Sum of squares."""
        return self.power * (self.size - self.non_finite)

    @property
    def rms(self) -> float:
        return math.sqrt(self.power)

    @property
    def std(self) -> float:
        return math.sqrt(max(self.power - self.mean * self.mean, 0.0))


def moments(values: np.ndarray | Values, workers: Executor | None = None) -> Moments:
    """Moments of float32 values. They do not depend on the workers, which share its pieces."""
    flat = as_floats(values)
    parts: list[Any] = []
    for window in windows(flat, flat.size, PIECE, workers):
        parts += run_pieces(partial(_moments, address(window.floats)), window.floats.size, workers)
    return _of_parts(flat.size, parts)


def difference_moments(
    new: Floats, base: Floats, difference: Floats, workers: Executor | None = None
) -> tuple[Moments, Moments]:
    """Fill `difference` with what `new` has more than `base`; the moments of `new` and of the difference, as `moments`
    finds them, while both are in the cache.

    Parameters
    ----------
    new, base, difference : float32[n]
        1-D and contiguous.
    workers : Executor, optional
    """
    at_new, at_difference = address(new), address(difference, writes=True)

    def piece(start: int, stop: int) -> tuple[Any, Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(new[start:stop], base[start:stop], out=difference[start:stop])
        return _moments(at_new, start, stop), _moments(at_difference, start, stop)

    parts = run_pieces(piece, new.size, workers)
    first, second = zip(*parts, strict=True) if parts else ((), ())
    return _of_parts(new.size, list(first)), _of_parts(new.size, list(second))


def _of_parts(size: int, parts: list[Any]) -> Moments:
    """The moments from the sums of the pieces."""
    total, power, peak, bad = _sums(parts, 4)
    peak = peak if len(parts) == 1 else max((part[2] for part in parts), default=0.0)
    return Moments.of_sums(size, total, power, peak, bad)


def _moments(source: int, start: int, stop: int) -> Any:
    kernels.moments(source + 4 * start, stop - start, _scratch.at_moments)
    return _scratch.moments.item()


def grain(values: np.ndarray, small: float, most_small: float) -> float:
    """The smallest magnitude that counts among the values of a vector: float32, contiguous, finite, not all zero.

    Values of one sign are scales, variances or frequencies: all of them count. So do all where more than `most_small`
    are below `small`, not counting zeros. Else the bulk does, whatever the outliers are.
    """
    flat = flat_floats(values)
    return float(kernels.grain(address(flat), flat.size, float(small), float(most_small), _scratch.at_counts))


class Products(NamedTuple):
    """Sums of products of the values w of a tensor and their levels q."""

    power: float
    """Of w * w."""
    mixed: float
    """Of w * q."""
    size: float
    """Of q * q."""

    def error(self, step: float) -> float:
        """Sum of squared differences between the values and step times the levels."""
        return max(self.power - 2.0 * step * self.mixed + step * step * self.size, 0.0)

    def largest_step(self, most_error: float) -> float:
        """The largest step whose error is at most this; that of least error where none is."""
        spare = self.mixed * self.mixed - self.size * (self.power - most_error)
        return (self.mixed + math.sqrt(max(spare, 0.0))) / self.size if self.size else 0.0

    @property
    def unbiased_step(self) -> float:
        """The step with which the decoded tensor has the gain of the original: ``<w, step q> = <w, w>``; 0 if there is
        none.
        """
        return self.power / self.mixed if self.mixed > 0.0 else 0.0


def products(values: np.ndarray | Values, levels: Levels, workers: Executor | None = None) -> Products:
    """Products of float32 values and their int32 levels (same order, contiguous), as `moments` finds its sums."""
    w, q = as_floats(values), levels if isinstance(levels, NarrowLevels) else flat_levels(levels)
    assert w.size == q.size
    parts: list[Any] = []
    for window in windows(w, w.size, PIECE, workers):
        task = partial(_products, address(window.floats), q, window.start)
        parts += run_pieces(task, window.floats.size, workers)
    return Products(*_sums(parts, 3))


def _products(source: int, levels: Levels, first: int, start: int, stop: int) -> Any:
    here = narrow_levels.load(levels, first + start, first + stop)
    kernels.products(source + 4 * start, address(here), stop - start, _scratch.at_products)
    return _scratch.products.item()


def _sums(parts: list[tuple[float, ...]], n: int) -> tuple[float, ...]:
    """The sums of the pieces, column by column."""
    if len(parts) == 1:
        return parts[0]
    return tuple(np.array(parts).reshape(-1, n).sum(axis=0).tolist())
