"""Choosing how the probability models of a layer start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import context_initialisation_kernels as sk
from nncjit.cabac import encoder_records as er
from nncjit.cabac.block_row_pieces import Piece
from nncjit.cabac.encoder_input import UNBOUNDED, Source
from nncjit.cabac.layer import contexts_of
from nncjit.cabac.tables import BIN_COST, INITIAL_WORDS, RANGE_LPS
from nncjit.jit.threads import share
from nncjit.stages import staged

Array = NDArray[Any]

SAMPLED_BINS = 3 << 16
"""A layer is sampled where it has twice so many bins, about, so that a sample has at least so many."""
MOST_SKIPPED = 20
"""At most one in so many chunks is looked at."""
CHUNK = 2048
LIMIT = 512
"""Bins of a model after which only the pairs of shifts are told apart."""
START_COST = 3 << 15
"""What a start other than 0 costs more, in units of 2^-15 bit."""


def _bin_costs() -> Array:
    """int32[1024, 2]: what a bin costs in this coder, laid out as BIN_COST.

    The width of the less probable symbol depends on three bits of the range, which is taken to be distributed like 1 /
    range. Next to these, the tabled costs, which know the exact state but not the coder's 32 widths, mislead by up to
    0.4 % of a layer.
    """
    spans = np.arange(256, 511)
    weights = 1 / spans / (1 / spans).sum()
    lps = RANGE_LPS.view(np.uint8).reshape(64, 8)[:, spans >> 5 & 7] / spans
    unlikely, likely = -np.log2(lps) @ weights, -np.log2(1 - lps) @ weights
    symbol = np.arange(64) >> 5
    costs = np.stack([np.where(symbol == bit, likely, unlikely) for bit in (0, 1)], axis=1)
    return np.repeat(np.rint(costs * (1 << 15)).astype(np.int32), 16, axis=0)


_CODER_COST = _bin_costs()
_FIRST_WORDS = INITIAL_WORDS[list(sk.ORDER)]
_LANE_OF = np.argsort(sk.ORDER)


class Costs(NamedTuple):
    """Costs of bins in units of 2^-15 bit."""

    by_start: Array
    """int64[models, 9]: all bins of a model, by how it starts; of few bins in a sample only these."""
    more: Array
    """int64[models]: what these few stand for besides."""
    bypassed: float
    """Number of bypass bins."""


@staged("select models")
def select(source: Source, hdsp: bool, mode: str, pieces: Sequence[Piece], workers: Executor | None) -> Array:
    """The start of each listed model: int64[m], 0..8. Spec, section 12.

    `mode` is "none" (all 0), "exact", "fast" (from a sample of a large layer) or "reference" (NNCodec's choice).
    """
    listed = contexts_of(source.layer, hdsp)
    if mode == "none" or source.coded == 0:
        return np.zeros(len(listed), np.int64)
    every = decimation(source.levels, int(SAMPLED_BINS / mean_bins(source)), MOST_SKIPPED) if mode == "fast" else 1
    rows, limit = plan(source, every), LIMIT if mode == "fast" else None
    costs = simulate(source, pieces, workers, rows, reference=mode == "reference", limit=limit)
    return choose(costs.by_start[listed])


def choose(costs: Array) -> Array:
    """The cheapest start of each model, the first of equals."""
    total = costs.copy()
    total[:, 1:] += START_COST
    best: Array = np.argmin(total, axis=1)
    return best


def decimation(levels: Array, smallest: int, most: int, busy_share: float = 1 / 32) -> int:
    """One in how many chunks, at most, to look at, for a sample of `smallest` elements at least.

    Zeros among zeros cost little to look at and say little: where fewer than `busy_share` of the levels are not zero,
    the sample must be larger.
    """
    blocks = _some_blocks(levels)
    busy = min(1.0, np.count_nonzero(blocks) / max(blocks.size, 1) / busy_share)
    return max(1, min(most, int(levels.size * busy) // smallest))


def mean_bins(source: Source) -> float:
    """How many bins a level has, about: one for being zero, and one for each step of its unary code."""
    values = np.abs(_some_blocks(source.levels)) >> source.layer.dq
    return 1.0 + float(np.minimum(values, source.layer.unary_length).mean()) if values.size else 1.0


def _some_blocks(levels: Array) -> Array:
    """Some of the levels: int32[k, 1024]."""
    blocks: Array = levels[: levels.size // 1024 * 1024].reshape(-1, 1024)[::64]
    return blocks


def simulate(
    source: Source,
    pieces: Sequence[Piece],
    workers: Executor | None,
    rows: Sequence[Array],
    *,
    reference: bool = False,
    limit: int | None = None,
) -> Costs:
    """What the bins of a layer cost.

    `rows` is a `plan`. `reference`: as NNCodec does. `limit`: see `select_kernels.simulate`.
    """
    n_models = int(source.record[er.N_MODELS])

    def task(piece: Piece) -> Callable[[], Array]:
        return lambda: _simulate_piece(source, piece, rows[piece.first : piece.stop], n_models, reference, limit)

    totals: Array = np.sum(share([task(piece) for piece in pieces], workers), axis=0)
    table = totals[:-1].reshape(n_models, sk.COLUMNS)
    return Costs(table[:, _LANE_OF], table[:, sk.MORE], float(totals[-1]) / 256)


def _simulate_piece(
    source: Source, piece: Piece, plans: Sequence[Array], n_models: int, reference: bool, limit: int | None
) -> Array:
    """The TOTALS of one piece, see `select_kernels.simulate`."""
    rows = np.concatenate(plans)
    totals = np.zeros(n_models * sk.COLUMNS + 1, np.int64)
    if len(rows) == 0:
        return totals
    run, codes = source.run()
    run[er.QUANTISER] = 8 * piece.state
    if reference:
        run[er.HALVE], run[er.FIXED_SIGN] = 0, 0
        run[er.MOST_BELOW] = run[er.MOST_ABOVE] = UNBOUNDED
    states, sums = np.empty((n_models, 16), np.uint32), np.zeros((n_models, sk.ROW), np.int64)
    costs = BIN_COST if reference else _CODER_COST
    sim = np.zeros(sk.SIM_FIELDS, np.int64)
    sim[sk.PLAN], sim[sk.N_PLAN] = rows.ctypes.data, len(rows)
    sim[sk.STATES], sim[sk.SUMS], sim[sk.TOTALS] = states.ctypes.data, sums.ctypes.data, totals.ctypes.data
    sim[sk.FIRST_WORDS], sim[sk.BIN_COSTS] = _FIRST_WORDS.ctypes.data, costs.ctypes.data
    sim[sk.LIMIT] = UNBOUNDED if limit is None else limit
    sim[sk.KEEP_PREVIOUS] = int(reference and source.layer.profile == 1)
    at = int(source.spans[piece.first - 1, er.SPAN_STOP]) if piece.first else 0
    sim[sk.AT] = at
    run[er.PREVIOUS] = _sign_class(int(source.levels[at - 1])) if at else 0
    sk.simulate(run.ctypes.data, sim.ctypes.data)
    del codes  # the record has only its address
    return totals


def _sign_class(level: int) -> int:
    """0 for 0, 1 for negative, 2 for positive levels."""
    return 1 if level < 0 else 2 * (level > 0)


def plan(source: Source, every: int) -> list[Array]:
    """What is simulated of each span: arrays int64[k, PLAN_FIELDS], k = 0 for a span that is left out.

    The first chunk of a span always is, since it holds the start-up, and stands for itself; the others stand for the
    rest.
    """
    stops = source.spans[:, er.SPAN_STOP]
    starts = np.concatenate([[0], stops[:-1]])
    if every == 1 or source.spans[:, er.ZERO_STEPS].any():
        rows = np.zeros((len(stops), 1, sk.PLAN_FIELDS), np.int64)
        rows[:, 0, sk.START], rows[:, 0, sk.STOP], rows[:, 0, sk.SCALE] = starts, stops, 256
        rows[:, 0, sk.BEFORE], rows[:, 0, sk.RESET] = source.spans[:, er.ZERO_STEPS], source.spans[:, er.RESTART]
        return list(rows)
    return _sample(starts, stops, source.spans[:, er.RESTART], every)


def _sample(starts: Array, stops: Array, resets: Array, every: int) -> list[Array]:
    """Chunks of long spans, or whole short ones."""
    whole = int(stops[-1]) < 4 * CHUNK * len(stops)
    step = max(1, min(every, len(stops) // 16)) if whole else 1
    plans = []
    for k, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        firsts = np.array([start] * (k % step == 0), np.int64) if whole else _some_chunks(start, stop, every)
        rows = np.zeros((len(firsts), sk.PLAN_FIELDS), np.int64)
        rows[:, sk.START], rows[:, sk.STOP] = firsts, stop if whole else np.minimum(firsts + CHUNK, stop)
        rows[:1, sk.RESET] = resets[k]
        if whole:
            rows[:, sk.SCALE] = 256 * stops[-1] // max((stops - starts)[::step].sum(), 1)
        else:
            others = (rows[1:, sk.STOP] - rows[1:, sk.START]).sum()
            rows[:1, sk.SCALE] = 256
            rows[1:, sk.SCALE] = 256 * (stop - start - CHUNK) // max(others, 1)
        plans.append(rows)
    return plans


def _some_chunks(start: int, stop: int, every: int) -> Array:
    """Where the chunks of a sample of a span begin: the first, and one somewhere in each `every` of the others."""
    strata = np.arange(start + CHUNK, stop, CHUNK * every)
    places = (strata >> 11) * 2654435761 >> 16
    sizes = np.minimum(every, -(-(stop - strata) // CHUNK))
    return np.concatenate([[start], strata + CHUNK * (places % sizes)])
