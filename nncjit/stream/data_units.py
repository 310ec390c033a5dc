"""What the data units of a stream hold, from their headers alone. Nothing here imports a compiler."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from nncjit import dtypes
from nncjit.bits import Source
from nncjit.errors import BitstreamError, ModelError, NncWarning
from nncjit.model import Graph
from nncjit.stream import (
    float_pieces,
    float_planes,
    graph_units,
    integer_limbs,
    integer_pieces,
    integer_planes,
    metadata_unit,
    tensor_mapping,
)
from nncjit.stream.pruning_masks import Rebuilder
from nncjit.stream.unit_parts import Part
from nncjit.syntax import Context, ParameterTypes, PayloadType, TopologyFormat, Unit, UnitType, read_units

T = TypeVar("T")

_PIECES = float_pieces.FORMATS | integer_pieces.FORMATS


@dataclass(frozen=True, slots=True)
class DataUnit:
    """A data unit whose header was understood."""

    unit: Unit
    parts: tuple[Part, ...]
    """In coding order."""
    limbs: integer_limbs.LimbFormat | None = None
    """What the leading coded dimension holds where it is the limbs of integers."""
    floats: float_planes.FloatFields | None = None
    """The fields of floats of which only the exponents are coded, and the other bits follow."""
    pieces: float_planes.FloatFields | integer_pieces.IntegerSymbols | None = None
    """What stands in pieces, where nothing is coded beside them."""
    integers: integer_planes.IntegerFields | None = None
    """The fields of integers of which only the high bits are coded, and the other bits follow."""
    folded: metadata_unit.FoldedNorm | None = None
    """The batch norm that was folded into this block."""

    @property
    def path(self) -> str:
        """What errors name."""
        return ", ".join(part.name for part in self.parts)

    @property
    def weights(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays that decoding it takes at its peak, as an upper bound.

        Each part has its values, and what is converted also int32 or float32 copies: integers, the parts of a block.
        So has what is made of several parts, or has its dimensions moved.
        """
        coded = 0
        for part in self.parts:
            dtype = dtypes.find(part.dtype)
            converted = dtype.kind != "f" or len(self.parts) > 1 or self.floats is not None
            symbols = self.pieces if isinstance(self.pieces, integer_pieces.IntegerSymbols) else None
            coded += part.size * (dtype.itemsize + (symbols.per_value if symbols else 4 * converted))
        roles = {part.role: part for part in self.parts}
        if "LS" in roles:
            coded += 8 * roles["G" if "G" in roles else "W"].size  # in float32, before and after
        made = [part for part in self.results() if self._is_made(part)]
        return coded + sum(math.prod(part.shape) * (4 + 2 * dtypes.find(part.dtype).itemsize) for part in made)

    def _is_made(self, result: Part) -> bool:
        """Whether a result is another array than what was coded."""
        return (result.role == "W" and self._is_moved) or all(part.name != result.name for part in self.parts)

    @property
    def _is_moved(self) -> bool:
        """Whether its matrix has other dimensions, or another order of them, than it is coded with."""
        header = self.unit.header
        return bool(header.first_tensor_dimension_shift) or header.concatenation_axis_index is not None

    @property
    def is_one_as_coded(self) -> bool:
        """Whether the unit gives one tensor whose elements are coded in their order, so that some of them can be had
        without the others. A square matrix shows by no shape that it was moved.
        """
        return len(self.parts) == 1 and not self._is_moved and self.results() == self.parts

    def results(self, *, parts: bool = False) -> tuple[Part, ...]:
        """The tensors that the unit gives, without their values. Spec, section 9.

        Local scaling goes into the rows of W (or G), G and H become W under their name without ``_G`` and ``_H``;
        factors of other names stay apart. With `parts`, all come as they were coded.
        """
        if parts:
            return self.parts
        if len(self.parts) == 1:
            return tensor_mapping.results(self.parts[0], self.unit)
        roles = {part.role: part for part in self.parts}
        kept = tuple(part for part in self.parts if part.role not in ("LS", "W", "G", "H"))
        kept += self.restored
        if "G" not in roles:
            return kept + tensor_mapping.results(roles["W"], self.unit)
        g, h = roles["G"], roles["H"]
        stem = g.name.removesuffix("_G")
        if (g.name, h.name) != (f"{stem}_G", f"{stem}_H"):
            return (*kept, g, h)
        shape = self.unit.context.dimensions_of(self.unit.header)
        return kept + tensor_mapping.results(g._replace(name=stem, role="W", shape=shape), self.unit)

    @property
    def restored(self) -> tuple[Part, ...]:
        """The vectors of a folded batch norm, which the unit does not code. A beta is among them where it is not the
        bias.
        """
        bias = next((part for part in self.parts if part.role == "BI"), None)
        if self.folded is None or bias is None or any(part.role.startswith("BN") for part in self.parts):
            return ()
        norm = self.folded
        named = {
            "BN_beta": norm.beta if norm.bias else None,
            "BN_gamma": norm.gamma,
            "BN_mean": norm.mean,
            "BN_var": norm.var,
        }
        return tuple(bias._replace(name=name, role=role) for role, name in named.items() if name)

    def error(self, reason: str) -> BitstreamError:
        """An error at this unit."""
        return BitstreamError(reason, bit=8 * self.unit.offset, path=self.path or "NNR_NDU")


