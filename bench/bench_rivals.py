"""nncjit's coder beside others: levels to bytes and back, floats without loss, and what the entropy allows.

Run with ``pytest bench/bench_rivals.py`` or through ``python bench/table.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
import rivals

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of what rivals import
LEVELS, FLOATS = rivals.installed(rivals.LEVELS), rivals.installed(rivals.FLOATS)
Measured = Callable[..., Any]


def _name(rival: rivals.Rival) -> str:
    return rival.name


def _sizes(data: bytes, array: np.ndarray) -> dict[str, float]:
    """For the table: the size, and the bound where the array is one of levels."""
    bound = {"entropy": cases.entropy(array)} if array.dtype.kind == "i" else {}
    return {"bits_per_weight": 8 * len(data) / array.size, **bound}


@pytest.mark.parametrize("rival", LEVELS, ids=_name)
@pytest.mark.parametrize("case", cases.LEVELS)
def bench_compress_levels(measured: Measured, benchmark: Any, rival: rivals.Rival, case: str) -> None:
    benchmark.group = f"rivals, {case} levels: compress"
    levels = cases.levels(case)
    data = rival.compress(levels)
    measured(rival.compress, levels, weights=levels.size, check=_same(data), rival=rival.name, **_sizes(data, levels))


@pytest.mark.parametrize("rival", LEVELS, ids=_name)
@pytest.mark.parametrize("case", cases.LEVELS)
def bench_decompress_levels(measured: Measured, benchmark: Any, rival: rivals.Rival, case: str) -> None:
    benchmark.group = f"rivals, {case} levels: decompress"
    levels = cases.levels(case)
    data = rival.compress(levels)

    def check(found: np.ndarray) -> None:
        assert (found == levels).all()

    measured(rival.decompress, data, levels, weights=levels.size, check=check, rival=rival.name, **_sizes(data, levels))


@pytest.mark.parametrize("rival", FLOATS, ids=_name)
def bench_compress_floats(measured: Measured, benchmark: Any, rival: rivals.Rival) -> None:
    benchmark.group = "rivals, floats without loss: compress"
    weights = cases.weights()
    data = rival.compress(weights)
    measured(rival.compress, weights, weights=weights.size, rival=rival.name, **_sizes(data, weights))


@pytest.mark.parametrize("rival", FLOATS, ids=_name)
def bench_decompress_floats(measured: Measured, benchmark: Any, rival: rivals.Rival) -> None:
    benchmark.group = "rivals, floats without loss: decompress"
    weights = cases.weights()
    data = rival.compress(weights)

    def check(found: np.ndarray) -> None:
        assert found.tobytes() == weights.tobytes()

    measured(
        rival.decompress, data, weights, weights=weights.size, check=check, rival=rival.name, **_sizes(data, weights)
    )


def _same(data: bytes) -> Callable[[bytes], None]:
    def check(found: bytes) -> None:
        assert found == data

    return check
