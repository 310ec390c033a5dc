"""Plain Python for the quantisers' tests: the scan, the walk through the states, and the best of all paths.

Written from the specification; shares no code with the package.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent
NEXT = [[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]]
"""State after a coded value of even or odd parity. Spec, section 6."""

CASES = sorted((TESTS / "vectors" / "quant").glob("*.npz"))


def scan(shape, order):
    """Raster indices of a matrix in scan order. Spec, section 7."""
    rows, width = shape
    index = np.arange(rows * width).reshape(shape)
    if order == 0:
        return index.reshape(-1)
    side = 4 << order
    blocks = itertools.product(range(0, rows, side), range(0, width, side))
    return np.concatenate([index[r : r + side, c : c + side].reshape(-1) for r, c in blocks])


def case(path):
    """(meta, values in scan order, levels in scan order, values that the levels stand for)."""
    with np.load(path) as data:
        meta = json.loads(str(data["meta"]))
        order = scan(data["weights"].shape, meta["scan_order"])
        return meta, *(
            np.ascontiguousarray(data[key].reshape(-1)[order]) for key in ("weights", "levels", "reconstruction")
        )


def coded_values(levels):
    """Coded values of trellis levels, None where they are no path. Spec, section 6."""
    state, values = 0, []
    for level in levels.tolist():
        odd = state & 1
        doubled = level + odd * ((level > 0) - (level < 0))
        if doubled % 2:
            return None
        values.append(doubled // 2)
        state = NEXT[state][values[-1] & 1]
    return values


def best_path_error(scaled):
    """Least squared error of any path over values / step, by trying all levels near them in every state."""
    costs = {0: 0.0}
    for x in scaled:
        after = {}
        for state, cost in costs.items():
            near = math.floor(abs(x) / 2)
            for size in range(max(near - 2, 0), near + 4):
                level = 2 * size - (state & 1 if size else 0)
                total = cost + (abs(x) - level) ** 2
                target = NEXT[state][size & 1]
                after[target] = min(total, after.get(target, math.inf))
        costs = after
    return min(costs.values())


def cases(*, dependent, rated):
    """Vectors of one quantiser, with or without rate."""
    found = [path for path in CASES if (case(path)[0]["dq"], case(path)[0]["lambda_scale"] > 0) == (dependent, rated)]
    assert found
    return found


def squared_error(values, levels, step):
    """Sum of squared errors in steps."""
    return float(np.sum((values.astype(np.float64) / float(step) - levels) ** 2))


def weights(n, spread=0.05, seed=1):
    """Values like a network's: Student's t with six degrees of freedom."""
    return (np.random.default_rng(seed).standard_t(6, n) * spread).astype(np.float32)
