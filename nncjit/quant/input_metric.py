"""The metric of a matrix whose rows are inputs, taken apart so that rows can be quantised one after another.

With A the metric over all inputs (damped, see `factorise`), an error E of the matrix costs half tr(E' A E). The
Cholesky factor of A, from the last input up, makes this a sum over inputs::

    A = L L', L upper triangular;   half tr(E' A E) = sum_k d_k |t_k - q_k|^2
    d_k = L_kk^2 / 2,   t_k = w_k + sum over i < k of U_ki (w_i - q_i),   U_ki = L_ik / L_kk

so that quantising row k to the nearest of its target t_k is the best that can be done after rows 0 .. k-1: what they
missed is made up for by what follows. A convolution has a kernel's taps in the place of each input.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.errors import ModelError, NncWarning
from nncjit.quant.flat_arrays import Floats
from nncjit.stages import staged

Doubles = NDArray[np.float64]

DAMPING = 0.01
"""Of the mean of the metric's diagonal, added to it: guards inputs that the samples hardly used."""

MOST_RATE = 1e6
"""Of an uneven metric: rows that cost less than this share of the mean are zero anyway."""

_TINY = float(np.finfo(np.float32).tiny)
_MORE_DAMPING = (0.01, 0.1, 1.0)
"""Of each input's own, where a metric is not positive: rounded correlations, or too few samples."""
_STRIP = 64
"""Rows or columns that large matrices are worked on at a time, so that these stay in the cache."""
_NOT_BELOW = np.triu(np.ones((_STRIP, _STRIP), np.bool_))


class MetricPart(NamedTuple):
    """Some rows that depend on each other, and on no others."""

    first: int
    """Row."""
    stop: int
    feed: Floats
    """float32[(stop - first) * taps] squared: U, zeros on the diagonal and above; of layers one for each."""


@dataclass(frozen=True, slots=True, eq=False)
class InputMetric:
    """What errors of the rows of a matrix cost."""

    taps: int
    """Values of a row that stand together for one output: a convolution's kernel, else 1."""
    pivots: Doubles
    """float64[layers * rows * taps]: d, all above 0."""
    feeds: tuple[Floats, ...]
    """U of the parts, one after another."""
    uneven: bool = False
    """Whether no factors have made the rows' pivots alike: each row then has its own weight of the rate."""
    layers: int = 1
    """Layers whose outputs stand side by side in each row, equally many of each, and feed back by their own U."""

    @classmethod
    def side_by_side(cls, metrics: Sequence[InputMetric]) -> InputMetric:
        """The metric of layers with the same parts, of one tap, whose rows share their factors."""
        pivots = np.concatenate([metric.pivots for metric in metrics])
        feeds = tuple(np.stack(part) for part in zip(*(metric.feeds for metric in metrics), strict=True))
        return cls(1, pivots, feeds, uneven=True, layers=len(metrics))

    @property
    def rows(self) -> int:
        return len(self.pivots) // (self.taps * self.layers)

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return self.pivots.nbytes + sum(feed.nbytes for feed in self.feeds)

    def parts(self) -> Iterator[MetricPart]:
        """The parts in order."""
        first = 0
        for feed in self.feeds:
            stop = first + feed.shape[-1] // self.taps
            yield MetricPart(first, stop, feed)
            first = stop

    def row_weights(self) -> Doubles:
        """float64[rows]: the geometric mean of a row's pivots."""
        means: Doubles = np.exp(np.log(self.pivots).reshape(self.layers, self.rows, self.taps).mean((0, 2)))
        return means

    def mean_cost(self) -> float:
        """What a squared error costs on average over the rows: what one step for all of them depends on."""
        return float(self.pivots.mean())

    def rates(self) -> Floats:
        """float32[rows, layers]: what a bit weighs in each row, in its squared steps, beside the mean of the rows."""
        if not self.uneven:
            return np.ones((self.rows, self.layers), np.float32)
        if self.layers == 1:
            return np.minimum(self.mean_cost() / self.row_weights(), MOST_RATE).astype(np.float32)[:, None]
        relative = self.typical_cost() / self.pivots.reshape(self.layers, self.rows)
        return np.ascontiguousarray(np.minimum(relative, MOST_RATE).T, np.float32)

    def typical_cost(self) -> float:
        """The geometric mean of all pivots: what a step depends on that factors of the rows go with."""
        return math.exp(float(np.log(self.pivots).mean()))

    def times(self, factor: float) -> InputMetric:
        """The same metric in other units."""
        return replace(self, pivots=self.pivots * factor)

    @staged("factorise")
    def divided(self, scale: Floats) -> InputMetric:
        """The metric of a matrix whose rows are divided by these factors, float32[rows] above 0."""
        by = np.repeat(np.asarray(scale, np.float64), self.taps)
        feeds = []
        start = 0
        for feed in self.feeds:
            n = feed.shape[-1]
            here = by[start : start + n].astype(np.float32)
            start += n
            changed = np.zeros(feed.shape, np.float32)
            for first in range(0, n, _STRIP):
                rows, stop = slice(first, first + _STRIP), first + _STRIP
                strip = np.multiply(feed[..., rows, :stop], here[:stop], out=changed[..., rows, :stop])
                strip /= here[rows, None]
            feeds.append(changed)
        return replace(self, pivots=self.pivots * np.tile(by * by, self.layers), feeds=tuple(feeds))


