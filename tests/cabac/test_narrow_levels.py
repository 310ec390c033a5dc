"""Levels that are kept in few bytes are those that were put in, wherever they are read."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.cabac import narrow_levels
from nncjit.cabac.narrow_levels import NarrowLevels, every, parts_of, whole, zeros_like

RNG = np.random.default_rng(0)
SIZE = 1000
OUTLIERS = np.where(RNG.random(SIZE) < 0.02, 1 << 29, 3) * RNG.choice([-1, 1], SIZE)
LEVELS = {
    "none": np.zeros(0),
    "one": np.array([-(1 << 30) + 1]),
    "bytes": RNG.integers(-128, 128, SIZE),
    "words": RNG.integers(-(1 << 15), 1 << 15, SIZE),
    "whole words": RNG.integers(-(1 << 30), 1 << 30, SIZE),
    "outliers": OUTLIERS,
    "outliers among words": OUTLIERS * 1000 // 1000 + RNG.integers(0, 2000, SIZE),
}


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    monkeypatch.setattr(narrow_levels, "STRETCH", 64)
    monkeypatch.setattr(narrow_levels, "TOGETHER", 100)


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_kept(name):
    levels, narrow = LEVELS[name].astype(np.int32), NarrowLevels()
    for part in np.array_split(levels, [10, 10, 200]):
        narrow.append(part)
    assert narrow.size == levels.size
    np.testing.assert_array_equal(whole(narrow), levels)
    for start, stop in np.sort(RNG.integers(0, levels.size + 1, (50, 2))).tolist():
        found = narrow.load(start, stop)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, levels[start:stop])
    for step in (1, 7, 64, 333):
        np.testing.assert_array_equal(every(narrow, step), levels[::step])
    assert whole(zeros_like(narrow)).tolist() == [0] * levels.size
    for start, part in parts_of(narrow):
        np.testing.assert_array_equal(part, levels[start : start + part.size])


def test_few_that_do_not_fit_widen_none():
    narrow = NarrowLevels()
    narrow.append(OUTLIERS.astype(np.int32))
    stored = sum(s.levels.nbytes + s.places.nbytes + s.others.nbytes for s in narrow._stretches)
    assert stored < 1.3 * SIZE
