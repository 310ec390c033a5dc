"""Matrices of a model file that the network holds in larger tensors: experts in a stack, projections that are fused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nncjit.errors import ModelError
from nncjit.torch.calibration_uses import Use, no_parts

if TYPE_CHECKING:
    from nncjit.torch.calibration_moments import WeightMoments

__all__ = ["WeightParts", "found_by_values"]


class WeightParts:
    """The parts of some weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of the network, contiguous where they have parts.
    parts : mapping of str to Tensor
        Views of them.

    Attributes
    ----------
    weights : dict of str to Tensor
        Weights and parts.
    parts : dict of str to str
        Part -> the weight that it lies in.
    replaced : set of str
        Weights that are taken by their parts.

    Raises
    ------
    ModelError
        A part lies in no weight.
    """

    def __init__(self, weights: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> None:
        self.parts: dict[str, str] = {}
        by_storage = defaultdict(list)
        for name, weight in weights.items():
            by_storage[weight.untyped_storage().data_ptr()].append(name)
        for name, part in parts.items():
            around = [w for w in by_storage[part.untyped_storage().data_ptr()] if _lies_in(part, weights[w])]
            if part.ndim != 2 or not around:
                raise ModelError(f"{name}: is no matrix of rows of a weight of the network")
            self.parts[name] = around[0]
        self.replaced = set(self.parts.values())
        self.weights = {**weights, **parts}

    def unused(self, moments: Mapping[str, WeightMoments]) -> Iterator[Use]:
        """A use for each part that the network has not used so far, although it used another one of the same weight."""
        known = {self.parts[name]: m.record for name, m in moments.items() if name in self.parts}
        for name, weight in self.parts.items():
            if name not in moments and weight in known:
                inputs_first = known[weight].axis == 0
                yield Use(name, self.weights[name], no_parts, "linear", inputs_first=inputs_first)

    def alike(self) -> list[list[str]]:
        """Parts of one stack that lie in the same places of its matrices."""
        found = defaultdict(list)
        for name, weight in self.parts.items():
            part, whole = self.weights[name], self.weights[weight]
            if whole.ndim == 3:
                place = (part.storage_offset() - whole.storage_offset()) % whole[0].numel()
                found[weight, place, tuple(part.shape)].append(name)
        return [names for names in found.values() if names[1:]]


def _lies_in(part: Tensor, weight: Tensor) -> bool:
    first = int(part.storage_offset()) - int(weight.storage_offset())
    return weight.is_contiguous() and first >= 0 and first + part.numel() <= weight.numel()


def found_by_values(matrices: Iterator[tuple[str, Tensor]], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of a file as views of the weights that they were put into, one upon another; others are left out.

    Parameters
    ----------
    matrices : pairs of str and Tensor
        Of the file, of two dimensions.
    weights : mapping of str to Tensor
        Of the network, of two dimensions or more, that the file does not hold under their names; at least one.
    """
    by_size: dict[tuple[int, int], dict[bytes, list[Tensor]]] = {}
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    kind = next(iter(weights.values())).dtype
    for name, exact in matrices:
        matrix, size = exact.to(kind), (exact.shape[0], exact.shape[1])
        if size not in by_size:
            by_size[size] = defaultdict(list)
            for view in _views(weights, *size):
                by_size[size][_first_row(view)].append(view)
        for view in by_size[size].get(_first_row(matrix), ()):
            if view.data_ptr() not in taken and torch.equal(view, matrix):
                taken.add(view.data_ptr())
                found[name] = view
                break
    return found


def _views(weights: Mapping[str, Tensor], rows: int, columns: int) -> Iterator[Tensor]:
    """The matrices of this size that some weights hold one upon another."""
    for weight in weights.values():
        if weight.shape[-1] == columns and weight.shape[-2] % rows == 0 and weight.is_contiguous():
            flat = weight.detach().reshape(-1, columns)
            yield from (flat[first : first + rows] for first in range(0, len(flat), rows))


def _first_row(matrix: Tensor) -> bytes:
    return bytes(matrix[0].float().cpu().numpy().tobytes())
