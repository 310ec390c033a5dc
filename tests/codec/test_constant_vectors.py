"""Vectors of equal values come back as they were, wherever they are coded."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("value", [1.0, 0.3, -2.5, 0.0])
@pytest.mark.parametrize("options", [{}, {"quantizer": "uniform"}, {"quality": 0.2}, {"bits": 4}], ids=str)
def test_a_constant_scale_of_a_batch_norm_in_a_block(value, options):
    """The trellis has no level 1 in half of its states, so one step for all values does not do."""
    n = 24
    weights = {
        "conv.weight": RNG.standard_normal((n, 8, 3, 3)).astype(np.float32) * 0.1,
        "bn.weight": np.full(n, value, np.float32),
        "bn.bias": RNG.standard_normal(n).astype(np.float32),
        "bn.running_mean": RNG.standard_normal(n).astype(np.float32),
        "bn.running_var": RNG.random(n).astype(np.float32) + 0.5,
    }
    decoded = nncjit.decode(nncjit.encode(weights, blocks=True, **options))
    assert np.allclose(decoded["bn.weight"], value, rtol=0.01, atol=1e-6)
