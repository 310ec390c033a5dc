"""How a coded tensor lies in a unit: its first dimension moved, or several tensors joined into one. Spec, section 11.

`results` tells names and shapes from the header alone, `arrange` makes the arrays; both follow two rules:

* first_tensor_dimension_shift s: the coded tensor has the result's dimension s in front, ``moveaxis(coded, 0, s)``;
* tensor mapping: the coded tensor is cut along an axis at the split indices, then each shift moves an axis of a piece
  to the left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nncjit.stream.unit_parts import Part
from nncjit.syntax import Unit

Array = np.ndarray[Any, Any]


def results(part: Part, unit: Unit) -> tuple[Part, ...]:
    """The tensors that a coded tensor becomes."""
    if unit.header.concatenation_axis_index is None and not unit.header.first_tensor_dimension_shift:
        return (part,)
    return tuple(found for found, _ in _arranged(part, unit, None))


def arrange(part: Part, unit: Unit, array: Array) -> list[tuple[Part, Array]]:
    """The tensors that a coded tensor becomes, with their values, each C-contiguous."""
    return [(found, np.asarray(piece, order="C")) for found, piece in _arranged(part, unit, array) if piece is not None]


def _arranged(part: Part, unit: Unit, array: Array | None) -> list[tuple[Part, Array | None]]:
    header = unit.header
    shape = part.shape
    if header.concatenation_axis_index is None:
        if not header.first_tensor_dimension_shift:
            return [(part, array)]
        target = header.first_tensor_dimension_shift
        moved = None if array is None else np.moveaxis(array, 0, target)
        return [(part._replace(shape=_moved(shape, 0, target)), moved)]
    axis = header.concatenation_axis_index
    bounds = [0, *header.split_index, shape[axis]]
    found: list[tuple[Part, Array | None]] = []
    for name, start, stop, shifts in zip(unit.names, bounds, bounds[1:], header.shifts, strict=False):
        piece_shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
        piece = None if array is None else array[(slice(None),) * axis + (slice(start, stop),)]
        for index, value in shifts:
            piece_shape = _moved(piece_shape, index, index - value)
            piece = None if piece is None else np.moveaxis(piece, index, index - value)
        found.append((part._replace(name=name, shape=piece_shape), piece))
    return found


def _moved(shape: tuple[int, ...], source: int, target: int) -> tuple[int, ...]:
    """The shape after ``moveaxis(array, source, target)``."""
    rest = [*shape[:source], *shape[source + 1 :]]
    return (*rest[:target], shape[source], *rest[target:])
