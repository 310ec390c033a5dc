"""Estimating the size of a coded layer at a fraction of the cost of coding it."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac.block_row_pieces import pieces_of
from nncjit.cabac.context_initialisation import CHOICE_COST, LIMIT, Selection, cheapest, simulated_costs
from nncjit.cabac.encoder_input import PreparedLayer, check_arrays, prepare
from nncjit.cabac.encoder_records import CELL
from nncjit.cabac.layer import Contexts, Layer, contexts_of
from nncjit.cabac.layer_sample import decimation, samples_of
from nncjit.cabac.level_statistics_kernels import count_sizes
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.row_skipping import RowSkip, entropy, skipped_rows
from nncjit.jit import address

Array = NDArray[Any]

CODED_BELOW = 1 << 15
"""Layers of fewer elements are coded, which takes no longer."""
SAMPLED_FROM, MOST_SKIPPED, BUSY_SHARE = 1 << 15, 32, 1 / 8
"""How small a sample may be, see `layer_sample.decimation`."""
NO_CHOICES = 24
"""Bits of a list of context initialisations that are all 0, about."""
CELL_SIZE = 1024
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

    Simulates the contexts on a sample of the chunks. What the sample leaves out is judged by two sums over all levels:
    the entropy of being zero, chunk by chunk, for the significance bins, and the logarithms of the magnitudes for all
    others.

    Raises
    ------
    OptionError
        As `PayloadEncoder.layer`, except that large layers are not searched for levels that cannot be coded.
    """
    if levels.size < CODED_BELOW:
        encoder = PayloadEncoder()
        encoder.layer(levels, layer, base=base, history=history, hdsp=hdsp, selection=selection, row_skip=row_skip)
        return float(encoder.bits)
    hdsp = hdsp and layer.has_row_flags
    check_arrays(levels, layer, base, history, hdsp)
    skipped = skipped_rows(levels, layer, row_skip)
    prepared = prepare(levels, layer, base, history, hdsp, skipped)
    header = NO_CHOICES + (0.0 if skipped is None else entropy(skipped) + 8)
    if prepared.coded == 0:
        return header

    samples = samples_of(prepared, decimation(prepared.levels, SAMPLED_FROM, MOST_SKIPPED, BUSY_SHARE))
    costs = simulated_costs(prepared, pieces_of(prepared, workers), workers, samples, limit=LIMIT)
    signalled = contexts_of(layer, hdsp)
    chosen = np.zeros(len(costs.unsampled), np.int64)
    if selection != "none":
        chosen[signalled] = cheapest(costs.by_initialisation[signalled])
        header += entropy(chosen[signalled] > 0) + CHOICE_COST / (1 << 15) * np.count_nonzero(chosen)
    cost = (costs.by_initialisation[np.arange(len(chosen)), chosen] + costs.unsampled) / (1 << 15)
    n_sig = Contexts.for_unary_length(layer.unary_length).sign
    zero_share, size_share = _shares(prepared, np.concatenate(samples))
    return float(header + cost[:n_sig].sum() * zero_share + (cost[n_sig:].sum() + costs.bypassed) * size_share)


def _shares(prepared: PreparedLayer, samples: Array) -> tuple[float, float]:
    """How much more the two sums over all levels are than the sample, scaled up, says."""
    whole = _sums(prepared.levels, np.array([0]), np.array([prepared.coded])).sum(axis=0)
    starts, stops = samples["start"], samples["stop"]
    weights = np.repeat(samples["weight"] / 256, _cell_counts(starts, stops))
    sampled = (_sums(prepared.levels, starts, stops) * weights[:, None]).sum(axis=0)
    zero_share, size_share = np.divide(whole, sampled, out=np.ones(2), where=sampled != 0)
    return float(zero_share), float(size_share)


def _cell_counts(starts: Array, stops: Array) -> Array:
    """Into how many cells the elements starts[k]..stops[k]-1 are cut."""
    return -(-(stops - starts) // CELL_SIZE)


def _sums(levels: Array, starts: Array, stops: Array) -> Array:
    """Entropy of being zero, and sum of logarithms, in bits, of the elements starts[k]..stops[k]-1 cut into cells:
    float64[cells, 2].

    The entropy is not linear: all elements must be seen in cells of one size.
    """
    counts = _cell_counts(starts, stops)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    cells = np.zeros(int(counts.sum()), CELL)
    cells["start"] = np.repeat(starts, counts) + CELL_SIZE * (np.arange(len(cells)) - first)
    cells["stop"] = np.minimum(cells["start"] + CELL_SIZE, np.repeat(stops, counts))
    count_sizes(address(levels), address(cells, writes=True), len(cells))
    sizes = cells["stop"] - cells["start"]
    share = np.clip(cells["nonzeros"] / sizes, 1e-3, 1 - 1e-3)
    bits = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * sizes
    return np.stack([bits, cells["log_sizes"] / 256], axis=1)
