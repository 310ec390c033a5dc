"""The context initialisations are worth their bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cabac.encoding import Given, plain_levels

from nncjit.cabac import block_row_pieces
from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.block_row_pieces import pieces_of
from nncjit.cabac.context_initialisation import MOST_SKIPPED, SAMPLED_BINS, cheapest, simulated_costs
from nncjit.cabac.encoder_input import PreparedLayer, prepare
from nncjit.cabac.encoder_records import BYPASS
from nncjit.cabac.layer import Layer, contexts_of
from nncjit.cabac.layer_sample import decimation, mean_bins, samples_of
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

SHAPE = (256, 256) if JIT else (24, 16)


@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("spread", [0.1, 0.6, 2.0, 9.0])
def test_exact_choice_is_smaller_than_none_and_than_the_references(dq, spread):
    case = Given(layer := Layer.of(SHAPE, dq=dq), plain_levels(layer, spread))
    none, exact, reference = (len(case.code(selection=s)[0]) for s in ("none", "exact", "reference"))
    assert exact <= none
    # both judge by expected costs: a few bytes either way are chance
    assert exact <= 1.0002 * reference + 4


@pytest.mark.skipif(not JIT, reason="needs a large layer")
@pytest.mark.parametrize("scan", [0, 4])
@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("spread", [0.6, 2.0, 9.0])
def test_sample_of_a_large_layer_is_enough(dq, spread, scan):
    case = Given(layer := Layer.of((1024, 1024), dq=dq, scan=scan), plain_levels(layer, spread))
    exact, fast = (len(case.code(selection=s)[0]) for s in ("exact", "fast"))
    assert fast <= 1.001 * exact


def plain(layer: Layer, levels: np.ndarray) -> PreparedLayer:
    return prepare(levels, layer, None, None, False, None)


def test_small_layers_are_looked_at_whole():
    layer = Layer.of(SHAPE)
    prepared = plain(layer, plain_levels(layer, 1.0))
    wanted = int(SAMPLED_BINS / mean_bins(prepared.levels, prepared.layer))
    assert decimation(prepared.levels, wanted, MOST_SKIPPED) == 1


@pytest.mark.parametrize("dq", [False, True])
def test_mean_bins_are_near_the_number_of_codes(dq):
    layer = Layer.of((64, 1024), dq=dq, unary_length=10)
    prepared = plain(layer, plain_levels(layer, 3.0))
    binariser = prepared.binariser()
    codes = np.zeros(2048 * (10 + 37) + 48, np.uint16)
    binariser.records["codes"] = binariser.keep(codes, writes=True)
    count = binarise(binariser.address, 0, 2048)
    bins = int((codes[:count] < BYPASS).sum())
    assert 0.7 * bins < 2048 * mean_bins(prepared.levels, prepared.layer) < 1.1 * bins


def test_costs_predict_the_size_of_the_payload():
    layer = Layer.of(SHAPE, unary_length=256)
    levels = plain_levels(layer, 1.5)
    prepared, signalled = plain(layer, levels), contexts_of(layer, False)
    costs = simulated_costs(prepared, pieces_of(prepared, None), None, samples_of(prepared, 1))
    predicted = costs.by_initialisation[signalled, 0].sum() / 2**15
    coded = 8 * len(Given(layer, levels).code(selection="none", row_skip=False)[0])
    # a flag for each context, mostly alike, and the end
    assert coded - 0.2 * len(signalled) - 64 < predicted < coded


def test_pieces_sum_to_the_whole(monkeypatch):
    monkeypatch.setattr(block_row_pieces, "PIECE_SIZE", 128)
    layer = Layer.of((64, 16), scan=1, dq=True)
    prepared = plain(layer, plain_levels(layer, 1.0))
    samples = samples_of(prepared, 1)
    with ThreadPoolExecutor(2) as pool:
        pieces = pieces_of(prepared, pool)
        assert len(pieces) > 3
        apart = simulated_costs(prepared, pieces, pool, samples)
    whole = simulated_costs(prepared, pieces_of(prepared, None), None, samples)
    assert (apart.by_initialisation == whole.by_initialisation).all()


@pytest.mark.parametrize("scan", [0, 1])
def test_a_sample_stands_for_the_whole(scan):
    layer = Layer.of((512, 256), scan=scan, dq=True)
    prepared = plain(layer, plain_levels(layer, 1.0))
    for every in (2, 4):
        samples = np.concatenate(samples_of(prepared, every))
        stands_for = (samples["stop"] - samples["start"]) * samples["weight"] / 256
        assert stands_for.sum() == pytest.approx(layer.size, rel=0.05)


def test_the_first_of_equals_is_chosen_and_an_initialisation_costs_three_bits():
    costs = np.zeros((3, 9), np.int64)
    costs[1] = 10 << 15
    costs[1, 5:7] = 6 << 15
    costs[2] = 10 << 15
    costs[2, 4] = (7 << 15) + 1
    assert cheapest(costs).tolist() == [0, 5, 0]
