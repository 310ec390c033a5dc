"""What the plan wants to know of a tensor before it chooses a step, and what quantising it cost."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nncjit.quant import stats_kernels as kernels


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

    @property
    def rms(self) -> float:
        return math.sqrt(self.power)

    @property
    def std(self) -> float:
        return math.sqrt(max(self.power - self.mean * self.mean, 0.0))


def moments(values: np.ndarray) -> Moments:
    """Moments of a contiguous float32 array of any shape."""
    sums = np.zeros(4)
    kernels.moments(values.reshape(-1), sums)
    n = max(values.size - int(sums[3]), 1)
    return Moments(values.size, float(sums[0]) / n, float(sums[1]) / n, float(sums[2]), int(sums[3]))


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

    @property
    def unbiased_step(self) -> float:
        """The step with which the decoded tensor has the gain of the original: ``<w, step q> = <w, w>``; 0 if there is
        none.
        """
        return self.power / self.mixed if self.mixed > 0.0 else 0.0


def products(values: np.ndarray, levels: np.ndarray) -> Products:
    """Products of float32 values and their int32 levels (same order, contiguous)."""
    sums = np.zeros(3)
    kernels.products(values.reshape(-1), levels.reshape(-1), sums)
    return Products(*sums.tolist())
