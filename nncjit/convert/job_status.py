"""How far a job of several files is, from its journal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import fspath
from pathlib import Path
from typing import Any

from nncjit.convert.journal import Journal, mark_of
from nncjit.convert.shard_files import ShardNames
from nncjit.errors import ModelError
from nncjit.stream.stream_index import AnyPath

MODEL_INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a journal says of a job, checked against the files that are there."""

    target: str
    files: tuple[str, ...]
    """All that were planned."""
    done: tuple[str, ...]
    """Those that are there as they were written."""
    bytes_done: int
    complete: bool
    """Whether the index is there, too."""
    at_work: bool
    """Whether a process holds the journal."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Files that are still to be made."""
        return tuple(name for name in self.files if name not in self.done)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"missing": list(self.missing)}


def status_of(target: AnyPath) -> JobStatus:
    """The state of the job that writes to a target.

    Raises
    ------
    ModelError
        There is no journal of such a job.
    """
    path = Path(target)
    if path.name.lower().endswith(MODEL_INDEX):
        stem = path.name[: -len(MODEL_INDEX)]
        index, home = path, path.with_name(f"{stem}.safetensors.journal")
    else:
        names = ShardNames(target)
        index, home = names.index, names.journal
    if not home.exists():
        raise ModelError(f"{fspath(target)}: there is no journal {home.name} of a job with this target")
    journal = Journal(home)
    sizes = {name: _size_as_written(home.parent / name, journal.files.get(name)) for name in journal.announced}
    done = tuple(name for name, size in sizes.items() if size is not None)
    n_bytes = sum(size or 0 for size in sizes.values())
    complete = index.exists() and 0 < len(done) == len(sizes)
    return JobStatus(fspath(target), tuple(sizes), done, n_bytes, complete, journal.is_locked())


def _size_as_written(path: Path, entry: dict[str, Any] | None) -> int | None:
    try:
        mark = mark_of(path)
    except OSError:
        return None
    return int(mark["bytes"]) if entry is not None and entry.get("mark") == mark else None
