"""The nine context initialisations in one vector cost what they cost one after another."""

from __future__ import annotations

import random

import numpy as np
import pytest
from cabac.encoding import any_layer, plain_levels

from nncjit.cabac import lane_encoder, layer_sample
from nncjit.cabac.block_row_pieces import pieces_of
from nncjit.cabac.context_initialisation import Costs, simulated_costs
from nncjit.cabac.encoder_input import prepare
from nncjit.cabac.encoder_records import UNBOUNDED
from nncjit.cabac.layer import Layer
from nncjit.jit import JIT
from nncjit.jit.processor import has_wide_vectors

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(JIT and not has_wide_vectors(), reason="needs vectors of 512 bits"),
]


def check(levels: np.ndarray, layer: Layer, every: int, limit: int) -> None:
    """Both ways give the same sums."""
    base = history = np.zeros(layer.size, np.int32)
    prepared = prepare(levels, layer, base, history.astype(np.int8), False, None)
    samples = layer_sample.samples_of(prepared, every)

    def costs(in_vectors: bool) -> Costs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lane_encoder, "lanes_here", lambda: in_vectors)
            return simulated_costs(prepared, pieces_of(prepared, None), None, samples, limit=limit)

    one, other = costs(False), costs(True)
    assert (one.by_initialisation == other.by_initialisation).all()
    assert (one.unsampled == other.unsampled).all()
    assert one.bypassed == other.bypassed


@pytest.mark.parametrize("limit", [0, 1, 130, 512, UNBOUNDED])
def test_random_layers_cost_the_same(limit):
    rng = random.Random(limit)
    for _ in range(100 if JIT else 3):
        given = any_layer(rng, skipped=False)
        check(given.levels, given.layer, 1, limit)


@pytest.mark.parametrize("dq", [False, True])
def test_samples_of_layers_with_runs_of_zeros_cost_the_same(dq, monkeypatch):
    monkeypatch.setattr(layer_sample, "CHUNK", 64)
    for seed, spread in enumerate((0.0, 0.02, 0.1, 0.4, 3.0, 200.0) if JIT else (0.02, 0.4)):
        for scan in (0, 1):
            layer = Layer.of((90, 70) if JIT else (20, 20), dq=dq, scan=scan)
            levels = plain_levels(layer, spread, seed=seed, empty_rows=0.5)
            for every, limit in ((1, 130), (3, 140), (3, UNBOUNDED)):
                check(levels, layer, every, limit)
