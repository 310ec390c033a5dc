"""Ideas tried on single matrices of MiniLM: bits at equal loss in the metric, with the steps of the whole stream.

A loss that is twice as large is worth half a bit a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import to_scan
from nncjit.calibrate import Statistics
from nncjit.encoder.calibrated_parts import HIGH_RATE, RATE_WEIGHT, STEP, row_factors
from nncjit.encoder.input_metrics import Metrics
from nncjit.quant.feedback import quantise_rows
from nncjit.quant.input_metric import DAMPING, InputMetric, factorise

QUALITIES = (1.0, 0.7, 0.42)
MATRICES = tuple(
    f"encoder.layer.{name}.weight" for name in ("2.attention.self.value", "3.output.dense", "1.intermediate.dense")
)
BLOCK = 64
"""Rows of a block row."""


class Matrix:
    """A matrix with its inputs as rows, divided by their factors, and its metric."""

    def __init__(self, name: str, weights: Mapping[str, np.ndarray], known: Statistics) -> None:
        metrics = Metrics(known)
        scale = row_factors(metrics.of(name))
        self.values = np.ascontiguousarray(weights[name].T) / scale[:, None]
        self.divided = metrics.of(name).divided(scale)
        metric = known[name].metric()[0].astype(np.float64)
        metric[np.diag_indices(len(metric))] += DAMPING * metric.trace() / len(metric)
        self.metric = metric * scale[:, None] * scale
        calibrated = sum(weights[one].size for one in known)
        loss_per_bit = metrics.loss_per_bit(calibrated, relative=True)
        self.step = STEP * math.sqrt(loss_per_bit / (HIGH_RATE * self.divided.typical_cost()))

    def quantised(self, values: np.ndarray, step: float, metric: InputMetric, rate: float = 1.0) -> np.ndarray:
        """Levels of some rows or columns."""
        layer = Layer.of(values.shape, dq=True, unary_length=11, scan=4)
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        return quantise_rows(flat, layer, step, rate * RATE_WEIGHT, metric).levels.reshape(values.shape)

    def loss(self, errors: np.ndarray) -> float:
        """Of errors float[rows, n]."""
        return 0.5 * float(np.vdot(errors, self.metric @ errors))


Trial = Callable[[Matrix, float, np.ndarray], tuple[float, float]]
"""Bits and loss of a matrix, from its step and its levels as the library has them."""


def bits(levels: np.ndarray) -> int:
    """Of some levels, coded alone."""
    layer = Layer.of(levels.shape, dq=True, unary_length=11, scan=4)
    encoder = PayloadEncoder()
    encoder.layer(to_scan(np.ascontiguousarray(levels), layer), layer)
    return 8 * len(encoder.finish())


def refit(matrix: Matrix, step: float, levels: np.ndarray) -> tuple[float, float]:
    """Factors of rows that suit the levels best, and exact."""
    found = step * levels.astype(np.float64)
    products = matrix.metric * (found @ found.T)
    products[np.diag_indices(len(products))] += 1e-9 * products.trace() / len(products)
    right = np.einsum("ij,ij->i", matrix.metric @ matrix.values, found)
    errors = matrix.values - np.linalg.solve(products, right)[:, None] * found
    return bits(levels), matrix.loss(errors)


def second_sweep(matrix: Matrix, step: float, levels: np.ndarray) -> tuple[float, float]:
    """Each block row quantised again after the errors of all others, later ones too; coded one by one."""
    again, errors = levels.copy(), matrix.values - step * levels.astype(np.float64)
    total = 0.0
    for top in range(0, len(levels), BLOCK):
        here = slice(top, min(top + BLOCK, len(levels)))
        own = matrix.metric[here, here]
        errors[here] = 0
        wanted = matrix.values[here] + np.linalg.solve(own, matrix.metric[here] @ errors)
        metric = replace(factorise(own[None].astype(np.float32), [len(own)], damping=0.0), uneven=True)
        rate = matrix.divided.typical_cost() / metric.mean_cost()
        again[here] = matrix.quantised(wanted, step, metric, rate)
        errors[here] = matrix.values[here] - step * again[here].astype(np.float64)
        total += bits(again[here])
    return total, matrix.loss(errors)


def in_groups(count: int) -> Trial:
    """Outputs sorted by their weights' energy, and groups of them coded apart. Their order is not paid for."""

    def trial(matrix: Matrix, step: float, levels: np.ndarray) -> tuple[float, float]:  # noqa: ARG001
        energies = np.einsum("ij,ij->j", matrix.values, matrix.metric @ matrix.values)
        total = loss = 0.0
        for columns in np.array_split(np.argsort(energies), count):
            values = matrix.values[:, columns]
            found = matrix.quantised(values, step, matrix.divided)
            total += bits(found)
            loss += matrix.loss(values - step * found.astype(np.float64))
        return total, loss

    return trial


def changes(trial: Trial, weights: Mapping[str, np.ndarray], known: Statistics) -> dict[str, list[float]]:
    """By how many percent the bits of each matrix change at equal loss, at each quality."""
    found: dict[str, list[float]] = {}
    for name in MATRICES:
        matrix = Matrix(name, weights, known)
        found[name] = []
        for quality in QUALITIES:
            step = matrix.step / quality
            levels = matrix.quantised(matrix.values, step, matrix.divided)
            base, loss = bits(levels), matrix.loss(matrix.values - step * levels.astype(np.float64))
            other_bits, other_loss = trial(matrix, step, levels)
            worth = 0.5 * levels.size * math.log2(other_loss / loss)
            found[name].append(100 * ((other_bits + worth) / base - 1))
    return found
