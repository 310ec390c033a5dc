"""A weight with statistics: coded with its inputs as rows, each with a step of its own by local scaling.

The rows of W are divided by factors LS_i that are proportional to the inverse root of what their errors cost. One step
then suits all rows, and one weight of the rate: that step is what lambda, the loss that may be taken for a bit, makes
of the mean cost of the rows. See docs/concepts/calibration.md.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nncjit.encoder.decision import GivenStep
from nncjit.encoder.default_steps import default_step, is_matrix, trellis_step
from nncjit.encoder.input_metrics import is_depthwise
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_layout import FloatPart, Lost, Parts
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import DAMPING, InputMetric
from nncjit.quant.steps import bit_weight
from nncjit.quant.turning import turned_and_divided

STEP = 0.62
"""Trellis step in the units of the uniform quantiser's that is optimal for lambda at high rates: half a uniform step,
and more, since the rate is weighed as well."""
RATE = 1.2
"""Weight of the rate beside lambda's own: above 1, as what the trellis saves makes the coder's contexts sharper too."""
HIGH_RATE = 2.0 * math.log(2.0) / 12.0
"""What a bit of an ideal coder saves, in squared steps of a uniform quantiser at high rates."""
RATE_WEIGHT = RATE * HIGH_RATE / STEP**2 / bit_weight(1.0, dependent=True)
"""The same as the quantiser's own rate weight."""

VECTOR_STEP = 1.0
"""Uniform step of a vector in the same units."""

WIDEST_SCALE = 8.0
"""A row's factor lies between this and its inverse."""
SCALE_STEP = 0.25
"""Trellis step of the factors, in units of the least one: none of them becomes 0."""

LEFT_OUT = "zero: no sample reached it"
"""The note of a matrix that was not used."""
ALONE = "data-free: "
"""What the note of a tensor begins with that has no metric although the model is calibrated."""
STEP_ONLY = "calibrated step only: "
"""What the note of a tensor begins with whose metric says no more than its step."""
OF_OTHERS = "calibrated on other values"
"""What the note of a tensor begins with whose statistics were made of a weight that has little in common with it."""


def why_not(info: TensorInfo, measured: Measured, plan: Plan) -> str:
    """Why a float matrix of a calibrated model is coded without statistics, "" where it is coded with them."""
    assert plan.data.metrics is not None
    record, guessed = plan.data.metrics.record(info), plan.data.metrics.is_guess
    if record is None:
        return ALONE + "no statistics of it"
    choices = plan.choices[info.name]
    reducing = choices.reducing
    changed = reducing.zeros or reducing.pattern or reducing.unify or info.name in plan.zero_counts
    reasons = {
        "no sample reached it": record.samples == 0,
        "no error of it reaches the output": plan.data.metrics.is_zero(info.name),
        "it is constant": measured.is_constant,
        "another quantiser was asked for": choices.quantising.quantizer not in ("trellis", "auto"),
        "its step was given": plan.has_qp(info.name, info.shape),
        "weights are changed first": bool(changed) or reducing.rank is not None or reducing.scale_rows,
        "its mean is larger than its spread": guessed and measured.is_offset,
    }
    told = next((ALONE + reason for reason, holds in reasons.items() if holds), "")
    if guessed and record.kind == "table":
        return ALONE + "a guess tells nothing of tables"
    if guessed and not told:  # a guess says nothing beyond what feedback uses
        return why_no_feedback(info, plan).replace(STEP_ONLY, ALONE)
    return told


def is_left_out(info: TensorInfo, plan: Plan) -> bool:
    """Whether a matrix becomes zero, as the options want for those that the statistics say no sample reached."""
    metrics = plan.data.metrics
    return (
        metrics is not None
        and plan.choices[info.name].quantising.unreached == "zero"
        and is_matrix(info.shape)
        and metrics.record(info) is not None
        and not metrics.is_reached(info)
    )


