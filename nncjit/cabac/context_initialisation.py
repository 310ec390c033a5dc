"""Choosing how the contexts of a layer are initialised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import cache, reduce
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import lane_encoder
from nncjit.cabac.block_row_pieces import Piece
from nncjit.cabac.context_initialisation_kernels import CANDIDATE_ORDER, simulate
from nncjit.cabac.encoder_input import PreparedLayer
from nncjit.cabac.encoder_records import CANDIDATES, SIMULATION, TOTAL, UNBOUNDED, VECTOR_CANDIDATES, VECTOR_TABLES
from nncjit.cabac.encoder_tables import TABLES
from nncjit.cabac.layer import contexts_of
from nncjit.cabac.layer_sample import decimation, mean_bins, samples_of
from nncjit.cabac.narrow_levels import Levels
from nncjit.cabac.tables import BIN_COST, INITIAL_WORDS, RANGE_LPS, UPDATE_CURVE
from nncjit.cabac.vector_simulation_kernels import simulate_in_vectors
from nncjit.jit import Table
from nncjit.jit.threads import share
from nncjit.stages import staged

Array = NDArray[Any]
Selection = Literal["none", "fast", "exact", "reference"]

SAMPLED_BINS = 3 << 16
"""A layer is sampled where it has twice so many bins, about, so that a sample has at least so many."""
MOST_SKIPPED = 20
"""At least one in so many chunks is simulated."""
LIMIT = 512
"""Bins of a context after which only the pairs of shifts are told apart."""
CHOICE_COST = 3 << 15
"""What an initialisation other than 0 costs more to signal, in units of 2^-15 bit."""


def _coder_costs() -> Array:
    """int32[1024, 2]: what a bin costs in this coder, laid out as BIN_COST.

    The width of the less probable symbol depends on three bits of the range, which is taken to be distributed like 1 /
    range. Next to these, the tabled costs, which know the exact state but not the coder's 32 widths, mislead by up to
    0.4 % of a layer.
    """
    ranges = np.arange(256, 511)
    weights = 1 / ranges / (1 / ranges).sum()
    lps = RANGE_LPS.view(np.uint8).reshape(64, 8)[:, ranges >> 5 & 7] / ranges
    unlikely, likely = -np.log2(lps) @ weights, -np.log2(1 - lps) @ weights
    symbol = np.arange(64) >> 5
    costs = np.stack([np.where(symbol == bit, likely, unlikely) for bit in (0, 1)], axis=1)
    return np.repeat(np.rint(costs * (1 << 15)).astype(np.int32), 16, axis=0)


_CODER_COST = _coder_costs()


def _vector_tables() -> Array:
    """VECTOR_TABLES[1]: of a class, the costs do not depend on which bin is the more probable one."""
    tables = np.zeros(1, VECTOR_TABLES)
    tables["unlikely"], tables["likely"] = _CODER_COST[16 * 32 :: 16].T
    tables["curve"] = UPDATE_CURVE
    return tables


_VECTOR_TABLES = _vector_tables()
_ORDERED_WORDS = INITIAL_WORDS[list(CANDIDATE_ORDER)]
BY_INITIALISATION = np.argsort(CANDIDATE_ORDER)
"""Where each initialisation stands in CANDIDATE_ORDER."""


class Costs(NamedTuple):
    """What the bins of a layer cost, in units of 2^-15 bit."""

    by_initialisation: Array
    """int64[contexts, 9]: all bins of a context; of few bins in a sample only these."""
    unsampled: Array
    """int64[contexts]: what these few stand for besides."""
    bypassed: float
    """Number of bypass bins."""


class LayerPart(NamedTuple):
    """Some intervals of a layer, or all of them, as a layer of their own."""

    first: int
    """The number of the first one."""
    prepared: PreparedLayer
    pieces: Sequence[Piece]
    """Of the part; each is a task for a thread."""


@staged("initialise")
def choose_initialisations(
    outline: PreparedLayer,
    levels: Levels,
    parts: Iterable[Callable[[], LayerPart]],
    hdsp: bool,
    selection: Selection,
    workers: Executor | None,
) -> Array:
    """The initialisation of each signalled context: int64[m], 0..8. Spec, section 12.

    Parameters
    ----------
    outline : PreparedLayer
        Its levels are not looked at.
    levels : int32[coded] or NarrowLevels
    parts : iterable of callable
        What gives the parts that the layer consists of; taken one after another, so that one at a time is in memory.
    hdsp : bool
        Whether the history is used.
    selection : "none", "exact", "fast" or "reference"
        All 0; from all bins; from a sample of a large layer; NNCodec's choice.
    workers : Executor or None
    """
    signalled = contexts_of(outline.layer, hdsp)
    if selection == "none" or outline.coded == 0:
        return np.zeros(len(signalled), np.int64)
    every, limit = 1, UNBOUNDED
    if selection == "fast":
        every, limit = decimation(levels, int(SAMPLED_BINS / mean_bins(levels, outline.layer)), MOST_SKIPPED), LIMIT
    samples, reference = samples_of(outline, every), selection == "reference"

    def costs(part: LayerPart) -> Array:
        here = samples[part.first : part.first + len(part.prepared.intervals)]
        for sample in here:
            for name in ("start", "stop"):
                sample[name] -= outline.starts[part.first]
        found = simulated_costs(part.prepared, part.pieces, workers, here, reference=reference, limit=limit)
        return found.by_initialisation

    return cheapest(reduce(np.add, (costs(part()) for part in parts))[signalled])


def cheapest(costs: Array) -> Array:
    """The cheapest initialisation of each context, the first of equals. `costs` is int64[m, 9]."""
    total = costs.copy()
    total[:, 1:] += CHOICE_COST
    best: Array = np.argmin(total, axis=1)
    return best


def simulated_costs(
    prepared: PreparedLayer,
    pieces: Sequence[Piece],
    workers: Executor | None,
    samples: Sequence[Array],
    *,
    reference: bool = False,
    limit: int = UNBOUNDED,
) -> Costs:
    """What the bins of a layer cost under each context initialisation.

    Parameters
    ----------
    prepared : PreparedLayer
    pieces : sequence of Piece
        Of this layer; each is a task for a thread.
    workers : Executor, optional
    samples : sequence of SAMPLE[k]
        For each interval, see `layer_sample.samples_of`.
    reference : bool
        Count as NNCodec does.
    limit : int
        Bins of a context after which only the leaders are followed, see the kernel `simulate`.
    """

    def task(piece: Piece) -> Callable[[], tuple[Array, int]]:
        here = samples[piece.first : piece.stop]
        return lambda: _simulate_piece(prepared, piece, np.concatenate(here), reference, limit)

    found = share([task(piece) for piece in pieces], workers)
    costs = reduce(np.add, [totals["costs"] for totals, _ in found])
    unsampled = reduce(np.add, [totals["unsampled"] for totals, _ in found])
    return Costs(costs[:, BY_INITIALISATION], unsampled, sum(bypassed for _, bypassed in found) / 256)


def _simulate_piece(
    prepared: PreparedLayer, piece: Piece, samples: Array, reference: bool, limit: int
) -> tuple[Array, int]:
    """The results of a SIMULATION of one piece: totals, TOTAL[contexts], and `bypassed`."""
    binariser = prepared.binariser()
    levels = binariser.records[0]
    n_contexts, index = int(levels["n_contexts"]), int(prepared.starts[piece.first])
    totals = np.zeros(n_contexts, TOTAL)
    if len(samples) == 0:
        return totals, 0
    levels["state"] = 8 * piece.state
    levels["previous"] = _sign_class(int(prepared.levels[index - 1])) if index else 0
    if reference:
        levels["halve"], levels["fixed_sign"] = 0, 0
        levels["most_below"] = levels["most_above"] = UNBOUNDED

    simulation = blank_simulation(reference=reference).copy()
    record = simulation.records[0]
    record["samples"], record["n_samples"] = simulation.keep(samples), len(samples)
    record["index"], record["limit"] = index, limit
    record["keep_previous"] = reference and prepared.layer.profile == 1
    record["candidates"] = simulation.keep(np.zeros(n_contexts, CANDIDATES), writes=True)
    record["totals"] = simulation.keep(totals, writes=True)
    if reference or not lane_encoder.lanes_here():
        simulate(simulation.address, binariser.address)
    else:
        record["vectors"] = simulation.keep(np.zeros(n_contexts, VECTOR_CANDIDATES), writes=True)
        simulate_in_vectors(simulation.address, binariser.address)
    return totals, int(record["bypassed"])


@cache
def blank_simulation(*, reference: bool) -> Table:
    """SIMULATION[1] with the tables of this coder or of NNCodec, and nothing of a layer. Copy it."""
    simulation = Table(np.zeros(1, SIMULATION))
    record = simulation.records[0]
    record["initial_words"] = simulation.keep(_ORDERED_WORDS)
    record["bin_costs"] = simulation.keep(BIN_COST if reference else _CODER_COST)
    record["tables"], record["vector_tables"] = simulation.keep(TABLES), simulation.keep(_VECTOR_TABLES)
    return simulation


def _sign_class(level: int) -> int:
    """0 for 0, 1 for negative, 2 for positive levels."""
    return 1 if level < 0 else 2 * (level > 0)
