"""A program: quantise random tensors with every array of the kernels beside a page that nobody may touch.

``python guarded_quantisers.py before|behind SEED COUNT``: the forbidden page is before or behind each array, and inputs
are in pages that can only be read. An access outside an array, a store to an input, or an access to an array whose
owner is gone ends the process with a signal; a result that differs from that on plain arrays ends it with a traceback.
"""

import random
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from cabac.guard_pages import GuardPages

from nncjit.cabac.layer import Layer
from nncjit.jit import address, records
from nncjit.quant import (
    codebook,
    feedback,
    level_store,
    moments,
    rate,
    reference_rate,
    trellis,
    trellis_rate,
    turning,
    uniform,
    work_sharing,
)
from nncjit.quant.input_metric import factorise
from nncjit.quant.problem import Problem, solve
from nncjit.quant.steps import raise_qp, step
from nncjit.quant.trellis_chunks import FEWEST

ALLOCATE = (codebook, feedback, level_store, moments, rate, reference_rate, trellis, trellis_rate, turning, uniform)
"""Modules that make arrays for kernels to write to."""
GIVE_ADDRESSES = (records, codebook, moments, rate, trellis, turning, uniform)

SIZES = (0, 1, 2, 15, 16, 17, 63, 64, 65, 1000, 4096, FEWEST - 1, FEWEST, 2 * FEWEST, 20000)


def use(numpy: Any, door: Any) -> None:
    """Let the quantisers make arrays and take addresses in this way."""
    for module in ALLOCATE:
        module.np = numpy
    for module in GIVE_ADDRESSES:
        module.address = door


def any_values(rng: random.Random) -> np.ndarray:
    """Values of any size, share of zeros and spread; some with an outlier, some of any bits that are finite."""
    n = rng.choice([rng.choice(SIZES), rng.randint(0, 20000), rng.randint(FEWEST, FEWEST + 100)])
    draw = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.2:
        values = draw.integers(0, 2**32, n, np.uint32).view(np.float32)
        return np.where(np.isfinite(values), values, np.float32(0))
    values = (draw.standard_t(4, n) * rng.choice([1e-30, 0.05, 1e30])).astype(np.float32)
    values[draw.random(n) < rng.choice([0.0, 0.7, 0.7, 0.99])] = 0
    if n and rng.random() < 0.2:
        values[rng.randrange(n)] *= 1000
    return values


def any_problem(rng: random.Random, values: np.ndarray) -> Problem:
    """A problem with a step between coarse and as fine as the levels allow."""
    peak = float(np.abs(values).max(initial=0.0))
    density = rng.randint(0, 7)
    finest = raise_qp(peak, -4096, density)
    size = step(raise_qp(peak, finest + rng.randint(0, 33 << density), density), density)
    layer = Layer.of((1, values.size), dq=rng.random() < 0.6, unary_length=rng.choice([1, 10, 30, 31, 256]))
    reference = rng.choice([None, values * np.float32(0.5)])
    exact, rate_weight = rng.random() < 0.3, rng.choice([0.0, 0.0, 0.1, 1.0, 20.0])
    return Problem(
        values=values, layer=layer, step=float(size), rate_weight=rate_weight, exact=exact, reference=reference
    )


def any_rows(rng: random.Random) -> Problem:
    """A matrix whose rows feed back: values one by one, or in kernels of several taps."""
    draw = np.random.default_rng(rng.getrandbits(32))
    rows, width, taps = rng.randint(1, 70), rng.choice([1, 7, 15, 16, 17, 64, 65, 130, 300]), rng.choice([1, 1, 2, 9])
    parts = rng.choice([1, rows])
    side = rows * taps // parts
    x = draw.standard_normal((parts, side + 1, side)).astype(np.float32)
    inputs = factorise(x.transpose(0, 2, 1) @ x, [side] * parts, taps)
    scan = rng.choice([0, 1, 2, 4]) if taps == 1 and rows > 1 and width > 1 else 0
    layer = Layer.of((rows, width * taps), dq=True, unary_length=rng.choice([1, 11, 31]), scan=scan)
    values = draw.standard_normal(rows * width * taps).astype(np.float32)
    size, rate_weight = rng.choice([1e-5, 0.1, 0.5, 4.0]), rng.choice([0.0, 1.1, 20.0])
    return Problem(values=values, layer=layer, step=size, rate_weight=rate_weight, inputs=inputs)


def results(problem: Problem, workers: Executor | None) -> list[Any]:
    """All that the package works out for a tensor."""
    solution = solve(problem, workers)
    found: list[Any] = [solution.levels.tolist(), solution.sums, solution.reference_sums]
    found += [moments.moments(problem.values, workers), uniform.largest_magnitude(problem.values, workers=workers)]
    book = codebook.from_levels(solution.levels)
    layer = problem.layer
    factors = np.arange(1, layer.width + 1, dtype=np.float32)
    found.append(turning.turned_and_divided(problem.values.reshape(layer.rows, -1), 1, factors).tolist())
    if book is not None:
        coded = book.coded(solution.levels, workers=workers)
        found += [book.header_bits(), coded.tolist(), book.levels(coded, workers=workers).tolist()]
    return found


def main() -> None:
    side, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    pages = GuardPages(side)
    guarded_numpy = pages.numpy("empty", "full", "zeros")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(count):
            piece = rng.choice([16, 1000, 1 << 18])
            work_sharing.run_pieces.__defaults__ = (None, piece)
            uniform.PIECE = rng.choice([3000, 1 << 18])
            trellis_rate._TASK = rng.choice([1 << 13, 1 << 17])
            problem = any_rows(rng) if rng.random() < 0.3 else any_problem(rng, any_values(rng))
            workers = rng.choice([None, pool])
            use(np, address)
            wanted = results(problem, workers)
            use(guarded_numpy, pages.address)
            assert results(problem, workers) == wanted, problem


if __name__ == "__main__":
    main()
