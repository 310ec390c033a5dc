"""Local scaling: one factor for each output row, so that one step suits all rows. Spec, section 9 (LS).

``W = diag(LS) V``: V is coded with one step, LS as a vector. With a size s_i of row i (root mean square, mean or
largest magnitude) and a strength p::

    LS_i = s_i^p / (geometric mean of s_j^p over the rows that are not zero)         LS_i = 1 for a row of zeros

Why so. A row of standard deviation s_i coded with step d takes about log2(s_i / d) + const bits per weight, and gets an
error of variance d^2/12. Dividing by LS gives row i the step LS_i * d. As the geometric mean of LS is 1, the bits at
a given d stay as they were (at high rate); what changes is whose error is small. p = 1 gives all rows the same
*relative* error, which is what counts where a normalisation (batch norm, layer norm) follows and takes the row's size
out again. p = 0 changes nothing and is best for the plain squared error of the weights: scaling makes that one larger
by mean(LS^2) >= 1. p = 1/2 lies between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncjit.errors import OptionError
from nncjit.option_values import Word, checked
from nncjit.reduce.views import bands, checked_share, finite_array, float_array, matrix

MEASURES = ("rms", "mean", "max")


@dataclass(frozen=True, slots=True)
class Scaled:
    """V and LS of ``W = diag(LS) V``."""

    values: np.ndarray
    """float32[shape of W], V."""
    scale: np.ndarray
    """float32[first dimension], LS, all positive."""


def scale_rows(values: np.ndarray, *, measure: str = "rms", strength: float = 1.0, name: str = "tensor") -> Scaled:
    """Split a tensor into rows of like size and one factor each.

    Parameters
    ----------
    values : float[rows, ...]
    measure : {"rms", "mean", "max"}
        The size of a row. "rms" evens out the bits; "max" bounds the largest level, at the mercy of single outliers.
    strength : float
        The exponent p above, 0..1.

    Raises
    ------
    OptionError
        Unknown measure, strength outside 0..1.
    ModelError
        The values are no floats or not finite.
    """
    checked(f"{name}: measure", Word(*MEASURES), measure)
    strength = checked_share(strength, name, "strength")
    values = finite_array(values, name)
    sizes = _row_sizes(matrix(values), measure)
    used = sizes > 0
    logs = strength * np.log2(sizes, where=used, out=np.zeros(sizes.shape))
    logs -= logs[used].mean() if used.any() else 0.0
    logs[~used] = 0.0
    scale = np.exp2(np.clip(logs, -60, 60)).astype(np.float32)  # within float32, whatever the rows hold
    return Scaled(divide_rows(values, scale, name=name), scale)


def divide_rows(values: np.ndarray, scale: np.ndarray, *, name: str = "tensor") -> np.ndarray:
    """V = W / LS, float32[shape of values].

    An encoder that quantises LS divides by the quantised LS, and so takes its rounding out of the product.

    Raises
    ------
    OptionError
        A factor is zero or not finite, or their number is not the first dimension.
    """
    values, scale = _fitting(values, scale, name)
    if not (np.isfinite(scale).all() and scale.all()):
        raise OptionError(f"{name}: a scaling factor is zero or not finite")
    out = np.empty(values.shape, np.float32)
    np.divide(matrix(values), scale[:, None], out=matrix(out), dtype=np.float32)
    return out


def multiply_rows(values: np.ndarray, scale: np.ndarray, *, name: str = "tensor") -> np.ndarray:
    """W = LS V, float32[shape of values]: what a decoder composes. Works on G as on W. Spec, section 9.

    Raises
    ------
    OptionError
        The number of factors is not the first dimension.
    """
    values, scale = _fitting(values, scale, name)
    out = np.empty(values.shape, np.float32)
    np.multiply(matrix(values), scale[:, None], out=matrix(out), dtype=np.float32)
    return out


def _fitting(values: np.ndarray, scale: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    values, scale = float_array(values, name), float_array(scale, f"scaling of {name}").astype(np.float32, copy=False)
    rows = values.shape[0] if values.ndim else 1
    if scale.shape != (rows,):
        raise OptionError(f"{name}: {rows} rows need as many scaling factors, got shape {scale.shape}")
    return values, scale


def _row_sizes(rows: np.ndarray, measure: str) -> np.ndarray:
    """Size of each row, float64[rows]; 0 for an empty row."""
    sizes = np.zeros(rows.shape[0])
    for band in bands(rows.shape, 1):
        part = np.abs(rows[band])
        if measure == "max":
            sizes[band] = part.max(axis=1, initial=0)
        elif measure == "mean":
            sizes[band] = part.sum(axis=1, dtype=np.float64) / max(rows.shape[1], 1)
        else:
            top = part.max(axis=1, initial=0).astype(np.float64)
            part = (
                part / np.where(top > 0, top, 1)[:, None]
            )  # squares of very small or large weights would leave the range
            sizes[band] = top * np.sqrt(np.einsum("ij,ij->i", part, part) / max(rows.shape[1], 1))
    return sizes
