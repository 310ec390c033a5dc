"""Levels and weights that matter for speed and size, all from fixed seeds.

Levels are int32 matrices, as a quantiser leaves them; weights float32 matrices. `SIZE` weights each: small enough to
wait for, large enough that a call's overhead does not show.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from safetensors.numpy import load_file

from nncjit.demo import digits

SHAPE = (512, 1024)
SIZE = SHAPE[0] * SHAPE[1]

LEVELS = ("sparse", "low rate", "high rate", "trained")
"""Sparse: 95 % zeros and some rows of zeros. Low rate: about 1.7 bits each. High rate: about 5.5 bits each. Trained:
the largest layer of the digits network, about 3 bits each, of its own shape.
"""


@cache
def levels(case: str) -> np.ndarray:
    """int32[SHAPE] (trained: int32[128, 864]), read-only."""
    random = np.random.default_rng(LEVELS.index(case))
    if case == "sparse":
        found = np.rint(random.laplace(0, 2.0, SHAPE)) * (random.random(SHAPE) < 0.07)
        found[random.random(SHAPE[0]) < 0.2] = 0
    elif case == "low rate":
        found = np.rint(random.laplace(0, 0.55, SHAPE))
    elif case == "high rate":
        found = np.rint(random.standard_normal(SHAPE) * 11)
    else:
        layer = load_file(digits.MODEL)["conv4.weight"].reshape(128, -1)
        found = np.rint(layer / (0.5 * layer.std()))
    return _fixed(found.astype(np.int32))


@cache
def weights(heavy_tails: bool = True) -> np.ndarray:
    """float32[SHAPE] with rows of unequal spread, as trained layers have, read-only."""
    random = np.random.default_rng(7)
    noise = random.standard_t(5, SHAPE) if heavy_tails else random.standard_normal(SHAPE)
    return _fixed((0.03 * noise * random.lognormal(0, 0.3, (SHAPE[0], 1))).astype(np.float32))


def entropy(values: np.ndarray) -> float:
    """Bits each: the least that a code can take that knows how often each value comes and nothing else."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _fixed(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
