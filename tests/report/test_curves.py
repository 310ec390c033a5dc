"""Rate-quality curves: known differences come out, and curves that cannot be compared are refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.errors import OptionError
from nncjit.report import curves
from nncjit.report.curves import Curve

RATES = (1.0, 1.5, 2.2, 3.1, 4.4)


def logarithmic(label, shift=1.0, rates=RATES):
    """Quality 10 log2(rate / shift): at equal quality it needs `shift` times the rate."""
    return Curve(label, rates, tuple(10 * math.log2(rate / shift) for rate in rates))


@given(st.floats(0.6, 1.6))
def test_a_known_factor_in_rate_comes_out(shift):
    a, b = logarithmic("a"), logarithmic("b", shift)
    assert curves.rate_difference(a, b) == pytest.approx(100 * (shift - 1), abs=1e-6)


def test_a_curve_gains_nothing_over_itself():
    curve = Curve("x", RATES, (50, 70, 80, 84, 85))
    assert curves.rate_difference(curve, curve) == 0.0


def test_less_is_better_turns_the_sign_of_quality_not_of_rate():
    a = Curve("a", RATES, tuple(-10 * math.log2(rate) for rate in RATES), higher_is_better=False)
    b = Curve("b", RATES, tuple(-10 * math.log2(rate / 0.5) for rate in RATES), higher_is_better=False)
    assert curves.rate_difference(a, b) == pytest.approx(-50.0)
    low, high = curves.common_qualities(a, b)
    assert low > high


def test_the_average_is_over_the_common_range_only():
    a = Curve("a", (1, 2, 4), (0.0, 10.0, 20.0))
    b = Curve("b", (1.5, 3, 100), (10.0, 15.0, 40.0))
    one, other = logarithmic("one"), logarithmic("other", 0.8)
    beyond = Curve("beyond", (*other.rates, 50.0), (*other.qualities, 60.0))
    assert curves.rate_difference(one, beyond) == pytest.approx(-20.0, abs=0.2)
    with pytest.raises(OptionError, match="no quality in common"):
        curves.rate_difference(a, Curve("c", (1, 2), (30.0, 40.0)))
    assert curves.common_qualities(a, b) == (10.0, 20.0)


def test_worse_qualities_can_be_left_out():
    a = Curve("a", (1, 2, 4), (10.0, 90.0, 95.0))
    b = Curve("b", (3, 2.0001, 4), (10.0, 90.0, 95.0))
    cheap_at_bad = Curve("b", (0.1, 2, 4), (10.0, 90.0, 95.0))
    assert curves.rate_difference(a, cheap_at_bad) < -30
    assert abs(curves.rate_difference(a, cheap_at_bad, worst=90.0)) < 6
    with pytest.raises(OptionError, match="no useful quality"):
        curves.rate_difference(a, b, worst=95.0)


def test_points_that_a_cheaper_one_equals_do_not_count():
    noisy = Curve("noisy", (1, 2, 3, 4, 5, 6), (50, 80, 79, 90, 90, math.inf))
    assert noisy.front == [(1, 50), (2, 80), (4, 90)]
    clean = Curve("clean", (1, 2, 4), (50, 80, 90))
    assert curves.rate_difference(noisy, clean) == 0.0


def test_rate_at_a_quality_passes_through_the_points():
    curve = Curve("x", RATES, (50, 70, 80, 84, 85))
    for rate, quality in zip(curve.rates, curve.qualities, strict=True):
        assert curve.rate_at(quality) == pytest.approx(rate)
    assert 1.5 < curve.rate_at(75) < 2.2
    assert curve.rate_at(49) is None
    assert curve.rate_at(86) is None


def test_the_interpolation_is_monotone():
    curve = Curve("steep", (1, 1.1, 4, 4.1), (0, 50, 51, 100))
    rates = [curve.rate_at(q) for q in np.linspace(0, 100, 200)]
    assert all(a <= b + 1e-12 for a, b in pairwise(rates))


def test_the_smallest_point_that_is_good_enough():
    curve = Curve("x", (3, 1, 2), (95.0, 80.0, 94.5))
    assert curves.smallest(curve, 94) == 2
    assert curves.smallest(curve, 95) == 0
    assert curves.smallest(curve, 96) is None
    assert curves.smallest(Curve("x", (3, 1, 2), (2.0, 3.0, 2.5), higher_is_better=False), 2.6) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Curve("x", (1, 2), (3.0,)), "2 rates and 1 qualities"),
        (lambda: Curve("x", (0, 2), (3.0, 4.0)), "a rate of 0, must be positive"),
        (lambda: Curve("x", (math.inf, 2), (3.0, 4.0)), "a rate of inf"),
        (
            lambda: curves.rate_difference(logarithmic("a"), Curve("b", (1, 2), (5.0, 5.0))),
            "b: a curve needs two points",
        ),
        (
            lambda: curves.rate_difference(logarithmic("a"), Curve("b", (1, 2), (5.0, 6.0), higher_is_better=False)),
            "in one of them only",
        ),
    ],
)
def test_curves_that_make_no_sense_are_refused(make, words):
    with pytest.raises(OptionError, match=words):
        make()
