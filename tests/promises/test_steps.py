"""What networks use survives the default steps, whatever the values look like."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import nncjit

RNG = np.random.default_rng(0)


def decibels(values: np.ndarray, back: np.ndarray) -> float:
    error = np.square(values.astype(np.float64) - back).sum()
    return float("inf") if error == 0 else float(10 * np.log10(np.square(values.astype(np.float64)).sum() / error))


def rope(n: int, base: float) -> np.ndarray:
    return (base ** -(np.arange(n) / n)).astype(np.float32)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (64, 1), (1, 1, 64)])
@pytest.mark.parametrize("base", [1e4, 5e5, 1e8])
@pytest.mark.parametrize("options", [{}, {"bits": 2}, {"ratio": 5}, {"qp": -20}, {"quality": 0.2}, {"snr": 15}])
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_frequencies_keep_each_value(shape: tuple, base: float, options: dict) -> None:
    arrays = {"inv_freq": rope(64, base).reshape(shape), "w": RNG.normal(0, 0.1, (200, 300)).astype(np.float32)}
    back = nncjit.decode(nncjit.encode(arrays, **options))["inv_freq"]
    np.testing.assert_allclose(back, arrays["inv_freq"], rtol=0.008)


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 4, 8])
def test_variances_keep_what_their_square_root_makes_of_them(sigma: float) -> None:
    var = np.exp(RNG.normal(0, sigma, 512)).astype(np.float32)
    back = nncjit.decode(nncjit.encode({"bn.running_var": var}))["bn.running_var"]
    np.testing.assert_allclose(1 / np.sqrt(back + 1e-12), 1 / np.sqrt(var + 1e-12), rtol=0.005)


@pytest.mark.parametrize("outliers", [1, 30, 300])
@pytest.mark.parametrize("size", [1.0, 60.0, 1e4])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_bulk_of_a_matrix_keeps_its_precision_beside_outliers(outliers: int, size: float, shift: float) -> None:
    bulk = RNG.normal(0, 0.02, (512, 512)).astype(np.float32)
    values = bulk.copy()
    values.reshape(-1)[RNG.choice(values.size, outliers, replace=False)] += size
    values += np.float32(shift)
    back = nncjit.decode(nncjit.encode({"w": values}))["w"]
    small = np.abs(values - shift) < 0.5
    assert decibels((values - shift)[small], (back - shift)[small]) > 27


def test_a_vector_keeps_its_bulk_beside_an_outlier() -> None:
    bias = RNG.normal(0, 0.02, 512).astype(np.float32)
    bias[7] = 60
    back = nncjit.decode(nncjit.encode({"b": bias}))["b"]
    assert decibels(np.delete(bias, 7), np.delete(back, 7)) > 40


def test_ordinary_vectors_take_some_ten_bits() -> None:
    for draw in (RNG.normal, RNG.laplace, lambda a, b, n: RNG.uniform(-b, b, n)):
        vector = draw(0, 0.3, 4096).astype(np.float32)
        assert 8 * len(nncjit.encode({"b": vector})) / 4096 < 11.5


@pytest.mark.parametrize("bits", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("rate_weight", [0.0, 0.2, 1.0])
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_low_rates_are_better_than_zeros(bits: float, rate_weight: float) -> None:
    values = RNG.normal(0, 1, (512, 512)).astype(np.float32)
    data = nncjit.encode({"w": values}, bits=bits, rate_weight=rate_weight)
    assert 8 * len(data) / values.size == pytest.approx(bits, rel=0.01 if bits > 0.2 else 0.03)
    back = nncjit.decode(data)["w"]
    assert decibels(values, back) > 0.3
    if bits > 0.2:  # less leaves no room for the gain
        assert (values * back).sum() / np.square(values).sum() > min(bits + 0.05, 0.95)


@pytest.mark.parametrize(("n", "mean"), [((64, 512), 1000.0), ((40, 40), 5.0), ((300, 20), -30.0)])
@pytest.mark.parametrize("snr", [5, 20, 40])
def test_means_are_kept_at_any_target(n: tuple, mean: float, snr: float) -> None:
    values = RNG.normal(mean, 1, n).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        back = nncjit.decode(nncjit.encode({"w": values}, snr=snr))["w"]
    assert back.mean() == pytest.approx(mean, rel=0.02)
    assert decibels(values, back) > 0
    assert caught or decibels(values, back) == pytest.approx(snr, rel=0.0101)


@pytest.mark.parametrize("value", [1.0, -3.3, 1e-7, 5e8])
@pytest.mark.parametrize("shape", [(512,), (64, 64), (300, 200, 3, 3)])
@pytest.mark.parametrize("options", [{}, {"bits": 0.1}, {"snr": 10}, {"quality": 0.1}])
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_constants_cost_next_to_nothing_and_stay(value: float, shape: tuple, options: dict) -> None:
    values = np.full(shape, value, np.float32)
    data = nncjit.encode({"w": values}, **options)
    assert 8 * len(data) < 1200 + 0.04 * values.size
    np.testing.assert_allclose(nncjit.decode(data)["w"], values, rtol=0.003)
