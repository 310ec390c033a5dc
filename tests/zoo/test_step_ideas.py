"""The trials of ``bench/step_ideas.py`` and the bounds of ``bench/context_bounds.py``, on small matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

from bench import context_bounds, step_ideas
from bench.ideas import matrix_trials
from nncjit.cabac.layer import Layer
from nncjit.calibrate import Calibration, Statistics

NAME, SHAPE = "w", (96, 128)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {NAME: rng.standard_normal(SHAPE).astype(np.float32), "gain": (1 + 0.1 * rng.random(64)).astype(np.float32)}


@pytest.fixture(scope="module")
def known() -> Statistics:
    rng = np.random.default_rng(6)
    found = Calibration()
    mixing = rng.standard_normal((SHAPE[1], SHAPE[1])) * np.geomspace(0.2, 3, SHAPE[1])
    for _ in range(40):
        x, g = rng.standard_normal((8, SHAPE[1])) @ mixing, rng.standard_normal((8, SHAPE[0]))
        found.linear(NAME, SHAPE).add(x.astype(np.float32), g.astype(np.float32))
        found.end_samples(1, output_power=1e8)
    return found.statistics()


def test_trials_start_from_the_levels_of_the_library(weights: dict[str, np.ndarray], known: Statistics) -> None:
    matrix = matrix_trials.Matrix(NAME, {NAME: weights[NAME]}, known)
    levels = matrix.quantised(matrix.values, matrix.step, matrix.divided)
    loss = matrix.loss(matrix.values - matrix.step * levels.astype(np.float64))
    assert matrix_trials.in_groups(1)(matrix, matrix.step, levels)[0] == pytest.approx(
        matrix_trials.bits(levels), rel=0.02
    )
    assert matrix_trials.refit(matrix, matrix.step, levels)[1] <= loss
    bits, again = matrix_trials.second_sweep(matrix, matrix.step, levels)
    worth = 0.5 * levels.size * math.log2(again / loss)
    assert bits + worth == pytest.approx(matrix_trials.bits(levels), rel=0.05)


def test_bounds_are_near_what_is_coded(weights: dict[str, np.ndarray], known: Statistics) -> None:
    found = context_bounds.bounds(weights, known, 1.0)
    matrices = found["parts"]["matrices"]
    assert matrices["weights"] == weights[NAME].size
    assert matrices["exact"] <= matrices["bytes"] + 2
    for name in ("rates", "no restarts", "counted"):
        assert matrices[name] == pytest.approx(matrices["bytes"], rel=0.1)
    assert sum(part["bytes"] for part in found["parts"].values()) < found["bytes"]


def test_a_codebook_round_the_middle_spares_vectors_their_distance_from_zero() -> None:
    levels = np.random.default_rng(0).integers(95, 105, 40).astype(np.int32)
    layer = Layer.of((40,), unary_length=11)
    assert min(step_ideas.with_books(levels, layer)) < step_ideas.coded_bytes(levels, layer) - 5
