"""Many vectors measured or quantised by one call of a kernel: a model can have thousands, so short that a call for each
takes longer than its work.

Vectors are float32, 1-D and contiguous, not empty, and shorter than a piece that threads share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncjit.jit import Table
from nncjit.quant import many_vectors_kernels as kernels
from nncjit.quant.flat_arrays import Floats, Levels
from nncjit.quant.moments import Moments, Products
from nncjit.quant.steps import inverse_of
from nncjit.stages import staged


def measure_vectors(vectors: Sequence[Floats], lost_below: float, most_lost: float) -> list[tuple[Moments, float]]:
    """Of each vector the moments, and the grain; see `moments` and `grain`.

    Parameters
    ----------
    vectors : sequence of float32[n]
    lost_below : float
        Magnitudes below so many root mean squares of a vector are small.
    most_lost : float
        Share of its values that may be small; one may in any case.

    Returns
    -------
    list of (Moments, float)
        The grain is infinite where values are not finite or all zero.
    """
    table = _table_of(vectors)
    counts = table.keep(np.empty(256, np.int64), writes=True)
    kernels.measure_vectors(table.address, len(vectors), lost_below, most_lost, counts)
    records = table.records
    found = zip(records["n_values"].tolist(), records["moments"].tolist(), records["grain"].tolist(), strict=True)
    return [(Moments.of_sums(size, *sums), grain) for size, sums, grain in found]


@staged("quantise")
def quantise_vectors(vectors: Sequence[Floats], steps: Sequence[float]) -> tuple[list[Levels], list[Products]]:
    """The nearest levels of each vector for its step, int32[n], and their sums; see `uniform` and `products`."""
    table = _table_of(vectors)
    records = table.records
    stops = np.cumsum(records["n_values"])
    levels = np.empty(int(stops[-1]), np.int32)
    records["levels"] = table.keep(levels, writes=True) + 4 * (stops - records["n_values"])
    records["inverse"] = [inverse_of(step) for step in steps]
    kernels.quantise_vectors(table.address, len(vectors))
    bounds = zip((stops - records["n_values"]).tolist(), stops.tolist(), strict=True)
    return [levels[start:stop] for start, stop in bounds], [Products(*sums) for sums in records["products"].tolist()]


def _table_of(vectors: Sequence[Floats]) -> Table:
    """VECTOR[n] with the values of each, laid side by side."""
    table = Table(np.zeros(len(vectors), kernels.VECTOR))
    sizes = table.records["n_values"]
    sizes[:] = [len(vector) for vector in vectors]
    table.records["values"] = table.keep(np.concatenate(vectors)) + 4 * (np.cumsum(sizes) - sizes)
    return table
