"""A weight with statistics: coded with its inputs as rows, each with a step of its own by local scaling.

The rows of W are divided by factors LS_i that are proportional to the inverse root of what their errors cost. One step
then suits all rows, and one weight of the rate: that step is what lambda, the loss that may be taken for a bit, makes
of the mean cost of the rows. See docs/concepts/calibration.md.
"""

from __future__ import annotations

import math

import numpy as np

from nncjit.encoder.decision import GivenStep
from nncjit.encoder.input_metrics import is_depthwise
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_layout import FloatPart, Parts
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import InputMetric
from nncjit.quant.steps import bit_weight
from nncjit.reduce import divide_rows, multiply_rows

STEP = 0.62
"""Trellis step in the units of the uniform quantiser's that is optimal for lambda at high rates: half a uniform step,
and more, since the rate is weighed as well."""
RATE = 1.2
"""Weight of the rate beside lambda's own: above 1, as what the trellis saves makes the coder's contexts sharper too."""
HIGH_RATE = 2.0 * math.log(2.0) / 12.0
"""What a bit of an ideal coder saves, in squared steps of a uniform quantiser at high rates."""
RATE_WEIGHT = RATE * HIGH_RATE / STEP**2 / bit_weight(1.0, dependent=True)
"""The same as the quantiser's own rate weight."""

WIDEST_SCALE = 8.0
"""A row's factor lies between this and its inverse."""
SCALE_STEP = 0.25
"""Trellis step of the factors, in units of the least one: none of them becomes 0."""

FEWEST_ROWS = 4
"""Rows for each column from which on a table is transformed: its second factor is then a small part of it."""

ALONE = "data-free: "
"""What the note of a tensor begins with that has no metric although the model is calibrated."""


def why_not(info: TensorInfo, measured: Measured, plan: Plan) -> str:
    """Why a float matrix of a calibrated model is coded without statistics, "" where it is coded with them."""
    assert plan.data.metrics is not None
    record = plan.data.metrics.record(info)
    if record is None:
        return ALONE + "no statistics of it"
    choices = plan.choices[info.name]
    reducing = choices.reducing
    changed = reducing.zeros or reducing.pattern or reducing.unify or info.name in plan.zero_counts
    reasons = {
        "it has too few rows for a table": record.kind == "table" and record.outputs < FEWEST_ROWS * record.inputs,
        "its columns are too many for one metric": record.kind == "table" and record.blocks != 1,
        "its inputs are in groups": record.groups > 1 and record.axis == 0,
        "one input has no row to feed back to": record.inputs == record.taps and not is_depthwise(record),
        "no sample reached it": record.samples == 0,
        "no error of it reaches the output": plan.data.metrics.is_zero(info.name),
        "it is constant": measured.is_constant,
        "another quantiser was asked for": choices.quantising.quantizer not in ("trellis", "auto"),
        "its step was given": plan.has_qp(info.name, info.shape),
        "weights are changed first": bool(changed) or reducing.rank is not None or reducing.scale_rows,
        "another first dimension was asked for": choices.layout.first_dimension != 0,
        "the first edition does not move dimensions": plan.options.stream.profile == 0,
        f"{plan.options.stream.compatible} does not move dimensions": plan.options.stream.compatible is not None,
    }
    return next((ALONE + reason for reason, holds in reasons.items() if holds), "")


def calibrated_parts(name: str, wanted: np.ndarray, plan: Plan) -> Parts:
    """LS and W of a weight, float32, its inputs as rows."""
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
    inner = divide_rows(wanted, scale, name=name)
    divided = metric.divided(scale)
    step = STEP * math.sqrt(plan.loss_per_bit / (HIGH_RATE * _mean(divided)))
    found = yield FloatPart(
        "W",
        name,
        inner,
        measure(inner),
        metric=divided,
        given=GivenStep(step=step, rate_weight=RATE_WEIGHT, with_targets=True),
    )
    return multiply_rows(found.values(inner.shape), scale, name=name)


def row_factors(metric: InputMetric) -> np.ndarray:
    """LS as it is wished for, float32[rows]: rows whose errors cost much get fine steps."""
    weights = metric.row_weights()
    mean = math.exp(float(np.log(weights).mean()))
    factors: np.ndarray = np.clip(np.sqrt(mean / weights), 1 / WIDEST_SCALE, WIDEST_SCALE).astype(np.float32)
    return factors


def _mean(metric: InputMetric) -> float:
    return math.exp(float(np.log(metric.pivots).mean()))
