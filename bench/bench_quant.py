"""How fast the quantisers are, beside NNCodec's where it is installed: ``pytest bench/bench_quant.py``.

``python bench/bench_quant.py`` prints one line for each of them: weights per second, the ratio to NNCodec, and what the
levels cost against NNCodec's (the signal-to-noise ratio without rate, squared error plus weighted bits with rate).
Times are thread CPU time, best of several runs in one process, so a busy neighbour hardly matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from timing import RIVAL, best_time, ratio

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.quant.steps import bit_weight, step
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform, uniform_rd

ROWS, WIDTH = 512, 2048
DENSITY, UNARY_LENGTH = 2, 10
QPS = (-20, -28, -38)


def weights() -> np.ndarray:
    """Student's t with six degrees of freedom, as trained weights are."""
    return (np.random.default_rng(6).standard_t(6, ROWS * WIDTH) * 0.05).astype(np.float32)


class Work(NamedTuple):
    """A quantiser and how NNCodec is asked for the same."""

    name: str
    run: Callable[[np.ndarray, float], np.ndarray]
    dependent: bool
    rate_weight: float


def _rated(quantise: Callable[..., np.ndarray], rate_weight: float) -> Callable[[np.ndarray, float], np.ndarray]:
    return lambda values, size: quantise(values, size, rate_weight, unary_length=UNARY_LENGTH)


WORKS = (
    Work("uniform", uniform, dependent=False, rate_weight=0.0),
    Work("uniform, rate 0.5", _rated(uniform_rd, 0.5), dependent=False, rate_weight=0.5),
    Work("uniform, rate 1", _rated(uniform_rd, 1.0), dependent=False, rate_weight=1.0),
    Work("trellis", trellis, dependent=True, rate_weight=0.0),
    Work("trellis, exact", lambda values, size: trellis(values, size, exact=True), dependent=True, rate_weight=0.0),
    Work("trellis, rate 0.5", _rated(trellis_rd, 0.5), dependent=True, rate_weight=0.5),
    Work("trellis, rate 1", _rated(trellis_rd, 1.0), dependent=True, rate_weight=1.0),
)


def nncodec(values: np.ndarray, work: Work, qp: int) -> np.ndarray:
    """NNCodec's levels of the same values."""
    from nncodec.extensions import deepCABAC

    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(UNARY_LENGTH, 0)
    levels = np.zeros((1, values.size), np.int32)
    matrix = values.reshape(1, -1)
    encoder.quantLayer(matrix, levels, int(work.dependent), DENSITY, qp, work.rate_weight, UNARY_LENGTH, 0, 1)
    return levels.reshape(-1)


def cost(values: np.ndarray, levels: np.ndarray, size: float, work: Work) -> float:
    """Decibels of error without rate; squared error and weighted bits with it."""
    error = float(np.sum((values.astype(np.float64) / float(size) - levels) ** 2))
    if not work.rate_weight:
        return 10 * math.log10(error)
    encoder = PayloadEncoder()
    encoder.layer(levels, Layer.of((ROWS, WIDTH), dq=work.dependent, unary_length=UNARY_LENGTH), selection="exact")
    return error + bit_weight(work.rate_weight, dependent=work.dependent) * 8 * len(encoder.finish())


@pytest.mark.parametrize("qp", QPS, ids=lambda qp: f"qp {qp}")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def bench_quantise(measured, benchmark, work, qp):
    values, size = weights(), step(qp, DENSITY)
    first = work.run(values, size)

    def check(levels: np.ndarray) -> None:
        assert (levels == first).all()

    measured(work.run, values, size, weights=values.size, check=check)
    if RIVAL:
        benchmark.extra_info["ratio"] = ratio(lambda: nncodec(values, work, qp), lambda: work.run(values, size))


def main() -> None:
    """The table."""
    values = weights()
    print(f"{'quantiser':<20}{'qp':>5}{'Mweights/s':>12}{'ratio':>8}  cost against NNCodec's")
    for work in WORKS:
        for qp in QPS:
            size = step(qp, DENSITY)
            levels = work.run(values, size)
            taken = best_time(lambda: work.run(values, size), 8)  # noqa: B023
            line = f"{work.name:<20}{qp:>5}{values.size / taken / 1e6:>12.0f}"
            if RIVAL:
                reference = nncodec(values, work, qp)
                times = best_time(lambda: nncodec(values, work, qp), 2) / taken  # noqa: B023
                ours, theirs = (cost(values, found, size, work) for found in (levels, reference))
                change = f"{100 * (ours / theirs - 1):+.3f} %" if work.rate_weight else f"{ours - theirs:+.6f} dB"
                line += f"{times:>8.1f}  {change}"
            print(line)


if __name__ == "__main__":
    main()
