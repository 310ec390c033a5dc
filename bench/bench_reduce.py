"""How fast parameters are reduced before they are quantised: ``pytest bench/bench_reduce.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases
import numpy as np

from nncjit.reduce import compose, decompose, scale_rows, sparsify, unify

Measured = Callable[..., Any]


def bench_sparsify(measured: Measured) -> None:
    weights = cases.weights()

    def check(found: Any) -> None:
        assert np.count_nonzero(found.values == 0) >= 0.7 * weights.size

    measured(lambda: sparsify(weights, share=0.7), weights=weights.size, check=check)


def bench_unify(measured: Measured) -> None:
    weights = cases.weights()

    def check(found: Any) -> None:
        tops = np.abs(found.values[:4]).reshape(4, -1, 4).transpose(1, 0, 2).reshape(-1, 16)
        assert (np.ptp(tops, axis=1) == 0).any()

    measured(lambda: unify(weights, (4, 4), 0.5), weights=weights.size, check=check)


def bench_decompose(measured: Measured) -> None:
    weights = cases.weights()

    def check(found: Any) -> None:
        assert compose(found.g, found.h, found.shape).shape == weights.shape
        assert found.rank == 64

    measured(lambda: decompose(weights, rank=64), weights=weights.size, check=check)


def bench_scale_rows(measured: Measured) -> None:
    weights = cases.weights()

    def check(found: Any) -> None:
        assert found.scale.shape == weights.shape[:1]

    measured(lambda: scale_rows(weights), weights=weights.size, check=check)
