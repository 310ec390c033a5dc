"""Sums by which statistics are told from those of a model with other values."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.calibrate import are_apart, weight_sums


@pytest.fixture
def weight():
    return np.random.default_rng(5).standard_normal(40_000, dtype=np.float32)


def test_sums_follow_the_page_on_the_format(weight):
    k = np.arange(len(weight), dtype=np.uint64)
    x = k * 0x9E3779B1 & 0xFFFFFFFF
    y = (x ^ (x >> np.uint64(15))) * 0x85EBCA77 & 0xFFFFFFFF
    signed = np.where(y >> np.uint64(31), -weight, weight).astype(np.float64)
    expected = [*signed.reshape(16, -1).sum(1), np.square(weight, dtype=np.float64).sum()]
    np.testing.assert_allclose(weight_sums(weight), expected, rtol=1e-6)


@pytest.mark.parametrize("change", ["shift", "noise", "half"])
def test_what_training_and_storing_do_to_a_weight_keeps_its_sums(weight, change):
    noise = np.random.default_rng(6).standard_normal(len(weight), dtype=np.float32)
    found = {"shift": weight + 0.2, "noise": weight + noise / 3, "half": weight.astype(np.float16)}[change]
    assert not are_apart(weight_sums(weight), weight_sums(found))


def test_another_weight_has_other_sums(weight):
    other = np.random.default_rng(7).standard_normal(len(weight), dtype=np.float32)
    assert are_apart(weight_sums(weight), weight_sums(other))
