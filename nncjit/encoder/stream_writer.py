"""Coded units into a file: head, references, aggregates, partial data, checksum."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, BinaryIO

from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.grouping import Item, items_of
from nncjit.encoder.plan import Plan
from nncjit.encoder.table_transform import is_table
from nncjit.encoder.unit_encoder import CodedUnit
from nncjit.encoder.unit_payloads import Payload, pieces_of
from nncjit.model import Model
from nncjit.stages import staged
from nncjit.stream import metadata_unit
from nncjit.stream.graph_units import write_graphs
from nncjit.stream.pruning_masks import container_of
from nncjit.syntax import (
    MAX_UNIT_SIZE,
    AggregateType,
    CompressionFormat,
    Context,
    DataUnitWriter,
    LpsHeader,
    LpsPayload,
    MpsPayload,
    NduHeader,
    PartHead,
    QuantizationMethod,
    ReferenceList,
    StrHeader,
    TopologyFormat,
    TplHeader,
    UnitType,
    aggregate_units,
    split_heads,
    write_unit,
)

LARGEST_PAYLOAD = MAX_UNIT_SIZE - (1 << 24)
"""Bytes of a payload that is written in one unit; what is larger comes in parts. The rest is room for headers."""
SHORT = 1 << 16
"""Bytes that are copied rather than written by a call of their own."""


INDEX_BYTES = 2
"""Of a reference by index, at most, among less than 4,000."""
LIST_BYTES = 8
"""Of the unit that holds the list, beside the names."""
_LISTED = TplHeader(
    topology_storage_format=TopologyFormat.REFLIST, topology_compression_format=CompressionFormat.DEFLATE
)


@dataclass(frozen=True, slots=True)
class Group:
    """Units that stand in one aggregate, with their parameter set."""

    units: list[CodedUnit]
    base_qp: int


class StreamWriter:
    """A stream in the making. The head is written at once.

    Parameters
    ----------
    file : binary file
        Open for writing.
    model : Model
        For what the metadata unit tells of it.
    items : list of Item
        What will be put, in order: their names go into the reference list.
    plan : Plan
        Density and options.
    """

    def __init__(self, file: BinaryIO, model: Model, items: list[Item], plan: Plan) -> None:
        self._file, self._plan = file, plan
        self._size = self._crc32 = 0
        self._context, self._data_unit_writer = Context().growing(), DataUnitWriter()
        names = list(_names(items, plan)) if _has_indices(items, plan) else []
        self._index = {name: i for i, name in enumerate(names)} if len(names) > 1 else {}
        self._head(model, items)

    @staged("syntax")
    def _head(self, model: Model, items: list[Item]) -> None:
        options, pruning = self._plan.options.stream, self._plan.data.pruning
        self._unit(UnitType.STR, StrHeader(general_profile_idc=options.profile))
        parameters = MpsPayload(
            topology_carriage_flag=1,
            mps_topology_indexed_reference_flag=int(bool(self._index)),
            # readers in use want a method announced even where all is integer
            mps_quantization_method_flags=QuantizationMethod.UNIFORM,
            mps_qp_density=self._plan.density,
            mps_quantization_parameter=0,
        )
        self._unit(UnitType.MPS, None, parameters)
        stored = [tensor for item in items for tensor in item.all_tensors]
        self._unit(UnitType.TPL, metadata_unit.HEADER, _model_metadata(model, items, self._plan).to_bytes())
        for unit_type, header, data in write_graphs(model.graphs if options.compatible is None else ()):
            self._unit(unit_type, header, data)
        if self._index:
            self._unit(UnitType.TPL, _LISTED, ReferenceList(topology_elem_ids=tuple(self._index)))
        if pruning is not None:
            body = container_of(pruning, [tensor.name for tensor in stored])
            pruned = TplHeader(
                topology_storage_format=TopologyFormat.PRUN, topology_compression_format=CompressionFormat.DEFLATE
            )
            self._unit(UnitType.TPL, pruned, body)

    @staged("syntax")
    def put(self, coded: list[CodedUnit] | Group) -> list[int]:
        """Write units; the bytes of each."""
        if isinstance(coded, Group):
            return self._put_group(coded)
        sizes = []
        for unit in coded:
            before = self._size
            for head, start, stop in self._heads(unit):
                self._put_part(head, unit.payload, start, stop)
            sizes.append(self._size - before)
        return sizes

    def _put_part(self, head: bytes, payload: Payload, start: int, stop: int) -> None:
        """Write some bytes of a payload and what precedes them, a short payload together with that."""
        if isinstance(payload, bytes) and stop - start <= SHORT:
            self._write(head + payload[start:stop])
            return
        self._write(head)
        for piece in pieces_of(payload, start, stop):
            self._write(piece)

    def _put_group(self, group: Group) -> list[int]:
        outside = self._context
        self._context = outside.inside(AggregateType.SELF_CONTAINED)
        parameters = LpsPayload(lps_qp_density=self._plan.density, lps_quantization_parameter=group.base_qp)
        header = LpsHeader(lps_self_contained_flag=1)
        inner = [write_unit(UnitType.LPS, header, parameters, self._context)]
        self._context = self._context.after(UnitType.LPS, header, parameters)
        sizes = []
        for unit in group.units:
            parts = [b"".join((head, *pieces_of(unit.payload, *part))) for head, *part in self._heads(unit)]
            inner += parts
            sizes.append(sum(map(len, parts)))
        self._context = self._context.outside(outside)
        self._write(aggregate_units(inner, aggregate_type=AggregateType.SELF_CONTAINED, entry_points=True))
        return sizes

    def _heads(self, coded: CodedUnit) -> list[PartHead]:
        """What precedes the payload of a data unit, or those of its parts where it is too large for one unit."""
        header = self._referenced(coded.header)
        limit = self._plan.options.stream.max_unit_bytes
        if limit is None and len(coded.payload) > LARGEST_PAYLOAD:
            limit = LARGEST_PAYLOAD
        if limit is not None and len(coded.payload) > limit:
            parts = split_heads(UnitType.NDU, header, len(coded.payload), self._context, limit)
            self._context = self._context.after(UnitType.NDU, header)
            return parts
        head, self._context = self._data_unit_writer.head(header, len(coded.payload), self._context)
        return [PartHead(head, 0, len(coded.payload))]

    def _referenced(self, header: NduHeader) -> NduHeader:
        """The header with indices for names, where the stream has a list of them."""
        if not self._index:
            return header
        if header.topology_elem_id is not None:
            return replace(header, topology_elem_id=None, topology_elem_id_index=self._index[header.topology_elem_id])
        indices = tuple(self._index[name] for name in header.topology_elem_ids or ())
        return replace(header, topology_elem_ids=None, topology_elem_id_indices=indices)

    @staged("syntax")
    def finish(self) -> int:
        """Write the checksum; the bytes of the stream."""
        self._unit(UnitType.TPL, metadata_unit.HEADER, metadata_unit.checksum_body(self._crc32))
        return self._size

    def _unit(self, unit_type: UnitType, header: Any = None, body: Any = b"") -> None:
        self._write(write_unit(unit_type, header, body, self._context))
        self._context = self._context.after(unit_type, header, body)

    @staged("write")
    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._size += len(data)
        self._crc32 = zlib.crc32(data, self._crc32)


def frame_bytes(model: Model, plan: Plan) -> int:
    """Bytes of a stream beside its data units."""
    return StreamWriter(BytesIO(), model, items_of(model, plan), plan).finish()


def _model_metadata(model: Model, items: list[Item], plan: Plan) -> metadata_unit.ModelMetadata:
    """What the stream tells beside its tensors."""
    stored = [tensor.name for item in items for tensor in item.all_tensors]
    blocks = [inner.block for item in items for inner in (item, *item.members) if inner.block is not None]
    folded = [block for block in blocks if block.has_batchnorm] if plan.options.stream.fold_batchnorm else []
    before = plan.data.pruning.full_shapes if plan.data.pruning is not None else {}
    return metadata_unit.ModelMetadata(
        closed=True,
        metadata=model.metadata,
        tied={t.name: t.same_as for t in model if t.same_as is not None},
        order=() if stored == list(model.names) and not blocks else tuple(model.names),
        shards={t.name: t.shard for t in model if t.shard is not None},
        folded={block.weight: metadata_unit.FoldedNorm.of(block) for block in folded},
        full_shapes={name: before[name] for name in stored if name in before},
    )


def _has_indices(items: list[Item], plan: Plan) -> bool:
    """Whether units refer to tensors by index: where that is asked for, or where names would take more bytes in a
    calibrated stream. Readers without indices do not know the moved dimensions of its matrices either.
    """
    stream = plan.options.stream
    if stream.references != "auto":
        return stream.references == "index"
    if plan.data.metrics is None or stream.compatible is not None:
        return False
    names = [name.encode() for name in _names(items, plan)]
    used = [name for name in names if not name.endswith((b"_G", b"_H"))]  # in their stead the tensor's own
    listed = len(zlib.compress(b"\0".join(names), 9)) + LIST_BYTES
    return sum(len(name) + 1 for name in used) > listed + INDEX_BYTES * len(used)


def _names(items: list[Item], plan: Plan) -> Iterator[str]:
    """All names that units of these items may use."""
    metrics = plan.data.metrics
    for item in items:
        for tensor in item.all_tensors:
            yield tensor.name
            reducing = plan.choices[tensor.name].reducing
            record = metrics.record(tensor.info) if metrics is not None and is_matrix(tensor.shape) else None
            guessed = metrics is not None and metrics.is_guess and is_table(tensor.shape)
            is_transformed = guessed or (record is not None and record.kind == "table")
            if reducing.rank is not None or reducing.transform_tables or is_transformed:
                yield f"{tensor.name}_G"
                yield f"{tensor.name}_H"
            if reducing.scale_rows or plan.options.stream.fold_batchnorm or record is not None:
                yield f"{tensor.name}_scaling"
