"""One side of a chain in a folder: a file of facts, and a file for each array, which are read by memory maps.

An update writes new files beside the old ones; then the file of facts takes the place of the old one, at once; then the
files that it does not name any more go. So the folder is at one update or at the next, whenever the process dies.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.files import as_path, atomic_write, os_errors
from nncjit.model import Graph, TensorInfo
from nncjit.remote import is_url
from nncjit.updates.array_files import SUFFIX, ArrayFile, is_array
from nncjit.updates.chain_state import Array, ChainState, Parameter, Reader
from nncjit.updates.keeping import KINDS, Kind, kept_with

FACTS, LOCK = "chain.json", "lock"
FORMAT = 1
_HASHES = ("unit_sha256", "unit_sha512", "value_sha256")


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
    files: dict[int, dict[str, ArrayFile]] = field(default_factory=dict)
    """By parameter_id and field."""
    graph_files: tuple[ArrayFile, ...] = ()
    """Of the graphs of the state, which stay as they are."""
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
        if is_url(path):
            raise OptionError(f"{path}: a session is a folder of this machine, not at a URL")
        folder = as_path(path)
        with os_errors(folder):
            folder.mkdir(exist_ok=True)
            if any(not _is_left_over(path.name) for path in folder.iterdir()):
                raise ModelError(f"{folder}: is not empty: a session needs a folder of its own")
        made = cls(folder, ChainState(parameters={}, tied={}, order=()), about)
        with made.transaction() as change:
            kept = {name: change.keep(parameter) for name, parameter in state.parameters.items()}
            made.graph_files = tuple(change.keep_graph(k, graph) for k, graph in enumerate(state.graphs))
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
        folder = as_path(path)
        with os_errors(folder / FACTS):
            text = (folder / FACTS).read_bytes()
        try:
            facts = json.loads(text)
            if facts["format"] != FORMAT:
                raise ModelError(f"{folder}: holds a session of format {facts['format']}, this reads {FORMAT}")
            opened = cls(folder, ChainState(parameters={}, tied={}, order=()), dict(facts["about"]))
            opened.take(facts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{folder / FACTS}: is damaged ({type(error).__name__}: {error})") from None
        return opened

    @staticmethod
    def is_at(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a side of a chain."""
        facts = as_path(path) / FACTS
        with os_errors(facts):
            return facts.is_file()

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
            files = {key: ArrayFile.of(file) for key, file in row["files"].items()}
            number, n_levels = int(row["number"]), int(row["n_levels"])
            readers: dict[str, Any] = {
                kind.field: self._reader(info, files[kind.field], kind, n_levels)
                for kind in KINDS
                if kind.field in files
            }
            hashes: dict[str, Any] = {key: bytes.fromhex(row[key]) if row[key] else None for key in _HASHES}
            parameters[info.name] = Parameter(
                info=info, number=number, depth=int(row["depth"]), n_levels=n_levels, **hashes, **readers
            )
            self.files[number] = files
        rows = facts.get("graphs", [])
        self.graph_files = tuple(ArrayFile.of(row["file"]) for row in rows)
        for file in self.graph_files:
            file.check(self.path, "graph")
        graphs = (
            Graph(str(row["format"]), file.mapped(self.path).tobytes(), bool(row["quantization"]))
            for row, file in zip(rows, self.graph_files, strict=True)
        )
        names = [*parameters, *facts["tied"]]
        if sorted(facts["order"]) != sorted(names) or not parameters.keys() >= set(facts["tied"].values()):
            raise ValueError("its lists of tensors differ")
        self.generation = int(facts["generation"])
        self.state = ChainState(
            parameters=parameters,
            tied=dict(facts["tied"]),
            order=tuple(facts["order"]),
            texts=dict(facts["texts"]),
            number=int(facts["number"]),
            next_parameter=int(facts["next_parameter"]),
            rebased=bool(facts.get("rebased", False)),
            graphs=tuple(graphs),
        )

    def _reader(self, info: TensorInfo, file: ArrayFile, kind: Kind, n_levels: int) -> Any:
        file.check(self.path, info.name)
        if not kind.fits(np.dtype(file.dtype), file.shape, info, n_levels):
            raise ModelError(f"{self.path}: {info.name}: {file.name} is no {kind.field} of it: the session is damaged")
        return partial(_unpacked, self.path, file, kind, n_levels)

    def facts(self, state: ChainState, files: dict[int, dict[str, ArrayFile]], generation: int) -> bytes:
        """What the file of facts says of a state."""
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
            "rebased": state.rebased,
            "graphs": [
                {"format": graph.format, "quantization": graph.quantization, "file": asdict(file)}
                for graph, file in zip(state.graphs, self.graph_files, strict=True)
            ],
            "about": self.about,
            "parameters": rows,
        }
        return json.dumps(facts, indent=1).encode()

    def discard(self) -> None:
        """Leave nothing of the session in its folder, which then can hold another one."""
        with _locked(self.path):
            with suppress(OSError):
                (self.path / FACTS).unlink()
            self.files, self.graph_files = {}, ()
            self._tidy()

    def _tidy(self) -> None:
        """Remove the files that are not named."""
        named = {file.name for files in self.files.values() for file in files.values()}
        named |= {file.name for file in self.graph_files}
        for path in self.path.glob(f"*{SUFFIX}"):
            if path.name not in named and is_array(path.name):
                with suppress(OSError):
                    path.unlink()


class Change:
    """A change of a folder in the making."""

    def __init__(self, folder: ChainFolder, generation: int) -> None:
        self._folder, self._generation = folder, generation
        self._files: dict[int, dict[str, ArrayFile]] = {}
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
            home = self._folder.path
            file = ArrayFile.written(home, parameter.number, kind.field, self._generation, array)
            files[kind.field] = file
            return partial(_unpacked, home, file, kind, parameter.n_levels)  # mapped while it is read

        kept = kept_with(parameter, before, store)
        with self._lock:
            self._files[parameter.number] = files
        return kept

    def keep_graph(self, number: int, graph: Graph) -> ArrayFile:
        """Put a graph into the folder."""
        return ArrayFile.written(
            self._folder.path, number, "graph", self._generation, np.frombuffer(graph.data, np.uint8)
        )

    def commit(self, state: ChainState) -> None:
        """Make the folder hold this state, of parameters that `keep` gave back."""
        folder = self._folder
        with atomic_write(folder.path / FACTS, fsync=True) as file:
            file.write(folder.facts(state, self._files, self._generation))
        folder.state, folder.files, folder.generation = state, self._files, self._generation


def _is_left_over(name: str) -> bool:
    """Whether a file may be of a session whose beginning was interrupted."""
    return name == LOCK or is_array(name) or (name[:1] == "." and name.endswith(".tmp"))


def _unpacked(folder: Path, file: ArrayFile, kind: Kind, n_levels: int) -> Array:
    return kind.unpack(file.mapped(folder), n_levels)


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
