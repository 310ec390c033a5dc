"""Every model with every option: nothing ruined, grown or missed without a word. See `pairs`."""

from __future__ import annotations

import numpy as np
import pytest

from nncjit.jit import JIT
from promises.pairs import Pair, any_pair, faults

SEEDS = range(400 if JIT else 8)
FOUND = (44, 106, 169, 319, 1193, 1359, 30408, 32636, 33121, 36182, 36283, 36412, 37109, 39080, 700453, 20262086)
"""Seeds whose pairs once broke a promise, many among 10,000."""


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, 20))
def test_random_models_with_random_options_keep_every_promise(first: int) -> None:
    wrong = {seed: found for seed in range(first, min(first + 20, SEEDS.stop)) if (found := faults(any_pair(seed)))}
    assert not wrong


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_stays_mended(seed: int) -> None:
    assert faults(any_pair(seed)) == []


def test_the_check_finds_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import nncjit

    pair = Pair({"w": np.ones((40, 50), np.float32), "b": np.arange(1, 40, dtype=np.float32)}, {"bits": 3})
    decode = nncjit.decode
    monkeypatch.setattr(nncjit, "decode", lambda data: {name: a * 3 for name, a in decode(data).items()})
    assert any("below 0 dB" in fault for fault in faults(pair))
    assert any("off by more than 1 %" in fault for fault in faults(pair))
    monkeypatch.setattr(nncjit, "decode", lambda data: dict(reversed(decode(data).items())))
    assert any("names are" in fault for fault in faults(pair))
    monkeypatch.undo()
    encode = nncjit.encode
    monkeypatch.setattr(nncjit, "encode", lambda *args, **options: encode(*args, qp=-30))
    assert any("missed without a word" in fault for fault in faults(pair))
