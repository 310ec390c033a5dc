"""The tabled binarisation of plain layers gives the codes of the general one."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.cabac import encoder_records as er
from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_input import MOST_ROWS, prepare
from nncjit.cabac.layer import MAX_LEVEL, Layer

pytestmark = pytest.mark.kernel

UNARY_LENGTHS = [*range(1, 2 * er.ROW_CODES), 100, 256]


def codes_of(levels: np.ndarray, layer: Layer, *, plain: bool) -> np.ndarray:
    source = prepare(levels, layer, None, None, False, None)
    run, codes = source.run()
    assert run[er.PLAIN] == 1
    run[er.PLAIN] = int(plain)
    found = []
    for start in range(0, levels.size, int(run[er.CHUNK])):
        stop = min(start + int(run[er.CHUNK]), levels.size)
        found.append(codes[: binarise(run.ctypes.data, start, stop)].copy())
    assert run[er.MISMATCH] == 0
    return np.concatenate(found)


@pytest.mark.parametrize("unary_length", UNARY_LENGTHS)
def test_all_values_around_the_tables_ends(unary_length):
    ends = [*range(1, 4 + MOST_ROWS), *range(max(1, unary_length - 2), unary_length + 40)]
    large = [unary_length + (1 << k) + d for k in range(5, 29) for d in (-1, 0, 1)]
    values = np.array([v for v in [*ends, *large] if v <= MAX_LEVEL], np.int32)
    levels = np.stack([values, -values, values], axis=1).reshape(-1)  # each sign after each
    layer = Layer.of((1, levels.size), unary_length=unary_length)
    np.testing.assert_array_equal(codes_of(levels, layer, plain=True), codes_of(levels, layer, plain=False))


@pytest.mark.parametrize("unary_length", [1, 11, 21, 22, 23, 40])
def test_levels_of_a_dependent_quantiser(unary_length):
    random = np.random.default_rng(unary_length)
    wanted = np.rint(random.standard_t(2, 600) * 20).astype(np.int32)
    steps = prepare(wanted, Layer.of((1, 600), dq=True), None, None, False, None).kept[2]
    assert steps is not None
    state, levels = 0, np.zeros_like(wanted)
    for i, q in enumerate(wanted.tolist()):
        levels[i] = np.sign(q) * (abs(q) + (abs(q) ^ state) % 2) if q else 1 + 1 - state % 2  # no zero: no runs
        state = int(steps[abs(int(levels[i])) & 3] >> (8 * state) & 56) >> 3
    layer = Layer.of((1, levels.size), dq=True, unary_length=unary_length)
    np.testing.assert_array_equal(codes_of(levels, layer, plain=True), codes_of(levels, layer, plain=False))
