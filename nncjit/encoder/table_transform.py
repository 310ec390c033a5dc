"""A table, many rows times few columns, by transform coding: W = diag(LS) G H.

Rows share a metric M of the columns and differ by how often they are used: an error e of row t costs half f_t e' M e.
With M = L L' and the axes U of the weighted rows of W L, G = W L U has uncorrelated columns, and an error in it costs
the same in all of them; H = U' L^-1 turns back. LS takes the f_t up, so that one step suits all of G. Columns that get
no level that counts are left out, and H is then fitted to the G that the decoder will find, which takes back what small
levels lost to zero.

Where there are no statistics, M is the identity and all rows are used alike: the axes are those of the table itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nncjit.encoder.calibrated_parts import HIGH_RATE, RATE_WEIGHT, STEP, default_trellis_step
from nncjit.encoder.decision import GivenStep
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import MOST_ERROR, energy
from nncjit.encoder.unit_layout import FloatPart, Parts
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import damped_root, factorise
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


TALL = 8
"""Rows for each column that a matrix has to have at least to be a table, where only its shape tells."""


@dataclass(frozen=True, slots=True, eq=False)
class TableMetric:
    """What errors of a table's rows cost."""

    columns: Doubles | None
    """float64[c, c]: M, damped; None: the identity."""
    root: Doubles | None
    """float64[c, c]: its factor L, lower triangular."""
    shares: Doubles | None
    """float64[rows]: f, their sum is 1; None: all alike."""
    loss_per_bit: float
    """Lambda, in units of the metric, at scale 1."""

    def loss(self, errors: np.ndarray) -> float:
        """Of errors float32[rows, c]."""
        turned = self.turned(errors)
        powers = np.einsum("ij,ij->i", turned, turned, dtype=np.float64)
        return 0.5 * float(powers.mean() if self.shares is None else powers @ self.shares)

    def turned(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32[rows, c] times L, whose squares cost what the metric says."""
        return rows if self.root is None else rows @ self.root.astype(np.float32)

    def weighted(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32[rows, c] times their shares."""
        if self.shares is None:
            return rows * np.float32(1 / len(rows))
        weighted: np.ndarray = rows * self.shares.astype(np.float32)[:, None]
        return weighted

    @property
    def is_felt(self) -> bool:
        """Whether a calibration tells what errors cost."""
        return self.columns is not None

    @property
    def mean_cost(self) -> float:
        """Of the columns."""
        return 1.0 if self.columns is None else float(self.columns.trace()) / len(self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """The axes of a table."""

    metric: TableMetric
    axes: Doubles
    """float64[c, c]: U, the strongest first."""


def calibrated_metric(name: str, plan: Plan) -> TableMetric:
    """The metric of a table by its statistics, its rows weighted as the options say."""
    assert plan.data.metrics is not None
    found = plan.data.metrics.statistics[name]
    columns, root = damped_root(found.metric()[0].astype(np.float64), name=name)
    energy = found.energy()
    beta = plan.choices[name].quantising.frequency_weight
    uniform = np.full(energy.size, 1 / energy.size)
    total = energy.sum()
    shares = np.maximum((1 - beta) * uniform + beta * energy / total, LEAST_SHARE * uniform) if total else uniform
    return TableMetric(columns, root, shares / shares.sum(), plan.loss_per_bit)


def is_table(shape: tuple[int, ...]) -> bool:
    """Whether a matrix without statistics is a table, by its shape."""
    return len(shape) == 2 and shape[0] >= TALL * shape[1]


def plain_metric(info: TensorInfo, measured: Measured, plan: Plan) -> TableMetric:
    """The metric of a table without statistics, with the lambda that makes the default step of a trellis."""
    step = default_trellis_step(info, measured, plan)
    return TableMetric(None, None, None, HIGH_RATE * (0.5 / info.shape[0]) * (step / STEP) ** 2)


def may_be_transformed(info: TensorInfo, plan: Plan) -> bool:
    """Whether a tensor is a table of which a transform is estimated."""
    record = None if plan.data.metrics is None else plan.data.metrics.record(info)
    known = record is not None and record.kind == "table"
    return known or (is_table(info.shape) and _wants_transforms(info.name, plan))


def _wants_transforms(name: str, plan: Plan) -> bool:
    """Whether tables without statistics are transformed, too."""
    guessed = plan.data.metrics is not None and plan.data.metrics.is_guess and plan.options.stream.compatible is None
    return plan.choices[name].reducing.transform_tables or guessed


def why_not_transformed(info: TensorInfo, measured: Measured, plan: Plan) -> str | None:
    """Why a table is coded as it lies although tables without statistics shall be transformed; "" where nothing speaks
    against it, None where it is no table, or is not asked for.
    """
    choices = plan.choices[info.name]
    reducing = choices.reducing
    if not _wants_transforms(info.name, plan) or not is_table(info.shape):
        return None
    changed = reducing.zeros or reducing.pattern or reducing.unify or info.name in plan.zero_counts
    reasons = {
        "it is constant": measured.is_constant,
        "its mean is larger than its spread": measured.is_offset,
        "another quantiser was asked for": choices.quantising.quantizer not in ("trellis", "auto"),
        "its step was given": plan.has_qp(info.name, info.shape),
        "weights are changed first": bool(changed),
        "another first dimension was asked for": choices.layout.first_dimension != 0,
    }
    return next(("not transformed: " + reason for reason, holds in reasons.items() if holds), "")


def chosen_transform(name: str, wanted: np.ndarray, metric: TableMetric, plan: Plan) -> Transform | None:
    """The transform of a table, float32[rows, c]; None where it is not estimated to be better than the table as it is.

    It is estimated as an ideal coder of Gaussian values would have it, unless the plan has decided it.
    """
    decided = plan.transformed.get(name)
    if decided is False:
        return None
    rows, columns = wanted.shape
    bit = metric.loss_per_bit * plan.coarseness(name) ** 2
    powers = np.square(wanted, dtype=np.float64).mean(0) * (0.5 / rows)
    if metric.columns is not None:
        powers *= metric.columns.diagonal()
    with stage("transform"):
        axes, energies = _axes(metric.turned(wanted), metric)
    as_it_is = rows * _cost_of(powers, bit)
    factors = rows * _cost_of(energies / rows, bit) + columns * _cost_of(energies / columns, bit)
    return Transform(metric, axes) if decided or factors < as_it_is else None


def _cost_of(powers: Doubles, bit: float) -> float:
    """Bits, and loss in bits, of one value of each of these mean squares, in units of the loss.

    Values below the error that lambda, the loss `bit`, allows are zero.
    """
    allowed = bit / (2 * math.log(2))
    lost = np.minimum(powers, allowed).sum() / bit
    return float(lost + 0.5 * np.log2(np.maximum(powers, allowed) / allowed).sum())


def _axes(turned: np.ndarray, metric: TableMetric) -> tuple[Doubles, Doubles]:
    """U, and what the columns of G are worth, half the sum of f_t G_tj^2, falling; `turned` is W L."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    spread = (metric.weighted(turned).T @ turned).astype(np.float64)
    powers, axes = linalg.eigh((spread + spread.T) / 2)
    return axes[:, ::-1], 0.5 * np.maximum(powers[::-1], 0)


def transformed_table(name: str, wanted: np.ndarray, transform: Transform, plan: Plan) -> Parts:
    """LS, G and H of a table, float32[rows, c]; no LS where all rows are alike."""
    metric, lam = transform.metric, transform.metric.loss_per_bit
    with stage("transform"):
        first, second = _turned(wanted, transform)
    scale, row_cost, weight = None, 0.5 / len(wanted), 0.5 / len(wanted)
    if metric.shares is not None:
        mean = math.exp(float(np.log(metric.shares).mean()))
        wished = np.exp2(np.rint(2 * np.log2(np.sqrt(mean / metric.shares))) / 2)
        wished = np.clip(wished, 1 / WIDEST_SCALE, WIDEST_SCALE).astype(np.float32)
        step = GivenStep(step=SCALE_STEP * float(wished.min()), rate_weight=0.0, with_targets=False)
        found = yield FloatPart("LS", name, wished, measure(wished), given=step)
        scale = found.values(wished.shape)
        row_cost, weight = 0.5 * mean, 0.5 * float((metric.shares * np.square(scale, dtype=np.float64)).mean())
    g = _divided(first, scale, name)
    del first
    step_g = STEP * math.sqrt(lam / (HIGH_RATE * row_cost))
    if not plan.sampling:
        g = np.ascontiguousarray(g[:, : _columns(g, step_g * plan.coarseness(name))])
    rank = g.shape[1]
    given = GivenStep(step=step_g, rate_weight=RATE_WEIGHT, with_targets=True)
    found = yield FloatPart("G", name, g, measure(g), given=given, loss_weight=weight, is_felt=metric.is_felt)
    g = found.values(g.shape)
    with stage("transform"):
        h, products = _fitted(_multiplied(g, scale, name), wanted, second[:rank], metric)
        inputs = factorise(products[None], [rank], damping=FACTOR_DAMPING, name=name)
        inputs = replace(inputs.times(metric.mean_cost), uneven=True)
    step_h = STEP * math.sqrt(lam / (HIGH_RATE * inputs.mean_cost()))
    given = GivenStep(step=step_h, rate_weight=RATE_WEIGHT, with_targets=True)
    gain = 1.0 if metric.is_felt else 2.0 * len(g)
    found = yield FloatPart("H", name, h, measure(h), gain=gain, metric=inputs, given=given, is_felt=metric.is_felt)
    return _multiplied(compose(g, found.values(h.shape), wanted.shape, name=name), scale, name)


def _multiplied(rows: np.ndarray, scale: np.ndarray | None, name: str) -> np.ndarray:
    return rows if scale is None else multiply_rows(rows, scale, name=name)


def _divided(rows: np.ndarray, scale: np.ndarray | None, name: str) -> np.ndarray:
    return rows if scale is None else divide_rows(rows, scale, name=name)


def _turned(wanted: np.ndarray, transform: Transform) -> tuple[np.ndarray, Doubles]:
    """G, float32[rows, c], and H, float64[c, c], exactly."""
    from scipy import linalg  # here, because a decoder should not need SciPy

    metric, axes = transform.metric, transform.axes
    back = axes.T if metric.root is None else linalg.solve_triangular(metric.root.T, axes, lower=False).T
    return metric.turned(wanted) @ axes.astype(np.float32), back


def _columns(g: np.ndarray, step: float) -> int:
    """How many leading columns of G are coded: at least two, as no blocks are scanned in a single one."""
    counts = np.count_nonzero(np.abs(g) > np.float32(DEAD_ZONE * step), axis=0)
    used = np.flatnonzero(counts >= FEWEST_LEVELS)
    return max(int(used[-1]) + 1, 2) if used.size else 2


def _fitted(g: np.ndarray, wanted: np.ndarray, exact: Doubles, metric: TableMetric) -> tuple[np.ndarray, np.ndarray]:
    """H of least loss beside this G, float32[r, c], and G' f G, float32[r, r].

    Without statistics, H restores the table's gain, as the steps of other matrices do (`nncjit.encoder.quantise`).
    """
    from scipy import linalg  # here, because a decoder should not need SciPy

    weighted = metric.weighted(g)
    products = (weighted.T @ g).astype(np.float64)
    ridge = RIDGE * max(products.trace(), 1e-30) / len(products)
    damped = products + ridge * np.eye(len(products))
    right = (weighted.T @ wanted).astype(np.float64)
    fitted = linalg.solve(damped, right + ridge * exact, assume_a="pos")
    if not metric.is_felt:
        kept = float(np.vdot(right, fitted))
        fitted *= min(energy(wanted) / (len(wanted) * kept), 1 + MOST_ERROR) if kept > 0 else 1.0
    return np.ascontiguousarray(fitted, np.float32), products.astype(np.float32)
