"""What a stream or a model file holds, from headers alone: no payload is read and no compiler loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from nncjit import dtypes, formats, wording
from nncjit.bits import as_source
from nncjit.errors import ModelError
from nncjit.formats.folder_model import is_folder, model_in
from nncjit.option_values import check_flags
from nncjit.remote import RemoteFile, is_url
from nncjit.stream import tensor_mapping
from nncjit.stream.data_units import StreamReader, tools_of
from nncjit.stream.reports import LISTED, TENSOR_HEAD, html_tables, source_name
from nncjit.stream.stream_index import AnyPath, is_index, read_index, streams_of
from nncjit.stream.update_metadata import UpdateMetadata
from nncjit.syntax import Unit, UnitType, describe


@dataclass(frozen=True, slots=True)
class TensorInspection:
    """One tensor of a stream or a model file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    tools: tuple[str, ...]
    """What its unit uses, for example ("trellis", "64-row blocks")."""
    bytes: int
    """Of the whole unit that holds it, header included; 0 for all but the first tensor of a unit and for tied ones. In
    a model file: of its values.
    """
    tied_to: str | None = None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Not a number where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else math.nan


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    source: str
    bytes: int
    """Of the file or files."""
    profile: int | None
    """Edition of the standard, 0 or 1; None for a model file."""
    metadata: dict[str, str] = field(repr=False)
    tensors: tuple[TensorInspection, ...] = field(repr=False)
    _units: tuple[Unit | dict[str, Any], ...] = field(repr=False)
    """Data units and aggregates are described when they are asked for, the others while the source is open."""

    update: UpdateMetadata | None = None
    """Where the stream stands in a chain of updates; None where it is no update or does not say."""
    base_model_id: str | None = None
    """What an update calls the model that it belongs to."""

    @cached_property
    def units(self) -> tuple[dict[str, Any], ...]:
        """Each unit's type, offset, size and header fields under the standard's names."""
        return tuple(unit if isinstance(unit, dict) else describe(unit) for unit in self._units)

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Of the whole file; not a number where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else math.nan

    @property
    def original_bytes(self) -> int:
        return sum(t.weights * dtypes.find(t.dtype).itemsize for t in self.tensors)

    def __str__(self) -> str:
        return f"{self.source}: {', '.join(value for _, value in self.facts())}"

    def _repr_html_(self) -> str:
        """The file in a notebook: what it holds, and the first tensors."""
        rows = []
        for row in self.tensors[:LISTED]:
            tools = ", ".join(row.tools) or row.dtype
            cells = (
                row.name,
                wording.shape(row.shape),
                tools,
                wording.size(row.bytes),
                wording.bits(row.bits_per_weight),
            )
            rows.append(cells)
        return html_tables(self.source, self.facts(), TENSOR_HEAD, rows, len(self.tensors))

    def facts(self) -> list[tuple[str, str]]:
        """What it says in a few words, by heading."""
        return [
            ("size", wording.size(self.bytes)),
            ("holds", f"{len(self.tensors):,} tensors, {wording.count(self.weights)} weights"),
            ("precision", f"{wording.bits(self.bits_per_weight)} bits per weight"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {
            "source": self.source,
            "bytes": self.bytes,
            "profile": self.profile,
            "metadata": self.metadata,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "units": list(self.units),
            "weights": self.weights,
            "original_bytes": self.original_bytes,
            "update": self.update.plain() if self.update is not None else None,
            "base_model_id": self.base_model_id,
        }


def bytes_of(path: Any) -> int:
    """Bytes of a file, which may be at a URL."""
    return RemoteFile(path).size if is_url(path) else Path(path).stat().st_size


def inspect(source: Any, *, lenient: bool = False) -> Inspection:
    """Look at a stream, or at a model file of a known format, without decoding or reading values.

    Parameters
    ----------
    source : path, bytes-like or binary file
        The stream, or the path of the index of several; or the path of a model file, which its suffix tells; or a
        folder, of which the file is inspected that `compress` would take.
    lenient : bool
        Pass over reserved unit types and values instead of refusing them.

    Returns
    -------
    Inspection
        Units, tensors, tools and sizes.

    Raises
    ------
    BitstreamError
        A header is damaged, or the stream is cut off.
    ModelError
        The file does not exist or cannot be read, or the folder holds no model.
    OptionError
        The folder holds several models, and nothing tells which one is meant.
    """
    check_flags(lenient=lenient)
    if is_folder(source):
        return inspect(model_in(Path(source)), lenient=lenient)
    if isinstance(source, str | PathLike) and formats.is_known(source):
        return _inspect_model(source)
    if is_index(source):
        return _inspect_all(source, lenient=lenient)
    with as_source(source) as stream:
        reader = StreamReader(stream, lenient=lenient)
        units: list[Unit | dict[str, Any]] = []
        found: dict[str, TensorInspection] = {}
        profile, base_model_id = 0, None
        for unit in reader:
            if unit.type == UnitType.MPS:
                base_model_id = unit.body.base_model_id
            units.append(unit if unit.type in (UnitType.NDU, UnitType.AGG) else describe(unit))
            if unit.type != UnitType.NDU:
                continue
            profile = unit.place.profile or 0
            n_bytes, tools = unit.size, tools_of(unit)
            for part in reader.open(unit).parts:
                used = tools if part.role == "W" else (*tools, part.role)
                for result in tensor_mapping.results(part, unit) if part.role == "W" else (part,):
                    found[result.name] = TensorInspection(result.name, result.shape, result.dtype, used, n_bytes)
                    n_bytes = 0
        tensors = tuple(
            row if row.name == name else replace(row, name=name, tools=("tied",), bytes=0, tied_to=row.name)
            for name, row in reader.with_ties(found).items()
        )
        metadata = dict(reader.model_metadata.metadata)
        return Inspection(
            source_name(source),
            stream.size,
            profile,
            metadata,
            tensors,
            tuple(units),
            reader.model_metadata.update,
            base_model_id,
        )


def _inspect_all(path: AnyPath, *, lenient: bool) -> Inspection:
    """The streams of an index as one; each unit says which file it is in."""
    weight_map = read_index(path)["weight_map"]
    found = {stream.name: inspect(stream, lenient=lenient) for stream in streams_of(path)}
    rows = {name: {row.name: row for row in each.tensors} for name, each in found.items()}
    for tensor, name in weight_map.items():
        if tensor not in rows[name]:
            raise ModelError(f"{fspath(path)}: {tensor!r} is not in {name}, where the index has it")
    metadata: dict[str, str] = {}
    for each in found.values():
        metadata = each.metadata | metadata
    return Inspection(
        source_name(path),
        sum(each.bytes for each in found.values()),
        next((each.profile for each in found.values()), 0),
        metadata,
        tuple(rows[name][tensor] for tensor, name in weight_map.items()),
        tuple({"file": name, **unit} for name, each in found.items() for unit in each.units),
    )


def _inspect_model(path: str | PathLike[str]) -> Inspection:
    """A model file, from its header."""
    with formats.open_model(path) as model:
        tensors = tuple(
            TensorInspection(t.name, t.shape, t.dtype, (), 0 if t.same_as else t.nbytes, t.same_as) for t in model
        )
        in_shards = any(t.shard for t in model)
        n_bytes = sum(t.bytes for t in tensors) if in_shards else bytes_of(path)
        return Inspection(source_name(path), n_bytes, None, dict(model.metadata), tensors, ())