def open_unit(unit: Unit) -> DataUnit:
    """What a data unit holds.

    Raises
    ------
    BitstreamError
        Its dimensions or its data format are not known, or contradict each other.
    """
    header, inputs = unit.header, unit.inputs
    payload_type = header.nnr_compressed_data_unit_payload_type
    shape = inputs.tensor_dimensions
    if shape is None:
        raise _error(unit, "its dimensions are neither in the stream nor given")
    code = header.nnr_decompressed_data_format
    dtype = _dtype(unit, code, payload_type)
    limbs = integer_limbs.FORMATS.get(code) if code is not None else None
    if limbs and (payload_type != PayloadType.INT or shape[:1] != (limbs.n_limbs,)):
        raise _error(unit, f"data format {code} is for integers in limbs, the dimensions are {list(shape)}")
    if limbs and (header.first_tensor_dimension_shift or len(unit.names) > 1):
        raise _error(unit, "integers in limbs cannot be joined or have their dimensions moved")
    floats = float_planes.FORMATS.get(code) if code is not None else None
    pieces = _PIECES.get(code) if code is not None else None
    if (floats or pieces) and (
        payload_type != PayloadType.INT or header.first_tensor_dimension_shift or len(unit.names) > 1
    ):
        raise _error(unit, f"data format {code} is for one tensor without loss")
    if dtypes.find(dtype).kind == "o" and payload_type != PayloadType.RAW_FLOAT and not pieces:
        raise _error(unit, f"data format {code} is for values that are stored as they are")
    integers = integer_planes.FORMATS.get(code) if code is not None else None
    if integers and (payload_type != PayloadType.INT or header.first_tensor_dimension_shift or len(unit.names) > 1):
        raise _error(unit, f"data format {code} is for the high bits of one integer tensor")
    if payload_type == PayloadType.BLOCK:
        return DataUnit(unit, _block_parts(unit, shape, dtype))
    part = Part(", ".join(unit.names), "W", shape[1:] if limbs else shape, dtype, shape, header.codebook)
    if len(unit.names) > 1 and header.concatenation_axis_index is None:
        raise _error(unit, "it holds several tensors and does not say how they are joined")
    return DataUnit(unit, (part,), limbs, floats, pieces, integers)


def _dtype(unit: Unit, code: int | None, payload_type: int) -> str:
    if code is None:
        if payload_type == PayloadType.INT:
            return "int32"
        # what the reference gives for codebooks
        return "float64" if unit.header.codebook is not None else "float32"
    if code in integer_limbs.FORMATS:
        return integer_limbs.FORMATS[code].dtype
    if code in float_planes.FORMATS:
        return float_planes.FORMATS[code].dtype
    if code in _PIECES:
        return _PIECES[code].dtype
    if code in integer_planes.FORMATS:
        return integer_planes.FORMATS[code].dtype
    try:
        return dtypes.by_code(code).name
    except ModelError as error:
        raise _error(unit, str(error)) from None


def _block_parts(unit: Unit, shape: tuple[int, ...], dtype: str) -> tuple[Part, ...]:
    """The parts of a BLOCK in the coding order of its payload; its names stand in another order. Spec, section 2."""
    types, header = ParameterTypes(unit.inputs.compressed_parameter_types), unit.header
    names = iter(unit.names)
    if types & ParameterTypes.DC:
        rows, rank = unit.inputs.g_number_of_rows or 1, unit.inputs.decomposition_rank or 1
        columns = math.prod(shape) // rows
        matrices = [
            Part(next(names), "G", (rows, rank), dtype, (rows, rank), header.codebook),
            Part(next(names), "H", (rank, columns), dtype, (rank, columns), header.codebook_h),
        ]
    else:
        matrices = [Part(next(names), "W", shape, dtype, shape, header.codebook)]
    vector = shape[:1]

    def vectors(kind: ParameterTypes, *roles: str) -> list[Part]:
        return [Part(next(names), role, vector, dtype, vector) for role in roles] if types & kind else []

    scaling = vectors(ParameterTypes.LS, "LS")
    norm = vectors(ParameterTypes.BN, "BN_beta", "BN_gamma", "BN_mean", "BN_var")
    bias = vectors(ParameterTypes.BI, "BI")
    return tuple(scaling + bias + norm + matrices)


def _error(unit: Unit, reason: str) -> BitstreamError:
    return BitstreamError(reason, bit=8 * unit.offset, path=", ".join(unit.names) or "NNR_NDU")


