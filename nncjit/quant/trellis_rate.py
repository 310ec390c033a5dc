"""How the trellis with rate cuts a tensor into streams, learns its first rates and shares the work."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.tables import BIN_COST, FAST, INITIAL_WORDS, SLOW
from nncjit.quant import rate_kernels
from nncjit.quant import reference_rate_kernels as adaptive_kernels
from nncjit.quant import trellis_kernels as plain
from nncjit.quant import trellis_rd_kernels as kernels
from nncjit.quant.rate import FADE, FEWEST_COUNTED, FIRST_BLOCK, NEXT_BLOCK, PILOT, Floats, Levels, Setting
from nncjit.quant.steps import bit_weight
from nncjit.quant.work_sharing import frozen, run_tasks

STREAMS = kernels.STREAMS

FEWEST_IN_STREAMS = 8192
"""Smaller tensors are one path; larger ones are cut into streams that advance together."""

_TASK = 1 << 17
_WINDOW = 128


class RdScratch(NamedTuple):
    """Memory of one worker, about 450 kB."""

    work: NDArray[np.float32]
    zero: NDArray[np.float32]
    pairs0: NDArray[np.float32]
    pairs1: NDArray[np.float32]
    masks: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    costs: NDArray[np.float32]
    nonzero: NDArray[np.int32]
    states: NDArray[np.int64]
    ends: NDArray[np.int64]
    was: NDArray[np.int64]
    zero_rates: NDArray[np.float32]
    level_rates: NDArray[np.float32]

    @classmethod
    def new(cls) -> RdScratch:
        n = kernels.ROOM
        return cls(
            work=np.empty(n, np.float32),
            zero=np.empty(n, np.float32),
            pairs0=np.empty(2 * n, np.float32),
            pairs1=np.empty(2 * n, np.float32),
            masks=np.empty(2 * n, np.uint8),
            codes=np.empty(n, np.uint8),
            costs=np.empty(8 * kernels.STREAMS, np.float32),
            nonzero=np.empty(8 * kernels.STREAMS, np.int32),
            states=np.empty(kernels.STREAMS, np.int64),
            ends=np.empty(kernels.STREAMS, np.int64),
            was=np.empty(kernels.STREAMS, np.int64),
            zero_rates=np.empty((4, 8), np.float32),
            level_rates=np.empty((2, rate_kernels.LEVELS), np.float32),
        )


def as_reference(values: Floats, inverse: float, rate_weight: float, unary_length: int) -> Levels:
    """The reference's own decisions; see `nncjit.quant.trellis.trellis_rd`."""
    levels = np.empty(values.size, np.int32)
    n_models = adaptive_kernels.GREATER + 2 * unary_length + adaptive_kernels.REST_BINS
    adaptive_kernels.trellis(
        values,
        inverse,
        adaptive_kernels.BYPASS / bit_weight(rate_weight, dependent=True),
        unary_length,
        BIN_COST,
        FAST,
        SLOW,
        plain.STEPS_BACK,
        np.full((2, 8, n_models), INITIAL_WORDS[0], np.uint32),
        np.empty((2, 8), np.float64),
        np.empty((2, 8), np.int64),
        levels,
    )
    return levels


class RateTrellis(Setting):
    """One call of `nncjit.quant.trellis.trellis_rd`: ``RateTrellis(...).run(workers)``."""

    def run(self, workers: Executor | None) -> Levels:
        """The levels of all values."""
        self._learn()
        cuts = self._cuts()

        def paths(counts: Floats) -> Levels:
            levels = np.empty(self.values.size, np.int32)
            states = self._states(cuts, counts)

            def task(k: int) -> None:
                place = slice(STREAMS * k, STREAMS * k + STREAMS + 1)
                self._path(self.values, levels, cuts[place], states[place], counts.copy())

            run_tasks(task, len(cuts) // STREAMS, workers)
            return levels

        return self.best(paths)

    def _path(
        self,
        values: Floats,
        levels: Levels,
        cuts: list[int],
        states: list[int],
        counts: Floats,
        first_block: int = NEXT_BLOCK,
    ) -> RdScratch:
        scratch = RdScratch.new()
        kernels.quantise(
            frozen(values),
            np.array(cuts, np.int64),
            np.array(states, np.int64),
            first_block,
            FEWEST_COUNTED,
            self.inverse,
            self.weight,
            self.unary_length,
            FADE,
            self.vector,
            kernels.PATH_BACK,
            counts,
            scratch,
            levels,
        )
        return scratch

    def _learn(self) -> None:
        """Let the counts learn from the pilot values."""
        values = self.pilot()
        n = values.size
        whole = n < STREAMS * PILOT
        cuts = [0, n, n, n, n] if whole else [*range(0, n + 1, PILOT)]
        states = [0, -1, -1, -1, -1] if whole else [0, 0, 0, 0, -1]
        for first_block in (FIRST_BLOCK, NEXT_BLOCK):
            self._path(values, np.empty(n, np.int32), cuts, states, self.counts, first_block)

    def _cuts(self) -> list[int]:
        """Where the tasks' streams begin and the last one ends."""
        n = self.values.size
        if n < FEWEST_IN_STREAMS:
            return [0, n, n, n, n]
        starts = [*range(0, n, _TASK)]
        if n - starts[-1] < FEWEST_IN_STREAMS and len(starts) > 1:
            starts.pop()
        cuts = []
        for start, stop in zip(starts, [*starts[1:], n], strict=True):
            length = -(-(stop - start) // STREAMS)
            cuts += [start + length * k for k in range(STREAMS)]
        return [*cuts, n]

    def _states(self, cuts: list[int], counts: Floats) -> list[int]:
        """States at the cuts: 0 at the first, any at the last, between them those of good paths through a window."""
        inner = [cut for cut in cuts[1:-1] if cut < self.values.size]
        states = [0]
        for k in range(0, len(inner), STREAMS):
            places = inner[k : k + STREAMS]
            around = self.spans(places, _WINDOW, _WINDOW)
            ends = [min(2 * _WINDOW * s, around.size) for s in range(STREAMS + 1)]
            levels = np.empty(around.size, np.int32)
            scratch = self._path(around, levels, ends, [-1] * (STREAMS + 1), counts.copy())
            # a code holds the state before its value; those of the streams alternate
            states += [int(scratch.codes[STREAMS * _WINDOW + s]) >> 2 for s in range(len(places))]
        return states + [-1] * (len(cuts) - len(states))
