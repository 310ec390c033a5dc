"""How the trellis with rate cuts a tensor into streams, learns its first rates and shares the work."""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np

from nncjit.cabac.narrow_levels import Array, Levels
from nncjit.jit import Table
from nncjit.quant import trellis_rd_kernels as kernels
from nncjit.quant.flat_arrays import Floats
from nncjit.quant.level_store import LevelStore
from nncjit.quant.rate import FIRST_BLOCK, NEXT_BLOCK, PILOT, Setting
from nncjit.quant.work_sharing import run_tasks

STREAMS = kernels.STREAMS

FEWEST_IN_STREAMS = 8192
"""Smaller tensors are one path; larger ones are cut into streams that advance together."""

_TASK = 1 << 17
_WINDOW = 128


class RateTrellis(Setting):
    """One call of `nncjit.quant.trellis.trellis_rd`: ``RateTrellis(...).run(workers)``."""

    def run(self, workers: Executor | None) -> Levels:
        """The levels of all values."""
        self._learn()
        cuts = self._cuts()

        def paths(counts: Floats) -> Levels:
            store = LevelStore(self.values)
            state = 0
            count = STREAMS * -(-self.values.window // _TASK)
            for first in range(0, len(cuts) - 1, count):
                here = cuts[first : first + count + 1]
                low, high = max(here[0] - _WINDOW, 0), min(here[-1] + _WINDOW, self.values.size)
                values, local = self.values.load(low, high, workers), [cut - low for cut in here]
                states = self._states(values, local, state, counts)
                state = states[-1]
                with store.room(here[0], here[-1], low, high) as levels:
                    self._run_tasks(values, levels, local, states, counts, workers)
            return store.levels

        return self.best(paths)

    def _run_tasks(
        self,
        values: Floats,
        levels: Array,
        cuts: list[int],
        states: list[int],
        counts: Floats,
        workers: Executor | None,
    ) -> None:
        """The levels between the cuts."""

        def task(k: int) -> None:
            place = slice(STREAMS * k, STREAMS * k + STREAMS + 1)
            worker = self._streams(values, levels, cuts[place], states[place], counts)
            kernels.quantise(worker.address, NEXT_BLOCK)

        run_tasks(task, len(cuts) // STREAMS, workers)

    def _streams(self, values: Floats, levels: Array, cuts: list[int], states: list[int], counts: Floats) -> Table:
        """The record of a worker for the streams between the cuts."""
        table = self.worker(kernels.WORKER, values, levels, counts)
        row = table.records[0]
        row["path_back"], row["cuts"], row["cut_states"] = table.keep(kernels.PATH_BACK), cuts, states
        return table

    def _learn(self) -> None:
        """Let the counts learn from the pilot values."""
        values = self.pilot()
        n = values.size
        whole = n < STREAMS * PILOT
        cuts = [0, n, n, n, n] if whole else [*range(0, n + 1, PILOT)]
        states = [0, -1, -1, -1, -1] if whole else [0, 0, 0, 0, -1]
        learner = self._streams(values, np.empty(n, np.int32), cuts, states, self.counts)
        for first_block in (FIRST_BLOCK, NEXT_BLOCK):
            kernels.quantise(learner.address, first_block)
        self.counts = learner.records[0]["counts"].copy()

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

    def _states(self, values: Floats, cuts: list[int], first: int, counts: Floats) -> list[int]:
        """States at the cuts: that at the first is known, any is at the end of all values, and at the others those of
        good paths through a window.
        """
        inner = [cut for cut in cuts[1:] if cut < values.size]
        states = [first]
        for k in range(0, len(inner), STREAMS):
            places = inner[k : k + STREAMS]
            around = np.concatenate([values[place - _WINDOW : place + _WINDOW] for place in places])
            ends = [min(2 * _WINDOW * s, around.size) for s in range(STREAMS + 1)]
            levels = np.empty(around.size, np.int32)
            worker = self._streams(around, levels, ends, [-1] * (STREAMS + 1), counts)
            kernels.quantise(worker.address, NEXT_BLOCK)
            # a code holds the state before its value; those of the streams alternate
            codes = worker.records[0]["codes"]
            states += [int(codes[STREAMS * _WINDOW + s]) >> 2 for s in range(len(places))]
        return states + [-1] * (len(cuts) - len(states))
