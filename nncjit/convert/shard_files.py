"""The files of a model in several streams: names, index, and the files of its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors

INDEX = ".nnc.index.json"
"""How the index of a model in several streams is called, behind the model's name."""
JOURNAL = ".nnc.journal"
MAX_INDEX = 100_000_000

AnyPath = str | PathLike[str]


def is_index(path: Any) -> bool:
    """Whether this names the index of a model in several streams."""
    return isinstance(path, str | PathLike) and fspath(path).lower().endswith(INDEX)


class ShardNames:
    """The names of the files for a target ``m.nnc`` or ``m.nnc.index.json``."""

    def __init__(self, target: AnyPath) -> None:
        path = Path(target)
        name = path.name
        for suffix in (INDEX, ".nnc"):
            if name.lower().endswith(suffix):
                name = name[: -len(suffix)]
                break
        self.folder, self.stem = path.parent, name
        self.index = self.folder / f"{name}{INDEX}"
        self.journal = self.folder / f"{name}{JOURNAL}"

    def shard(self, number: int, count: int) -> str:
        """The name of one stream, counted from 0."""
        return f"{self.stem}-{number + 1:05d}-of-{count:05d}.nnc"


def write_index(path: Path, weight_map: Mapping[str, str], facts: Mapping[str, Any], files: Sequence[Any]) -> None:
    """Write an index: tensor -> file, like that of safetensors, and what is known of the files."""
    content = {"metadata": dict(facts), "weight_map": dict(weight_map), "files": list(files)}
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def read_index(path: AnyPath) -> dict[str, Any]:
    """The content of an index, with names of files in its own folder alone.

    Raises
    ------
    ModelError
        It cannot be read, or is no index.
    """
    path = Path(path)
    with os_errors(path):
        size = path.stat().st_size
        if size > MAX_INDEX:
            raise ModelError(f"{path}: {size} bytes are too many for an index")
        text = path.read_bytes()
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


def fingerprint(source: AnyPath, shards: Iterable[str | None]) -> list[list[Any]]:
    """Name, size and time of change of a model's files: another file or a changed one has another fingerprint."""
    path = Path(source)
    files = [path, *(path.parent / name for name in dict.fromkeys(shards) if name is not None)]
    found = []
    for file in files:
        with os_errors(file):
            stat = file.stat()
        found.append([file.name, stat.st_size, stat.st_mtime_ns])
    return found
