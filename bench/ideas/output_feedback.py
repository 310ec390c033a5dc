"""The idea of feedback along outputs: what one block of outputs misses is made up for by the blocks after it.

With A the metric of the inputs and B, of mean diagonal 1, that of the outputs (YAQA's two factors), an error E of the
weights, inputs as rows, costs tr(E' A E B) / 2. With B = C C', C upper triangular by blocks of outputs, that is what
blocks coded one after another cost, block b with the metric A of its inputs, alone, and targets

    T_b = W_b + sum over j < b of E_j V_jb,    V_jb = C_jb C_bb^-1

So each block is a matrix of its own to the quantiser, and feedback along its inputs stays what it is. Blocks are those
of the scan, each of which ends where the next one's trellis begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular

from bench.ideas.idea_curves import Idea, as_it_is
from bench.ideas.rate_ideas import other_trellis
from bench.ideas.subjects import Subject
from nncjit.calibrate import Statistics
from nncjit.calibrate.input_sums import COHERENT_SHARE
from nncjit.encoder import input_metrics
from nncjit.quant.feedback import RowLevels, RowSums
from nncjit.quant.input_metric import InputMetric
from nncjit.torch import calibration_moments

SAMPLES = 256


@dataclass(frozen=True, slots=True, eq=False)
class TwoSided(InputMetric):
    """A metric of inputs that knows the one of the outputs."""

    outputs: np.ndarray | None = None
    """float64[n, n], of mean diagonal 1."""


@cache
def output_metrics(subject: Subject) -> dict[str, np.ndarray]:
    """Of all linear layers: coherent and token-wise parts, mixed as those of the inputs are."""
    found: dict[str, torch.Tensor] = {}
    kept = calibration_moments.WeightMoments.add

    def add(moments: Any, use: Any, part: Any, samples: int) -> None:
        kept(moments, use, part, samples)
        if use.kind == "linear":
            x, g = part.x.float(), part.g
            mixed = (x @ x.mT) @ g
            trace, energy = (g * mixed).sum(), x.square().sum(-1, keepdim=True)
            scale = trace / (energy * g.square()).sum()
            mixed.mul_(COHERENT_SHARE).addcmul_(energy * ((1 - COHERENT_SHARE) * scale), g)
            here = g.flatten(0, 2).mT @ mixed.flatten(0, 2)
            found[use.name] = found[use.name] + here if use.name in found else here

    calibration_moments.WeightMoments.add = add
    try:
        subject.collect(subject.weights, SAMPLES, None, 0)
    finally:
        calibration_moments.WeightMoments.add = kept
    metrics = {name: both.double().numpy() for name, both in found.items()}
    return {name: metric * (len(metric) / metric.trace()) for name, metric in metrics.items()}


def factors(metric: np.ndarray, damping: float, block: int) -> tuple[np.ndarray, np.ndarray]:
    """V, zero but above the blocks of the diagonal, and what errors of each output cost after feedback."""
    damped = (metric + damping * np.eye(len(metric))) / (1 + damping)
    root = np.ascontiguousarray(cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1])
    feed, costs = np.zeros_like(root), np.empty(len(root))
    for first in range(0, len(root), block):
        here = slice(first, first + block)
        feed[:first, here] = solve_triangular(root[here, here], root[:first, here].T, lower=False, trans="T").T
        costs[here] = np.square(root[here, here]).sum(1)
    return feed, costs


def promised(subject: Subject, damping: float, block: int) -> float:
    """Bits a weight that feedback saves, if errors were white and the damped metrics the truth."""
    gains, weights = 0.0, 0
    for name, metric in output_metrics(subject).items():
        size = subject.weights[name].size
        gains -= 0.5 * size * np.log2(factors(metric, damping, block)[1].mean())
        weights += size
    return float(gains / weights)


def feedback_along_outputs(damping: float, *, weighed: bool = False) -> Idea:
    """Blocks of outputs are quantised one after another. Infinite damping shows what that alone costs.

    `weighed`: a bit weighs more where feedback leaves little to lose.
    """

    def one_after_another(kind: Any, args: tuple[Any, ...]) -> RowLevels:
        values, layer, step, rate_weight, metric = args
        outputs = getattr(metric, "outputs", None)
        if outputs is None or not layer.scan:
            return kind(*args).run()
        block = layer.block_side
        if np.isinf(damping):
            feed, costs = np.zeros_like(outputs), np.ones(len(outputs))
        else:
            feed, costs = factors(outputs, damping, block)
        matrix = values.reshape(layer.rows, layer.width)
        errors, levels = np.zeros_like(matrix), np.empty(matrix.shape, np.int32)
        alone = layer._replace(width=block + 1)  # one column of zeros, so that this is not the last block
        loss = 0.0
        for first in range(0, layer.width, block):
            here = slice(first, first + block)
            targets = np.zeros((layer.rows, block + 1), np.float32)
            targets[:, :block] = matrix[:, here] + errors[:, :first] @ feed[:first, here].astype(np.float32)
            weight = rate_weight / costs[here].mean() if weighed else rate_weight
            found = kind(targets.reshape(-1), alone, step, weight, metric).run()
            levels[:, here] = found.levels.reshape(targets.shape)[:, :block]
            errors[:, here] = matrix[:, here] - np.float32(step) * levels[:, here]
            loss += found.loss * costs[here].mean()
        of_rows = (np.square(part, dtype=np.float64).sum(1) for part in (errors, matrix, levels))
        return RowLevels(levels.reshape(-1), loss, RowSums(float(np.float32(step)), *of_rows))

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:
        if np.isfinite(damping) and quality == subject.qualities[0]:
            told = ", ".join(f"{promised(subject, damping, block):.4f} in blocks of {block}" for block in (16, 64))
            print(f"feedback along outputs, damping {damping:g}, promises bits a weight: {told}", flush=True)
        kept = input_metrics.factorise

        def factorise(*args: Any, name: str = "", **keywords: Any) -> InputMetric:
            found = kept(*args, name=name, **keywords)
            return TwoSided(found.taps, found.pivots, found.feeds, outputs=output_metrics(subject).get(name))

        input_metrics.factorise = factorise
        try:
            with other_trellis(one_after_another):
                return as_it_is(subject, known, quality)
        finally:
            input_metrics.factorise = kept

    return encode
