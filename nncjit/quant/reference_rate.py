"""The reference's own decisions with rate, slowly: see `nncjit.quant.reference_rate_kernels`."""

from __future__ import annotations

import numpy as np

from nncjit.cabac.tables import BIN_COST, FAST, INITIAL_WORDS, SLOW
from nncjit.jit import Table
from nncjit.quant import reference_rate_kernels as kernels
from nncjit.quant.flat_arrays import Floats, Levels
from nncjit.quant.steps import bit_weight


def search(values: Floats, inverse: float, rate_weight: float, unary_length: int, *, dependent: bool) -> Levels:
    """The levels that the reference chooses.

    Parameters
    ----------
    values : float32[n]
        In scan order, contiguous.
    inverse : float
        1 / step.
    rate_weight : float
        Above 0.
    unary_length : int
        cabac_unary_length, 1..256.
    dependent : bool
        True: along the trellis, False: one value after another.

    Returns
    -------
    int32[n]
    """
    levels = np.empty(values.size, np.int32)
    n_contexts = kernels.GREATER + 2 * unary_length + kernels.REST_BINS
    contexts = np.full((16 if dependent else 1, n_contexts), INITIAL_WORDS[0], np.uint32)
    table = Table(np.zeros(1, kernels.SEARCH))
    record = table.records[0]
    record["values"], record["n"] = table.keep(values), values.size
    record["levels"] = table.keep(levels, writes=True)
    record["inverse"], record["unary_length"] = inverse, unary_length
    record["weight"] = kernels.BYPASS / bit_weight(rate_weight, dependent=dependent)
    record["bin_costs"], record["fast"], record["slow"] = table.keep(BIN_COST), table.keep(FAST), table.keep(SLOW)
    record["contexts"] = table.keep(contexts, writes=True)
    run = kernels.trellis if dependent else kernels.uniform
    run(table.address)
    return levels
