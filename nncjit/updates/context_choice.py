"""Which context tools a unit of an update uses: the levels of its parent, and where earlier updates were not zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nncjit.cabac.scan import to_scan
from nncjit.encoder.code import Reference, estimate
from nncjit.encoder.quantise import QuantisedMatrix
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.update_options import Tool, UpdateOptions

FEWEST_COMPARED = 1 << 8
"""Elements from which context tools are compared; fewer hardly gain a byte by them."""
SAMPLED_FROM, SAMPLE_ROWS = 1 << 17, 1 << 16
"""Elements from which context tools are compared on a sample, and elements of that sample, about."""


def with_contexts(
    matrix: QuantisedMatrix, origin: Parameter, options: UpdateOptions
) -> tuple[QuantisedMatrix, Reference]:
    """The matrix as the child of its parent, with the context tools that pay."""
    layer = matrix.layer._replace(parent=1)
    # without row flags, a parent alone makes no difference, and a short layer is coded faster without one
    plain = replace(matrix, layer=layer._replace(parent=int(layer.has_row_flags)))
    known = origin.levels is not None and origin.n_levels == layer.size and layer.profile == 1
    if not known or origin.levels is None or origin.touched is None:
        return plain, Reference()
    temporal, history = (_wish(tool, layer.size) for tool in (options.temporal, options.history))
    if temporal is False and history is False:
        return plain, Reference()
    base, touched = (to_scan(a, layer) for a in (origin.levels(), origin.touched()))
    history = history if layer.has_row_flags else False
    tried = []
    for t in (False, True) if temporal == "auto" else (bool(temporal),):
        for h in (False, True) if history == "auto" else (bool(history),):
            candidate = replace(matrix, layer=layer._replace(temporal=1)) if t else plain
            tried.append((candidate, Reference(base if t else None, touched if h else None)))
    return tried[0] if len(tried) == 1 else min(tried, key=_sampled_cost)


def knows_contexts(origin: Parameter, options: UpdateOptions) -> bool:
    """Whether the levels of its parent may tell something of a vector, which has no history."""
    return origin.levels is not None and _wish(options.temporal, origin.n_levels) is not False


def _wish(tool: Tool, n: int) -> Tool:
    """Whether contexts are wanted for so many elements."""
    return False if tool == "auto" and n < FEWEST_COMPARED else tool


def _sampled_cost(candidate: tuple[QuantisedMatrix, Reference]) -> float:
    """About what a matrix costs with these contexts; of a large one, what some of its block rows do."""
    matrix, reference = candidate
    layer = matrix.layer
    if layer.size <= SAMPLED_FROM:
        return estimate(matrix, 1.0, reference)
    strip = layer.block_side if layer.scan else max(1, SAMPLE_ROWS // 4 // max(layer.width, 1))
    wanted = max(1, SAMPLE_ROWS // max(strip * layer.width, 1))
    tops = np.unique(np.linspace(0, max(layer.rows - strip, 0), wanted).astype(np.int64) // strip * strip)
    places = np.concatenate([np.arange(top * layer.width, min(top + strip, layer.rows) * layer.width) for top in tops])
    rows = places.size // max(layer.width, 1)

    def some(array: Array | None) -> Array | None:
        return None if array is None else np.ascontiguousarray(array[places])

    sample = replace(matrix, stored=matrix.levels[places], layer=layer._replace(rows=rows, scan=0, dq=0))
    return estimate(sample, 1.0, Reference(some(reference.base), some(reference.history)))
