"""Unification: within a block all weights get one magnitude, where that costs little.

For a block with non-zero weights w_1 .. w_k the common magnitude is their mean magnitude, which is the least-squares
choice::

    a = (|w_1| + ... + |w_k|) / k          loss = sum_i (|w_i| - a)^2 / sum_i w_i^2

A block with ``loss <= threshold`` becomes ``sign(w_i) * a``; zeros stay zero, so that a sparsified tensor keeps its
zeros. The loss is 0 for equal magnitudes and always below 1; for normally distributed weights it is about
1 - 2/pi = 0.36. Of a unified block the coder sees one magnitude only. Spec, section 11 (unification map); the formula
is the encoder's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncjit.reduce.views import bands, block_sums, blocked, checked_share, finite_array, grid_shape, spread


@dataclass(frozen=True, slots=True)
class Unified:
    """A tensor with unified blocks, and which they are."""

    values: np.ndarray
    """Shape and dtype of the input."""
    block: tuple[int, ...]
    """Shape of the blocks, in the tensor or (two sides) in its 2-D view."""
    unified: np.ndarray
    """bool[grid]: True where a block has one magnitude now. Blocks of zeros count as unified."""
    magnitudes: np.ndarray
    """The common magnitude of each unified block, dtype of the values; 0 elsewhere. [grid]"""
    loss: float
    """Squared error of the tensor over its energy."""


def unify(values: np.ndarray, block: tuple[int, ...], threshold: float, *, name: str = "tensor") -> Unified:
    """Give each block whose relative loss is at most `threshold` its mean magnitude; signs and zeros stay.

    Parameters
    ----------
    values : float[any shape]
    block : tuple of int
        One side for each axis, or two in the 2-D view (out, in...); blocks at the far edges are cut.
    threshold : float
        Largest relative squared loss of a block, 0..1. 0 changes nothing (but rounding), 1 unifies every block.

    Raises
    ------
    OptionError
        Block or threshold out of range.
    ModelError
        The values are no floats or not finite.
    """
    values = finite_array(values, name)
    threshold = checked_share(threshold, name, "threshold")
    out = values.copy()
    view, sides = blocked(out, block, name)
    grid = grid_shape(view.shape, sides)
    unified, magnitudes = np.zeros(grid, np.bool_), np.zeros(grid, values.dtype)
    lost = energy = 0.0
    for band in bands(view.shape, sides[0]):
        at = slice(band.start // sides[0], -(-band.stop // sides[0]))
        means, losses, energies = _statistics(view[band], sides)
        chosen = losses <= threshold * energies
        unified[at] = chosen
        magnitudes[at] = np.where(chosen, means, 0)
        _replace(view[band], chosen, magnitudes[at], sides)
        lost += float(losses[chosen].sum())
        energy += float(energies.sum())
    return Unified(out, sides, unified, magnitudes, lost / energy if energy else 0.0)


def _statistics(values: np.ndarray, block: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean magnitude, sum of squared deviations from it and energy of each block's non-zeros, float64[grid]."""
    magnitude = np.abs(values).astype(np.float64)
    present = magnitude > 0
    means = block_sums(magnitude, block) / np.maximum(block_sums(present, block), 1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        energies = block_sums(magnitude * magnitude, block)
        magnitude -= spread(means, block, values.shape)
        magnitude *= present
        return means, block_sums(magnitude * magnitude, block), energies


def _replace(values: np.ndarray, chosen: np.ndarray, magnitudes: np.ndarray, block: tuple[int, ...]) -> None:
    """Write the common magnitudes into the chosen blocks, in place."""
    where = spread(chosen, block, values.shape) & (values != 0)
    np.copysign(spread(magnitudes, block, values.shape), values, out=values, where=where)
