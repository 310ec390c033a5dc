"""The reference's layers decode exactly, one by one and all together, on any number of threads."""

import numpy as np
import pytest
from cabac.decoding import VECTORS, WAYS, decode, take_way, vector

from nncjit.cabac import segment_supply as module
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

assert len(VECTORS) == 161
SMALL = [path for path in VECTORS if path.stat().st_size < 1500]
CASES = VECTORS if JIT else SMALL


@pytest.fixture(autouse=True)
def pairs_and_threads_for_small_layers(monkeypatch):
    monkeypatch.setattr(module, "WORTH_A_THREAD", 64)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_layer_decodes_to_what_the_reference_coded_with_its_entry_points_or_without(path):
    one = vector(path)
    np.testing.assert_array_equal(decode(one)[0], one.levels)
    np.testing.assert_array_equal(decode(one, use_points=False)[0], one.levels)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_layers_at_once_decode_the_same_on_any_number_of_threads(threads, way, monkeypatch):
    take_way(monkeypatch, way)
    slow = way.startswith("lanes") and not JIT  # each step of the lanes is some fifty calls of NumPy
    if slow and threads > 1:
        pytest.skip("lanes of several threads take minutes in plain Python")
    layers = [vector(path) for path in CASES[:: 40 if slow else 1]]
    for one, out in zip(layers, decode(*layers, threads=threads), strict=True):
        np.testing.assert_array_equal(out, one.levels)
