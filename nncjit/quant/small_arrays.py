"""Many small arrays measured or quantised by one call of a kernel: a model can have thousands of tensors, so small that
a call for each takes longer than its work.

Arrays are float32, 1-D and contiguous, not empty, and shorter than `trellis_chunks.FEWEST`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nncjit.jit import Table
from nncjit.quant import small_arrays_kernels as kernels
from nncjit.quant.flat_arrays import Floats, Levels
from nncjit.quant.moments import Moments, Products
from nncjit.quant.steps import inverse_of
from nncjit.stages import staged


def measure_arrays(
    arrays: Sequence[Floats], with_grain: Sequence[bool], lost_below: float, most_lost: float
) -> list[tuple[Moments, float]]:
    """Of each array the moments, and the grain; see `moments` and `grain`.

    Parameters
    ----------
    arrays : sequence of float32[n]
    with_grain : sequence of bool
        Of which the grain is wanted.
    lost_below : float
        Magnitudes below so many root mean squares of an array are small.
    most_lost : float
        Share of its values that may be small; one may in any case.

    Returns
    -------
    list of (Moments, float)
        The grain is infinite where it is not wanted, or values are not finite or all zero.
    """
    table = _table_of(arrays)
    records = table.records
    records["with_grain"] = with_grain
    counts = table.keep(np.empty(256, np.int64), writes=True)
    kernels.measure_arrays(table.address, len(arrays), lost_below, most_lost, counts)
    found = zip(records["n_values"].tolist(), records["moments"].tolist(), records["grain"].tolist(), strict=True)
    return [(Moments.of_sums(size, *sums), grain) for size, sums, grain in found]


@staged("quantise")
def quantise_arrays(
    arrays: Sequence[Floats], steps: Sequence[float], dependent: Sequence[bool]
) -> tuple[list[Levels], list[Products]]:
    """Levels of each array for its step, int32[n], and their sums: the nearest, or where it is `dependent` those of the
    trellis. See `uniform`, `trellis` and `products`.
    """
    table = _table_of(arrays)
    records = table.records
    stops = np.cumsum(records["n_values"])
    levels = np.empty(int(stops[-1]), np.int32)
    records["levels"] = table.keep(levels, writes=True) + 4 * (stops - records["n_values"])
    records["inverse"] = [inverse_of(step) for step in steps]
    records["dependent"] = dependent
    kernels.quantise_arrays(table.address, len(arrays))
    bounds = zip((stops - records["n_values"]).tolist(), stops.tolist(), strict=True)
    return [levels[start:stop] for start, stop in bounds], [Products(*sums) for sums in records["products"].tolist()]


def _table_of(arrays: Sequence[Floats]) -> Table:
    """ARRAY[n] with the values of each, laid side by side."""
    table = Table(np.zeros(len(arrays), kernels.ARRAY))
    sizes = table.records["n_values"]
    sizes[:] = [len(array) for array in arrays]
    table.records["values"] = table.keep(np.concatenate(arrays)) + 4 * (np.cumsum(sizes) - sizes)
    return table
