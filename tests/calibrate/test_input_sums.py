"""The sums that metrics are made of, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.calibrate import InputSums, unfold
from nncjit.calibrate.input_sums import COHERENT_SHARE, mixed
from nncjit.errors import ModelError


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@settings(max_examples=40)
@given(
    tokens=st.integers(0, 9),
    inputs=st.integers(1, 13),
    outputs=st.integers(1, 9),
    probes=st.integers(1, 3),
    widest=st.sampled_from([0, 1, 4, 5, 100]),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_parts_are_what_their_definitions_say(tokens, inputs, outputs, probes, widest, seed):
    rng = np.random.default_rng(seed)
    sums = InputSums.of("w", "linear", (outputs, inputs), widest=widest)
    coherent, tokenwise = np.zeros((inputs, inputs)), np.zeros((inputs, inputs))
    for _ in range(3):
        x, g = draw(rng, tokens, inputs), draw(rng, probes, tokens, outputs)
        sums.add(x, g)
        for probe in g:
            gradient = probe.T @ x
            coherent += gradient.T @ gradient / outputs
            tokenwise += sum(float(p @ p) * np.outer(t, t) for p, t in zip(probe, x, strict=True)) / outputs
    for got, wanted in ((sums.coherent, coherent), (sums.tokenwise, tokenwise)):
        if not widest:
            assert np.allclose(got, wanted.diagonal(), rtol=1e-4, atol=1e-4)
            continue
        block = sums.record.block
        for k, part in enumerate(got):
            here = slice(k * block, min((k + 1) * block, inputs))
            n = here.stop - here.start
            assert np.allclose(part[:n, :n], wanted[here, here], rtol=1e-4, atol=1e-4)
            assert not part[n:].any()
            assert not part[:, n:].any()
    assert (sums.samples, sums.tokens) == (3, 3 * tokens)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_grouped_convolution_has_blocks_for_each_group(groups):
    rng = np.random.default_rng(0)
    shape = (12, 6 // groups, 3, 3)
    sums = InputSums.of("w", "convolution", shape, groups=groups)
    x, g = draw(rng, 10, 6 * 9), draw(rng, 10, 12)
    sums.add(x, g)
    n, out = 6 // groups * 9, 12 // groups
    assert sums.coherent.shape == (groups, n, n)
    for k in range(groups):
        gradient = g[:, k * out : (k + 1) * out].T @ x[:, k * n : (k + 1) * n]
        assert np.allclose(sums.coherent[k], gradient.T @ gradient / out, rtol=1e-4, atol=1e-3)
    assert sums.tokenwise is None


def test_blocks_hold_whole_kernels():
    sums = InputSums.of("w", "convolution", (4, 10, 3, 3), widest=40)
    assert sums.record.block % 9 == 0
    assert sums.record.block <= 40
    assert sums.record.blocks * sums.record.block >= 90


def test_the_mix_has_the_trace_of_the_coherent_part():
    rng = np.random.default_rng(1)
    a, b = draw(rng, 5, 7), draw(rng, 3, 7)
    coherent, tokenwise = (a.T @ a)[None], 0.01 * (b.T @ b)[None]
    mix = mixed(coherent, tokenwise)
    assert np.trace(mix[0]) == pytest.approx(np.trace(coherent[0]), rel=1e-5)
    rest = mix - COHERENT_SHARE * coherent
    assert np.allclose(rest / np.trace(rest[0]), tokenwise / np.trace(tokenwise[0]), atol=1e-6)
    assert np.array_equal(mixed(coherent, 0 * tokenwise), coherent)


def test_a_sample_that_is_not_finite_is_left_out():
    sums = InputSums.of("w", "linear", (2, 3))
    sums.add(np.full((1, 3), np.inf, np.float32), np.ones((1, 2), np.float32))
    assert (sums.dropped, sums.samples) == (1, 0)
    assert not sums.coherent.any()


@pytest.mark.parametrize(("x", "g"), [((4, 3), (5, 2)), ((4, 2), (4, 2)), ((4, 3), (4, 3)), ((3,), (3, 2))])
def test_samples_of_another_shape_are_refused(x, g):
    with pytest.raises(ModelError, match="w: a sample has"):
        InputSums.of("w", "linear", (2, 3)).add(np.ones(x, np.float32), np.ones(g, np.float32))


@settings(max_examples=30)
@given(
    channels=st.integers(1, 3),
    side=st.integers(3, 7),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_unfolded_input_times_kernel_is_the_convolution(channels, side, kernel, stride, padding, dilation):
    rng = np.random.default_rng(2)
    x, w = draw(rng, channels, side, side), draw(rng, 2, channels, *kernel)
    if any(side + 2 * padding < dilation * (k - 1) + 1 for k in kernel):
        with pytest.raises(ModelError, match="smaller than its kernel"):
            unfold(x, kernel, stride=stride, padding=padding, dilation=dilation)
        return
    got = unfold(x, kernel, stride=stride, padding=padding, dilation=dilation) @ w.reshape(2, -1).T
    padded = np.pad(x, [(0, 0), (padding, padding), (padding, padding)])
    tall, wide = ((side + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for k in kernel)
    wanted = np.zeros((tall, wide, 2))
    for i in range(tall):
        for j in range(wide):
            patch = padded[:, i * stride :: dilation, j * stride :: dilation][:, : kernel[0], : kernel[1]]
            wanted[i, j] = np.tensordot(w, patch, 3)
    assert np.allclose(got.reshape(wanted.shape), wanted, atol=1e-4)
