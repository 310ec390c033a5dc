"""One matrix or vector of floats on its way into a string: quantised, with the layer that will code it.

A data unit codes one of these, or several in a row (a block). Nothing here knows of units or names.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.encoder.choices import Choices
from nncjit.quant import codebook, steps
from nncjit.quant.moments import products
from nncjit.quant.trellis import trellis, trellis_rd
from nncjit.quant.uniform import uniform, uniform_rd
from nncjit.stages import staged

MOST_GAIN = 2.0
"""Largest factor between the step of quantising and the one that is signalled."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Levels in scan order, and all that coding them needs."""

    levels: np.ndarray
    """int32[n]; with a codebook, its coded values."""
    layer: Layer
    qp: int
    """In the density in force, the parameter set's part included."""
    step: float
    error: float
    """Sum of squared errors of the values."""
    book: codebook.Codebook | None = None

    def code(
        self, encoder: PayloadEncoder, density: int, base_qp: int, choices: Choices, workers: Executor | None
    ) -> None:
        """Append qp_delta and the layer to a string."""
        encoder.number(self.qp - base_qp, 6 + density)
        encoder.layer(self.levels, self.layer, selection=choices.coding.selection, workers=workers)

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """The float32 values that the decoder will find."""
        levels = self.levels if self.book is None else self.book.levels(self.levels)
        return (from_scan(levels, self.layer).astype(np.float32) * np.float32(self.step)).reshape(shape)


def quantise_matrix(
    values: np.ndarray,
    peak: float,
    qp: int,
    density: int,
    choices: Choices,
    layer: Layer,
    *,
    workers: Executor | None = None,
    unbiased: bool = False,
    overwrite: bool = False,
) -> Matrix:
    """Quantise float32 values of any shape, raster order, for a layer of that shape.

    Parameters
    ----------
    values : float32[shape]
        C-contiguous and finite.
    peak : float
        Their largest magnitude; qp is raised until all levels fit.
    qp, density : int
        The step that is wished for.
    choices : Choices
        Quantiser options.
    layer : Layer
        Says with `dq` whether the trellis quantises.
    unbiased : bool
        Signal the step with which the decoded matrix has the gain of the original. Quantising shrinks weights, small
        ones to zero, and a network multiplies that layer by layer; a slightly larger step at the decoder makes up for
        it.
    overwrite : bool
        The values may be overwritten, which saves a copy of them.
    """
    qp = steps.raise_qp(peak, qp, density, dependent=bool(layer.dq))
    step = steps.step(qp, density)
    ordered = to_scan(values, layer, overwrite=overwrite, workers=workers)
    levels = quantise(ordered, float(step), choices, dependent=bool(layer.dq), workers=workers)
    sums = products(ordered, levels, workers)
    if unbiased and sums.unbiased_step:
        qp = _unbiased_qp(qp, float(step), sums.unbiased_step, density)
        step = steps.step(qp, density)
    return Matrix(levels, layer, qp, float(step), sums.error(float(step)))


def _unbiased_qp(qp: int, step: float, wanted: float, density: int) -> int:
    """The qp nearest to the step that is wanted, where that is near enough to be trusted and can be signalled."""
    if not step / MOST_GAIN <= wanted <= step * MOST_GAIN:
        return qp
    low, high = steps.qp_range(density)
    return min(max(steps.nearest_qp(wanted, density), low), high)


@staged("quantise")
def quantise(
    ordered: np.ndarray, step: float, choices: Choices, *, dependent: bool, workers: Executor | None = None
) -> np.ndarray:
    """Levels of float32 values in scan order, int32[n], by trellis or uniform quantiser, with rate where it has a
    weight.
    """
    exact, weight, unary = choices.quantising.exact, choices.quantising.rate_weight, int(choices.coding.unary_length)
    if weight > 0.0:
        with_rate = trellis_rd if dependent else uniform_rd
        return with_rate(ordered, step, weight, unary_length=unary, exact=exact, workers=workers)
    if dependent:
        return trellis(ordered, step, exact=exact, workers=workers)
    return uniform(ordered, step, workers=workers)


def with_codebook(matrix: Matrix) -> Matrix | None:
    """The same levels through a codebook of their distinct values; None where there are too many."""
    book = codebook.from_levels(matrix.levels)
    if book is None:
        return None
    layer = matrix.layer
    if layer.profile:  # the first edition codes indices without regard to the codebook's bounds
        layer = layer._replace(codebook_size=book.size, codebook_zero=book.zero)
    return replace(matrix, levels=book.coded(matrix.levels), layer=layer, book=book)


def estimated_bits(matrix: Matrix, share: float = 1.0) -> float:
    """What coding `share` times as many levels like these would cost, codebook included."""
    header = matrix.book.header_bits() if matrix.book is not None else 0
    return share * estimate_bits(matrix.levels, matrix.layer) + header
