"""The index of a model in several streams: which of the files beside it holds which tensor."""

from __future__ import annotations

import json
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError
from nncjit.files import read_index_bytes

INDEX = ".nnc.index.json"
"""How such an index is called, behind the model's name."""

AnyPath = str | PathLike[str]


def is_index(path: Any) -> bool:
    """Whether this names the index of a model in several streams."""
    return isinstance(path, str | PathLike) and fspath(path).lower().endswith(INDEX)


def read_index(path: AnyPath) -> dict[str, Any]:
    """The content of an index, with names of files in its own folder alone.

    Raises
    ------
    ModelError
        It cannot be read, or is no index.
    """
    path = Path(path)
    text = read_index_bytes(path)
    try:
        content = json.loads(text)
        weight_map = content["weight_map"]
        good = all(isinstance(name, str) and _is_stream(file) for name, file in weight_map.items())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise ModelError(f"{path}: is no index of streams")
    return dict(content)


def streams_of(path: AnyPath) -> list[Path]:
    """The streams that an index names, in its order."""
    folder = Path(path).parent
    return [folder / name for name in dict.fromkeys(read_index(path)["weight_map"].values())]


def _is_stream(name: Any) -> bool:
    """Whether this names a stream in the folder of the index, and none outside it."""
    return isinstance(name, str) and name.lower().endswith(".nnc") and not set(name) & set("/\\:\0")
