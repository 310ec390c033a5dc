"""Sparsification: the least important weights become zero.

Importance is the magnitude, or magnitude times a sensitivity that the caller brings (say, mean squared gradients), in
float32. What is zero already goes first, so that the share asked for is the share of zeros in the result; equal
importances go in row-major order (and in the order of the mapping), the first goes first. So the number of zeros is
exact: ``round(share * size)``, or the number that was there before, if that is larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Named, Whole, Word, checked, optional
from nncjit.reduce.importance import Weights
from nncjit.reduce.ranking import Cut, below, cut_at, keys_of
from nncjit.reduce.views import blocked, checked_share, chunks, matrix_shape, spread


@dataclass(frozen=True, slots=True)
class Sparsified:
    """A tensor with zeros, and what the sparsification map of a stream says of it. Spec, section 11."""

    values: np.ndarray
    """Shape and dtype of the input."""
    zeros: int
    """How many of the values are zero."""
    threshold: float
    """Importance of the most important weight (or block) that was chosen, 0 if all of them were zero before."""

    @property
    def share(self) -> float:
        """Share of zeros, 0..1 (0 for an empty tensor)."""
        return self.zeros / max(self.values.size, 1)


def sparsify(
    values: np.ndarray,
    share: float | None = None,
    *,
    count: int | None = None,
    block: tuple[int, ...] | None = None,
    sensitivity: np.ndarray | None = None,
    name: str = "tensor",
) -> Sparsified:
    """Zero the least important weights, or the blocks of least mean importance, of one tensor.

    Parameters
    ----------
    values : float[any shape]
    share : float
        Target share of zeros (with `block`: of zero blocks), 0..1.
    count : int
        Instead of `share`: how many weights (blocks) shall be zero, as `zeros_by_rank` gives it.
    block : tuple of int
        Shape of the blocks, one side an axis or two in the 2-D view (out, in...); cut at the edges. None: single
        weights.
    sensitivity : float[shape of values]
        Multiplied with the magnitude; not negative. Infinity keeps a weight to the last.
    name : str
        What errors call the tensor.

    Raises
    ------
    OptionError
        Share or count out of range, both or none of them, block or sensitivity of a wrong shape or sign.
    ModelError
        The values are no floats or not finite.
    """
    weights = Weights.of(values, sensitivity, block, name)
    cut = cut_at(weights.keys, _count(share, count, weights.units, name))
    out = np.array(values, order="C")
    left = cut
    for at, keys in weights.parts():
        chosen, left = below(keys, left)
        if weights.block is None:
            out.reshape(-1)[at][chosen] = 0
        else:
            band = blocked(out, weights.block, name)[0][at]
            band[spread(chosen, weights.block, band.shape)] = 0
    return Sparsified(out, out.size - int(np.count_nonzero(out)), cut.threshold)


def sparsify_n_m(
    values: np.ndarray, n: int, m: int, *, sensitivity: np.ndarray | None = None, name: str = "tensor"
) -> Sparsified:
    """Keep the n most important of every m weights that stand together in a row of the 2-D view (out, in...).

    Raises
    ------
    OptionError
        Not ``1 <= n <= m``, m does not divide the row length, or the sensitivity has another shape or sign.
    ModelError
        The values are no floats or not finite.
    """
    n, m = (checked(f"{name}: {what}", Whole(0, 1 << 62), value) for what, value in (("n", n), ("m", m)))
    if not 1 <= n <= m:
        raise OptionError(f"{name}: {n}:{m} sparsity needs 1 <= n <= m")
    weights = Weights.of(values, sensitivity, None, name)
    width = matrix_shape(weights.values.shape)[1]
    if width % m:
        raise OptionError(f"{name}: {n}:{m} sparsity does not divide the row length {width} of {weights.values.shape}")
    out = np.array(values, order="C")
    flat, factors = out.reshape(-1), None if weights.sensitivity is None else weights.sensitivity.reshape(-1)
    largest = 0
    for part in chunks(flat.size, multiple=m):
        keys = keys_of(flat[part], None if factors is None else factors[part], name).reshape(-1, m)
        drop = np.argsort(keys, axis=1, kind="stable")[:, : m - n]
        largest = max(largest, int(np.take_along_axis(keys, drop, 1).max(initial=0)))
        np.put_along_axis(flat[part].reshape(-1, m), drop, 0, 1)
    return Sparsified(out, out.size - int(np.count_nonzero(out)), Cut(largest, 0).threshold)


def zeros_by_rank(
    tensors: Mapping[str, np.ndarray],
    share: float,
    *,
    block: tuple[int, ...] | None = None,
    sensitivity: Mapping[str, np.ndarray] | None = None,
) -> dict[str, int]:
    """How many weights (blocks) of each tensor are among the least important of all of them together.

    The mapping is read a few times, tensor by tensor, and nothing of the model's size is held: it may load on access.
    With these counts `sparsify` zeroes in each tensor what a ranking of the whole model would. Errors as in
    `sparsify_model`.
    """
    sensitivity = _by_name(sensitivity)
    share, units = _units(tensors, share, block, sensitivity)

    def weights(name: str) -> Weights:
        return Weights.of(tensors[name], sensitivity.get(name), block, name)

    def keys() -> Iterator[np.ndarray]:
        for name in units:
            yield from weights(name).keys()

    cut = cut_at(keys, round(share * sum(units.values())))
    counts = dict.fromkeys(units, 0)
    for name in units:
        for _, part in weights(name).parts():
            chosen, cut = below(part, cut)
            counts[name] += int(np.count_nonzero(chosen))
    return counts


def sparsify_model(
    tensors: Mapping[str, np.ndarray],
    share: float,
    *,
    scope: str = "tensor",
    block: tuple[int, ...] | None = None,
    sensitivity: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Sparsified]:
    """Sparsify each tensor to the share (scope "tensor"), or all together to it (scope "model").

    A tensor without a sensitivity has 1 everywhere.

    Raises
    ------
    OptionError
        As in `sparsify`, or an unknown scope; before any tensor is changed.
    ModelError
        As in `sparsify`, or a sensitivity for a name that is not among the tensors.
    """
    sensitivity = _by_name(sensitivity)
    if checked("scope", Word("tensor", "model"), scope) == "model":
        counts = zeros_by_rank(tensors, share, block=block, sensitivity=sensitivity)
    else:
        share, units = _units(tensors, share, block, sensitivity)
        counts = {name: round(share * number) for name, number in units.items()}
    return {
        name: sparsify(tensors[name], count=count, block=block, sensitivity=sensitivity.get(name), name=name)
        for name, count in counts.items()
    }


def _by_name(sensitivity: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray]:
    return optional("sensitivity", Named("arrays"), sensitivity) or {}


def _units(
    tensors: Mapping[str, np.ndarray],
    share: float,
    block: tuple[int, ...] | None,
    sensitivity: Mapping[str, np.ndarray],
) -> tuple[float, dict[str, int]]:
    """The share, and the number of weights (blocks) of each tensor, everything checked."""
    share = checked_share(share, "sparsification")
    tensors = checked("tensors", Named("arrays"), tensors)
    for name in sensitivity:
        if name not in tensors:
            raise ModelError(f"{name}: has a sensitivity but is not among the tensors")
    units = {name: Weights.of(values, sensitivity.get(name), block, name).units for name, values in tensors.items()}
    return share, units


def _count(share: float | None, count: int | None, units: int, name: str) -> int:
    if share is not None and count is None:
        return round(checked_share(share, name) * units)
    if count is None or share is not None:
        raise OptionError(f"{name}: give either a share or a count")
    return int(checked(f"{name}: count", Whole(0, units), count))
