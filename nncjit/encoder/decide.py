"""Decisions: rules, defaults, targets and "auto" end here.

`settle` chooses what all parts of a unit share: where quantiser or unary length are left to measurement, all candidates
are tried on the same sample, and the coder's own estimate decides. `decide` adds the step of one part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from nncjit.encoder.choices import Choices
from nncjit.encoder.code import estimate
from nncjit.encoder.decision import Decision, GivenStep
from nncjit.encoder.default_steps import WIDEST_VECTOR, default_step, is_matrix, trellis_step, vector_step
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.encoder.measure import Measured
from nncjit.encoder.plan import EXACT, Plan
from nncjit.encoder.quantise import quantise, with_codebooks
from nncjit.encoder.sampling import runs
from nncjit.errors import OptionError
from nncjit.model import TensorInfo
from nncjit.quant import steps

Quantizer = Literal["trellis", "uniform", "codebook"]

DEFAULT_UNARY_LENGTH = 11
UNARY_LENGTHS = (DEFAULT_UNARY_LENGTH, 2, 4, 7, 16, 24, 40)
QUANTIZERS: tuple[Quantizer, ...] = ("trellis", "uniform", "codebook")
SAMPLE = 1 << 15
"""Weights on which candidates are compared."""

BLOCK_SCAN = 4
"""scan_order of large tensors: 64-row blocks."""
PARALLEL_WEIGHTS = 1 << 16
"""Tensors from this size on are coded in block rows, so that one tensor alone can be decoded by many threads."""


FEEDBACK_ROOM = 2.0**12
"""A calibrated matrix has no finer levels than 2^30 divided by this: beyond, float32 does not tell them apart."""
MOST_PLAIN = 2.0**30
"""A vector whose peak and the inverse of whose step are smaller has a qp in every range: its step is below its peak."""


AS_ASKED = "as asked for"
"""Why a tensor is stored as it is that a rule or the model's options name."""
NOT_FINITE = "values are not finite in float32"
"""Part of the reason why a tensor is stored as it is."""
NO_STEP = "step would be outside 2^"
"""The same, where its levels need a step that no header can signal."""


class UnfitStepError(OptionError):
    """A part of a unit needs a step that its header cannot signal."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What holds for all parts of a unit."""

    quantizer: Quantizer
    unary_length: int
    scan_order: int


def exact_reason(info: TensorInfo, plan: Plan) -> str | None:
    """Why a float tensor shall be kept exactly, None where it need not be."""
    if not plan.wants_raw(info):
        return None
    asked = plan.choices[info.name].quantising.quantizer in EXACT
    return AS_ASKED if asked else "it belongs to levels that were quantised before"


def raw_reason(info: TensorInfo, measured: Measured, plan: Plan, *, balanced: bool = False) -> str:
    """Why a float tensor is stored as it is, or "" where it is quantised.

    A tensor whose step is `balanced` by a calibration needs no finer one for its smallest values.
    """
    quantizer = plan.choices[info.name].quantising.quantizer
    exact = exact_reason(info, plan)
    if exact is not None:
        return exact
    if measured.moments.non_finite:
        return f"{measured.moments.non_finite} {NOT_FINITE}"
    if balanced:
        return ""
    cheap = not is_matrix(info.shape) and not plan.choices[info.name].own_fineness
    if cheap and plan.options.stream.compatible is None:
        step = _vector_step(info.name, measured, plan)
        if step * WIDEST_VECTOR < measured.peak:
            return "its values are of too many magnitudes for one step"
        if step > 1 / MOST_PLAIN and measured.peak < MOST_PLAIN:
            return ""
    dependent = is_matrix(info.shape) and quantizer in ("trellis", "auto")
    return _misfit(_qp(info.name, info.shape, measured, plan, dependent=dependent), plan)


