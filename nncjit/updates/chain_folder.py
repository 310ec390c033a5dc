"""One side of a chain in a folder: a file of facts, and a file for each array, which are read by memory maps.

An update writes new files beside the old ones; then the file of facts takes the place of the old one, at once; then the
files that it does not name any more go. So the folder is at one update or at the next, whenever the process dies.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors
from nncjit.model import TensorInfo
from nncjit.updates.chain_state import Array, ChainState, Parameter, Reader
from nncjit.updates.keeping import KINDS, Kind, kept_with

FACTS, LOCK, SUFFIX = "chain.json", "lock", ".array"
FORMAT = 1
_ARRAY = re.compile(r"\d+-[a-z]+-\d+\.array")
_HASHES = ("unit_sha256", "unit_sha512", "value_sha256")


@dataclass(frozen=True, slots=True)
class _File:
    """An array in the folder."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(slots=True)
class ChainFolder:
    """A folder that holds one side of a chain.

    Parameters
    ----------
    path : Path
    state : ChainState
        As the folder has it.
    about : dict
        What the side keeps beside the state, as JSON has it.
    """

    path: Path
    state: ChainState
    about: dict[str, Any]
    files: dict[int, dict[str, _File]] = field(default_factory=dict)
    """By parameter_id and field."""
    generation: int = 0
    """How often it has changed."""

    @classmethod
    def create(cls, path: str | os.PathLike[str], state: ChainState, about: dict[str, Any]) -> ChainFolder:
        """Put a state into a new folder.

        Raises
        ------
        ModelError
            The folder is there and not empty, or cannot be written.
        """
        folder = Path(path)
        with os_errors(folder):
            folder.mkdir(exist_ok=True)
            if any(not _is_left_over(path.name) for path in folder.iterdir()):
                raise ModelError(f"{folder}: is not empty: a session needs a folder of its own")
        made = cls(folder, ChainState(parameters={}, tied={}, order=()), about)
        with made.transaction() as change:
            kept = {name: change.keep(parameter) for name, parameter in state.parameters.items()}
            change.commit(state.with_parameters(kept))
        return made

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ChainFolder:
        """The side of a chain that a folder holds.

        Raises
        ------
        ModelError
            The folder holds none, or it is damaged.
        """
        folder = Path(path)
        with os_errors(folder / FACTS):
            text = (folder / FACTS).read_bytes()
        try:
            facts = json.loads(text)
            if facts["format"] != FORMAT:
                raise ModelError(f"{folder}: holds a session of format {facts['format']}, this reads {FORMAT}")
            opened = cls(folder, ChainState(parameters={}, tied={}, order=()), dict(facts["about"]))
            opened.take(facts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / FACTS}: is damaged ({type(error).__name__}: {error})") from None
        return opened

    @staticmethod
    def is_at(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a side of a chain."""
        return (Path(path) / FACTS).is_file()

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """Changes that take effect together at `Change.commit`, or not at all."""
        with _locked(self.path):
            self._check_generation()
            change = Change(self, self.generation + 1)
            try:
                yield change
            finally:
                self._tidy()

    def _check_generation(self) -> None:
        """Refuse to go on from a state that is not the folder's any more."""
        if not self.generation and not (self.path / FACTS).exists():
            return
        if ChainFolder.open(self.path).generation != self.generation:
            raise ModelError(f"{self.path}: another process has worked with this session since it was opened")

    def take(self, facts: dict[str, Any]) -> None:
        """Become what a file of facts says."""
        parameters = {}
        for row in facts["parameters"]:
            info = TensorInfo(row["name"], tuple(row["shape"]), row["dtype"], shard=row["shard"])
            files = {key: _File(f["name"], f["dtype"], tuple(f["shape"])) for key, f in row["files"].items()}
            number, n_levels = int(row["number"]), int(row["n_levels"])
            readers: dict[str, Any] = {
                kind.field: self._reader(info.name, files[kind.field], kind, n_levels)
                for kind in KINDS
                if kind.field in files
            }
            hashes: dict[str, Any] = {key: bytes.fromhex(row[key]) if row[key] else None for key in _HASHES}
            parameters[info.name] = Parameter(
                info=info, number=number, depth=int(row["depth"]), n_levels=n_levels, **hashes, **readers
            )
            self.files[number] = files
        self.generation = int(facts["generation"])
        self.state = ChainState(
            parameters=parameters,
            tied=dict(facts["tied"]),
            order=tuple(facts["order"]),
            texts=dict(facts["texts"]),
            number=int(facts["number"]),
            next_parameter=int(facts["next_parameter"]),
        )

    def _reader(self, name: str, file: _File, kind: Kind, n_levels: int) -> Any:
        path = self.path / file.name
        if Path(file.name).name != file.name or not file.name.endswith(SUFFIX):
            raise ModelError(f"{self.path}: {name}: {file.name!r} is no file of a session")
        with os_errors(path):
            size = path.stat().st_size
        if size != file.size:
            raise ModelError(f"{path}: {name}: has {size} bytes, must have {file.size}: the session is damaged")
        return partial(_unpacked, path, file, kind, n_levels)

    def facts(self, state: ChainState, files: dict[int, dict[str, _File]], generation: int) -> bytes:
        rows = [
            {
                "name": p.name,
                "shape": list(p.info.shape),
                "dtype": p.info.dtype,
                "shard": p.info.shard,
                "number": p.number,
                "depth": p.depth,
                "n_levels": p.n_levels,
                "files": {key: asdict(f) for key, f in files[p.number].items()},
                **{key: getattr(p, key).hex() if getattr(p, key) else None for key in _HASHES},
            }
            for p in state.parameters.values()
        ]
        facts = {
            "format": FORMAT,
            "generation": generation,
            "number": state.number,
            "next_parameter": state.next_parameter,
            "tied": dict(state.tied),
            "order": list(state.order),
            "texts": dict(state.texts),
            "about": self.about,
            "parameters": rows,
        }
        return json.dumps(facts, indent=1).encode()

    def discard(self) -> None:
        """Leave nothing of the session in its folder, which then can hold another one."""
        with _locked(self.path):
            with suppress(OSError):
                (self.path / FACTS).unlink()
            self.files = {}
            self._tidy()

    def _tidy(self) -> None:
        """Remove the files that are not named."""
        named = {file.name for files in self.files.values() for file in files.values()}
        for path in self.path.glob(f"*{SUFFIX}"):
            if path.name not in named and _ARRAY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


class Change:
    """A change of a folder in the making."""

    def __init__(self, folder: ChainFolder, generation: int) -> None:
        self._folder, self._generation = folder, generation
        self._files: dict[int, dict[str, _File]] = {}
        self._before = {p.number: p for p in folder.state.parameters.values()}
        self._lock = threading.Lock()

    def keep(self, parameter: Parameter) -> Parameter:
        """A parameter whose arrays are in the folder; from any thread."""
        before = self._before.get(parameter.number)
        old = self._folder.files.get(parameter.number, {})
        files = {
            kind.field: old[kind.field]
            for kind in KINDS
            if before is not None
            and kind.field in old
            and getattr(parameter, kind.field) is getattr(before, kind.field)
        }

        def store(kind: Kind, array: Array) -> Reader:
            file = _File(f"{parameter.number}-{kind.field}-{self._generation}{SUFFIX}", array.dtype.str, array.shape)
            path = self._folder.path / file.name
            with os_errors(path), path.open("wb") as out:
                out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                out.flush()
                os.fsync(out.fileno())
            files[kind.field] = file
            return partial(_unpacked, path, file, kind, parameter.n_levels)  # mapped while it is read

        kept = kept_with(parameter, before, store)
        with self._lock:
            self._files[parameter.number] = files
        return kept

    def commit(self, state: ChainState) -> None:
        """Make the folder hold this state, of parameters that `keep` gave back."""
        folder = self._folder
        with atomic_write(folder.path / FACTS, fsync=True) as file:
            file.write(folder.facts(state, self._files, self._generation))
        folder.state, folder.files, folder.generation = state, self._files, self._generation


def _is_left_over(name: str) -> bool:
    """Whether a file may be of a session whose beginning was interrupted."""
    return name == LOCK or _ARRAY.fullmatch(name) is not None or (name[:1] == "." and name.endswith(".tmp"))


def _unpacked(path: Path, file: _File, kind: Kind, n_levels: int) -> Array:
    return kind.unpack(_mapped(path, file), n_levels)


def _mapped(path: Path, file: _File) -> Array:
    if not file.size:
        return np.empty(file.shape, file.dtype)
    with os_errors(path):
        return np.asarray(np.memmap(path, file.dtype, "r", shape=file.shape))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, where the system can see to it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with os_errors(folder / LOCK), (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"{folder}: another process works with this session") from None
        yield
