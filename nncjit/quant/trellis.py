"""Dependent quantisation: the levels that a path through the 8-state trellis gives (spec, sections 6 and 12)."""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np

from nncjit.cabac.narrow_levels import Array, Levels
from nncjit.jit import Table, address, lanes
from nncjit.quant import reference_rate
from nncjit.quant import trellis_kernels as scalar
from nncjit.quant import trellis_lanes_kernels as vector
from nncjit.quant.flat_arrays import Floats
from nncjit.quant.level_store import LevelStore
from nncjit.quant.steps import inverse_of
from nncjit.quant.trellis_chunks import FEWEST, LANES, Chunks
from nncjit.quant.trellis_rate import RateTrellis
from nncjit.quant.uniform import largest_magnitude
from nncjit.quant.value_source import Values, Window, as_floats, windows
from nncjit.quant.work_sharing import PIECE, run_pieces

_SPARSE, _VERY_SPARSE = 0.4, 0.1
"""Shares of values that are not near 0: below the first chunks must be long, below the second they cannot be used."""


def trellis(values: Floats | Values, step: float, *, exact: bool = False, workers: Executor | None = None) -> Levels:
    """The levels of least squared error that dependent quantisation allows. Spec, section 12.

    Parameters
    ----------
    values : float32[n] or Values
        In scan order, 1-D and contiguous.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    exact : bool
        True: one path in float64 over all values, the reference's decisions. False: for large tensors chunks in lanes
        of float32, within 0.001 dB of it.
    workers : Executor or None
        Shares the chunks; the levels do not depend on it.

    Returns
    -------
    int32[n], or NarrowLevels of more values than a window has
        Levels q; the path that they walk starts in state 0.
    """
    inverse, given = inverse_of(step), as_floats(values)
    store = LevelStore(given)
    chunks = None if exact else _chunks(given, inverse, workers)
    done, state = 0, 0
    if chunks is not None:
        done, block = chunks.blocks_end, LANES * chunks.length
        for window in windows(given, done, chunks.task, workers, before=block, after=chunks.window):
            with store.room(window.start, window.stop, window.low, window.low + window.floats.size) as here:
                state = _quantise_window(chunk_table(window.floats, inverse, here, chunks), window, chunks, workers)
    with store.room(done, given.size) as here:
        tail = given.load(done, given.size, workers)
        scalar.quantise(address(tail), tail.size, inverse, state, -1, address(here, writes=True))
    return store.levels


def _quantise_window(table: Table, window: Window, chunks: Chunks, workers: Executor | None) -> int:
    """The levels of a window of whole blocks; returns the state after the last one."""

    def task(start: int, stop: int) -> int:
        scratch = np.empty(vector.scratch_size(chunks.depth), np.uint8)
        count = (stop - start) // (LANES * chunks.length)
        memory, first = address(scratch, writes=True), window.start + start
        before = 0 if first == 0 else -1
        end: int = vector.quantise_blocks(table.address, memory, first - window.low, count, before)
        return end

    return run_pieces(task, window.stop - window.start, workers, chunks.task)[-1]


def chunk_table(values: Floats, inverse: float, levels: Array, chunks: Chunks) -> Table:
    """The record of a tensor in chunks, for any number of workers."""
    table = Table(np.zeros(1, vector.CHUNKS))
    row = table.records[0]
    row["values"], row["n"], row["levels"] = table.keep(values), values.size, table.keep(levels, writes=True)
    row["length"], row["window"], row["depth"] = chunks.length, chunks.window, chunks.depth
    row["inverse"] = inverse
    return table


def trellis_rd(
    values: Floats | Values,
    step: float,
    rate_weight: float,
    *,
    unary_length: int = 10,
    exact: bool = False,
    workers: Executor | None = None,
) -> Levels:
    """The levels of least squared error and rate that dependent quantisation allows. Spec, section 12.

    Parameters
    ----------
    values : float32[n] or Values
        In scan order, 1-D and contiguous.
    step : float
        Taken as float32; `nncjit.quant.steps.raise_qp` finds one with which all levels fit.
    rate_weight : float
        Weight of the rate (see `nncjit.quant.steps.bit_weight`); 0 gives `trellis`.
    unary_length : int
        cabac_unary_length, 1..256.
    exact : bool
        True: the reference's decisions, slowly. False: rates from counts, in the mean at lower cost.
    workers : Executor or None
        Shares the work; the levels do not depend on it.

    Returns
    -------
    int32[n], or NarrowLevels of more values than a window has
        Levels q; the path that they walk starts in state 0.
    """
    inverse, given = inverse_of(step), as_floats(values)
    if rate_weight <= 0.0 or not given.size:
        return trellis(given, step, exact=exact, workers=workers)
    if exact:
        return reference_rate.search(given.load(0, given.size), inverse, rate_weight, unary_length, dependent=True)
    if largest_magnitude(given, workers=workers) * inverse >= vector.EXACT_BELOW:
        return trellis(given, step, exact=True)  # levels so large that their rates hardly differ
    return RateTrellis(given, inverse, rate_weight, unary_length, dependent=True).run(workers)


def _chunks(values: Values, inverse: float, workers: Executor | None) -> Chunks | None:
    """How to cut the tensor; None where it is too small or too sparse for that, or has levels too large for float32."""
    if values.size < FEWEST or not lanes.enabled():
        return None
    every, largest = values.size // FEWEST, 0.0
    some = seen = 0
    for window in windows(values, values.size, PIECE, workers):
        sample = window.floats[-window.start % every :: every]
        some, seen = some + int(np.count_nonzero(np.abs(sample) >= 0.25 / inverse)), seen + sample.size
        largest = max(largest, largest_magnitude(window.floats, workers=workers))
    share = some / seen
    if share < _VERY_SPARSE or largest * inverse >= vector.EXACT_BELOW:
        return None
    return Chunks.of(values.size, sparse=bool(share < _SPARSE))