def why_no_feedback(info: TensorInfo, plan: Plan) -> str:
    """Why a weight with statistics gets no more of them than its step, "" where it is coded with feedback."""
    assert plan.data.metrics is not None
    record = plan.data.metrics.record(info)
    assert record is not None
    reader = plan.options.stream.compatible
    reasons = {
        "its inputs are not told apart": record.kind == "rows",
        "its columns are too many for one metric": record.kind == "table" and record.blocks != 1,
        "its inputs are in groups": record.groups > 1 and record.axis == 0,
        "one input has no row to feed back to": record.inputs == record.taps and not is_depthwise(record),
        "another first dimension was asked for": plan.choices[info.name].layout.first_dimension != 0,
        "the first edition does not move dimensions": plan.options.stream.profile == 0,
        f"{reader} does not move dimensions": reader is not None,
    }
    return next((STEP_ONLY + reason for reason, holds in reasons.items() if holds), "")


def balanced_part(part: FloatPart, plan: Plan) -> FloatPart:
    """A weight or vector as it lies, with one step that suits lambda: without feedback each error costs what the
    metric's diagonal says. Vectors are quantised by the uniform quantiser.
    """
    assert plan.data.metrics is not None
    cost = 0.5 * (1 + DAMPING) * plan.data.metrics.mean_cost(part.name)
    step = math.sqrt(plan.loss_per_bit / (HIGH_RATE * cost))
    if is_matrix(part.values.shape):
        given = GivenStep(step=STEP * step, rate_weight=RATE_WEIGHT, with_targets=True)
    else:
        given = GivenStep(step=VECTOR_STEP * step, rate_weight=VECTOR_STEP**-2, with_targets=True)
    return replace(part, given=given, loss_weight=cost)


def default_trellis_step(info: TensorInfo, measured: Measured, plan: Plan) -> float:
    """The step of a matrix without statistics, at scale 1."""
    coarseness = plan.coarseness(info.name)
    return trellis_step(default_step(info.size, measured.spread, coarseness, plan.median_size)) / coarseness


def calibrated_parts(
    name: str, values: np.ndarray, axis: int, power: float, plan: Plan, base: float | None = None
) -> Parts:
    """LS and W of a weight, float32, whose inputs are a dimension `axis`, as rows; `power` is its sum of squares.

    Where the metric is a guess, `base` is the default step: all weights lose as much by the guess as they would with
    that. Rate is then weighed, and gain kept, as in other matrices without data.
    """
    assert plan.data.metrics is not None
    metric = plan.data.metrics.of(name)
    wished = row_factors(metric)
    least = float(wished.min())
    found = yield FloatPart(
        "LS",
        name,
        wished,
        measure(wished),
        given=GivenStep(step=SCALE_STEP * least, rate_weight=0.0, with_targets=False),
    )
    scale = found.values(wished.shape)
    inner = turned_and_divided(values, axis, scale)
    del values
    divided = metric.divided(scale)
    if base is None:
        step = STEP * math.sqrt(plan.loss_per_bit / (HIGH_RATE * divided.typical_cost()))
        given = GivenStep(step=step, rate_weight=RATE_WEIGHT, with_targets=True)
    else:
        weight = plan.choices[name].quantising.rate_weight * plan.rate_scale
        alike = 0.5 * (1 + DAMPING) * plan.data.metrics.mean_cost(name)
        step = base * math.sqrt(alike / divided.typical_cost())
        given = GivenStep(step=step, rate_weight=weight, with_targets=True, keeps="gain")
    found = yield FloatPart("W", name, inner, measure(inner), metric=divided, given=given, overwrite=True)
    return Lost(power, float(np.square(scale, dtype=np.float64) @ found.row_errors()))


def row_factors(metric: InputMetric) -> np.ndarray:
    """LS as it is wished for, float32[rows]: rows whose errors cost much get fine steps."""
    weights = metric.row_weights()
    mean = math.exp(float(np.log(weights).mean()))
    factors: np.ndarray = np.clip(np.sqrt(mean / weights), 1 / WIDEST_SCALE, WIDEST_SCALE).astype(np.float32)
    return factors
