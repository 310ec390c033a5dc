"""A table with statistics, many rows times few columns: transform coding as W = diag(LS) G H.

Rows share a metric M of the columns and differ by how often they are used: an error e of row t costs half f_t e' M e.
With M = L L' and the axes U of the weighted rows of W L, G = W L U has uncorrelated columns, and an error in it costs
the same in all of them; H = U' L^-1 turns back. LS takes the f_t up, so that one step suits all of G. Columns that get
no level that counts are left out, and H is then fitted to the G that the decoder will find, which takes back what small
levels lost to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nncjit.encoder.calibrated_parts import HIGH_RATE, RATE_WEIGHT, STEP
from nncjit.encoder.decision import GivenStep
from nncjit.encoder.measure import measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_layout import FloatPart, Parts
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import DAMPING, factorise
from nncjit.reduce import compose, divide_rows, multiply_rows
from nncjit.stages import stage

Doubles = NDArray[np.float64]

WIDEST_SCALE = 8.0
"""A row's factor lies between this and its inverse, around their mean; half octaves."""
SCALE_STEP = 1 / 3
"""Trellis step of the factors, in units of the least one."""

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
    columns = _damped(found.metric()[0].astype(np.float64))
    energy = found.energy()
    beta = plan.choices[name].quantising.frequency_weight
    uniform = np.full(energy.size, 1 / energy.size)
    total = energy.sum()
    shares = np.maximum((1 - beta) * uniform + beta * energy / total, LEAST_SHARE * uniform) if total else uniform
    return TableMetric(columns, shares / shares.sum())


def _damped(columns: Doubles) -> Doubles:
    columns[np.diag_indices(len(columns))] += DAMPING * columns.trace() / len(columns)
    return columns


def chosen_table(info: TensorInfo, wanted: np.ndarray, plan: Plan) -> TableMetric | None:
    """The metric of a table that is transformed; None where that is not estimated to be better than the table as it is.

    Parameters
    ----------
    info : TensorInfo
        Of a weight with statistics.
    wanted : float32[rows, columns]
    plan : Plan
    """
    assert plan.data.metrics is not None
    record = plan.data.metrics.statistics[info.name].record
    if record.kind != "table" or record.blocks != 1:
        return None
    rows, columns = wanted.shape
    metric = table_metric(info.name, plan)
    powers = np.square(wanted, dtype=np.float64).mean(0) * (0.5 / rows) * metric.columns.diagonal()
    as_it_is = rows * _cost_of(powers, plan, info.name)
    energies = _energies(wanted, metric)
    factors = rows * _cost_of(energies / rows, plan, info.name) + columns * _cost_of(
        energies / columns, plan, info.name
    )
    return metric if factors < as_it_is else None


def _cost_of(powers: Doubles, plan: Plan, name: str) -> float:
    """Bits, and loss in bits at lambda, of one value of each of these mean squares, in units of the loss.

    As an ideal coder of Gaussian values has it: values below the error that lambda allows are zero.
    """
    bit = plan.loss_per_bit * plan.coarseness(name) ** 2
    allowed = bit / (2 * math.log(2))
    lost = np.minimum(powers, allowed).sum() / bit
    return float(lost + 0.5 * np.log2(np.maximum(powers, allowed) / allowed).sum())


def _energies(wanted: np.ndarray, metric: TableMetric) -> Doubles:
    """float64[c]: what the columns of G are worth, half the sum of f_t G_tj^2, falling."""
    spread = _spread(wanted, metric)[2]
    energies: Doubles = 0.5 * np.maximum(np.linalg.eigvalsh(spread)[::-1], 0)
    return energies


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
        inputs = replace(inputs.times(per_column), uneven=True)
    step_h = STEP * math.sqrt(plan.loss_per_bit / (HIGH_RATE * inputs.mean_cost()))
    given = GivenStep(step=step_h, rate_weight=RATE_WEIGHT, with_targets=True)
    found = yield FloatPart("H", name, h, measure(h), metric=inputs, given=given)
    composed = compose(g, found.values(h.shape), wanted.shape, name=name)
    return multiply_rows(composed, scale, name=name)


def _transformed(wanted: np.ndarray, metric: TableMetric) -> tuple[np.ndarray, Doubles]:
    """G, float32[rows, c], and H, float64[c, c], exactly."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    lower, turned, spread = _spread(wanted, metric)
    axes = linalg.eigh(spread)[1][:, ::-1]
    return turned @ axes.astype(np.float32), linalg.solve_triangular(lower.T, axes, lower=False).T


def _spread(wanted: np.ndarray, metric: TableMetric) -> tuple[Doubles, np.ndarray, Doubles]:
    """L, W L, and the latter's weighted products."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    lower = linalg.cholesky(metric.columns, lower=True)
    turned = wanted @ lower.astype(np.float32)
    weighted = turned * metric.shares.astype(np.float32)[:, None]
    spread = (weighted.T @ turned).astype(np.float64)
    return lower, turned, (spread + spread.T) / 2


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
