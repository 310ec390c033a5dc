"""What the plan wants to know of a tensor before it chooses a step, and what quantising it cost."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from nncjit.quant import moments_kernels as kernels
from nncjit.quant.work_sharing import frozen, run_pieces


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


def moments(values: np.ndarray, workers: Executor | None = None) -> Moments:
    """Moments of a contiguous float32 array of any shape. They do not depend on the workers, which share its pieces."""
    flat = frozen(values)

    def piece(start: int, stop: int) -> np.ndarray:
        sums = np.zeros(4)
        kernels.moments(flat[start:stop], sums)
        return sums

    parts = np.array(run_pieces(piece, flat.size, workers) or [np.zeros(4)])
    total, power, _, bad = parts.sum(axis=0).tolist()
    n = max(flat.size - int(bad), 1)
    return Moments(flat.size, total / n, power / n, float(parts[:, 2].max()), int(bad))


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


def products(values: np.ndarray, levels: np.ndarray, workers: Executor | None = None) -> Products:
    """Products of float32 values and their int32 levels (same order, contiguous), as `moments` finds its sums."""
    w, q = frozen(values), frozen(levels)

    def piece(start: int, stop: int) -> np.ndarray:
        sums = np.zeros(3)
        kernels.products(w[start:stop], q[start:stop], sums)
        return sums

    return Products(*np.sum(run_pieces(piece, w.size, workers) or [np.zeros(3)], axis=0).tolist())
