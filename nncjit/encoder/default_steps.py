"""Steps from nothing but the weights.

A layer's relative output noise equals the relative noise of its weights, whatever its size, and the losses of layers
add up. To spend bits where they count, the noise power that quantisation may add to a matrix is therefore proportional
to its number of weights n,

    noise / std(w) = min(NOISE / quality * (n / median n)^(1/2), MOST_NOISE)

with the median over the model's matrices; beyond MOST_NOISE the argument, which is one of small noise, fails. On a
transformer of 22.7 million weights this takes some 15 % fewer bytes at equal quality than one absolute step for all;
an exponent of 1/4 takes 8 % more. The step follows from the noise by the quantiser's own efficiency.

Vectors (biases, norms, statistics) are a thousandth of a model and matter much: they get steps of VECTOR_STEP times
their root mean square, about 10 bits each, and finer ones where their bulk or their smallest values need them.
"""

from __future__ import annotations

import math
from functools import lru_cache

NOISE = 0.025
"""Root mean square error of a matrix of median size, in units of its spread: 32 dB."""

MOST_NOISE = 1.0
"""Of any matrix, as much as its spread, until the matrix of median size has as much."""

LEAST_FACTOR = 1 / 32
"""Least (n / median n)^(1/2): tiny matrices cost nothing, but need no more than this."""

TRELLIS_GAIN = 1.06
"""A trellis step d makes the error of a uniform step 2 d / TRELLIS_GAIN: measured at 2 to 5 bits per weight."""

VECTOR_STEP = 2.0**-8
GRAIN_STEP = 2.0**-6
"""Of the magnitude that a vector's step must resolve: an error of at most 0.8 % of it."""
WIDEST_VECTOR = 2.0**20
"""Steps from zero to the peak of a vector beyond which it is stored as it is."""


@lru_cache(maxsize=1 << 12)
def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is coded as a matrix of weights rather than as a vector of parameters."""
    return sum(side > 1 for side in shape) > 1


def default_step(size: int, spread: float, coarseness: float, median_size: float) -> float:
    """The step of the uniform quantiser for a matrix.

    Parameters
    ----------
    size : int
        Number of weights.
    spread : float
        Their standard deviation, without outliers.
    coarseness : float
        Factor on the step: 1 / quality, or what a target needs.
    median_size : float
        Median number of weights of the model's matrices.
    """
    factor = max(math.sqrt(size / median_size), LEAST_FACTOR)
    median_noise = NOISE * coarseness
    noise: float = min(median_noise * factor, max(MOST_NOISE, median_noise))
    return noise * spread * math.sqrt(12.0)


def vector_step(rms: float, grain: float) -> float:
    """The step of the uniform quantiser for a vector.

    Parameters
    ----------
    rms : float
        Root mean square of the values.
    grain : float
        The magnitude that the step must resolve.
    """
    return min(VECTOR_STEP * rms, GRAIN_STEP * grain)


def trellis_step(step: float) -> float:
    """The trellis's step that makes the error of this uniform step."""
    return step * TRELLIS_GAIN / 2
