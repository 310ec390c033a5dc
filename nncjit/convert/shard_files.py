"""The files of a model in several streams: names, index, and the files of its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nncjit.files import atomic_write, os_errors
from nncjit.remote import beside, identity, is_url
from nncjit.stream.stream_index import INDEX, AnyPath

JOURNAL = ".nnc.journal"


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


def fingerprint(source: AnyPath, shards: Iterable[str | None]) -> list[list[Any]]:
    """Name, size and time of change of a model's files: another file or a changed one has another fingerprint."""
    if is_url(source):
        urls = [source, *(beside(source, name) for name in dict.fromkeys(shards) if name is not None)]
        return [[url.rpartition("/")[2], *identity(url)] for url in urls]
    path = Path(source)
    files = [path, *(path.parent / name for name in dict.fromkeys(shards) if name is not None)]
    found = []
    for file in files:
        with os_errors(file):
            stat = file.stat()
        found.append([file.name, stat.st_size, stat.st_mtime_ns])
    return found
