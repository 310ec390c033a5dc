"""A model without some of its channels: shrunk, at full size again, and compressed in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nncjit.convert import compress
from nncjit.reduce import Pruning

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def shrunk(arrays: Mapping[str, Array], pruning: Pruning | None) -> Arrays:
    """The arrays without what is removed."""
    return {name: array if pruning is None else pruning.shrink(name, array) for name, array in arrays.items()}


def full_size(arrays: Mapping[str, Array], pruning: Pruning | None) -> Arrays:
    """Shrunk arrays as large as they were, zeros where something was removed."""
    return {name: array if pruning is None else pruning.rebuild(name, array) for name, array in arrays.items()}


def plain_pruning(pruning: Pruning | None) -> dict[str, Any] | None:
    """What JSON can say of it."""
    if pruning is None:
        return None
    positions = {
        name: [None if kept is None else kept.tolist() for kept in axes] for name, axes in pruning.positions.items()
    }
    return {
        "kept": {name: kept.tolist() for name, kept in pruning.kept.items()},
        "positions": positions,
        "full_shapes": pruning.full_shapes,
    }


def compress_pruned(source: str, target: str, pruning: Mapping[str, Any] | None, **keywords: Any) -> None:
    """`nncjit.compress` with a `plain_pruning`."""
    compress(source, target, pruning=None if pruning is None else _of_plain(pruning), **keywords)


def _of_plain(said: Mapping[str, Any]) -> Pruning:
    def indices(kept: Any) -> Array | None:
        return None if kept is None else np.array(kept, np.int64)

    return Pruning(
        kept={name: np.array(kept, np.int64) for name, kept in said["kept"].items()},
        positions={name: tuple(map(indices, axes)) for name, axes in said["positions"].items()},
        full_shapes={name: tuple(shape) for name, shape in said["full_shapes"].items()},
    )