def _misfit(qp: int, plan: Plan) -> str:
    """Why no header can signal a qp, "" where it can."""
    low, high = steps.qp_range(plan.density)
    return "" if low <= qp <= high else f"its {NO_STEP}{low >> plan.density} to 2^{high >> plan.density}"


def settle(name: str, values: np.ndarray | HugeTensor, measured: Measured, plan: Plan) -> Settled:
    """Quantiser, unary length and scan order of a tensor, the first two by measured cost where its choices say "auto".

    Parameters
    ----------
    name : str
        Of the tensor whose choices count.
    values : float32[shape] or HugeTensor
        What is coded, dimension 0 as rows; of a tensor with several parts the weights.
    measured : Measured
        Of the values.
    plan : Plan
    """
    choices = plan.choices[name]
    scan_order = scan_order_of(values.shape, choices)
    wanted, length = choices.quantising.quantizer, choices.coding.unary_length
    assert wanted != "raw" and wanted != "lossless", "exact tensors are not quantised"  # noqa: PT018 - for mypy
    lengths = UNARY_LENGTHS if length == "auto" else (length,)
    if not is_matrix(values.shape) or measured.is_constant:
        return Settled("uniform", lengths[0], scan_order)
    quantizers = QUANTIZERS if wanted == "auto" else (wanted,)
    if len(quantizers) == len(lengths) == 1:
        return Settled(quantizers[0], lengths[0], scan_order)
    row = runs(values, SAMPLE).reshape(1, -1)
    costs = {Settled(quantizers[0], lengths[0], scan_order): math.inf}
    for quantizer in quantizers:
        first = Settled(quantizer, lengths[0], scan_order)
        try:
            decision = decide(name, values.shape, measured, plan, first)
        except UnfitStepError:
            continue
        matrices = [quantise(row, decision)]
        if quantizer == "codebook":
            matrices = with_codebooks(matrices) or []
        for matrix, n in product(matrices, lengths):
            layer = matrix.layer._replace(unary_length=n)
            costs[replace(first, unary_length=n)] = estimate(replace(matrix, layer=layer), values.size / row.size)
    return min(costs, key=costs.__getitem__)


def settle_integers(name: str, shape: tuple[int, ...], plan: Plan, limb_bits: int = 0) -> Settled:
    """The same for integers, which are coded as they are; nibbles get a flag for each of their values."""
    choices = plan.choices[name]
    length = choices.coding.unary_length
    length = DEFAULT_UNARY_LENGTH if length == "auto" else length
    return Settled("uniform", max(length, 15) if limb_bits == 4 else length, scan_order_of(shape, choices))


def decide(
    name: str,
    shape: tuple[int, ...],
    measured: Measured,
    plan: Plan,
    settled: Settled,
    given: GivenStep | None = None,
) -> Decision:
    """The decision for one part of a unit.

    Parameters
    ----------
    name : str
        Of the tensor whose choices count.
    shape : tuple of int
        Of what is coded.
    measured : Measured
        Of what is coded; all values are finite.
    plan : Plan
    settled : Settled
        What holds for the whole unit.
    given : GivenStep, optional
        By a calibration.

    Raises
    ------
    UnfitStepError
        The step is out of the range of qp_delta, for a tensor that `raw_reason` has not been asked about: a factor.
    """
    choices = plan.choices[name]
    quantizer = "uniform" if settled.quantizer == "codebook" and not is_matrix(shape) else settled.quantizer
    dependent = quantizer == "trellis"
    if given is None:
        qp = _qp(name, shape, measured, plan, dependent=dependent)
        keeps = _keeps(name, shape, measured, plan)
        rate_weight = choices.quantising.rate_weight * plan.rate_scale
    else:
        qp, keeps, rate_weight = _given_qp(given, name, measured, plan), given.keeps, given.rate_weight
    misfit = _misfit(qp, plan)
    if misfit:
        raise UnfitStepError(misfit)
    return Decision(
        quantizer=quantizer,
        qp=qp,
        density=plan.density,
        keeps=keeps,
        rate_weight=rate_weight,
        exact=choices.quantising.exact,
        unary_length=settled.unary_length,
        scan_order=settled.scan_order,
        initialisation=choices.coding.selection,
        profile=plan.options.stream.profile,
    )


