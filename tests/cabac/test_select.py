"""The starts of the models are worth their bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cabac.encoding import Given, plain_levels

from nncjit.cabac import binarisation_kernels as binarise_kernels
from nncjit.cabac import block_row_pieces as pieces
from nncjit.cabac import context_initialisation as selection
from nncjit.cabac import encoder_records as encode_record
from nncjit.cabac.encoder_input import prepare
from nncjit.cabac.layer import Layer, contexts_of
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


def costs_of(layer: Layer, levels: np.ndarray, every: int, limit: int | None) -> np.ndarray:
    source = prepare(levels, layer, None, None, False, None)
    costs = selection.simulate(source, pieces.cut(source, None), None, selection.plan(source, every), limit=limit)
    return costs.by_start[contexts_of(layer, False)]


def test_small_layers_are_looked_at_whole():
    layer = Layer.of(SHAPE)
    source = prepare(plain_levels(layer, 1.0), layer, None, None, False, None)
    wanted = int(selection.SAMPLED_BINS / selection.mean_bins(source))
    assert selection.decimation(source.levels, wanted, selection.MOST_SKIPPED) == 1


@pytest.mark.parametrize("dq", [False, True])
def test_mean_bins_are_near_the_number_of_codes(dq):
    layer = Layer.of((64, 1024), dq=dq, unary_length=10)
    source = prepare(plain_levels(layer, 3.0), layer, None, None, False, None)
    run, codes = source.run()
    count = binarise_kernels.binarise(run.ctypes.data, 0, 2048)
    bins = int((codes[:count] < encode_record.BYPASS).sum())
    assert 0.7 * bins < 2048 * selection.mean_bins(source) < 1.1 * bins


def test_costs_predict_the_size_of_the_payload():
    layer = Layer.of(SHAPE, unary_length=256)
    levels = plain_levels(layer, 1.5)
    predicted = costs_of(layer, levels, 1, None)[:, 0].sum() / 2**15
    coded = 8 * len(Given(layer, levels).code(selection="none", row_skip=False)[0])
    listed = len(contexts_of(layer, False))
    # a flag for each model, mostly alike, and the end
    assert coded - 0.2 * listed - 64 < predicted < coded


def test_pieces_sum_to_the_whole(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_SIZE", 128)
    layer = Layer.of((64, 16), scan=1, dq=True)
    source = prepare(plain_levels(layer, 1.0), layer, None, None, False, None)
    rows = selection.plan(source, 1)
    with ThreadPoolExecutor(2) as pool:
        cut = pieces.cut(source, pool)
        assert len(cut) > 3
        apart = selection.simulate(source, cut, pool, rows)
    whole = selection.simulate(source, pieces.cut(source, None), None, rows)
    assert (apart.by_start == whole.by_start).all()


@pytest.mark.parametrize("scan", [0, 1])
def test_a_sample_stands_for_the_whole(scan):
    layer = Layer.of((512, 256), scan=scan, dq=True)
    source = prepare(plain_levels(layer, 1.0), layer, None, None, False, None)
    for every in (2, 4):
        rows = np.concatenate(selection.plan(source, every))
        weights = (rows[:, 1] - rows[:, 0]) * rows[:, 4] / 256
        assert weights.sum() == pytest.approx(layer.size, rel=0.05)


def test_the_first_of_equals_is_chosen_and_a_start_costs_three_bits():
    costs = np.zeros((3, 9), np.int64)
    costs[1] = 10 << 15
    costs[1, 5:7] = 6 << 15
    costs[2] = 10 << 15
    costs[2, 4] = (7 << 15) + 1
    assert selection.choose(costs).tolist() == [0, 5, 0]
