"""Step sizes: the quantisation parameter qp, the step that it stands for, and the range in which levels fit."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from nncjit.cabac.layer import MAX_LEVEL
from nncjit.errors import OptionError

MAX_DENSITY = 7
"""Largest qp_density that its three bits hold."""

LARGEST_RATIO = 2.0**30 - 64
"""Largest |value / step| whose level the coder takes: the last float32 below 2^30. The trellis may choose a level that
is up to 2 above the value."""

assert LARGEST_RATIO + 2 <= MAX_LEVEL

FINEST, COARSEST = 2.0**-126, 2.0**126
"""The steps that have an inverse: normal float32 numbers both."""

_LN2_BY_6 = math.log(2.0) / 6.0
_LARGEST_VALUE = float(np.finfo(np.float32).max)


@lru_cache(maxsize=1 << 12)
def step(qp: int, density: int) -> np.float32:
    """The step of a quantisation parameter, in float32. Spec, section 8.

    Parameters
    ----------
    qp : int
        Quantisation parameter, any value; 2^density of them double the step.
    density : int
        qp_density, 0..7.

    Returns
    -------
    np.float32
        ``(2^d + (qp & (2^d - 1))) * 2^((qp >> d) - d)``; infinity or 0 where float32 ends.
    """
    mantissa = (1 << density) + (qp & ((1 << density) - 1))
    exponent = (qp >> density) - density
    if exponent > 127:
        return np.float32(np.inf)
    if exponent < -160:
        return np.float32(0.0)
    value = math.ldexp(mantissa, exponent)
    return np.float32(value) if value < 2.0**128 else np.float32(np.inf)


def inverse_of(step: float) -> float:
    """1 / step, the step taken as float32.

    Raises
    ------
    OptionError
        The step or its inverse is not a positive normal float32.
    """
    size = np.float32(step)
    if not FINEST <= size <= COARSEST:
        raise OptionError(f"step is {step}, must be a normal float32 above 0")
    return 1.0 / float(size)


def nearest_qp(wanted: float, density: int) -> int:
    """The qp whose step is nearest to `wanted` in ratio.

    Parameters
    ----------
    wanted : float
        A step above 0.
    density : int
        qp_density, 0..7.

    Raises
    ------
    OptionError
        The step is not a positive finite number.
    """
    wanted = float(wanted)
    if not (math.isfinite(wanted) and wanted > 0.0):
        raise OptionError(f"step is {wanted}, must be a positive finite number")
    fraction, exponent = math.frexp(wanted)  # wanted = 2 * fraction * 2^(exponent - 1), 2 * fraction in [1, 2)
    count = 1 << density
    mantissa = 2.0 * fraction * count
    below = math.floor(mantissa)
    # nearest in ratio: the geometric mean of two neighbours is where the choice turns
    part = below - count if mantissa * mantissa < below * (below + 1.0) else below + 1 - count
    return ((exponent - 1) << density) + part


def qp_range(density: int, base: int = 0) -> tuple[int, int]:
    """First and last qp that a unit can signal beside the parameter set's `base`. Spec, section 8."""
    half = 1 << (5 + density)
    return base - half, base + half - 1


def fits(largest: float, qp: int, density: int) -> bool:
    """Whether values up to `largest` in magnitude have levels that can be coded with this qp, by any quantiser."""
    size = float(step(qp, density))
    return FINEST <= size <= COARSEST and abs(largest) / size <= LARGEST_RATIO * (1 - 2.0**-22)


def raise_qp(largest: float, qp: int, density: int) -> int:
    """The qp nearest to `qp` with which values up to `largest` have levels that can be coded. Spec, section 12.

    There is one for every finite float32. It is `qp` itself, or above it where the levels would be too large, or below
    it where the step would leave the range of float32.

    Parameters
    ----------
    largest : float
        Largest magnitude of the values, at most that of a float32.
    qp : int
        The qp that is wished for.
    density : int
        qp_density, 0..7.

    Returns
    -------
    int
        Compare it with `qp` to see whether the wish could be met. It may be outside `qp_range`.

    Raises
    ------
    OptionError
        `largest` is not a finite float32.
    """
    if not abs(largest) <= _LARGEST_VALUE:
        raise OptionError(f"the largest magnitude is {largest}: only finite values can be quantised")
    qp = min(max(qp, -126 << density), 126 << density)
    if largest:
        qp = max(qp, nearest_qp(max(abs(largest) / LARGEST_RATIO, FINEST), density) - 1)
    while not fits(largest, qp, density):
        qp += 1
    return qp


def bit_weight(rate_weight: float, *, dependent: bool) -> float:
    """What one bit costs in squared steps, for the quantisers with rate. Spec, section 12.

    The cost they minimise is ``sum((value / step - level)^2) + bit_weight * bits``. The trellis's step is half as
    wide as the uniform quantiser's at equal distortion, hence its factor 4 and, for its denser choice, 0.7.
    """
    return rate_weight * _LN2_BY_6 * (2.8 if dependent else 1.0)
