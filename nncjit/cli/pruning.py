"""Channels to prune, from a description of the network in a JSON file.

The file is a list of groups of channels that stay or go together (`nncjit.reduce.Group`), for example::

    [{"name": "hidden", "size": 128, "members": [
        {"tensor": "hidden.weight", "axis": 0}, {"tensor": "hidden.bias", "axis": 0},
        {"tensor": "output.weight", "axis": 1}]}]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncjit.errors import OptionError
from nncjit.files import check_readable

if TYPE_CHECKING:
    from nncjit.reduce import Group, Pruning


def pruning_of(source: Path, graph: Path, share: float, scope: str, by: str) -> Pruning:
    """What to remove from a model file: the channels of least importance.

    Raises
    ------
    OptionError
        The file is no such list, or share, scope or importance is out of range.
    ModelError
        A file cannot be read, or the groups do not fit the tensors.
    """
    import numpy as np

    from nncjit import dtypes, formats
    from nncjit.reduce import channel_scores, plan_pruning

    groups = read_groups(graph)
    members = {axis.tensor for group in groups for axis in group.members} | {n for g in groups for n in g.gamma}
    with formats.open_model(source) as model:
        tensors = {
            # of the others only the shapes are needed
            t.name: dtypes.to_float32(t.read(), t.dtype) if t.name in members else np.broadcast_to(0, t.shape)
            for t in model
        }
    return plan_pruning(tensors, groups, channel_scores(tensors, groups, by), share=share, scope=scope)


def read_groups(path: Path) -> list[Group]:
    """The groups in a JSON file."""
    check_readable(path)
    try:
        return [_group(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OptionError(f"{path}: is no list of groups of channels: {error}") from None


def _group(entry: dict[str, Any]) -> Group:
    from nncjit.reduce import Axis, Group

    members = tuple(Axis(**member) for member in entry["members"])
    return Group(entry["name"], entry["size"], members, tuple(entry.get("gamma", ())))
