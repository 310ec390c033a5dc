"""The stream of an update: head, data units with their nodes and parents, checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from nncjit.encoder.unit_encoder import CodedUnit
from nncjit.stages import staged
from nncjit.stream import metadata_unit
from nncjit.stream.metadata_unit import ModelMetadata
from nncjit.syntax import (
    Context,
    MpsPayload,
    NduHeader,
    ParentNodeIdType,
    QuantizationMethod,
    StrHeader,
    UnitType,
    write_unit,
)
from nncjit.syntax.input_parameters import DEFAULT_UNARY_LENGTH_MINUS1
from nncjit.updates.chain_state import Parameter

_READ = 1 << 20
PARENT_TYPES = {
    "ids": ParentNodeIdType.IDS,
    "sha256": ParentNodeIdType.SHA256,
    "sha512": ParentNodeIdType.SHA512,
}


@dataclass(frozen=True, slots=True)
class Node:
    """Where a unit stands in the parameter update tree."""

    device: int
    parameter: int
    depth: int
    parent: Parameter | None
    """What the unit is a difference to."""
    parents: str = "ids"

    def header(self, header: NduHeader) -> NduHeader:
        """The header of a unit at this node."""
        fields: dict[str, Any] = {}
        if self.parent is not None:
            fields["parent_node_id_type"] = PARENT_TYPES[self.parents]
            if self.parents == "ids":
                fields["parent_device_id"] = self.device
            else:
                fields[f"parent_node_payload_{self.parents}"] = self.parent.parent_hash(self.parents)
        return header.at_node((self.device, self.parameter, self.depth), **fields)


class UpdateWriter:
    """An update in the making.

    Parameters
    ----------
    file : binary file
        Open for reading and writing, seekable, empty.
    mps : MpsPayload
    metadata : ModelMetadata
        Of its final size: only digests may change until `finish`.
    names : sequence of str
        The names of the receiver's tensors, in their order, where indices shall stand for them.
    """

    def __init__(
        self,
        file: BinaryIO,
        mps: MpsPayload,
        metadata: ModelMetadata,
        names: Sequence[str] = (),
    ) -> None:
        self._file, self._mps = file, mps
        self._index = {name: i for i, name in enumerate(names)}
        self._context = Context(element_names=tuple(names) or None)
        self._start = self._context
        self._head_size = self._head(metadata)

    def _head(self, metadata: ModelMetadata) -> int:
        self._context = self._start
        return (
            self._unit(UnitType.STR, StrHeader(general_profile_idc=1))
            + self._unit(UnitType.MPS, None, self._mps)
            + self._unit(UnitType.TPL, metadata_unit.HEADER, metadata.to_bytes())
        )

    @staged("syntax")
    def put(self, coded: CodedUnit, node: Node) -> int:
        """Write a unit; its bytes."""
        header = node.header(coded.header)
        name = header.topology_elem_id
        if self._index and name in self._index:
            header = replace(header, topology_elem_id=None, topology_elem_id_index=self._index[name])
            if header.cabac_unary_length_minus1 == DEFAULT_UNARY_LENGTH_MINUS1:
                header = replace(header, cabac_unary_length_minus1=None, cabac_unary_length_flag=None)
        return self._unit(UnitType.NDU, header, coded.payload)

    @staged("syntax")
    def finish(self, metadata: ModelMetadata) -> int:
        """Write the head again, with the digests that are known now, and the checksum; the bytes of the stream."""
        context = self._context
        self._file.seek(0)
        if self._head(metadata) != self._head_size:
            raise AssertionError("the head has another size")
        self._context = context
        self._file.seek(0)
        crc32 = 0
        while piece := self._file.read(_READ):
            crc32 = zlib.crc32(piece, crc32)
        self._unit(UnitType.TPL, metadata_unit.HEADER, metadata_unit.checksum_body(crc32))
        return self._file.tell()

    def _unit(self, unit_type: UnitType, header: Any = None, body: Any = b"") -> int:
        data = write_unit(unit_type, header, body, self._context)
        self._file.write(data)
        self._context = self._context.after(unit_type, header, body)
        return len(data)


def parameter_set(density: int, *, base_model_id: str, predict: bool, indexed: bool) -> MpsPayload:
    """The MPS of an update."""
    return MpsPayload(
        topology_carriage_flag=1,
        mps_topology_indexed_reference_flag=int(indexed),
        mps_quantization_method_flags=QuantizationMethod.UNIFORM,
        base_model_id=base_model_id or None,
        mps_parent_signalling_enabled_flag=1,
        nnr_pre_flag=int(predict),
        mps_qp_density=density,
        mps_quantization_parameter=0,
    )
