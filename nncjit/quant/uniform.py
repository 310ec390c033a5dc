"""The uniform quantiser: nearest level, or the level that costs least in distortion and rate."""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numpy as np

from nncjit.jit import address
from nncjit.quant import reference_rate
from nncjit.quant import uniform_kernels as kernels
from nncjit.quant import uniform_rd_kernels as rd_kernels
from nncjit.quant.flat_arrays import Floats, Levels, flat_floats
from nncjit.quant.rate import FIRST_BLOCK, NEXT_BLOCK, Setting
from nncjit.quant.steps import inverse_of
from nncjit.quant.trellis_lanes_kernels import EXACT_BELOW
from nncjit.quant.work_sharing import PIECE, run_pieces


def largest_magnitude(values: Floats, *, workers: Executor | None = None) -> float:
    """Largest magnitude of the values; infinity where one is not finite, 0 where there is none.

    Parameters
    ----------
    values : float32[n]
    workers : Executor or None
    """
    values = flat_floats(values)
    source = address(values)
    most = max(run_pieces(lambda a, b: kernels.largest(source + 4 * a, b - a), values.size, workers), default=0)
    size = float(np.int32(most).view(np.float32))
    return size if math.isfinite(size) else math.inf


def uniform(values: Floats, step: float, *, workers: Executor | None = None) -> Levels:
    """The nearest levels: float32 ``(1 / step) * value`` rounded, halves away from zero. Spec, section 12.

    Parameters
    ----------
    values : float32[n]
        In any order, 1-D and contiguous.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    workers : Executor or None

    Returns
    -------
    int32[n]
        Levels, at most 2^30 - 64 in magnitude (values beyond are clamped).
    """
    inverse, values = np.float32(inverse_of(step)), flat_floats(values)
    levels = np.empty(values.size, np.int32)
    source, target = address(values), address(levels, writes=True)

    def piece(start: int, stop: int) -> None:
        kernels.round_half_away(source + 4 * start, stop - start, inverse, target + 4 * start)

    run_pieces(piece, values.size, workers)
    return levels


def uniform_rd(
    values: Floats,
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
    values : float32[n]
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
    int32[n]
    """
    inverse, values = inverse_of(step), flat_floats(values)
    if rate_weight <= 0.0 or not values.size:
        return uniform(values, step, workers=workers)
    if exact:
        return reference_rate.search(values, inverse, rate_weight, unary_length, dependent=False)
    if largest_magnitude(values, workers=workers) * inverse >= EXACT_BELOW:
        return uniform(values, step, workers=workers)  # levels so large that their rates hardly differ
    setting = Setting(values, inverse, rate_weight, unary_length, dependent=False)
    pilot = setting.pilot()
    learner = setting.worker(rd_kernels.WORKER, pilot, np.empty(pilot.size, np.int32), setting.counts)
    for first_block in (FIRST_BLOCK, NEXT_BLOCK):
        rd_kernels.quantise(learner.address, 0, pilot.size, first_block)
    setting.counts = learner.records[0]["counts"].copy()

    def run(counts: Floats) -> Levels:
        levels = np.empty(values.size, np.int32)

        def piece(start: int, stop: int) -> None:
            worker = setting.worker(rd_kernels.WORKER, values, levels, counts)
            rd_kernels.quantise(worker.address, start, stop, NEXT_BLOCK)

        run_pieces(piece, values.size, workers, PIECE)  # the rates of a piece are its own: its size decides levels
        return levels

    return setting.best(run)
