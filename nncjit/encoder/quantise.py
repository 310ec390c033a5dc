"""One matrix or vector becomes integer levels, as a `Decision` says.

Nothing here knows of units, names or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import Levels, parts_of, whole, zeros_like
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.encoder.decision import Decision
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.quant import codebook, steps
from nncjit.quant.input_metric import InputMetric
from nncjit.quant.problem import Problem, Solution, solve
from nncjit.quant.value_source import WINDOW, Values, as_values

MOST_GAIN = 2.0
"""Largest factor between the step of quantising and the one that is signalled."""
MOST_ERROR = 0.9
"""Of the energy, that restoring the gain may make of the error: 0.46 dB are left."""

_NO_LEVELS = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """Levels in scan order, what they stand for, and all that coding them needs."""

    stored: Levels
    """The levels, int32[n], of a huge matrix `NarrowLevels`; with a codebook, its coded values."""
    layer: Layer
    decision: Decision
    qp: int | None
    """The one that is signalled, the parameter set's part included; None for integers, which have no step."""
    power: float
    """Sum of squares of the values that it is measured against."""
    error: float
    """Sum of squared differences to them."""
    book: codebook.Codebook | None = None
    loss: float | None = None
    """What its errors cost in the metric of a calibration."""
    missed: NDArray[np.float64] | None = None
    """float64[rows]: sums of squared errors, where rows made up for what those before them missed."""

    @property
    def fed_back(self) -> bool:
        """Whether rows made up for what those before them missed."""
        return self.missed is not None

    def row_errors(self) -> NDArray[np.float64]:
        """float64[rows]: sums of squared errors of the rows of a matrix with a metric."""
        assert self.missed is not None
        return self.missed

    @property
    def step(self) -> float:
        """Distance of two levels."""
        return 1.0 if self.qp is None else float(steps.step(self.qp, self.decision.density))

    @property
    def levels(self) -> np.ndarray:
        """All levels in one array; those of a huge matrix in a new one."""
        return whole(self.stored)

    def zeros(self) -> QuantisedMatrix:
        """The same with all levels zero."""
        return replace(self, stored=zeros_like(self.stored), error=self.power)

    def without_levels(self) -> QuantisedMatrix:
        """What the header has to say of it: the levels of a huge one are not kept beside its payload."""
        return replace(self, stored=_NO_LEVELS)

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """The float32 values that the decoder will find."""
        levels = self.levels if self.book is None else self.book.levels(self.levels)
        return (from_scan(levels, self.layer).astype(np.float32) * np.float32(self.step)).reshape(shape)


def quantise(
    values: np.ndarray | HugeTensor,
    decision: Decision,
    *,
    reference: np.ndarray | None = None,
    metric: InputMetric | None = None,
    workers: Executor | None = None,
    overwrite: bool = False,
) -> QuantisedMatrix:
    """Quantise float32 values of any shape, raster order, dimension 0 as rows.

    Parameters
    ----------
    values : float32[shape] or HugeTensor
        C-contiguous and finite.
    decision : Decision
        With a qp at which all levels fit.
    reference : float32[shape], optional
        What the result is measured against, where a reduction changed the values already.
    metric : InputMetric, optional
        What errors of the rows cost, by a calibration.
    workers : Executor, optional
        Threads that share the work; the levels do not depend on them.
    overwrite : bool
        The values may be overwritten, which saves a copy of them.

    Returns
    -------
    QuantisedMatrix
        Without codebook; see `with_codebooks`.
    """
    layer = decision.layer(values.shape)
    step = float(steps.step(decision.qp, decision.density))
    ordered: np.ndarray | Values
    if isinstance(values, HugeTensor):
        ordered = values.in_scan(layer)
    elif metric is not None:  # its rows are quantised in raster order
        ordered = values.reshape(-1)
        assert reference is None
    else:
        ordered = to_scan(values, layer, overwrite=overwrite, workers=workers)
    problem = Problem(
        values=ordered,
        layer=layer,
        step=step,
        rate_weight=decision.rate_weight,
        exact=decision.exact,
        inputs=metric,
        reference=None if reference is None else to_scan(reference, layer, workers=workers),
        overwrite=overwrite and decision.keeps != "mean",
    )
    return matrix_of(problem, solve(problem, workers), decision)


def matrix_of(problem: Problem, solution: Solution, decision: Decision) -> QuantisedMatrix:
    """A matrix that is quantised: zeros instead of levels that are worse than these, and the qp to signal."""
    qp = _signalled_qp(decision, problem.step, solution, problem.values)
    signalled = float(steps.step(qp, decision.density))
    sums = solution.reference_sums
    if problem.inputs is None and sums.error(signalled) > sums.power:  # worse than nothing
        solution = solution.zeros()
        sums = solution.reference_sums
    return QuantisedMatrix(
        solution.levels,
        problem.layer,
        decision,
        qp,
        sums.power,
        sums.error(signalled),
        loss=solution.loss,
        missed=None if solution.rows is None else solution.rows.errors_with(signalled),
    )


def _signalled_qp(decision: Decision, step: float, solution: Solution, values: np.ndarray | Values) -> int:
    """The qp to signal: where it may differ, that of the step which serves the decoded matrix best.

    Quantising shrinks weights, small ones to zero, and a network multiplies that layer by layer; a slightly larger step
    at the decoder, with which the matrix has its original gain, makes up for it. At low rates that adds more error than
    there was, and less gain is restored. A step far from the quantiser's own is not trusted.
    """
    sums = solution.sums
    if decision.keeps == "qp" or sums.mixed <= 0.0:
        return decision.qp
    if decision.keeps == "mean":
        total = float(sum(int(part.sum(dtype=np.int64)) for _, part in parts_of(solution.levels)))
        wanted = _sum(values) / total if total else 0.0
    else:
        wanted = min(sums.unbiased_step, sums.largest_step(MOST_ERROR * sums.power))
    if not step / MOST_GAIN <= wanted <= step * MOST_GAIN:
        return decision.qp
    low, high = steps.qp_range(decision.density)
    return min(max(steps.nearest_qp(wanted, decision.density), low), high)


def _sum(values: np.ndarray | Values) -> float:
    """In float64, the same whether the values are all in memory or not."""
    flat = as_values(values)
    starts = range(0, flat.size, WINDOW)
    return sum(float(flat.load(start, min(start + WINDOW, flat.size)).sum(dtype=np.float64)) for start in starts)


def energy(values: np.ndarray) -> float:
    """Sum of squares, in float64."""
    flat = values.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def with_codebooks(matrices: Sequence[QuantisedMatrix]) -> list[QuantisedMatrix] | None:
    """The same levels through codebooks of their distinct values; None where one of the matrices has too many."""
    found = []
    for matrix in matrices:
        levels = matrix.levels
        book = codebook.from_levels(levels)
        if book is None:
            return None
        layer = matrix.layer
        if layer.profile:  # the first edition codes indices without regard to the codebook's bounds
            layer = layer._replace(codebook_size=book.size, codebook_zero=book.zero)
        found.append(replace(matrix, stored=book.coded(levels), layer=layer, book=book))
    return found
