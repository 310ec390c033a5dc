"""The shipped network: NumPy computes what PyTorch computed, and it can read."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from nncjit.demo import digits
from nncjit.errors import ModelError


@pytest.fixture(scope="module")
def weights():
    return load_file(digits.MODEL)


@pytest.fixture(scope="module")
def held_out():
    return digits.load_held_out()


def test_outputs_are_those_of_the_framework_that_trained_it(weights, held_out):
    np.testing.assert_allclose(digits.forward(weights, held_out.images), held_out.logits, rtol=1e-4, atol=1e-4)


def test_it_reads_nearly_all_unseen_digits(weights, held_out):
    assert len(held_out.images) == 360
    assert digits.count_correct(weights, held_out) >= 0.98 * 360


def test_its_size_is_that_of_a_real_network(weights):
    assert 150_000 <= sum(w.size for w in weights.values()) <= 400_000
    assert digits.MODEL.stat().st_size + digits.TEST_SET.stat().st_size < 2_000_000


def test_it_fails_when_its_weights_are_destroyed(weights, held_out):
    noise = np.random.default_rng(0)
    broken = {name: w if w.ndim < 2 else noise.permutation(w.ravel()).reshape(w.shape) for name, w in weights.items()}
    assert digits.count_correct(broken, held_out) < 0.5 * 360


def test_a_missing_tensor_is_named(weights, held_out):
    fewer = {name: w for name, w in weights.items() if name != "norm3.bias"}
    with pytest.raises(ModelError, match=r"norm3\.bias"):
        digits.forward(fewer, held_out.images)
