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


def squared_error(values: np.ndarray, levels: np.ndarray, step: float) -> float:
    """Sum of squared differences between float32 values and step times their int32 levels (same order, contiguous)."""
    return float(kernels.squared_error(values.reshape(-1), levels.reshape(-1), np.float32(step)))
