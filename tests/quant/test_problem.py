"""One problem, any solver: the levels suit the coder, and the sums tell what was lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncjit.cabac.layer import MAX_LEVEL, Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.jit import JIT
from nncjit.quant.moments import Products
from nncjit.quant.problem import Problem, solve
from nncjit.quant.steps import raise_qp, step
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform, uniform_rd
from quant.oracle import coded_values, weights

pytestmark = pytest.mark.kernel
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
LARGEST = float(np.finfo(np.float32).max)
SOLVERS = list(itertools.product([False, True], [0.0, 1.0], [False, True]))
"""dependent, rate weight, exact."""


def problem(values, size, *, dependent=False, unary_length=10, **options):
    layer = Layer.of((1, values.size), dq=dependent, unary_length=unary_length)
    return Problem(values=values, layer=layer, step=float(size), **options)


@settings(max_examples=150 if JIT else 15)
@given(
    arrays(np.float32, st.integers(0, 40 if JIT else 6), elements=FINITE | st.floats(-2, 2, width=32)),
    st.integers(-4096, 4095),
    st.integers(0, 7),
    st.sampled_from(SOLVERS),
)
@example(np.float32([7e8, -7e8, 1.0]), -124, 2, (True, 0.0, False))
@example(np.full(9, LARGEST, np.float32), -4096, 7, (True, 1.0, True))
@example(np.float32([1e-45, 0.0]), -4096, 0, (True, 1.0, True))
@example(np.float32([1.0]), 4095, 0, (False, 1.0, False))
def test_any_finite_values_and_any_wish_give_levels_that_the_coder_takes(values, wish, density, solver):
    dependent, rate_weight, exact = solver
    size = step(raise_qp(float(np.abs(values).max(initial=0.0)), wish, density), density)
    posed = problem(values, size, dependent=dependent, rate_weight=rate_weight, exact=exact)
    levels = solve(posed).levels
    assert (np.abs(levels.astype(np.int64)) <= MAX_LEVEL).all()
    if dependent:
        assert coded_values(levels) is not None
    if JIT:
        encoder = PayloadEncoder()
        encoder.layer(levels, posed.layer, selection="fast")  # refuses what it cannot code
        encoder.finish()


@pytest.mark.parametrize("unary_length", [1, 10])
@pytest.mark.parametrize(("dependent", "rate_weight", "exact"), SOLVERS)
def test_each_problem_goes_to_its_solver(dependent, rate_weight, exact, unary_length):
    values = weights(3000 if JIT else 40)
    posed = problem(values, 0.02, dependent=dependent, unary_length=unary_length, rate_weight=rate_weight, exact=exact)
    if rate_weight:
        rated = trellis_rd if dependent else uniform_rd
        wanted = rated(values, 0.02, rate_weight, unary_length=unary_length, exact=exact)
    else:
        wanted = trellis(values, 0.02, exact=exact) if dependent else uniform(values, 0.02)
    assert (solve(posed).levels == wanted).all()


def squares(values, levels, size):
    return np.square(values.astype(np.float64) - float(size) * levels)


@pytest.mark.parametrize("dependent", [False, True])
def test_error_is_measured_against_the_reference_and_gain_against_the_values(dependent):
    original, size = weights(2000 if JIT else 60), 0.03
    values = np.where(np.abs(original) < 0.04, np.float32(0), original)
    alone, found = (
        solve(problem(values, size, dependent=dependent, reference=reference)) for reference in (None, original)
    )
    assert (found.levels == alone.levels).all()
    for signalled in (size, 1.1 * size):
        assert alone.reference_sums.error(signalled) == pytest.approx(
            squares(values, alone.levels, signalled).sum(), rel=1e-9
        )
        assert found.reference_sums.error(signalled) == pytest.approx(
            squares(original, found.levels, signalled).sum(), rel=1e-9
        )
    assert found.reference_sums.error(size) > alone.reference_sums.error(size)
    wide = values.astype(np.float64)
    assert found.sums.unbiased_step == alone.sums.unbiased_step == pytest.approx(wide @ wide / (wide @ found.levels))
    assert found.reference_sums.power == pytest.approx(np.square(original.astype(np.float64)).sum())


class ColumnWeights:
    """A diagonal metric: a factor for each column."""

    def __init__(self, factors):
        self.factors = np.asarray(factors, np.float64)

    def distortion(self, values, levels, layer, workers):
        w, q = (array.astype(np.float64).reshape(layer.rows, layer.width) for array in (values, levels))
        return Products(*(float((self.factors * x * y).sum()) for x, y in ((w, w), (w, q), (q, q))))


def test_a_metric_sees_rows_and_columns():
    rows, factors, size = 20, [1.0, 0.0, 5.0], 0.05
    values, original = weights(3 * rows, seed=2), weights(3 * rows, seed=3)
    layer = Layer.of((rows, 3))
    posed = Problem(values=values, layer=layer, step=size, metric=ColumnWeights(factors), reference=original)
    found = solve(posed)
    lost = squares(original, found.levels, size).reshape(rows, 3) * factors
    assert found.reference_sums.error(size) == pytest.approx(lost.sum(), rel=1e-9)


def test_nothing_is_solved_too():
    found = solve(problem(np.zeros(0, np.float32), 1.0, dependent=True, rate_weight=1.0))
    assert found.levels.size == 0
    assert (found.reference_sums.error(1.0), found.sums.unbiased_step) == (0.0, 0.0)


def test_zeros_lose_all_there_is():
    original, values = weights(90, seed=4), weights(90)
    found = solve(problem(values, 0.1, reference=original)).zeros()
    assert not found.levels.any()
    for array, sums in ((values, found.sums), (original, found.reference_sums)):
        assert sums.error(0.1) == sums.power == pytest.approx(np.square(array.astype(np.float64)).sum())
