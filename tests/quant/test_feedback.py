"""Rows that make up for what the rows before them have missed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.cabac.layer import Layer
from nncjit.cabac.scan import to_scan
from nncjit.errors import NncWarning
from nncjit.jit import JIT
from nncjit.quant import feedback
from nncjit.quant.feedback import quantise_rows
from nncjit.quant.input_metric import DAMPING, InputMetric, factorise
from nncjit.quant.problem import Problem, solve
from nncjit.quant.rate_kernels import SIGNS, SIZE_CLASSES, SIZES
from nncjit.quant.steps import bit_weight
from nncjit.quant.trellis import trellis_rd
from quant.oracle import NEXT, coded_values

pytestmark = pytest.mark.kernel


def metric_of(rng, n, *, rank=None, dead=0, scale=1.0):
    """A metric of n correlated inputs, float32[n, n]."""
    x = rng.standard_normal((rank or 2 * n, n)) @ (np.eye(n) + 0.5 * rng.standard_normal((n, n)) / math.sqrt(n))
    x[:, :dead] = 0
    return (scale * x.T @ x / len(x)).astype(np.float32)


def damped(metric, damping=DAMPING):
    n = len(metric)
    return metric.astype(np.float64) + damping * np.trace(metric.astype(np.float64)) / n * np.eye(n)


@pytest.mark.parametrize(("n", "rank", "dead"), [(1, None, 0), (7, None, 0), (40, 3, 0), (40, None, 30), (12, 1, 11)])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_the_sum_over_inputs_is_the_quadratic_form(n, rank, dead, scale):
    rng = np.random.default_rng(n)
    metric = metric_of(rng, n, rank=rank, dead=dead, scale=scale)
    found = factorise(metric[None].copy(), [n])
    errors = rng.standard_normal((n, 5))
    (part,) = found.parts()
    missed = errors + part.feed.astype(np.float64) @ errors
    wanted = 0.5 * np.trace(errors.T @ damped(metric) @ errors)
    assert found.pivots @ np.square(missed).sum(1) == pytest.approx(wanted, rel=1e-4)
    assert (found.pivots > 0).all()
    assert not np.triu(part.feed).any()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130])
def test_strips_of_a_factor_meet(n):
    rng = np.random.default_rng(n)
    metric = metric_of(rng, n)
    found = factorise(metric[None].copy(), [n])
    (part,) = found.parts()
    unit = np.eye(n) + part.feed
    assert np.tril(unit.T @ np.diag(2 * found.pivots) @ unit) == pytest.approx(np.tril(damped(metric)), abs=1e-3)
    assert not np.triu(part.feed).any()
    scale = rng.uniform(0.5, 2, n).astype(np.float32)
    divided = found.divided(scale)
    assert np.array_equal(divided.feeds[0], part.feed * scale / scale[:, None])


def test_a_metric_of_zeros_costs_something_all_the_same():
    found = factorise(np.zeros((1, 4, 4), np.float32), [4])
    assert (found.pivots > 0).all()
    assert np.isfinite(found.feeds[0]).all()


def test_a_metric_that_is_not_positive_gets_more_damping():
    bad = np.full((1, 3, 3), 1.05, np.float32)
    bad[0][np.diag_indices(3)] = 1
    with pytest.warns(NncWarning, match="fc: its metric is not positive"):
        found = factorise(bad, [3], name="fc")
    assert (found.pivots > 0).all()


@settings(max_examples=40 if JIT else 5)
@given(
    rows=st.integers(1, 40 if JIT else 18),
    width=st.integers(1, 70 if JIT else 12),
    scan=st.sampled_from([0, 0, 1, 2, 4]),
    blocks=st.integers(1, 3),
    rank=st.sampled_from([None, 1, 5]),
    step=st.sampled_from([0.05, 0.4, 3.0]),
    rate=st.sampled_from([0.0, 1.1, 5.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels_are_a_path_and_cost_what_is_said(rows, width, scan, blocks, rank, step, rate, seed):
    rng = np.random.default_rng(seed)
    side = -(-rows // blocks)
    sizes = [min(side, rows - first) for first in range(0, rows, side)]
    metrics = np.zeros((len(sizes), side, side), np.float32)
    for metric, n in zip(metrics, sizes, strict=True):
        metric[:n, :n] = metric_of(rng, n, rank=rank)
    found = factorise(metrics.copy(), sizes)
    values = rng.standard_normal(rows * width).astype(np.float32)
    values[rng.random(values.size) < 0.1] = 0
    layer = Layer.of((rows, width), dq=True, unary_length=11, scan=scan if width > 1 and rows > 1 else 0)
    result = quantise_rows(values, layer, step, rate, found)
    assert coded_values(to_scan(result.levels, layer)) is not None
    errors = (values - np.float32(step) * result.levels).reshape(rows, width).astype(np.float64)
    mean = sum(np.trace(m.astype(np.float64)) for m in metrics) / rows
    wanted, first = 0.0, 0
    for metric, n in zip(metrics, sizes, strict=True):
        e = errors[first : first + n]
        wanted += 0.5 * np.trace(e.T @ (metric[:n, :n] + DAMPING * mean * np.eye(n)) @ e)
        first += n
    assert result.loss == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@settings(max_examples=30 if JIT else 4)
@given(
    channels=st.integers(1, 12 if JIT else 4),
    outputs=st.integers(1, 12 if JIT else 3),
    taps=st.sampled_from([2, 3, 9]),
    apart=st.booleans(),
    step=st.sampled_from([0.05, 0.4, 3.0]),
    rate=st.sampled_from([0.0, 1.1, 5.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_are_a_path_and_cost_what_is_said(channels, outputs, taps, apart, step, rate, seed):
    """`apart`: each input has a metric of its own, as in depthwise convolutions."""
    rng = np.random.default_rng(seed)
    count, side = (channels, taps) if apart else (1, channels * taps)
    metrics = np.stack([metric_of(rng, side) for _ in range(count)])
    found = factorise(metrics.copy(), [side] * count, taps)
    values = rng.standard_normal((channels, outputs, taps)).astype(np.float32)
    layer = Layer.of((channels, outputs * taps), dq=True, unary_length=11, scan=0)
    result = quantise_rows(values.reshape(-1), layer, step, rate, found)
    assert coded_values(result.levels) is not None
    errors = (values - np.float32(step) * result.levels.reshape(values.shape)).astype(np.float64)
    by_input = errors.transpose(0, 2, 1).reshape(count, side, outputs)
    mean = np.einsum("bii->", metrics.astype(np.float64)) / (count * side)
    whole = metrics + DAMPING * mean * np.eye(side)
    assert result.loss == pytest.approx(0.5 * np.einsum("bio,bij,bjo->", by_input, whole, by_input), rel=1e-3)


@settings(max_examples=30 if JIT else 4)
@given(
    rows=st.integers(1, 40 if JIT else 8),
    pieces=st.integers(1, 3),
    layers=st.integers(2, 4 if JIT else 2),
    scan=st.sampled_from([0, 1]),
    step=st.sampled_from([0.05, 0.4, 3.0]),
    rate=st.sampled_from([0.0, 1.1, 5.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_layers_side_by_side_are_a_path_and_cost_what_is_said(rows, pieces, layers, scan, step, rate, seed):
    rng = np.random.default_rng(seed)
    outputs = 8 * pieces if scan else 7 * pieces
    metrics = [metric_of(rng, rows, scale=10.0**-k) for k in range(layers)]
    found = InputMetric.side_by_side([factorise(metric[None].copy(), [rows]) for metric in metrics])
    scale = np.exp(rng.standard_normal(rows)).astype(np.float32)
    values = rng.standard_normal((rows, layers, outputs)).astype(np.float32)
    layer = Layer.of((rows, layers * outputs), dq=True, unary_length=11, scan=scan if rows > 1 else 0)
    result = quantise_rows(values.reshape(-1), layer, step, rate, found.divided(scale))
    assert coded_values(to_scan(result.levels, layer)) is not None
    missed = (values - np.float32(step) * result.levels.reshape(values.shape)).astype(np.float64) * scale[:, None, None]
    errors = missed.transpose(1, 0, 2)
    wanted = sum(0.5 * np.trace(e.T @ damped(metric) @ e) for e, metric in zip(errors, metrics, strict=True))
    assert result.loss == pytest.approx(wanted, rel=1e-3, abs=1e-6)


def test_one_tap_as_a_kernel_is_a_plain_row(monkeypatch):
    rng = np.random.default_rng(4)
    rows, width = (32, 40) if JIT else (5, 6)
    metric = factorise(metric_of(rng, rows)[None], [rows])
    values = rng.standard_normal(rows * width).astype(np.float32)
    layer = Layer.of((rows, width), dq=True, unary_length=11, scan=0)
    plain = quantise_rows(values, layer, 0.4, 1.1, metric)
    monkeypatch.setattr(feedback, "_FeedbackTrellis", feedback._GroupTrellis)
    grouped = quantise_rows(values, layer, 0.4, 1.1, metric)
    assert np.mean(plain.levels != grouped.levels) < 0.02  # sums in another order
    assert grouped.loss == pytest.approx(plain.loss, rel=0.02)


@pytest.mark.parametrize("scan", [0, 4])
def test_feedback_beats_levels_that_each_row_chooses_for_itself(scan):
    rng = np.random.default_rng(3)
    rows, width = (128, 192) if JIT else (20, 16)
    metric = metric_of(rng, rows, rank=rows // 2)
    values = rng.standard_normal(rows * width).astype(np.float32)
    layer = Layer.of((rows, width), dq=True, unary_length=11, scan=scan)
    result = quantise_rows(values, layer, 0.5, 1.0, factorise(metric[None].copy(), [rows]))
    alone = trellis_rd(to_scan(values, layer), 0.5, 1.0, unary_length=11)
    errors = (to_scan(values, layer) - np.float32(0.5) * alone).reshape(-1)
    from nncjit.cabac.scan import from_scan

    e = from_scan(errors, layer).reshape(rows, width).astype(np.float64)
    assert result.loss < 0.8 * 0.5 * np.trace(e.T @ damped(metric) @ e)
    assert np.count_nonzero(result.levels) < 1.1 * np.count_nonzero(alone)


def rates_of(counts, weight, unary):
    """Costs of zeros, of non-zeros, and of values by sign, from counts: as `rate_kernels` has them, in float64."""

    def rate(part, other):
        return math.log2((part + other + 0.8) / (part + 0.4))

    zero = np.array(
        [[weight * rate(counts[4 * s + 2 * w], counts[4 * s + 2 * w + 1]) for s in range(8)] for w in (0, 1)]
    )
    other = np.array(
        [[weight * rate(counts[4 * s + 2 * w + 1], counts[4 * s + 2 * w]) for s in range(8)] for w in (0, 1)]
    )

    def value(negative, size):
        cost = rate(counts[SIGNS + negative], counts[SIGNS + 1 - negative])
        base = SIZES + negative * SIZE_CLASSES
        place, first, order = 1, 1, 0
        while True:
            here, above = counts[base + place], counts[base + place + 1 : base + SIZE_CLASSES].sum()
            if size < first + (1 << order):
                return weight * (cost + rate(here, above) + order)
            cost += rate(above, here)
            first += 1 << order
            order += 1 if place > unary else 0
            place += 1

    return zero, other, value


def count(counts, levels, states, was, unary):
    for level, state in zip(levels, states, strict=True):
        counts[2 * (2 * state + was) + (level != 0)] += 1
        was = int(level != 0)
        if level:
            size = (abs(level) + 1) >> 1
            counts[SIGNS + (level < 0)] += 1
            place = size if size <= unary else unary + (size - unary).bit_length()
            counts[SIZES + (level < 0) * SIZE_CLASSES + place] += 1
    return was


def branch_cost(v, state, last, level, rates):
    """What one value costs with this level, in squared steps."""
    zero, other, value = rates
    if not level:
        return v * v + zero[last][state]
    return (v - level) ** 2 + other[last][state] + value(int(level < 0), (abs(level) + 1) >> 1)


def best_row(x, state, was, rates):
    """Cost of the cheapest levels of one row of targets, in steps, by going through all states."""
    paths = {state: (0.0, was)}
    for v in x:
        after = {}
        for s, (cost, last) in paths.items():
            for parity in (0, 1):
                kind = ((parity ^ (s & 1)) << 1) | (s & 1)
                size = round((abs(v) - kind) / 4) * 4 + kind
                size = size if size >= 1 else size + 4
                choices = [-size if v < 0 else size] + [0] * (parity == 0)
                price, level = min((branch_cost(v, s, last, q, rates), q) for q in choices)
                following = NEXT[s][parity]
                if following not in after or cost + price < after[following][0]:
                    after[following] = (cost + price, int(level != 0))
        paths = after
    return min(cost for cost, _ in paths.values())


def walk(x, levels, state, was, rates):
    """The states before each level, that after the last one, and the cost."""
    cost, states = 0.0, []
    for v, level in zip(x, levels, strict=True):
        states.append(state)
        cost += branch_cost(v, state, was, level, rates)
        was = int(level != 0)
        state = NEXT[state][((abs(level) + (state & 1) * (level != 0)) // 2) & 1]
    return states, state, cost


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "step"), [(1.1, 0.5), (1.1, 1.5), (0.3, 0.1)])
def test_levels_are_as_good_as_those_of_the_recipe(monkeypatch, seed, rate, step):
    monkeypatch.setattr(feedback, "LEAF", 4)
    monkeypatch.setattr(feedback, "EVERY", 16)
    rng = np.random.default_rng(seed)
    rows, width = 11, 9
    metric = metric_of(rng, rows, rank=6)
    values = rng.standard_normal((rows, width)).astype(np.float32)
    layer = Layer.of((rows, width), dq=True, unary_length=2, scan=0)
    got = quantise_rows(values.reshape(-1), layer, step, rate, factorise(metric[None].copy(), [rows]))

    weight = bit_weight(rate, dependent=True)
    mean = max(np.abs(values).mean() / (2 * step), 0.15)
    counts = np.full(SIZES + 2 * SIZE_CLASSES, 0.5)
    for size in range(1, SIZE_CLASSES):
        counts[[SIZES + size, SIZES + SIZE_CLASSES + size]] = 4 * math.exp(-size / mean)
    counts[[SIZES, SIZES + SIZE_CLASSES]] = 0
    lower = np.linalg.cholesky(damped(metric)[::-1, ::-1])[::-1, ::-1]
    feed = (lower / np.diag(lower)).T
    errors, state, was, since = np.zeros((rows, width)), 0, 0, 0
    for row in range(rows):
        if since <= 0:
            rates = rates_of(counts.copy(), weight, 2)
            counts *= 0.85
            since = 16
        since -= width
        target = values[row] + feed[row, :row] @ errors[:row]
        levels = got.levels.reshape(rows, width)[row].tolist()
        best = best_row(target / step, state, was, rates)
        states, state, cost = walk(target / step, levels, state, was, rates)
        assert best - 1e-4 <= cost <= best + 1e-4, row
        was = count(counts, levels, states, was, 2)
        errors[row] = values[row] - step * np.array(levels)


def test_a_problem_with_inputs_is_solved_with_feedback():
    rng = np.random.default_rng(8)
    rows, width = 24, 40
    values = rng.standard_normal((rows, width)).astype(np.float32)
    inputs = factorise(metric_of(rng, rows)[None].copy(), [rows])
    layer = Layer.of((rows, width), dq=True, unary_length=11, scan=2)
    raster = values.reshape(-1)
    solution = solve(Problem(values=raster, layer=layer, step=0.5, rate_weight=1.0, inputs=inputs))
    wanted = quantise_rows(raster, layer, 0.5, 1.0, inputs)
    assert np.array_equal(solution.levels, to_scan(wanted.levels, layer))
    assert solution.loss == wanted.loss
    for step in (0.5, 0.45):
        errors = np.square(raster - np.float32(step) * wanted.levels, dtype=np.float64).reshape(rows, width).sum(1)
        assert solution.sums.error(step) == pytest.approx(float(errors.sum()), rel=1e-4)
        assert solution.rows.errors_with(step) == pytest.approx(errors, rel=1e-4)


@pytest.mark.parametrize("width", [48, 45])
@pytest.mark.parametrize("taps", [1, 3])
def test_values_may_be_lost(taps, width):
    rng = np.random.default_rng(9)
    values = rng.standard_normal(6 * width, dtype=np.float32)
    layer = Layer.of((6, width), dq=True, unary_length=11, scan=0)
    inputs = factorise(metric_of(rng, 6 * taps)[None].copy(), [6 * taps], taps)
    kept = quantise_rows(values, layer, 0.5, 1.0, inputs)
    lost = quantise_rows(values.copy(), layer, 0.5, 1.0, inputs, overwrite=True)
    assert np.array_equal(kept.levels, lost.levels)
    assert kept.loss == lost.loss
    assert np.array_equal(kept.sums.errors, lost.sums.errors)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_sums_of_tiny_and_huge_values(scale):
    rng = np.random.default_rng(10)
    values = (scale * rng.standard_normal(64)).astype(np.float32)
    layer = Layer.of((4, 16), dq=True, unary_length=11, scan=0)
    found = quantise_rows(values, layer, 0.5 * scale, 1.0, factorise(metric_of(rng, 4)[None].copy(), [4]))
    errors = np.square(values - found.sums.step * found.levels.astype(np.float64)).reshape(4, 16).sum(1)
    assert found.sums.errors == pytest.approx(errors, rel=1e-4)
    assert found.sums.products().power == pytest.approx(float(np.square(values, dtype=np.float64).sum()), rel=1e-4)


def test_rows_of_an_uneven_metric_get_bits_by_what_they_cost():
    rng = np.random.default_rng(6)
    costs = np.array([1.0, 1.0, 0.05, 0.0], np.float32)
    values = rng.standard_normal((4, 256), dtype=np.float32)
    layer = Layer.of((4, 256), dq=True, unary_length=11, scan=0)
    found = {}
    for uneven in (False, True):
        metric = replace(factorise(costs[None].copy(), [4]), uneven=uneven)
        found[uneven] = quantise_rows(values.reshape(-1), layer, 0.25, 1.0, metric).levels.reshape(4, 256)
    shares = [np.count_nonzero(found[uneven], axis=1) / 256 for uneven in (False, True)]
    assert shares[0].min() > 0.8
    assert shares[1][:2].min() > 0.8
    assert shares[1][2] < shares[0][2] - 0.03
    assert shares[1][3] < 0.05


def test_huge_targets_stay_in_range():
    values = np.zeros((2, 3), np.float32)
    values[0] = 1e6
    metric = np.array([[[1, 1], [1, 1]]], np.float32)
    layer = Layer.of((2, 3), dq=True, unary_length=11, scan=0)
    result = quantise_rows(values.reshape(-1), layer, 1e-3, 1.0, factorise(metric, [2]))
    assert np.abs(result.levels).max() < 1 << 21
    assert coded_values(result.levels) is not None


@pytest.mark.parametrize("blocks", [2, 3, 5, 7] if JIT else [3])
def test_blocks_side_by_side_are_quantised_as_each_alone(blocks):
    rng = np.random.default_rng(blocks)
    side = 8
    values = rng.standard_normal((side, side * blocks), dtype=np.float32)
    metric = factorise(metric_of(rng, side)[None].copy(), [side])

    def levels_of(columns):
        layer = Layer.of(columns.shape, dq=True, unary_length=11, scan=1)
        return quantise_rows(columns.reshape(-1), layer, 0.5, 0.0, metric).levels.reshape(columns.shape)

    together = levels_of(values)
    for left in range(0, values.shape[1], side):
        columns = slice(left, left + side)
        # in the last row, a block has to end in the state that the next one begins in
        assert np.array_equal(together[:-1, columns], levels_of(np.ascontiguousarray(values[:, columns]))[:-1])
