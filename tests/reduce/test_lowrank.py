"""Low-rank decomposition: the error is the discarded energy, targets are met with the least rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import compose, decompose, saving_rank, svd


def matrix(rows, cols, seed=0, decay=0.7):
    """A float32 matrix whose singular values fall as powers of `decay`, and these values."""
    rng = np.random.default_rng(seed)
    side = min(rows, cols)
    u = np.linalg.qr(rng.standard_normal((rows, side)))[0]
    v = np.linalg.qr(rng.standard_normal((cols, side)))[0]
    s = decay ** np.arange(side)
    return (u * s @ v.T).astype(np.float32), s


def distance(w, low):
    return np.linalg.norm(w.astype(np.float64) - low.compose()) / np.linalg.norm(w)


@settings(max_examples=40)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99), st.data())
def test_the_error_is_the_discarded_energy(rows, cols, seed, data):
    rank = data.draw(st.integers(1, min(rows, cols)))
    w, s = matrix(rows, cols, seed)
    low = decompose(w, rank=rank)
    want = np.sqrt((s[rank:] ** 2).sum() / (s**2).sum())
    assert low.g.shape == (rows, rank)
    assert low.h.shape == (rank, cols)
    assert low.rank == rank
    assert low.g.dtype == low.h.dtype == np.float32
    assert distance(w, low) == pytest.approx(want, abs=2e-6)
    assert low.error == pytest.approx(want, abs=2e-6)


@settings(max_examples=40)
@given(st.integers(2, 20), st.integers(2, 20), st.floats(0.01, 0.9), st.sampled_from(["energy", "error"]))
def test_a_target_is_met_with_the_least_rank(rows, cols, target, kind):
    w, _ = matrix(rows, cols, decay=0.6)
    low = decompose(w, **{kind: 1 - target**2 if kind == "energy" else target})
    assert low.error <= target * (1 + 1e-4)
    if low.rank > 1:
        assert decompose(w, rank=low.rank - 1).error > target * (1 - 1e-4)


def test_factors_are_balanced():
    w, s = matrix(12, 20)
    low = decompose(w, rank=5)
    assert np.linalg.norm(low.g, axis=0) == pytest.approx(np.sqrt(s[:5]), rel=1e-4)
    assert np.linalg.norm(low.h, axis=1) == pytest.approx(np.sqrt(s[:5]), rel=1e-4)


@pytest.mark.parametrize("target", [{"rank": 20}, {"error": 0.02}, {"energy": 0.999}])
def test_the_randomised_way_is_as_good_as_the_exact_one(target):
    w, _ = matrix(200, 300, decay=0.8)
    exact, quick = (decompose(w, **target, method=method) for method in ("exact", "randomised"))
    assert quick.error <= max(exact.error * 1.001, target.get("error", 0))
    assert abs(quick.rank - exact.rank) <= 1
    assert (decompose(w, **target, method="randomised").g == quick.g).all()


@pytest.mark.parametrize("target", [{"error": 0.1}, {"energy": 0.95}])
def test_the_randomised_way_widens_its_sketch_until_the_target_is_met(target):
    w, _ = matrix(250, 300, decay=0.98)
    exact, quick = (decompose(w, **target, method=method) for method in ("exact", "randomised"))
    assert exact.rank > svd.FIRST_SKETCH + svd.OVERSAMPLING
    assert quick.error <= target.get("error", np.sqrt(0.05)) * 1.0001
    assert exact.rank <= quick.rank <= 1.1 * exact.rank


def test_large_matrices_of_small_rank_take_the_randomised_way(monkeypatch):
    monkeypatch.setattr(svd, "SMALL_SIDE", 64)
    monkeypatch.setattr(svd, "_whole", lambda view: pytest.fail("decomposed whole"))
    w, _ = matrix(300, 280, decay=0.5)
    assert decompose(w, error=1e-3).error <= 1e-3


def test_a_flat_spectrum_falls_back_to_the_whole_decomposition(monkeypatch):
    monkeypatch.setattr(svd, "SMALL_SIDE", 8)
    w = np.random.default_rng(0).standard_normal((90, 100), dtype=np.float32)
    low = decompose(w, error=0.1)
    assert low.error <= 0.1
    assert low.rank > 60


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.9))
def test_saving_rank_is_the_largest_that_saves(rows, cols, margin):
    rank = saving_rank(rows, cols, margin)
    limit = rows * cols * (1 - margin)
    assert rank == 0 or rank * (rows + cols) < limit
    assert (rank + 1) * (rows + cols) >= limit * (1 - 1e-12)


def test_margin_takes_the_largest_rank_that_saves():
    w, _ = matrix(30, 40)
    low = decompose(w, margin=0.25)
    assert low.rank == saving_rank(30, 40, 0.25)
    assert low.saves(0.25)
    assert not low.saves(0.5)
    assert low.g.size + low.h.size < 0.75 * w.size


def test_tensors_are_cut_where_the_rows_say():
    w = matrix(24, 30)[0].reshape(4, 6, 5, 6)
    low = decompose(w, rank=3, rows=24)
    assert low.g.shape == (24, 3)
    assert low.compose().shape == w.shape
    assert decompose(w, rank=3).g.shape == (4, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_is_taken_and_not_changed(dtype):
    w = matrix(8, 9)[0].astype(dtype)
    before = w.copy()
    assert distance(w, decompose(w, rank=8)) < 1e-6
    assert (w == before).all()


def test_zeros_have_rank_one_and_no_error():
    low = decompose(np.zeros((4, 5), np.float32), error=0.1)
    assert low.rank == 1
    assert low.error == 0
    assert not low.compose().any()


W = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: decompose(W, rank=5, name="w"), OptionError, r"w: rank 5 is not within 1..4 of the 4 x 6 matrix"),
        (lambda: decompose(W, rank=0, name="w"), OptionError, "w: rank 0"),
        (lambda: decompose(W, name="w"), OptionError, "w: give one of"),
        (lambda: decompose(W, rank=1, energy=0.5, name="w"), OptionError, "w: give one of"),
        (lambda: decompose(W, energy=1.5, name="w"), OptionError, "w: energy is 1.5"),
        (lambda: decompose(W, error=-1.0, name="w"), OptionError, "w: error is -1"),
        (lambda: decompose(W, rank=1, rows=5, name="w"), OptionError, "w: 5 rows do not divide"),
        (lambda: decompose(W, rank=1, method="fast", name="w"), OptionError, "w: method"),
        (lambda: decompose(W[:, :1], margin=0.0, name="w"), OptionError, "w: no rank"),
        (lambda: decompose(W[:0], rank=1, name="w"), OptionError, "w: has no elements"),
        (lambda: decompose(W * np.nan, rank=1, name="w"), ModelError, "w: holds NaN"),
        (lambda: compose(W, W, (4, 6), name="w"), OptionError, "w: factors"),
        (lambda: compose(W, W.T, (4, 5), name="w"), OptionError, "w: factors"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()