@staged("factorise")
def factorise(
    blocks: NDArray[Any], sizes: list[int], taps: int = 1, *, damping: float = DAMPING, name: str = ""
) -> InputMetric:
    """Take a metric apart.

    Parameters
    ----------
    blocks : float32[b, n, n], or float32[b, n]: diagonals
        Diagonal blocks. They are overwritten.
    sizes : list of int
        Inputs of each block, multiples of `taps`; the rest of a block is padding.
    taps : int
    damping : float
    name : str
        For the warning about a metric that needs more damping.

    Raises
    ------
    ModelError
        A metric is far from positive: it is none.
    """
    mean = _mean_diagonal(blocks, sizes)
    pivots, feeds = [], []
    for block, n in zip(blocks, sizes, strict=True):
        if blocks.ndim == 2:
            d, feed = np.maximum(block[:n].astype(np.float64) + damping * mean, _TINY), np.zeros((n, n), np.float32)
        else:
            d, feed = _factor(block[:n, :n], mean, damping, name)
        pivots.append(0.5 * d)
        feeds.append(feed)
    return InputMetric(taps, np.concatenate(pivots), tuple(feeds))


def damped_root(metric: Doubles, *, damping: float = DAMPING, name: str = "") -> tuple[Doubles, Doubles]:
    """A metric, damped, and its factor L, lower triangular: both float64[n, n].

    Raises
    ------
    ModelError
        The metric is far from positive: it is none.
    """
    from scipy.linalg import lapack  # here, because a decoder should not need SciPy

    scale = max(float(metric.trace()) / max(len(metric), 1), _TINY)
    for more in _more_damping(name):
        damped = metric.copy()
        damped[np.diag_indices(len(damped))] += more * damped.diagonal() + damping * scale
        root, bad = lapack.dpotrf(damped, lower=1, clean=1)
        if not bad:
            break
    return damped, root


def _more_damping(name: str) -> Iterator[float]:
    """Shares of each input's own cost, to be added to it until a metric is positive."""
    yield 0.0
    for more in _MORE_DAMPING:
        said = f"{name}: its metric is not positive; damped by {100 * more:g} % of each input's own"
        warnings.warn(said, NncWarning, stacklevel=3)
        yield more
    raise ModelError(f"{name}: damaged statistics: its metric is far from positive")


def _mean_diagonal(blocks: NDArray[Any], sizes: list[int]) -> float:
    diagonals = blocks if blocks.ndim == 2 else np.einsum("bii->bi", blocks)
    total = sum(float(d[:n].sum(dtype=np.float64)) for d, n in zip(diagonals, sizes, strict=True))
    return total / max(sum(sizes), 1)


def _factor(metric: NDArray[Any], mean: float, damping: float, name: str) -> tuple[Doubles, Floats]:
    """2 d and U of one block, which is damped more where it is not positive."""
    from scipy.linalg import lapack  # here, because a decoder should not need SciPy

    scale = max(mean, _TINY)
    for more in _more_damping(name):
        reverse = _reversed(metric, np.float32(scale))
        reverse[np.diag_indices(len(reverse))] += np.float32(more) * reverse.diagonal() + np.float32(damping)
        factor, bad = lapack.spotrf(reverse, lower=1, clean=0, overwrite_a=1)
        if not bad:
            break
    diagonal = factor.diagonal().astype(np.float64)
    return diagonal[::-1] ** 2 * scale, _feed(factor)


def _reversed(metric: NDArray[Any], scale: np.float32) -> Floats:
    """A block divided by `scale`, its last input first, as LAPACK has matrices: columns one after another.

    Only strips that reach the diagonal from below are filled.
    """
    last_first = metric[::-1, ::-1]
    columns = np.empty(metric.shape, np.float32)
    for first in range(0, len(metric), _STRIP):
        rows, stop = slice(first, first + _STRIP), first + _STRIP
        np.divide(last_first[rows, :stop].T, scale, out=columns[:stop, rows])
    return columns.T


def _feed(factor: Floats) -> Floats:
    """U of the factor of a reversed block, of which the upper triangle is not read."""
    n = len(factor)
    columns, diagonal = factor.T, factor.diagonal()[:, None]
    feed = np.zeros((n, n), np.float32)
    for first in range(0, n, _STRIP):
        stop = min(first + _STRIP, n)
        strip = feed[n - stop : n - first, : n - first]
        np.divide(columns[first:stop, first:][::-1, ::-1], diagonal[first:stop][::-1], out=strip)
        np.copyto(strip[:, n - stop :], 0, where=_NOT_BELOW[: stop - first, : stop - first])
    return feed
