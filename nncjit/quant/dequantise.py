"""From levels back to float32 values. Spec, section 8."""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from nncjit.quant import dequantise_kernels as kernels
from nncjit.quant.work_sharing import frozen, run_pieces


def dequantise(
    levels: NDArray[np.int32],
    step: float,
    *,
    out: NDArray[np.float32] | None = None,
    workers: Executor | None = None,
) -> NDArray[np.float32]:
    """``step * level``, a float32 product. Spec, section 8.

    Parameters
    ----------
    levels : int32[n]
        1-D and contiguous.
    step : float
        Taken as float32.
    out : float32[n], optional
        Where the values go; ``levels.view(np.float32)`` is allowed.
    workers : Executor or None

    Returns
    -------
    float32[n]
    """
    levels = frozen(levels)
    values = np.empty(levels.size, np.float32) if out is None else out
    size = np.float32(step)
    run_pieces(lambda a, b: kernels.scale(levels[a:b], size, values[a:b]), levels.size, workers)
    return values


def dequantise_codebook(
    coded: NDArray[np.int32],
    table: NDArray[np.float32],
    zero: int,
    *,
    out: NDArray[np.float32] | None = None,
    workers: Executor | None = None,
) -> NDArray[np.float32]:
    """``table[coded + zero]``, `table` being ``step * codebook`` in float32. Spec, section 8.

    Parameters
    ----------
    coded : int32[n]
        Coded values, -zero..m - 1 - zero (clamped).
    table : float32[m]
    zero : int
        Zero offset of the codebook.
    out : float32[n], optional
    workers : Executor or None

    Returns
    -------
    float32[n]
    """
    coded, table = frozen(coded), frozen(table)
    values = np.empty(coded.size, np.float32) if out is None else out
    run_pieces(lambda a, b: kernels.look_up(coded[a:b], table, int(zero), values[a:b]), coded.size, workers)
    return values
