"""Quantising a matrix as a problem that is stated once and handed to the solver that suits it.

A problem is the values in coding order, the layer that will code their levels, and what counts: the step, the metric
in which distortion is measured, and the weight of the rate. A new quantiser is a row of `_SOLVERS`, a new metric is a
class with a `distortion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import Levels, zeros_like
from nncjit.cabac.scan import to_scan
from nncjit.quant.feedback import RowSums, quantise_rows
from nncjit.quant.flat_arrays import Floats
from nncjit.quant.input_metric import InputMetric
from nncjit.quant.moments import Products, products
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform, uniform_rd
from nncjit.quant.value_source import Values
from nncjit.stages import staged


class Metric(Protocol):
    """A quadratic form M in which distortion is measured."""

    def distortion(self, values: Floats | Values, levels: Levels, layer: Layer, workers: Executor | None) -> Products:
        """``<w, w>``, ``<w, q>`` and ``<q, q>`` of values w and levels q, with ``<x, y> = x' M y``.

        Parameters
        ----------
        values : float32[n] or Values
            In coding order.
        levels : int32[n] or NarrowLevels
            In the same order.
        layer : Layer
            Its `rows`, `width` and `scan` say in which row and column of the matrix an element is.
        workers : Executor or None
        """
        ...


class Identity:
    """The sum of squared differences: all elements count alike."""

    def distortion(
        self,
        values: Floats | Values,
        levels: Levels,
        layer: Layer,  # noqa: ARG002
        workers: Executor | None,
    ) -> Products:
        """See `Metric`."""
        return products(values, levels, workers)


IDENTITY = Identity()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A matrix to be quantised.

    Parameters
    ----------
    values : float32[n] or Values
        Finite, in coding order (`nncjit.cabac.scan.to_scan`), with `inputs` in raster order; 1-D and contiguous.
    layer : Layer
        How the levels will be coded: rows, columns, scan order, unary length, and with `dq` that they follow the
        trellis.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    rate_weight : float
        Weight of the rate, 0 or more (see `nncjit.quant.steps.bit_weight`).
    exact : bool
        True: the reference's decisions, slowly.
    metric : Metric
    inputs : InputMetric, optional
        The matrix's rows are inputs, and their errors cost this: it decides the levels, by the trellis with rate and
        feedback. `metric` still says how much was lost.
    reference : float32[n], optional
        What distortion is measured against, where it is not the values: the original of values that were reduced. In
        their order.
    overwrite : bool
        With `inputs`: the values may be lost.
    """

    values: Floats | Values
    layer: Layer
    step: float
    rate_weight: float = 0.0
    exact: bool = False
    metric: Metric = IDENTITY
    inputs: InputMetric | None = None
    reference: Floats | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Levels, and the sums that tell what any step makes of them."""

    levels: Levels
    """In coding order: int32[n], or NarrowLevels where not all values are in memory at once."""
    sums: Products
    """In the problem's metric, of the values and the levels: they say which step gives the decoded matrix the gain of
    what was quantised. What a reduction took away on purpose is not made up for.
    """
    reference_sums: Products
    """Of the reference and the levels, or else the same: they say what was lost."""
    loss: float | None = None
    """In the metric of the inputs, where there is one."""
    rows: RowSums | None = None
    """With a metric of the inputs: the sums row by row."""

    def zeros(self) -> Solution:
        """All levels zero, which is the better solution where these add more error than there is to lose."""
        sums, reference_sums = (Products(known.power, 0.0, 0.0) for known in (self.sums, self.reference_sums))
        return Solution(zeros_like(self.levels), sums, reference_sums)


Solver = Callable[[Problem, Executor | None], Levels]


def _uniform(problem: Problem, workers: Executor | None) -> Levels:
    return uniform(problem.values, problem.step, workers=workers)


def _uniform_with_rate(problem: Problem, workers: Executor | None) -> Levels:
    return uniform_rd(
        problem.values,
        problem.step,
        problem.rate_weight,
        unary_length=problem.layer.unary_length,
        exact=problem.exact,
        workers=workers,
    )


def _trellis(problem: Problem, workers: Executor | None) -> Levels:
    return trellis(problem.values, problem.step, exact=problem.exact, workers=workers)


def _trellis_with_rate(problem: Problem, workers: Executor | None) -> Levels:
    return trellis_rd(
        problem.values,
        problem.step,
        problem.rate_weight,
        unary_length=problem.layer.unary_length,
        exact=problem.exact,
        workers=workers,
    )


_SOLVERS: Mapping[tuple[bool, bool], Solver] = {
    (False, False): _uniform,
    (False, True): _uniform_with_rate,
    (True, False): _trellis,
    (True, True): _trellis_with_rate,
}
"""By whether the levels follow the trellis, and whether the rate has a weight."""


@staged("quantise")
def solve(problem: Problem, workers: Executor | None = None) -> Solution:
    """The levels of a problem. They do not depend on the workers, which share the work.

    Raises
    ------
    OptionError
        The step or its inverse is not a positive normal float32.
    """
    if problem.inputs is not None:
        return _with_feedback(problem, problem.inputs, workers)
    levels = _SOLVERS[bool(problem.layer.dq), problem.rate_weight > 0.0](problem, workers)
    sums = lost = problem.metric.distortion(problem.values, levels, problem.layer, workers)
    if problem.reference is not None:
        lost = problem.metric.distortion(problem.reference, levels, problem.layer, workers)
    return Solution(levels, sums, lost)


def _with_feedback(problem: Problem, inputs: InputMetric, workers: Executor | None) -> Solution:
    assert isinstance(problem.values, np.ndarray)
    assert problem.reference is None
    found = quantise_rows(
        problem.values, problem.layer, problem.step, problem.rate_weight, inputs, overwrite=problem.overwrite
    )
    levels = to_scan(found.levels, problem.layer, overwrite=True, workers=workers)
    sums = found.sums.products()
    return Solution(levels, sums, sums, found.loss, found.sums)
