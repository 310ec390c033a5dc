"""Estimating the size of a coded layer at a fraction of the cost of coding it."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import context_initialisation_kernels as sk
from nncjit.cabac import encoder_records as er
from nncjit.cabac import level_statistics_kernels as survey
from nncjit.cabac.block_row_pieces import cut
from nncjit.cabac.context_initialisation import LIMIT, START_COST, choose, decimation, plan, simulate
from nncjit.cabac.encoder_input import Source, check_arrays, prepare
from nncjit.cabac.layer import Contexts, Layer, contexts_of
from nncjit.cabac.layer_header import entropy
from nncjit.cabac.payload_encoder import PayloadEncoder, RowSkip, Selection, skipped_rows

Array = NDArray[Any]

CODED_BELOW = 1 << 15
"""Layers of fewer elements are coded, which takes no longer."""
SAMPLED_FROM, MOST_SKIPPED, BUSY_SHARE = 1 << 15, 32, 1 / 8
"""How small a sample may be, see `selection.decimation`."""
START_LIST = 24
"""Bits of a list of starts that are all 0, about."""
GRID = 1024
"""Elements of a cell in which zeros are counted."""


def estimate_bits(
    levels: Array,
    layer: Layer,
    *,
    base: Array | None = None,
    history: Array | None = None,
    hdsp: bool = False,
    selection: Selection = "fast",
    row_skip: RowSkip = "auto",
    workers: Executor | None = None,
) -> float:
    """About how many bits `PayloadEncoder.layer` writes for these arguments, within some 1 %; see there.

    Simulates the models on a sample of the chunks. What the sample leaves out is judged by two sums over all levels:
    the entropy of being zero, chunk by chunk, for the significance bins, and the logarithms of the magnitudes for all
    others.
    """
    if levels.size < CODED_BELOW:
        encoder = PayloadEncoder()
        encoder.layer(levels, layer, base=base, history=history, hdsp=hdsp, selection=selection, row_skip=row_skip)
        return float(encoder.bits)
    hdsp = hdsp and layer.has_row_flags
    check_arrays(levels, layer, base, history, hdsp)
    skipped = skipped_rows(levels, layer, row_skip)
    source = prepare(levels, layer, base, history, hdsp, skipped)
    header = START_LIST + (0.0 if skipped is None else entropy(skipped) + 8)
    if source.coded == 0:
        return header

    rows = plan(source, decimation(source.levels, SAMPLED_FROM, MOST_SKIPPED, BUSY_SHARE))
    costs = simulate(source, cut(source, workers), workers, rows, limit=LIMIT)
    listed = contexts_of(layer, hdsp)
    starts = np.zeros(len(costs.more), np.int64)
    if selection != "none":
        starts[listed] = choose(costs.by_start[listed])
        header += entropy(starts[listed] > 0) + START_COST / (1 << 15) * np.count_nonzero(starts)
    cost = (costs.by_start[np.arange(len(starts)), starts] + costs.more) / (1 << 15)
    n_sig = Contexts.for_unary_length(layer.unary_length).sign
    zero_share, size_share = _shares(source, np.concatenate(rows))
    return float(header + cost[:n_sig].sum() * zero_share + (cost[n_sig:].sum() + costs.bypassed) * size_share)


def _shares(source: Source, rows: Array) -> tuple[float, float]:
    """How much more the two sums over all levels are than the sample, scaled up, says."""
    whole = _sums(source, np.array([[0, source.coded]])).sum(axis=0)
    lengths = rows[:, sk.STOP] - rows[:, sk.START]
    cells = -(-lengths // GRID)
    sample = _sums(source, rows[:, [sk.START, sk.STOP]]) * np.repeat(rows[:, sk.SCALE] / 256, cells)[:, None]
    zero_share, size_share = np.divide(whole, sample.sum(axis=0), out=np.ones(2), where=sample.any(axis=0))
    return float(zero_share), float(size_share)


def _sums(source: Source, ranges: Array) -> Array:
    """Entropy of being zero, and sum of logarithms, in bits, of ranges of elements cut into cells: float64[cells, 2].

    The entropy is not linear: all ranges must be seen in cells of one size.
    """
    lengths = ranges[:, 1] - ranges[:, 0]
    cells = -(-lengths // GRID)
    first = np.repeat(np.cumsum(cells) - cells, cells)
    starts = np.repeat(ranges[:, 0], cells) + GRID * (np.arange(cells.sum()) - first)
    stops = np.minimum(starts + GRID, np.repeat(ranges[:, 1], cells))
    cut = np.ascontiguousarray(np.stack([starts, stops], axis=1))
    found = np.zeros_like(cut)
    survey.count_sizes(source.record[er.LEVELS], cut.ctypes.data, len(cut), found.ctypes.data)
    share = np.clip(found[:, 0] / (stops - starts), 1e-3, 1 - 1e-3)
    bits = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * (stops - starts)
    return np.stack([bits, found[:, 1] / 256], axis=1)
