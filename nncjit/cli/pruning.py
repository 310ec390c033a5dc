"""Channels to prune, from a description of the network in a JSON file.

The file is a list of groups of channels that stay or go together (`nncjit.reduce.Group`), for example::

    [{"name": "hidden", "size": 128, "members": [
        {"tensor": "hidden.weight", "axis": 0}, {"tensor": "hidden.bias", "axis": 0},
        {"tensor": "output.weight", "axis": 1}]}]
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nncjit.errors import OptionError
from nncjit.files import check_readable

if TYPE_CHECKING:
    from nncjit.reduce import Group, Pruning

DEFAULTS: dict[str, Any] = {"share": 0.25, "scope": "group", "by": "l2"}
"""What the arguments beside ``--prune`` are where they are not given."""


def add_pruning(parser: ArgumentParser) -> None:
    """``--prune`` and the arguments beside it."""
    prune = parser.add_argument_group("pruning")
    prune.add_argument("--prune", type=Path, metavar="FILE.json", help="groups of channels that stay or go together")
    prune.add_argument("--prune-share", type=float, metavar="S", help=f"share to remove (default {DEFAULTS['share']})")
    prune.add_argument(
        "--prune-scope", metavar="WHAT", help=f"a share of each group, or of the model (default {DEFAULTS['scope']})"
    )
    prune.add_argument("--prune-by", metavar="HOW", help=f"importance: l1, l2 or gamma (default {DEFAULTS['by']})")


def check_pruning(args: Namespace) -> None:
    """Refuse arguments that change nothing without ``--prune``.

    Raises
    ------
    OptionError
        One is given without it.
    """
    given = [name for name in DEFAULTS if getattr(args, f"prune_{name}") is not None]
    if given and args.prune is None:
        raise OptionError(f"--prune-{given[0]} needs --prune: the channels that it is about")


def pruning_of(args: Namespace, source: Any) -> Pruning | None:
    """What the arguments remove from a model file, or the model in a folder: the channels of least importance.

    Raises
    ------
    OptionError
        The file is no list of groups, or share, scope or importance is out of range.
    ModelError
        A file cannot be read, or the groups do not fit the tensors.
    """
    check_pruning(args)
    if args.prune is None:
        return None
    import numpy as np

    from nncjit import dtypes, formats
    from nncjit.formats.folder_model import read_from
    from nncjit.reduce import channel_scores, plan_pruning

    given = {name: getattr(args, f"prune_{name}") for name in DEFAULTS}
    share, scope, by = (DEFAULTS[name] if value is None else value for name, value in given.items())
    groups = read_groups(args.prune)
    members = {axis.tensor for group in groups for axis in group.members} | {n for g in groups for n in g.gamma}
    with formats.open_model(read_from(source)) as model:
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