class StreamReader:
    """The units of a stream, and what its metadata units say.

    Iterating reads headers only. At the end it is known whether units are missing.

    Parameters
    ----------
    source : Source
    lenient : bool
        Pass over reserved unit types and values.
    context : Context, optional
        What is known of the stream's tensors before it is read.
    """

    def __init__(self, source: Source, *, lenient: bool = False, context: Context | None = None) -> None:
        self.source, self.lenient, self._context = source, lenient, context
        self.model_metadata = metadata_unit.ModelMetadata()
        self.crc32: tuple[int, int] | None = None
        """(checksum, offset of the unit that holds it): of all bytes before that offset."""
        self.pruning: Unit | None = None
        """The unit that says what was removed from the tensors."""
        self._has_parents = False
        self._graph_units: dict[int, Unit] = {}

    def __iter__(self) -> Iterator[Unit]:
        for unit in read_units(self.source, context=self._context, lenient=self.lenient):
            if unit.type in (UnitType.TPL, UnitType.QNT):
                self._take_topology(unit)
            yield unit
        if self.model_metadata.closed and self.crc32 is None:
            raise BitstreamError("the closing unit is missing: the stream is cut off", bit=8 * self.source.size)

    def data_units(self) -> Iterator[DataUnit]:
        """The data units, opened."""
        for unit in self:
            if unit.type == UnitType.NDU:
                yield self.open(unit)

    def open(self, unit: Unit) -> DataUnit:
        """What a data unit holds; see `open_unit`."""
        opened = open_unit(unit)
        self._has_parents = self._has_parents or bool(unit.header.parent_node_id_present_flag)
        norms = self.model_metadata.folded
        if not norms:
            return opened
        weights = (part.name.removesuffix("_G") if part.role == "G" else part.name for part in opened.parts)
        folded = next((norms[name] for name in weights if name in norms), None)
        return opened if folded is None else replace(opened, folded=folded)

    def graphs(self) -> tuple[Graph, ...]:
        """The topology and quantisation data of exchange formats that were passed so far.

        Raises
        ------
        BitstreamError
            They are deflated and damaged, or inflate beyond the limit.
        """
        return tuple(map(graph_units.graph_of, self._graph_units.values()))

    def warn_of_update(self, name: str) -> None:
        """Say so where the stream is an update, whose base the caller does not have: differences are no model.

        Parameters
        ----------
        name : str
            Of the stream, whose data units have been read.
        """
        if self._has_parents or self.model_metadata.update is not None:
            said = "is an update: without its base it gives differences, not the model (`nncjit apply BASE UPDATE`)"
            warnings.warn(f"{name}: {said}", NncWarning, stacklevel=3)

    def rebuilder(self, full_size: bool, max_bytes: int) -> Rebuilder:
        """What gives pruned tensors their full size, if that is wanted and they take no more than `max_bytes`."""
        if not full_size or self.pruning is None:
            return Rebuilder(None, {})
        return Rebuilder.read(self.pruning, self.model_metadata.full_shapes, max_bytes)

    def with_ties(self, items: Mapping[str, T]) -> dict[str, T]:
        """Items by name with those of tied tensors added, in the order of the model."""
        found = dict(items)
        for name, twin in self.model_metadata.tied.items():
            if twin in found:
                found.setdefault(name, found[twin])
        order = self.model_metadata.order
        if order and set(order) >= set(found):
            return {name: found[name] for name in order if name in found}
        return found

    def _take_topology(self, unit: Unit) -> None:
        content = metadata_unit.content_of(unit)
        if content is None:
            if unit.type == UnitType.TPL and unit.header.topology_storage_format == TopologyFormat.PRUN:
                self.pruning = unit
            elif graph_units.is_graph(unit):
                self._graph_units[unit.offset] = unit
            return
        crc32 = metadata_unit.checksum_in(content)
        if crc32 is not None:
            self.crc32 = crc32, unit.offset
        elif not self.model_metadata.closed:  # a later one is a closing unit that is damaged
            self.model_metadata = metadata_unit.ModelMetadata.of(content)


def tools_of(unit: Unit) -> tuple[str, ...]:
    """The coding tools that a data unit's header names, in plain words."""
    header = unit.header
    payload = header.nnr_compressed_data_unit_payload_type
    kind = {PayloadType.RAW_FLOAT: "raw", PayloadType.INT: "integer"}.get(payload)
    if header.nnr_decompressed_data_format in float_planes.FORMATS | float_pieces.FORMATS:
        kind = "lossless"
    tools = [kind or ("trellis" if header.dq_flag else "uniform")]
    if payload == PayloadType.BLOCK:
        tools.append("block")
    if header.codebook is not None:
        tools.append(f"codebook of {len(header.codebook.values)}")
    if header.scan_order:
        tools.append(f"{4 << header.scan_order}-row blocks")
    if header.parent_node_id_present_flag:
        tools.append("update")
    if header.temporal_context_modeling_flag:
        tools.append("temporal contexts")
    if unit.partial_data_counter is not None:
        tools.append("partial data")
    if unit.aggregate is not None:
        tools.append("aggregate")
    return tuple(tools)
