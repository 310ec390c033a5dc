"""What a decision needs to know of the values: their sums, a spread that outliers do not move, and how fine they are.

Moments alone mislead. One weight of 60 beside a million of 0.02 doubles their standard deviation, and a step that
follows it costs the million their precision. A vector of frequencies from 1 down to 1e-6, or of variances that end
under a square root, is used relative to each value and not to the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.encoder.sampling import runs
from nncjit.quant import small_arrays
from nncjit.quant.moments import Moments, grain, moments

SUSPICIOUS_PEAK = 16.0
"""Peak in standard deviations above which a matrix is taken to have outliers. A Laplacian of 10^8 weights has 13."""
CLIP = 8.0
"""Outliers are cut off at so many standard deviations of a Gaussian of the same median."""
OUTLIERS_MATTER = 0.9
"""Share of the standard deviation below which the spread of a sample without outliers replaces it."""
MEDIAN_OF_GAUSSIAN = 0.6745
"""Median magnitude of a Gaussian, in standard deviations."""
SAMPLE = 1 << 14
LEAST_STD = 1e-3
"""Standard deviation, in units of the root mean square, below which sums of squares cannot tell it."""

MOST_LOST = 0.01
"""Share of a vector's values that may fall below half a default step. A Gaussian has 0.002."""
LOST_BELOW = 2.0**-9
"""Half a default step of a vector, in units of its root mean square."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Facts about a matrix or vector of float32."""

    moments: Moments
    spread: float
    """Standard deviation without outliers; of constant values their magnitude."""
    grain: float = math.inf
    """Of a vector: the magnitude that a step must resolve. Infinite where the root mean square says enough."""

    @property
    def is_constant(self) -> bool:
        """Whether all values are alike."""
        return abs(self.moments.mean) >= (1 - 1e-8) * self.moments.peak  # float32 has 24 bits

    @property
    def is_offset(self) -> bool:
        """Whether the mean says more of the values than what they do around it."""
        return abs(self.moments.mean) > self.spread

    @property
    def peak(self) -> float:
        """Largest magnitude."""
        return self.moments.peak


def measure(values: np.ndarray | HugeTensor, workers: Executor | None = None, found: Moments | None = None) -> Measured:
    """Measure float32 values of any shape, C-contiguous; `found` are their moments, where they are known."""
    found = moments(values, workers) if found is None else found
    if found.non_finite or not found.peak:
        return Measured(found, found.rms)
    if isinstance(values, np.ndarray) and not is_matrix(values.shape):
        most_small = max(1.0, MOST_LOST * found.size)
        return Measured(found, found.rms, grain(values, LOST_BELOW * found.rms, most_small))
    if found.std < LEAST_STD * found.rms:
        return Measured(found, _clipped_spread(values) or found.rms)
    if found.peak > SUSPICIOUS_PEAK * found.std:
        spread = _clipped_spread(values)
        if 0.0 < spread < OUTLIERS_MATTER * found.std:
            return Measured(found, spread)
    return Measured(found, found.std)


def measure_small(arrays: Sequence[np.ndarray]) -> list[Measured]:
    """Measure many small arrays of float32, C-contiguous, by one call of a kernel; see `measure`."""
    vectors = [not is_matrix(values.shape) for values in arrays]
    flat = [values.reshape(-1) for values in arrays]
    sums = small_arrays.measure_arrays(flat, vectors, LOST_BELOW, MOST_LOST)
    return [
        Measured(found, found.rms, least) if is_vector else measure(values, found=found)
        for values, is_vector, (found, least) in zip(arrays, vectors, sums, strict=True)
    ]


def _clipped_spread(values: np.ndarray | HugeTensor) -> float:
    """Spread around the median of a sample with outliers cut off; 0 where all values are alike."""
    sample = runs(values, SAMPLE).astype(np.float64)
    sizes = np.abs(sample - _median(sample))
    some = sizes[sizes > 0]
    if not some.size:
        return 0.0
    limit = CLIP / MEDIAN_OF_GAUSSIAN * _median(some)
    return math.sqrt(float(np.square(np.minimum(sizes, limit)).mean()))


def _median(values: np.ndarray) -> float:
    """The upper median; NumPy's own takes many times as long for short arrays."""
    middle = values.size // 2
    return float(np.partition(values, middle)[middle])
