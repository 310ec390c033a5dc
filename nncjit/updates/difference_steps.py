"""The step of a tensor's difference, and what is too small to lose anything by it."""

from __future__ import annotations

import math

from nncjit.encoder.default_steps import LEAST_FACTOR, is_matrix, trellis_step
from nncjit.encoder.measure import Measured
from nncjit.encoder.plan import Plan
from nncjit.model import TensorInfo
from nncjit.quant import steps

NOISE = 0.2
"""Root mean square error of a difference of median size, in units of its spread: 14 dB. The next update has what is
left over."""
VECTOR_NOISE = NOISE / 4
"""Of the difference of a vector."""
FREE_LEVEL = 10
"""Where all levels are alike, they cost next to nothing up to this one: none has bits without a context."""
ALIKE = 0.01
"""Standard deviation, in units of the root mean square, below which values count as alike: what rounding leaves of a
tensor to which a number was added."""
EXACT_COSTS = 10
"""Bytes that a tensor's own values may take more than its levels. A difference's header has half of them more than the
values', so up to four float32 stay exact for about five bytes."""


def is_constant(measured: Measured) -> bool:
    """Whether one number says a difference."""
    return measured.is_constant or measured.moments.std < ALIKE * measured.moments.rms


def qp_of(info: TensorInfo, measured: Measured, plan: Plan, common: float, *, trellis: bool) -> int:
    """The qp of a difference: the one that is given, the one that meets a constant best, or that of a step relative to
    its own spread, or, for matrices, to the common one.

    Parameters
    ----------
    info : TensorInfo
    measured : Measured
        Of the difference.
    plan : Plan
    common : float
        Root mean square of what all matrices have to say, where they have one step; else 0.
    trellis : bool
        Whether the quantiser is the trellis.
    """
    if plan.has_qp(info.name, info.shape):
        return steps.raise_qp(measured.peak, plan.given_qp(info.name), plan.density)
    low, high = steps.qp_range(plan.density)
    if is_constant(measured):
        qp = _qp_of_constant(abs(measured.moments.mean), plan.density)
        return steps.raise_qp(measured.peak, min(max(qp, low), high), plan.density)
    noise, spread = VECTOR_NOISE, measured.spread or measured.moments.rms
    if is_matrix(info.shape) and common:
        noise, spread = NOISE, common
    elif is_matrix(info.shape):
        factor = math.sqrt(info.size / plan.median_size)
        noise = NOISE * min(max(factor, LEAST_FACTOR), 2.0)
    step = noise * spread * math.sqrt(12.0) * plan.coarseness(info.name)
    if trellis:
        step = trellis_step(step)
    qp = steps.nearest_qp(max(step, steps.FINEST), plan.density)
    return steps.raise_qp(measured.peak, min(max(qp, low), high), plan.density)


def _qp_of_constant(value: float, density: int) -> int:
    """The qp of which a small multiple comes nearest to a value above 0."""

    def error(level: int, qp: int) -> float:
        return abs(level * float(steps.step(qp, density)) - value)

    found = {n: steps.nearest_qp(max(value / n, steps.FINEST), density) for n in range(1, FREE_LEVEL + 1)}
    return found[min(found, key=lambda n: error(n, found[n]))]
