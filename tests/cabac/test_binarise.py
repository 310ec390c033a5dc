"""The tabled binarisation of plain layers gives the codes of the general one."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.cabac.binarisation_kernels import binarise
from nncjit.cabac.encoder_input import prepare
from nncjit.cabac.encoder_records import ROW_CODES
from nncjit.cabac.encoder_tables import MOST_TABLED, TRANSITIONS
from nncjit.cabac.layer import MAX_LEVEL, Layer

pytestmark = pytest.mark.kernel

UNARY_LENGTHS = [*range(1, 2 * ROW_CODES), 100, 256]


def codes_of(levels: np.ndarray, layer: Layer, *, tabled: bool) -> np.ndarray:
    binariser = prepare(levels, layer, None, None, False, None).binariser()
    record = binariser.records[0]
    codes = np.zeros(record["chunk"] * (layer.unary_length + 37) + 2 * ROW_CODES, np.uint16)
    record["codes"] = binariser.keep(codes, writes=True)
    assert record["tabled"] == 1
    record["tabled"] = int(tabled)
    found = []
    for start in range(0, levels.size, int(record["chunk"])):
        stop = min(start + int(record["chunk"]), levels.size)
        found.append(codes[: binarise(binariser.address, start, stop)].copy())
    assert record["faults"] == 0
    return np.concatenate(found)


@pytest.mark.parametrize("unary_length", UNARY_LENGTHS)
def test_all_values_around_the_tables_ends(unary_length):
    ends = [*range(1, 4 + MOST_TABLED), *range(max(1, unary_length - 2), unary_length + 40)]
    large = [unary_length + (1 << k) + d for k in range(5, 29) for d in (-1, 0, 1)]
    values = np.array([v for v in [*ends, *large] if v <= MAX_LEVEL], np.int32)
    levels = np.stack([values, -values, values], axis=1).reshape(-1)  # each sign after each
    layer = Layer.of((1, levels.size), unary_length=unary_length)
    np.testing.assert_array_equal(codes_of(levels, layer, tabled=True), codes_of(levels, layer, tabled=False))


@pytest.mark.parametrize("unary_length", [1, 11, 21, 22, 23, 40])
def test_levels_of_a_dependent_quantiser(unary_length):
    random = np.random.default_rng(unary_length)
    wanted = np.rint(random.standard_t(2, 600) * 20).astype(np.int32)
    state, levels = 0, np.zeros_like(wanted)
    for i, q in enumerate(wanted.tolist()):
        levels[i] = np.sign(q) * (abs(q) + (abs(q) ^ state) % 2) if q else 1 + 1 - state % 2  # no zero: no runs
        state = int(TRANSITIONS[1][abs(int(levels[i])) & 3] >> (8 * state) & 56) >> 3
    layer = Layer.of((1, levels.size), dq=True, unary_length=unary_length)
    np.testing.assert_array_equal(codes_of(levels, layer, tabled=True), codes_of(levels, layer, tabled=False))
