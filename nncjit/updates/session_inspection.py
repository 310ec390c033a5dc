"""What the folder of a session holds, from its file of facts alone: no values are read and no compiler is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nncjit import wording
from nncjit.errors import ModelError
from nncjit.stream.reports import LISTED, html_tables
from nncjit.updates.chain_folder import ChainFolder
from nncjit.updates.chain_state import Parameter, model_digest
from nncjit.updates.keeping import KINDS

HEAD = ("tensor", "shape", "type", "parameter_id", "depth", "values", "latest unit", "size", "beside")
"""Of the table of tensors."""
SHOWN_HASH = 12
"""Digits of a hash in a table."""


@dataclass(frozen=True, slots=True)
class SessionTensor:
    """A tensor of a session."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameter_id: int
    depth: int
    """put_node_depth: how many units it has had."""
    value_sha256: str
    """Of its values; hexadecimal."""
    unit_sha256: str
    """Of the payload of its latest unit, which names that as a parent; empty where it has had none."""
    unit_sha512: str
    bytes: Mapping[str, int]
    """Of each array that is kept of it: "values", "levels" and "history" for contexts, "prediction", "left over"."""
    tied_to: str | None = None

    def row(self) -> tuple[str, ...]:
        """Its row in the table."""
        if self.tied_to is not None:
            return (
                self.name,
                wording.shape(self.shape),
                self.dtype,
                "-",
                "-",
                f"tied to {self.tied_to}",
                "-",
                "-",
                "-",
            )
        size = self.bytes.get("values", 0)
        return (
            self.name,
            wording.shape(self.shape),
            self.dtype,
            str(self.parameter_id),
            str(self.depth),
            self.value_sha256[:SHOWN_HASH],
            self.unit_sha256[:SHOWN_HASH] or "-",
            wording.size(size),
            wording.size(sum(self.bytes.values()) - size),
        )


@dataclass(frozen=True)
class SessionInspection:
    """What `inspect_session` found."""

    source: str
    kind: str
    """"sender" or "receiver"."""
    number: int
    """Updates so far."""
    model: str
    """What names the model that both sides hold now, as the next update says it; hexadecimal."""
    next_parameter_id: int
    """Of the next new tensor."""
    rebased: bool
    """Whether other values were taken for the model since the latest update."""
    base_model_id: str | None
    """What updates say, or must say, of the model that they belong to."""
    options: Mapping[str, Any]
    """Of a sender, for all updates."""
    metadata: Mapping[str, str] = field(repr=False)
    graphs: tuple[str, ...]
    """Formats of the graphs that the model is written with."""
    tensors: tuple[SessionTensor, ...] = field(repr=False)

    @property
    def bytes(self) -> dict[str, int]:
        """Of all tensors, by what is kept."""
        sums = {kind.words: sum(tensor.bytes.get(kind.words, 0) for tensor in self.tensors) for kind in KINDS}
        return {words: size for words, size in sums.items() if size or words == "values"}

    def facts(self) -> list[tuple[str, str]]:
        """What it says in a few words, by heading."""
        after = f"after update {self.number}" if self.number else "at the base itself"
        more = ", other values were taken for it since" if self.rebased else ""
        found = [
            ("session", f"of a {self.kind}, {after}{more}; update {self.number + 1} comes next"),
            ("model", self.model),
        ]
        if self.base_model_id:
            found.append(("base_model_id", self.base_model_id))
        if self.options:
            found.append(("options", ", ".join(f"{name}={value}" for name, value in self.options.items())))
        if self.graphs:
            found.append(("graph", ", ".join(self.graphs)))
        found.append(("tensors", f"{len(self.tensors):,}"))
        found += [(words, wording.size(size)) for words, size in self.bytes.items()]
        return found

    def __str__(self) -> str:
        return f"{self.source}: {', '.join(f'{name} {value}' for name, value in self.facts())}"

    def _repr_html_(self) -> str:
        """The session in a notebook: what it holds, and the first tensors."""
        rows = [tensor.row() for tensor in self.tensors[:LISTED]]
        return html_tables(self.source, self.facts(), HEAD, rows, len(self.tensors))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return asdict(self) | {"bytes": self.bytes}


def inspect_session(folder: str | os.PathLike[str]) -> SessionInspection:
    """Look at the folder of a `Sender` or `Receiver`, without reading values.

    Parameters
    ----------
    folder : path

    Returns
    -------
    SessionInspection
        Its place in the chain; ids, hashes and sizes of each tensor; what is kept for the next update.

    Raises
    ------
    ModelError
        The folder holds no session, or it is damaged.
    """
    held = ChainFolder.open(folder)
    state, about = held.state, held.about
    digests = {name: _kept_digest(folder, parameter) for name, parameter in state.parameters.items()}
    infos = {name: parameter.info for name, parameter in state.parameters.items()}
    options = dict(about.get("options") or {})
    base_model_id = about.get("base_model_id") or options.pop("base_model_id", None)
    return SessionInspection(
        source=os.fspath(folder),
        kind=str(about.get("kind")),
        number=state.number,
        model=model_digest(infos, digests, state.tied).hex(),
        next_parameter_id=state.next_parameter,
        rebased=state.rebased,
        base_model_id=base_model_id,
        options=options,
        metadata=dict(state.texts),
        graphs=tuple(graph.format for graph in state.graphs),
        tensors=tuple(_tensor(held, name) for name in state.order),
    )


def _kept_digest(folder: str | os.PathLike[str], parameter: Parameter) -> bytes:
    if parameter.value_sha256 is None:
        raise ModelError(f"{os.fspath(folder)}: {parameter.name}: has no hash of its values: the session is damaged")
    return parameter.value_sha256


def _tensor(held: ChainFolder, name: str) -> SessionTensor:
    twin = held.state.tied.get(name)
    parameter = held.state.parameters[twin or name]
    files = held.files[parameter.number]
    return SessionTensor(
        name=name,
        shape=parameter.info.shape,
        dtype=parameter.info.dtype,
        parameter_id=parameter.number,
        depth=parameter.depth,
        value_sha256=(parameter.value_sha256 or b"").hex(),
        unit_sha256=(parameter.unit_sha256 or b"").hex(),
        unit_sha512=(parameter.unit_sha512 or b"").hex(),
        bytes={} if twin else {kind.words: files[kind.field].size for kind in KINDS if kind.field in files},
        tied_to=twin,
    )
