"""What the two quantisers with rate share on the Python side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.narrow_levels import Array, Levels, every, load, parts_of, zeros_like
from nncjit.jit import Table, address, lanes
from nncjit.quant import rate_kernels
from nncjit.quant.flat_arrays import Floats
from nncjit.quant.steps import bit_weight
from nncjit.quant.value_source import Values, windows

PILOT_RUNS = 4
PILOT = 1024
"""Values of a run of the pilot."""

FADE = np.float32(0.5)
FIRST_BLOCK = 64
"""Values of the first block of the pilot, when the rates are a guess."""
NEXT_BLOCK = 1024
FEWEST_COUNTED = 512

_SPARSER = np.float32(8.0)
_LEAST_BITS = 0.0095
_CONTEXT_BITS = 60.0


class Setting:
    """The constants of one call, as the kernels want them.

    Parameters
    ----------
    values : Values
        float32[n]
    inverse : float
        1 / step.
    rate_weight : float
    unary_length : int
    dependent : bool
        For the trellis, whose coded values stand for two steps.
    """

    def __init__(
        self, values: Values, inverse: float, rate_weight: float, unary_length: int, *, dependent: bool
    ) -> None:
        self.values = values
        self.inverse = np.float32(inverse)
        self.weight = np.float32(bit_weight(rate_weight, dependent=dependent))
        self.sparse = min(0.1 * (1.0 + rate_weight), 0.5)
        self.unary_length = min(unary_length, rate_kernels.LONGEST_UNARY)
        self.vector = int(lanes.enabled())
        self.width = 2 if dependent else 1
        self.counts = np.zeros(rate_kernels.COUNTS, np.float32)
        pilot = self.pilot()
        rate_kernels.guess(address(pilot), pilot.size, inverse / self.width, address(self.counts, writes=True))

    def worker(self, record: np.dtype[Any], values: Floats, levels: Array, counts: Floats) -> Table:
        """The record of a worker that quantises values into levels.

        Parameters
        ----------
        record : dtype
            WORKER of the quantiser's kernels.
        values : float32[n]
        levels : int32[n]
        counts : float32[COUNTS]
            To start with; the worker gets a copy.
        """
        table = Table(np.empty(1, record))
        row = table.records[0]
        row["values"], row["n"], row["levels"] = table.keep(values), values.size, table.keep(levels, writes=True)
        row["inverse"], row["weight"], row["fade"] = self.inverse, self.weight, FADE
        row["sample"], row["vector"], row["unary_length"] = FEWEST_COUNTED, self.vector, self.unary_length
        row["counts"] = counts
        return table

    def pilot(self) -> Floats:
        """Some values from four places, all of a small tensor."""
        n = self.values.size
        if n <= PILOT_RUNS * PILOT:
            return self.values.load(0, n)  # type: ignore[no-any-return]
        places = [n * k // PILOT_RUNS for k in range(PILOT_RUNS)]
        return np.concatenate([self.values.load(place, place + PILOT) for place in places])

    def best(self, run: Callable[[Floats], Levels]) -> Levels:
        """``run(counts)``, or where that is sparse the cheapest of it, of a run that starts sparser, and of all zeros.

        The more zeros, the cheaper they are: there is more than one balance, and a run that starts on the side of many
        non-zeros does not find the other one by itself.
        """
        levels = run(self.counts)
        some = every(levels, max(levels.size // 4096, 1))
        if np.count_nonzero(some) > self.sparse * some.size:
            return levels
        counts = self.counts.copy()
        counts[0 : rate_kernels.SIGNS : 2] *= _SPARSER
        others = [run(counts), zeros_like(levels)]
        return min([levels, *others], key=self._cost)

    def _cost(self, levels: Levels) -> float:
        """What sparse levels cost, in squared steps, against the values' own squares."""
        nonzeros = sum(int(np.count_nonzero(part)) for _, part in parts_of(levels))
        if not nonzeros:
            return float(self.weight) * (_LEAST_BITS * levels.size - _CONTEXT_BITS)
        gain = 0.0
        kinds: dict[int, int] = {}
        for window in windows(self.values, levels.size, 1):
            here = load(levels, window.start, window.stop)
            places = np.flatnonzero(here)
            x, sizes = np.abs(window.floats[places] * self.inverse).astype(np.float64), np.abs(here[places])
            gain += float(np.sum(x * x - (x - sizes) ** 2))
            for kind, count in zip(*np.unique((sizes + self.width - 1) // self.width, return_counts=True), strict=True):
                kinds[int(kind)] = kinds.get(int(kind), 0) + int(count)
        of_kinds = np.array([count for _, count in sorted(kinds.items())])
        bits = _entropy(np.array([nonzeros, levels.size - nonzeros])) + _entropy(of_kinds) + nonzeros
        return float(self.weight) * bits - gain


def _entropy(counts: NDArray[np.int64]) -> float:
    """Bits that so many events of each kind need."""
    some = counts[counts > 0]
    return float(np.sum(some * np.log2(some.sum() / some)))
