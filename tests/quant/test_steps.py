"""Steps, their parameters, and the range in which levels fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.cabac.layer import MAX_LEVEL
from nncjit.errors import OptionError
from nncjit.quant.steps import bit_weight, fits, nearest_qp, qp_range, raise_qp, step
from quant.oracle import CASES, case

DENSITIES = st.integers(0, 7)


@given(DENSITIES, st.integers(-60, 60))
def test_step_doubles_every_so_many_parameters(density, octave):
    qp = octave << density
    assert step(qp, density) == np.float32(2.0**octave)
    assert step(qp + (1 << density), density) == 2 * step(qp, density)


@given(DENSITIES, st.integers(-100, 100))
def test_step_rises_evenly_inside_an_octave(density, qp):
    low, here, high = (float(step(qp + k, density)) for k in (-1, 0, 1))
    assert low < here < high
    if qp & ((1 << density) - 1):
        assert high - here == here - low


def test_step_ends_where_float32_ends():
    assert step(-(10**6), 2) == 0
    assert step(10**6, 2) == np.inf
    assert step(127 << 2, 2) == np.float32(2.0**127)
    assert step(128 << 2, 2) == np.inf
    assert step(-149 << 0, 0) == np.float32(2.0**-149)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_steps_give_the_values_of_the_vectors(path):
    meta, _, levels, values = case(path)
    assert (step(meta["qp_used"], meta["qp_density"]) * levels.astype(np.float32) == values).all()


@given(DENSITIES, st.floats(2.0**-100, 2.0**100))
def test_nearest_qp_is_nearest_in_ratio(density, wanted):
    qp = nearest_qp(wanted, density)
    distance = [abs(math.log2(float(step(qp + k, density)) / wanted)) for k in (-1, 0, 1)]
    assert distance[1] <= min(distance) + 1e-9


@given(DENSITIES, st.integers(-120, 120))
def test_nearest_qp_finds_a_step_again(density, qp):
    assert nearest_qp(float(step(qp, density)), density) == qp


@pytest.mark.parametrize("wanted", [0.0, -1.0, math.inf, math.nan])
def test_nearest_qp_refuses_what_is_no_step(wanted):
    with pytest.raises(OptionError, match="step is"):
        nearest_qp(wanted, 2)


def test_range_is_what_its_bits_hold():
    assert qp_range(2) == (-128, 127)
    assert qp_range(0, -38) == (-70, -7)


FINITE = st.floats(0, float(np.finfo(np.float32).max), width=32)
QPS = st.integers(-4096, 4095)


@given(FINITE, QPS, DENSITIES)
def test_there_is_a_parameter_for_any_finite_value_and_wish(largest, qp, density):
    found = raise_qp(largest, qp, density)
    assert fits(largest, found, density)
    assert largest / float(step(found, density)) + 2 <= MAX_LEVEL
    if fits(largest, qp, density):
        assert found == qp
    elif found > qp:
        assert not fits(largest, found - 1, density)
    else:
        assert not fits(0.0, qp, density)
        assert not fits(0.0, found + 1, density)


def test_a_step_that_fits_is_left_alone():
    assert raise_qp(1.0, -118, 2) == -118
    assert raise_qp(2.0, -120, 2) > -120


def test_values_that_are_not_finite_are_refused():
    for largest in (math.inf, math.nan, 1e40):
        with pytest.raises(OptionError, match="finite"):
            raise_qp(largest, -20, 2)


def test_a_bit_weighs_more_in_the_trellis():
    assert bit_weight(1.0, dependent=False) == pytest.approx(math.log(2) / 6)
    assert bit_weight(0.5, dependent=True) == pytest.approx(0.5 * 4 * 0.7 * math.log(2) / 6)
