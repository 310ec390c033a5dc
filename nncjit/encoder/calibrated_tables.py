"""A table with statistics, many rows times few columns: transform coding as W = diag(LS) G H.

Rows share a metric M of the columns and differ by how often they are used: an error e of row t costs half f_t e' M e.
With M = L L' and the axes U of the weighted rows of W L, G = W L U has uncorrelated columns, and an error in it costs
the same in all of them; H = U' L^-1 turns back. LS takes the f_t up, so that one step suits all of G. Columns that get
no level that counts are left out, and H is then fitted to the G that the decoder will find, which takes back what small
levels lost to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nncjit.encoder.calibrated_parts import HIGH_RATE, RATE_WEIGHT, STEP
from nncjit.encoder.decision import GivenStep
from nncjit.encoder.measure import measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_layout import FloatPart, Parts
from nncjit.quant.input_metric import DAMPING, factorise
from nncjit.reduce import compose, divide_rows, multiply_rows
from nncjit.stages import stage

Doubles = NDArray[np.float64]

WIDEST_SCALE = 8.0
"""A row's factor lies between this and its inverse, around their mean; half octaves."""
SCALE_STEP = 1 / 3
"""Trellis step of the factors, in units of the least one."""

SECOND_STEP = 0.5
"""Step of H beside its own optimum: both factors have the unit's one scan order, and H is small."""
RIDGE = 1e-4
"""Of the mean diagonal of G' f G, towards the exact H."""
FACTOR_DAMPING = 1e-3

LEAST_SHARE = 1e-3
"""Of the mean row, that every row has."""

FEWEST_LEVELS = 12
"""Values beyond the dead zone that a column of G must have to be coded."""
DEAD_ZONE = 1.5
"""In steps."""


@dataclass(frozen=True, slots=True, eq=False)
class TableMetric:
    """What errors of a table's rows cost."""

    columns: Doubles
    """float64[c, c]: M, damped."""
    shares: Doubles
    """float64[rows]: f, their sum is 1."""

    def loss(self, errors: np.ndarray) -> float:
        """Of errors float32[rows, c]."""
        from scipy import linalg  # here, because a decoder should not need SciPy

        turned = errors @ linalg.cholesky(self.columns, lower=True).astype(np.float32)
        return 0.5 * float(np.einsum("ij,ij->i", turned, turned, dtype=np.float64) @ self.shares)


def table_metric(name: str, plan: Plan) -> TableMetric:
    """The metric of a table, its rows weighted as the options say."""
    assert plan.data.metrics is not None
    found = plan.data.metrics.statistics[name]
    columns = found.metric()[0].astype(np.float64)
    columns[np.diag_indices(len(columns))] += DAMPING * columns.trace() / len(columns)
    energy = found.energy()
    beta = plan.choices[name].quantising.frequency_weight
    uniform = np.full(energy.size, 1 / energy.size)
    total = energy.sum()
    shares = np.maximum((1 - beta) * uniform + beta * energy / total, LEAST_SHARE * uniform) if total else uniform
    return TableMetric(columns, shares / shares.sum())


def calibrated_table(name: str, wanted: np.ndarray, metric: TableMetric, plan: Plan) -> Parts:
    """LS, G and H of a table, float32[rows, c]."""
    with stage("transform"):
        first, second = _transformed(wanted, metric)
    mean = math.exp(float(np.log(metric.shares).mean()))
    wished = np.exp2(np.rint(2 * np.log2(np.sqrt(mean / metric.shares))) / 2)
    wished = np.clip(wished, 1 / WIDEST_SCALE, WIDEST_SCALE).astype(np.float32)
    step = GivenStep(step=SCALE_STEP * float(wished.min()), rate_weight=0.0, with_targets=False)
    found = yield FloatPart("LS", name, wished, measure(wished), given=step)
    scale = found.values(wished.shape)
    weight = 0.5 * float((metric.shares * np.square(scale, dtype=np.float64)).mean())
    step_g = STEP * math.sqrt(plan.loss_per_bit / (HIGH_RATE * 0.5 * mean))
    g = divide_rows(first, scale, name=name)
    del first
    if not plan.sampling:
        g = np.ascontiguousarray(g[:, : _columns(g, step_g * plan.coarseness(name))])
    rank = g.shape[1]
    given = GivenStep(step=step_g, rate_weight=RATE_WEIGHT, with_targets=True)
    found = yield FloatPart("G", name, g, measure(g), given=given, loss_weight=weight)
    g = found.values(g.shape)
    with stage("transform"):
        h, products = _fitted(multiply_rows(g, scale, name=name), wanted, second[:rank], metric.shares)
        inputs = factorise(products[None], [rank], damping=FACTOR_DAMPING, name=name)
        per_column = float(metric.columns.trace()) / len(metric.columns)
        inputs = inputs.times(per_column)
    cost = math.exp(float(np.log(inputs.pivots).mean()))
    given = GivenStep(
        step=SECOND_STEP * STEP * math.sqrt(plan.loss_per_bit / (HIGH_RATE * cost)),
        rate_weight=0.5 * RATE_WEIGHT,
        with_targets=True,
    )
    found = yield FloatPart("H", name, h, measure(h), metric=inputs, given=given)
    composed = compose(g, found.values(h.shape), wanted.shape, name=name)
    return multiply_rows(composed, scale, name=name)


def _transformed(wanted: np.ndarray, metric: TableMetric) -> tuple[np.ndarray, Doubles]:
    """G, float32[rows, c], and H, float64[c, c], exactly."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    lower = linalg.cholesky(metric.columns, lower=True)
    turned = wanted @ lower.astype(np.float32)
    weighted = turned * metric.shares.astype(np.float32)[:, None]
    spread = (weighted.T @ turned).astype(np.float64)
    axes = linalg.eigh((spread + spread.T) / 2)[1][:, ::-1]
    return turned @ axes.astype(np.float32), linalg.solve_triangular(lower.T, axes, lower=False).T


def _columns(g: np.ndarray, step: float) -> int:
    """How many leading columns of G are coded, at least one."""
    counts = np.count_nonzero(np.abs(g) > np.float32(DEAD_ZONE * step), axis=0)
    used = np.flatnonzero(counts >= FEWEST_LEVELS)
    return int(used[-1]) + 1 if used.size else 1


def _fitted(g: np.ndarray, wanted: np.ndarray, exact: Doubles, shares: Doubles) -> tuple[np.ndarray, np.ndarray]:
    """H of least loss beside this G, float32[r, c], and G' f G, float32[r, r]."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    weighted = g * shares.astype(np.float32)[:, None]
    products = (weighted.T @ g).astype(np.float64)
    ridge = RIDGE * max(products.trace(), 1e-30) / len(products)
    damped = products + ridge * np.eye(len(products))
    right = (weighted.T @ wanted).astype(np.float64) + ridge * exact
    fitted = linalg.solve(damped, right, assume_a="pos")
    return np.ascontiguousarray(fitted, np.float32), products.astype(np.float32)
