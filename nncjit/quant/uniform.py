"""The uniform quantiser: nearest level, or the level that costs least in distortion and rate."""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numpy as np

from nncjit.cabac.tables import BIN_COST, FAST, INITIAL_WORDS, SLOW
from nncjit.quant import rate_kernels
from nncjit.quant import reference_rate_kernels as adaptive_kernels
from nncjit.quant import uniform_kernels as kernels
from nncjit.quant import uniform_rd_kernels as rd_kernels
from nncjit.quant.rate import FADE, FEWEST_COUNTED, FIRST_BLOCK, NEXT_BLOCK, Floats, Levels, Setting
from nncjit.quant.steps import bit_weight, inverse_of
from nncjit.quant.trellis_lanes_kernels import EXACT_BELOW
from nncjit.quant.work_sharing import PIECE, frozen, run_pieces


def largest_magnitude(values: Floats, *, workers: Executor | None = None) -> float:
    """Largest magnitude of the values; infinity where one is not finite, 0 where there is none.

    Parameters
    ----------
    values : float32[n]
    workers : Executor or None
    """
    bits = frozen(values).view(np.int32)
    most = max(run_pieces(lambda a, b: kernels.largest(bits[a:b]), values.size, workers), default=0)
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
    inverse, values = np.float32(inverse_of(step)), frozen(values)
    levels = np.empty(values.size, np.int32)
    run_pieces(lambda a, b: kernels.round_half_away(values[a:b], inverse, levels[a:b]), values.size, workers)
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
    inverse, values = inverse_of(step), frozen(values)
    if rate_weight <= 0.0 or not values.size:
        return uniform(values, step, workers=workers)
    if exact:
        return _as_reference(values, inverse, rate_weight, unary_length)
    if largest_magnitude(values, workers=workers) * inverse >= EXACT_BELOW:
        return uniform(values, step, workers=workers)  # levels so large that their rates hardly differ
    setting = Setting(values, inverse, rate_weight, unary_length, dependent=False)
    pilot = frozen(setting.pilot())
    for first_block in (FIRST_BLOCK, NEXT_BLOCK):
        _quantise(setting, pilot, np.empty(pilot.size, np.int32), 0, pilot.size, first_block, setting.counts)

    def run(counts: Floats) -> Levels:
        levels = np.empty(values.size, np.int32)

        def piece(start: int, stop: int) -> None:
            _quantise(setting, values, levels, start, stop, NEXT_BLOCK, counts.copy())

        run_pieces(piece, values.size, workers, PIECE)
        return levels

    return setting.best(run)


def _as_reference(values: Floats, inverse: float, rate_weight: float, unary_length: int) -> Levels:
    levels = np.empty(values.size, np.int32)
    n_models = adaptive_kernels.GREATER + 2 * unary_length + adaptive_kernels.REST_BINS
    adaptive_kernels.uniform(
        values,
        np.float32(inverse),
        inverse,
        adaptive_kernels.BYPASS / bit_weight(rate_weight, dependent=False),
        unary_length,
        BIN_COST,
        FAST,
        SLOW,
        np.full(n_models, INITIAL_WORDS[0], np.uint32),
        levels,
    )
    return levels


def _quantise(
    setting: Setting, values: Floats, levels: Levels, start: int, stop: int, first_block: int, counts: Floats
) -> None:
    rd_kernels.quantise(
        values,
        start,
        stop,
        first_block,
        FEWEST_COUNTED,
        setting.inverse,
        setting.weight,
        setting.unary_length,
        FADE,
        setting.vector,
        counts,
        np.empty(rd_kernels.BLOCK, np.float32),
        np.empty(rd_kernels.BLOCK, np.uint8),
        np.empty((4, 8), np.float32),
        np.empty((2, rate_kernels.LEVELS), np.float32),
        levels,
    )
