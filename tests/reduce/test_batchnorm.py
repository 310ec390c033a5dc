"""Batch-norm folding and its way back compute what the network computed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import divide_rows, fold_batchnorm, multiply_rows, unfold_batchnorm

F32 = np.float32


def conv(x, w):
    """Valid 2-D convolution: x float[batch, in, h, w], w float[out, in, k, k]."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("bihwkl,oikl->bohw", windows, w, optimize=True)


def layer(kind, x, w):
    return conv(x, w) if kind == "conv" else x @ w.T


def per_channel(vector, y):
    return vector.reshape((1, -1) + (1,) * (y.ndim - 2))


def batchnorm(y, gamma, beta, mean, var, eps):
    """As frameworks compute it."""
    return (y - per_channel(mean, y)) / np.sqrt(per_channel(var, y) + F32(eps)) * per_channel(gamma, y) + per_channel(
        beta, y
    )


@st.composite
def networks(draw):
    """A layer with bias and local scaling, its batch norm, and an input; all float32 from a seed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, n = draw(st.sampled_from(["conv", "linear"])), draw(st.integers(1, 8))
    w = rng.standard_normal((n, 5, 3, 3) if kind == "conv" else (n, 7), dtype=F32)
    x = rng.standard_normal((2, 5, 6, 6) if kind == "conv" else (4, 7), dtype=F32)
    vectors = {key: rng.standard_normal(n, dtype=F32) for key in ("gamma", "beta", "mean", "bias", "scale")}
    vectors["var"] = np.exp(rng.standard_normal(n, dtype=F32))
    vectors["scale"] = np.exp(vectors["scale"])
    return kind, w, x, vectors, draw(st.sampled_from([1e-5, 1e-3, 0.1]))


def assert_close(got, want):
    assert got == pytest.approx(want, rel=2e-5, abs=2e-5 * float(np.abs(want).max()))


@settings(max_examples=50)
@given(networks())
def test_a_folded_layer_computes_layer_and_batch_norm(network):
    kind, w, x, v, eps = network
    plain = layer(kind, x, multiply_rows(w, v["scale"]))
    plain = plain + per_channel(v["bias"], plain)
    want = batchnorm(plain, v["gamma"], v["beta"], v["mean"], v["var"], eps)
    folded = fold_batchnorm(
        v["mean"], v["var"], v["gamma"], v["beta"], eps=eps, scale=v["scale"], bias=v["bias"], name="bn"
    )
    got = layer(kind, x, multiply_rows(w, folded.scale))
    assert_close(got + per_channel(folded.bias, got), want)
    assert folded.scale.dtype == folded.bias.dtype == F32


@settings(max_examples=50)
@given(networks(), st.sampled_from(["gamma", "variance"]), st.booleans())
def test_an_unfolded_batch_norm_computes_the_folded_layer(network, form, scale_in_weights):
    kind, w, x, v, eps = network
    composed = layer(kind, x, multiply_rows(w, v["scale"]))
    want = composed + per_channel(v["bias"], composed)
    if scale_in_weights:
        norm = unfold_batchnorm(v["bias"], eps=eps, form=form)
        y = composed
    else:
        norm = unfold_batchnorm(v["bias"], v["scale"], eps=eps, form=form)
        y = layer(kind, x, w)
    assert_close(batchnorm(y, norm.gamma, norm.beta, norm.mean, norm.var, eps), want)


@settings(max_examples=50)
@given(networks(), st.sampled_from(["gamma", "variance"]))
def test_folding_what_was_unfolded_gives_the_same_block(network, form):
    _, _, _, v, eps = network
    norm = unfold_batchnorm(v["bias"], v["scale"], eps=eps, form=form)
    back = fold_batchnorm(norm.mean, norm.var, norm.gamma, norm.beta, eps=eps)
    assert back.scale == pytest.approx(v["scale"], rel=3e-7)
    assert (back.bias == v["bias"]).all()


def test_the_form_of_the_standard_is_off_by_half_of_eps():
    norm = unfold_batchnorm(np.zeros(2, F32), form="standard")
    assert (norm.gamma == 1).all()
    assert (norm.var == 1).all()
    assert fold_batchnorm(norm.mean, norm.var, norm.gamma, eps=1e-3).scale == pytest.approx(1 - 5e-4, abs=1e-6)


def test_what_a_layer_does_not_have_is_one_or_zero():
    mean, var = np.array([1, 2], F32), np.array([4, 9], F32)
    folded = fold_batchnorm(mean, var, eps=0.0)
    assert folded.scale == pytest.approx([1 / 2, 1 / 3])
    assert folded.bias == pytest.approx([-1 / 2, -2 / 3])


def test_rows_are_divided_and_multiplied_back():
    w = np.random.default_rng(0).standard_normal((4, 3, 2, 2), dtype=F32)
    scale = np.array([0.5, -3, 1e-4, 7], F32)
    assert multiply_rows(divide_rows(w, scale), scale) == pytest.approx(w, rel=2e-7)


V = np.ones(3, F32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fold_batchnorm(V, V[:2], name="bn1"), ModelError, "bn1, var"),
        (lambda: fold_batchnorm(V, V, gamma=V[:2], name="bn1"), ModelError, "bn1, gamma"),
        (lambda: fold_batchnorm(V, V, bias=V[:2], name="bn1"), ModelError, "bn1, bias"),
        (lambda: fold_batchnorm(V, -V, name="bn1"), ModelError, "bn1: var"),
        (lambda: fold_batchnorm(V * np.nan, V, name="bn1"), ModelError, "bn1, mean: holds NaN"),
        (lambda: fold_batchnorm(V.astype(np.int64), V, name="bn1"), ModelError, "bn1, mean: is int64"),
        (lambda: unfold_batchnorm(V, V[:2], name="b"), ModelError, "b, scale"),
        (lambda: unfold_batchnorm(V, form="beta", name="b"), OptionError, "b: form"),
        (lambda: unfold_batchnorm(V, form="variance", eps=1.0, name="b"), OptionError, "b: eps"),
        (lambda: unfold_batchnorm(V, eps=-1.0, name="b"), OptionError, "b: eps"),
        (lambda: multiply_rows(np.ones((2, 3), F32), V, name="w"), OptionError, "w: 2 rows need"),
        (lambda: divide_rows(np.ones((3, 3), F32), V * 0, name="w"), OptionError, "w: a scaling factor is zero"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()
