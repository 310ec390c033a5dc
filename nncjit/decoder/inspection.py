"""What a stream holds, from headers alone: no payload is read and no compiler loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from nncjit import dtypes
from nncjit.bits import as_source
from nncjit.stream import tensor_mapping
from nncjit.stream.data_units import StreamReader, tools_of
from nncjit.stream.reports import source_name
from nncjit.syntax import Unit, UnitType, describe


@dataclass(frozen=True, slots=True)
class TensorInspection:
    """One tensor of a stream."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    tools: tuple[str, ...]
    """What its unit uses, for example ("trellis", "64-row blocks")."""
    bytes: int
    """Of the whole unit that holds it, header included; 0 for all but the first tensor of a unit and for tied ones."""
    tied_to: str | None = None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / max(self.weights, 1)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found."""

    source: str
    bytes: int
    profile: int
    metadata: dict[str, str]
    tensors: tuple[TensorInspection, ...]
    _units: tuple[Unit | dict[str, Any], ...] = field(repr=False)
    """Data units and aggregates are described when they are asked for, the others while the source is open."""

    @cached_property
    def units(self) -> tuple[dict[str, Any], ...]:
        """Each unit's type, offset, size and header fields under the standard's names."""
        return tuple(unit if isinstance(unit, dict) else describe(unit) for unit in self._units)

    @property
    def weights(self) -> int:
        return sum(t.weights for t in self.tensors)

    @property
    def original_bytes(self) -> int:
        return sum(t.weights * dtypes.find(t.dtype).itemsize for t in self.tensors)

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
        }


def inspect(source: Any, *, lenient: bool = False) -> Inspection:
    """Look at a stream without decoding it.

    Parameters
    ----------
    source : path, bytes-like or binary file
        The stream.
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
        The file does not exist or cannot be read.
    """
    with as_source(source) as stream:
        reader = StreamReader(stream, lenient=lenient)
        units: list[Unit | dict[str, Any]] = []
        found: dict[str, TensorInspection] = {}
        profile = 0
        for unit in reader:
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
        return Inspection(source_name(source), stream.size, profile, metadata, tensors, tuple(units))
