"""Every stream that the reference wrote is decoded to what the reference decoded, bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import nncjit

MODELS = Path(__file__).parents[1] / "vectors" / "models"
STREAMS = sorted(MODELS.glob("*.nnc"))
assert len(STREAMS) == 68, f"{MODELS} holds {len(STREAMS)} streams"

PARTS = re.compile(r"e2-block-bnf|e[12]-lowrank.*")
"""Streams for which the reference gave local scaling or factors apart."""

ALONE = [path for path in STREAMS if "incremental" not in path.stem]
SERIES = sorted({path.stem.rsplit("-", 1)[0] for path in STREAMS if "incremental" in path.stem})


def expected(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as archive:
        return dict(archive)


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert sorted(got) == sorted(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert np.array_equal(got[name], array), name


@pytest.mark.parametrize("path", ALONE, ids=lambda path: path.stem)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_stream_of_the_reference_decodes_exactly(path: Path, threads: int) -> None:
    parts = PARTS.fullmatch(path.stem) is not None
    assert_same(nncjit.decode(path, threads=threads, parts=parts), expected(path))


@pytest.mark.parametrize("series", SERIES)
def test_a_series_of_updates_decodes_exactly(series: str) -> None:
    state = nncjit.UpdateState()
    paths = sorted(MODELS.glob(f"{series}-*.nnc"))
    assert len(paths) == 4
    for path in paths:
        assert_same(nncjit.decode(path, state=state), expected(path))


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_inspection_knows_names_shapes_and_types_without_decoding(path: Path) -> None:
    told = json.loads(path.with_suffix(".json").read_text())["tensors"]
    seen = {row.name: row for row in nncjit.inspect(path).tensors}
    assert set(told) <= set(seen)
    for name, (dtype, shape) in told.items():
        assert seen[name].dtype == dtype, name
        assert list(seen[name].shape) == shape, name
