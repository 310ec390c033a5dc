"""The quantisers with rate: the reference's decisions, and what the fast ones cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.jit import JIT
from nncjit.quant.steps import bit_weight, step
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform, uniform_rd
from quant.oracle import case, cases, coded_values, squared_error, weights

pytestmark = pytest.mark.kernel
only_compiled = pytest.mark.skipif(not JIT, reason="takes minutes as plain Python")
RATED = [*cases(dependent=False, rated=True), *cases(dependent=True, rated=True)]


def cost(values, levels, size, rate_weight, *, dependent):
    """Squared error and weighted bits of the payload, in squared steps."""
    encoder = PayloadEncoder()
    encoder.layer(levels, Layer.of((1, levels.size), dq=dependent), selection="exact")
    bits = 8 * len(encoder.finish())
    return squared_error(values, levels, size) + bit_weight(rate_weight, dependent=dependent) * bits


@pytest.mark.parametrize("path", RATED, ids=lambda path: path.stem)
def test_exact_levels_are_the_reference_s(path):
    meta, values, levels, _ = case(path)
    quantise = trellis_rd if meta["dq"] else uniform_rd
    n = values.size if JIT else 60
    found = quantise(
        values[:n],
        step(meta["qp"], meta["qp_density"]),
        meta["lambda_scale"],
        unary_length=meta["unary_length"],
        exact=True,
    )
    assert (found == levels[:n])[: n if JIT else n - 40].all()


@only_compiled
@pytest.mark.parametrize("dependent", [False, True], ids=["uniform", "trellis"])
@pytest.mark.parametrize("rate_weight", [0.5, 1.0])
@pytest.mark.parametrize("qp", [-16, -20, -28, -38])
def test_fast_levels_cost_no_more_than_the_reference_s(qp, rate_weight, dependent):
    n = 100_000
    values, size = weights(n, seed=-qp), step(qp, 2)
    quantise = trellis_rd if dependent else uniform_rd
    ours = cost(values, quantise(values, size, rate_weight), size, rate_weight, dependent=dependent)
    reference = quantise(values, size, rate_weight, exact=True)
    assert ours < 1.0002 * cost(values, reference, size, rate_weight, dependent=dependent)


@only_compiled
@pytest.mark.parametrize("dependent", [False, True], ids=["uniform", "trellis"])
def test_rate_is_worth_its_distortion(dependent):
    values, size = weights(20_000), step(-24, 2)
    quantise, plain = (trellis_rd, trellis) if dependent else (uniform_rd, uniform)
    with_rate, without = quantise(values, size, 4.0), plain(values, size)
    found = [cost(values, levels, size, 4.0, dependent=dependent) for levels in (with_rate, without)]
    assert found[0] < 0.998 * found[1]
    assert squared_error(values, with_rate, size) > squared_error(values, without, size)


@settings(max_examples=60 if JIT else 5)
@given(
    arrays(np.float32, st.integers(0, 400 if JIT else 20), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([0.1, 1.0, 5.0]),
    st.integers(1, 256),
)
def test_any_values_give_a_path(values, rate_weight, unary_length):
    levels = trellis_rd(values, 0.5, rate_weight, unary_length=unary_length)
    assert coded_values(levels) is not None
    assert squared_error(values, levels, 0.5) <= squared_error(values, np.zeros_like(levels), 0.5) + 1e-3
    levels = uniform_rd(values, 0.5, rate_weight, unary_length=unary_length)
    assert (np.abs(levels - values / 0.5) <= np.maximum(np.abs(values / 0.5), 2.0)).all()


@settings(max_examples=20 if JIT else 3)
@given(arrays(np.float32, st.integers(1, 30 if JIT else 4), elements=st.floats(width=32)))
@pytest.mark.parametrize("exact", [False, True])
def test_any_numbers_are_survived(exact, values):
    with np.errstate(all="ignore"):
        assert coded_values(trellis_rd(values, 1.0, 1.0, exact=exact)) is not None
        uniform_rd(values, 1.0, 1.0, exact=exact)


def test_no_weight_is_no_rate():
    values = weights(500 if JIT else 30)
    assert (trellis_rd(values, 0.01, 0.0) == trellis(values, 0.01)).all()
    assert (uniform_rd(values, 0.01, 0.0) == uniform(values, 0.01)).all()


def test_a_large_weight_leaves_zeros():
    values = weights(300 if JIT else 40)
    assert not trellis_rd(values, 0.2, 50.0).any()
    assert not uniform_rd(values, 0.2, 50.0).any()


@only_compiled
@pytest.mark.parametrize("n", [1, 7, 4000, 8192, 100_003, 300_002])
def test_workers_and_scalars_change_nothing(n, monkeypatch):
    values = weights(n, seed=n)
    found = [trellis_rd(values, 0.02, 0.7), uniform_rd(values, 0.03, 0.7)]
    assert coded_values(found[0]) is not None
    with ThreadPoolExecutor(3) as pool:
        assert (trellis_rd(values, 0.02, 0.7, workers=pool) == found[0]).all()
        assert (uniform_rd(values, 0.03, 0.7, workers=pool) == found[1]).all()
    monkeypatch.setenv("NNCJIT_SCALAR", "1")
    assert (trellis_rd(values, 0.02, 0.7) == found[0]).all()
    assert (uniform_rd(values, 0.03, 0.7) == found[1]).all()
