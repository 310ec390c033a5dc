"""Rate-quality curves, and the gain of one over another.

The average differences are Bjontegaard's, with monotone cubic interpolation (PCHIP) in place of a polynomial: it passes
through every point and does not swing. The rate enters as a logarithm, so that a difference in rate is a percentage.

A measured curve need not rise everywhere: a coarser model may happen to do its task better. Only the points on the
Pareto front count, that is, those that are better than every cheaper point of the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from nncjit.errors import OptionError


@dataclass(frozen=True, slots=True)
class Curve:
    """What quality a coder reaches at what rate.

    Raises
    ------
    OptionError
        When made with a rate that is not positive, or with unequal numbers of rates and qualities.
    """

    label: str
    rates: tuple[float, ...]
    """Any measure of size: bits per weight, percent, bytes."""
    qualities: tuple[float, ...]
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.qualities):
            raise OptionError(f"{self.label}: {len(self.rates)} rates and {len(self.qualities)} qualities")
        for rate in self.rates:
            if not (math.isfinite(rate) and rate > 0):
                raise OptionError(f"{self.label}: a rate of {rate:g}, must be positive")

    @property
    def front(self) -> list[tuple[float, float]]:
        """The points of the Pareto front as (rate, goodness), both strictly increasing.

        Goodness is the quality, negated where less of it is better. Points of infinite quality are left out.
        """
        sign = 1.0 if self.higher_is_better else -1.0
        best = -math.inf
        kept = []
        points = ((rate, sign * quality) for rate, quality in zip(self.rates, self.qualities, strict=True))
        for rate, good in sorted(points, key=lambda point: (point[0], -point[1])):
            if math.isfinite(good) and good > best:
                kept.append((rate, good))
                best = good
        return kept

    def rate_at(self, quality: float) -> float | None:
        """The rate that the curve needs for a quality; None outside the measured qualities."""
        front = self.front
        good = quality if self.higher_is_better else -quality
        if not front or not front[0][1] <= good <= front[-1][1]:
            return None
        return math.exp(float(_log_rate(front)(good))) if len(front) > 1 else front[0][0]


def rate_difference(anchor: Curve, other: Curve, worst: float | None = None) -> float:
    """How much more rate `other` needs than `anchor` at equal quality, in percent, averaged over the common qualities.

    Negative where `other` is better: -20 means a fifth fewer bytes. With `worst`, qualities below it are left out.

    Raises
    ------
    OptionError
        The curves have no common qualities, fewer than two points, or another sense of quality.
    """
    a, b = _fronts(anchor, other)
    goods = [[good for _, good in front] for front in (a, b)]
    low, high = _overlap(goods[0], goods[1], anchor, other)
    if worst is not None:
        low = max(low, worst if anchor.higher_is_better else -worst)
        if low >= high:
            raise OptionError(f"{anchor.label} and {other.label} have no useful quality in common: choose finer grids")
    mean = (_log_rate(b).integrate(low, high) - _log_rate(a).integrate(low, high)) / (high - low)
    return 100.0 * math.expm1(float(mean))


def common_qualities(one: Curve, other: Curve) -> tuple[float, float] | None:
    """The worst and the best quality that both curves reach; None where there are none."""
    fronts = [one.front, other.front]
    if not all(fronts):
        return None
    low, high = max(f[0][1] for f in fronts), min(f[-1][1] for f in fronts)
    if low >= high:
        return None
    return (low, high) if one.higher_is_better else (-low, -high)


def smallest(curve: Curve, quality: float) -> int | None:
    """Index of the measured point with the lowest rate that is at least as good as `quality`; None: there is none."""
    sign = 1.0 if curve.higher_is_better else -1.0
    good = [k for k, q in enumerate(curve.qualities) if sign * q >= sign * quality]
    return min(good, key=lambda k: curve.rates[k], default=None)


def _fronts(anchor: Curve, other: Curve) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    if anchor.higher_is_better != other.higher_is_better:
        raise OptionError(f"{anchor.label} and {other.label}: more quality is better in one of them only")
    for curve in (anchor, other):
        if len(curve.front) < 2:
            raise OptionError(f"{curve.label}: a curve needs two points of different quality, give a wider grid")
    return anchor.front, other.front


def _overlap(one: Iterable[float], two: Iterable[float], anchor: Curve, other: Curve) -> tuple[float, float]:
    a, b = list(one), list(two)
    low, high = max(min(a), min(b)), min(max(a), max(b))
    if low >= high:
        raise OptionError(f"{anchor.label} and {other.label} have no quality in common: choose grids that overlap")
    return low, high


def _log_rate(front: Sequence[tuple[float, float]]) -> PchipInterpolator:
    rates, goods = np.array(front).T
    return PchipInterpolator(goods, np.log(rates))
