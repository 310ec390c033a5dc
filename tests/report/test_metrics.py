"""Each measure against its definition, written out plainly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncjit.errors import ModelError
from nncjit.report import metrics

RANDOM = np.random.default_rng(0)
SMALL = st.floats(-100, 100, width=32)


def test_snr_is_power_over_error_in_decibels():
    assert metrics.snr(np.array([3.0, 4.0]), np.array([3.0, 3.5])) == pytest.approx(20.0)
    assert metrics.snr(np.ones(3), np.ones(3)) == math.inf
    assert metrics.snr(np.zeros(3), np.ones(3)) == -math.inf


def test_snr_of_a_model_counts_floats_only():
    before = {"w": np.array([3.0, 0.0]), "b": np.array([4.0]), "n": np.array([7])}
    after = {"w": np.array([3.0, 0.5]), "b": np.array([4.0]), "n": np.array([9])}
    assert metrics.model_snr(before, after) == pytest.approx(20.0)
    assert metrics.tensor_snr(before, after) == {"w": pytest.approx(10 * math.log10(9 / 0.25)), "b": math.inf}


def test_sizes_are_percent_and_bits():
    assert metrics.ratio(5, 200) == 2.5
    assert metrics.bits_per_weight(100, 400) == 2.0
    assert metrics.bits_per_weight(100, 0) == 800.0


def test_psnr_of_a_known_error():
    assert metrics.psnr(np.zeros((4, 4)), np.full((4, 4), 0.1), 1.0) == pytest.approx(20.0)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ModelError, match=r"shapes \[2\] and \[3\] differ"):
        metrics.snr(np.zeros(2), np.zeros(3))


def slow_ssim(x, y, peak):
    """Wang et al. 2004, window by window."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(kernel, kernel) / kernel.sum() ** 2
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    found = []
    for i in range(5, x.shape[0] - 5):
        for j in range(5, x.shape[1] - 5):
            a, b = x[i - 5 : i + 6, j - 5 : j + 6], y[i - 5 : i + 6, j - 5 : j + 6]
            mx, my = (window * a).sum(), (window * b).sum()
            vx, vy = (window * (a - mx) ** 2).sum(), (window * (b - my) ** 2).sum()
            cov = (window * (a - mx) * (b - my)).sum()
            found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(found)


def test_ssim_is_that_of_its_definition():
    x = RANDOM.random((17, 20))
    y = np.clip(x + 0.2 * RANDOM.standard_normal(x.shape), 0, 1)
    assert metrics.ssim(x, y, 1.0) == pytest.approx(slow_ssim(x, y, 1.0), abs=1e-9)
    assert metrics.ssim(x, x, 1.0) == pytest.approx(1.0)
    colours = np.stack([x, y], 2)
    swapped = colours[..., ::-1]
    assert metrics.ssim(colours, swapped, 1.0) == pytest.approx(metrics.ssim(x, y, 1.0))


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ModelError, match="at least 11 x 11 pixels, not 8 x 30"):
        metrics.ssim(np.zeros((8, 30)), np.zeros((8, 30)), 1.0)


def test_top_k_counts_the_rows_whose_label_is_among_the_best():
    scores = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.1], [0.3, 0.2, 0.5], [0.1, 0.2, 0.3]])
    labels = np.array([1, 1, 0, 2])
    assert metrics.top_k(scores, labels) == 50.0
    assert metrics.top_k(scores, labels, 2) == 100.0


def test_top_k_gives_nothing_for_the_same_answer_to_everything():
    labels = np.arange(10)
    assert metrics.top_k(np.zeros((10, 10)), labels) == 0.0
    assert metrics.top_k(np.full((10, 10), np.nan), labels, 5) == 0.0


def test_top_k_refuses_labels_of_other_images():
    with pytest.raises(ModelError, match="do not belong to 3 labels"):
        metrics.top_k(np.zeros((2, 5)), np.zeros(3, int))


def test_bits_per_character_of_even_odds():
    assert metrics.bits_per_character(np.log([0.25, 0.25, 0.5, 0.5])) == pytest.approx(1.5)


def test_cosine_is_the_mean_over_rows():
    x = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    y = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert metrics.cosine(x, y) == pytest.approx((1 + math.sqrt(0.5) + 0) / 3)


@given(hnp.arrays(np.float64, st.integers(2, 30), elements=SMALL))
def test_spearman_sees_order_only(values):
    order = metrics.spearman(values, values**3)
    constant = len(set(values.tolist())) == 1
    assert order == pytest.approx(0.0 if constant else metrics.spearman(values, values), abs=1e-9) or len(
        set((values**3).tolist())
    ) < len(set(values.tolist()))
    assert metrics.spearman(values, -values) == pytest.approx(-metrics.spearman(values, values))


def test_entropy_of_a_histogram():
    assert metrics.entropy(np.array([0, 0, 1, 2])) == pytest.approx(1.5)
    assert metrics.entropy(np.zeros(5, int)) == 0.0
