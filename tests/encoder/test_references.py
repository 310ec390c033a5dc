"""How the units of a stream call their tensors: by name, or by index into a list of names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration, Statistics

LAYERS = 12


def draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def case() -> tuple[dict[str, np.ndarray], Statistics]:
    """A table, layers whose names have much in common, and their statistics."""
    rng = np.random.default_rng(3)
    weights = {"embeddings.word_embeddings.weight": draw(rng, 300, 24) * np.geomspace(0.1, 4, 24, dtype=np.float32)}
    for k in range(LAYERS):
        weights[f"encoder.layer.{k}.output.dense.weight"] = draw(rng, 24, 24)
        weights[f"encoder.layer.{k}.output.dense.bias"] = draw(rng, 24)
    calibration = Calibration()
    for _ in range(40):
        ids = rng.integers(0, 300, 6)
        calibration.table("embeddings.word_embeddings.weight", (300, 24)).add(ids, draw(rng, 6, 24))
        for k in range(LAYERS):
            layer = calibration.linear(f"encoder.layer.{k}.output.dense.weight", (24, 24))
            layer.add(draw(rng, 6, 24), draw(rng, 6, 24))
        calibration.end_samples(1, output_power=1e4)
    return weights, calibration.statistics()


def by_index(data: bytes) -> bool:
    return any(unit["type"] == "TPL" and "REFLIST" in str(unit) for unit in nncjit.inspect(data).units)


def same(first: bytes, second: bytes) -> bool:
    one, other = nncjit.decode(first), nncjit.decode(second)
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options", [{}, {"profile": 0}, {"calibration": "weights"}, {"calibration": None, "rank": 3}], ids=str
)
def test_indices_change_nothing_but_the_size(case: Any, options: dict[str, Any]) -> None:
    weights, statistics = case
    options = {"calibration": statistics} | options
    named, indexed = (nncjit.encode(weights, references=how, **options) for how in ("name", "index"))
    assert by_index(indexed)
    assert not by_index(named)
    assert same(named, indexed)
    assert len(indexed) < len(named) - 15 * len(weights)


def test_a_calibrated_stream_has_indices_where_they_are_smaller(case: Any) -> None:
    weights, statistics = case
    data = nncjit.encode(weights, calibration=statistics)
    assert data == nncjit.encode(weights, calibration=statistics, references="index")
    assert nncjit.verify(data).checksum


@pytest.mark.parametrize("options", [{}, {"calibrated": True, "compatible": "nncodec"}], ids=str)
def test_what_other_readers_decode_has_names(case: Any, options: dict[str, Any]) -> None:
    weights, statistics = case
    options = dict(options)
    calibration = statistics if options.pop("calibrated", False) else None
    assert not by_index(nncjit.encode(weights, calibration=calibration, **options))


@pytest.mark.parametrize("names", [["a", "b"], [f"{k}" for k in range(40)], ["a" * 200], ["é" * 90, "é" * 89]])
def test_the_choice_is_never_larger(names: list[str]) -> None:
    rng = np.random.default_rng(0)
    weights = {name: draw(rng, 20, 20) for name in names}
    calibration = Calibration()
    for name in names:
        calibration.linear(name, (20, 20)).add(draw(rng, 60, 20), draw(rng, 60, 20))
    calibration.end_samples(1, output_power=1e4)
    known = calibration.statistics()
    sizes = {how: len(nncjit.encode(weights, calibration=known, references=how)) for how in ("auto", "name", "index")}
    assert sizes["auto"] == min(sizes.values()), sizes
