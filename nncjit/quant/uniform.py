"""The uniform quantiser: nearest level, or the level that costs least in distortion and rate."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from functools import partial

import numpy as np

from nncjit.cabac.narrow_levels import Array, Levels
from nncjit.jit import address
from nncjit.quant import reference_rate
from nncjit.quant import uniform_kernels as kernels
from nncjit.quant import uniform_rd_kernels as rd_kernels
from nncjit.quant.flat_arrays import Floats
from nncjit.quant.level_store import LevelStore
from nncjit.quant.rate import FIRST_BLOCK, NEXT_BLOCK, Setting
from nncjit.quant.steps import inverse_of
from nncjit.quant.trellis_lanes_kernels import EXACT_BELOW
from nncjit.quant.value_source import Values, Window, as_floats, windows
from nncjit.quant.work_sharing import PIECE, run_pieces


def largest_magnitude(values: Floats | Values, *, workers: Executor | None = None) -> float:
    """Largest magnitude of the values; infinity where one is not finite, 0 where there is none.

    Parameters
    ----------
    values : float32[n] or Values
    workers : Executor or None
    """
    given = as_floats(values)
    most = 0
    for window in windows(given, given.size, PIECE, workers):
        source = address(window.floats)
        most = max(most, *run_pieces(partial(_largest, source), window.floats.size, workers))
    size = float(np.int32(most).view(np.float32))
    return size if math.isfinite(size) else math.inf


def _largest(source: int, start: int, stop: int) -> int:
    return int(kernels.largest(source + 4 * start, stop - start))


def uniform(values: Floats | Values, step: float, *, workers: Executor | None = None) -> Levels:
    """The nearest levels: float32 ``(1 / step) * value`` rounded, halves away from zero. Spec, section 12.

    Parameters
    ----------
    values : float32[n] or Values
        In any order, 1-D and contiguous.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    workers : Executor or None

    Returns
    -------
    int32[n], or NarrowLevels of more values than a window has
        Levels, at most 2^30 - 64 in magnitude (values beyond are clamped).
    """
    inverse, given = np.float32(inverse_of(step)), as_floats(values)
    store = LevelStore(given)
    for window in windows(given, given.size, PIECE, workers):
        with store.room(window.start, window.stop) as here:
            task = partial(_round, address(window.floats), address(here, writes=True), inverse)
            run_pieces(task, here.size, workers)
    return store.levels


def _round(source: int, target: int, inverse: np.float32, start: int, stop: int) -> None:
    kernels.round_half_away(source + 4 * start, stop - start, inverse, target + 4 * start)


def uniform_rd(
    values: Floats | Values,
    step: float,
    rate_weight: float,
    *,
    unary_length: int = 10,
    exact: bool = False,
    workers: Executor | None = None,
) -> Levels:
    """The levels that cost least in squared error and rate, chosen one after another. Spec, section 12.

    Parameters
    ----------
    values : float32[n] or Values
        In scan order, 1-D and contiguous.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    rate_weight : float
        Weight of the rate (see `nncjit.quant.steps.bit_weight`); 0 gives `uniform`.
    unary_length : int
        cabac_unary_length, 1..256.
    exact : bool
        True: the reference's decisions, slowly. False: rates from counts, in the mean at lower cost.
    workers : Executor or None
        Shares the work; the levels do not depend on it.

    Returns
    -------
    int32[n], or NarrowLevels of more values than a window has
    """
    inverse, given = inverse_of(step), as_floats(values)
    if rate_weight <= 0.0 or not given.size:
        return uniform(given, step, workers=workers)
    if exact:
        return reference_rate.search(given.load(0, given.size), inverse, rate_weight, unary_length, dependent=False)
    if largest_magnitude(given, workers=workers) * inverse >= EXACT_BELOW:
        return uniform(given, step, workers=workers)  # levels so large that their rates hardly differ
    setting = Setting(given, inverse, rate_weight, unary_length, dependent=False)
    pilot = setting.pilot()
    learner = setting.worker(rd_kernels.WORKER, pilot, np.empty(pilot.size, np.int32), setting.counts)
    for first_block in (FIRST_BLOCK, NEXT_BLOCK):
        rd_kernels.quantise(learner.address, 0, pilot.size, first_block)
    setting.counts = learner.records[0]["counts"].copy()

    def run(counts: Floats) -> Levels:
        store = LevelStore(given)
        for window in windows(given, given.size, PIECE, workers):
            with store.room(window.start, window.stop) as here:

                def piece(start: int, stop: int, window: Window = window, here: Array = here) -> None:
                    worker = setting.worker(rd_kernels.WORKER, window.floats, here, counts)
                    rd_kernels.quantise(worker.address, start, stop, NEXT_BLOCK)

                # the rates of a piece are its own: its size decides levels
                run_pieces(piece, window.floats.size, workers, PIECE)
        return store.levels

    return setting.best(run)
