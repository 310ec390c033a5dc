"""The estimate of a layer's size is near the truth."""

from __future__ import annotations

import random

import pytest
from cabac.encoding import Given, any_layer, plain_levels
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.cabac.layer import Layer
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel


@pytest.mark.skipif(not JIT, reason="small layers are coded, not estimated")
@pytest.mark.parametrize("selection", ["none", "fast"])
@pytest.mark.parametrize(("shape", "scan"), [((200, 200), 0), ((700, 600), 0), ((700, 600), 4), ((300, 2000), 2)])
@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("spread", [0.15, 0.6, 2.0, 9.0, 300.0])
def test_estimate_is_within_two_percent_or_four_of_a_sparse_layer(spread, dq, shape, scan, selection):
    case = Given(layer := Layer.of(shape, dq=dq, scan=scan), plain_levels(layer, spread))
    coded = 8 * len(case.code(selection=selection)[0])
    assert estimate_bits(case.levels, layer, selection=selection) == pytest.approx(
        coded, rel=0.04 if spread < 0.5 else 0.02
    )


@pytest.mark.skipif(not JIT, reason="small layers are coded, not estimated")
@pytest.mark.parametrize("empty_rows", [0.3, 0.95, 1.0])
def test_empty_rows_are_seen(empty_rows):
    case = Given(layer := Layer.of((400, 300)), plain_levels(layer, 1.0, empty_rows=empty_rows))
    coded = 8 * len(case.code()[0])
    assert estimate_bits(case.levels, layer) == pytest.approx(coded, rel=0.02, abs=40)


@settings(max_examples=40 if JIT else 5)
@given(st.integers(0, 2**32))
def test_small_layers_of_any_kind_are_exact_but_for_the_end(seed):
    case = any_layer(random.Random(seed), skipped=False)
    bits = estimate_bits(case.levels, case.layer, base=case.base, history=case.history, hdsp=case.hdsp)
    assert 0 <= 8 * len(case.code()[0]) - bits <= 24