def _keeps(name: str, shape: tuple[int, ...], measured: Measured, plan: Plan) -> Literal["qp", "gain", "mean"]:
    if plan.has_qp(name, shape) or not is_matrix(shape):
        return "qp"
    return "mean" if measured.is_offset else "gain"


def _given_qp(given: GivenStep, name: str, measured: Measured, plan: Plan) -> int:
    """The qp of a given step, with room for what feedback adds to the values."""
    step = given.step * (plan.coarseness(name) if given.with_targets else 1.0)
    peak = min(measured.peak * FEEDBACK_ROOM, float(np.finfo(np.float32).max))
    low, high = steps.qp_range(plan.density)
    wanted = steps.nearest_qp(min(max(step, steps.FINEST), steps.COARSEST), plan.density)
    return steps.raise_qp(peak, min(max(wanted, low), high), plan.density)


def decide_integers(name: str, plan: Plan, settled: Settled) -> Decision:
    """The decision for integers, whose levels are their values."""
    return Decision(
        quantizer=settled.quantizer,
        qp=0,
        density=plan.density,
        keeps="qp",
        rate_weight=0.0,
        exact=False,
        unary_length=settled.unary_length,
        scan_order=settled.scan_order,
        initialisation=plan.choices[name].coding.selection,
        profile=plan.options.stream.profile,
    )


def scan_order_of(shape: tuple[int, ...], choices: Choices) -> int:
    """scan_order of a tensor of this shape: what is given or pays; 0 where one row or one column leaves no choice."""
    wanted = choices.coding.scan_order
    rows = shape[0] if shape else 1
    size = math.prod(shape)
    if rows <= 1 or size <= rows:
        return 0
    if wanted != "auto":
        return wanted
    return BLOCK_SCAN if size >= PARALLEL_WEIGHTS and rows >= 2 * (4 << BLOCK_SCAN) else 0


def relative_noise(name: str, shape: tuple[int, ...], measured: Measured, plan: Plan) -> float:
    """Root mean square error that quantising a matrix is allowed, as a share of its root mean square."""
    step = float(steps.step(_wanted_qp(name, shape, measured, plan, dependent=False), plan.density))
    rms = measured.moments.rms
    return step / math.sqrt(12.0) / rms if rms else 0.0


def _qp(name: str, shape: tuple[int, ...], measured: Measured, plan: Plan, *, dependent: bool) -> int:
    """The qp of a tensor, raised until all its levels fit."""
    wanted = _wanted_qp(name, shape, measured, plan, dependent=dependent)
    return steps.raise_qp(measured.peak, wanted, plan.density)


def _wanted_qp(name: str, shape: tuple[int, ...], measured: Measured, plan: Plan, *, dependent: bool) -> int:
    """The qp that is given, or that of the default step."""
    if plan.has_qp(name, shape):
        return plan.given_qp(name)
    if measured.is_constant and not dependent:  # a dependent quantiser has no level 1 in half of its states
        step = measured.moments.rms  # so that all levels are 1
    elif is_matrix(shape):
        step = default_step(measured.moments.size, measured.spread, plan.coarseness(name), plan.median_size)
    else:
        step = _vector_step(name, measured, plan)
    if dependent:
        step = trellis_step(step)
    coarsest = steps.qp_range(plan.density)[1]
    return min(steps.nearest_qp(step, plan.density), coarsest) if step else 0


def _vector_step(name: str, measured: Measured, plan: Plan) -> float:
    """The step of a vector. Vectors are cheap: what a model must save, its matrices save."""
    step = vector_step(measured.moments.rms, measured.grain)
    coarseness = plan.coarseness(name)
    return step * (coarseness if plan.choices[name].own_fineness else min(coarseness, 1.0))
