"""The header of NNR_NDU, a data unit: one tensor or block. Spec, sections 2 and 11."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import OptionError
from nncjit.syntax.codebook_syntax import CodebookCode, CodebookSyntax
from nncjit.syntax.codes import FLAG, UE, Counted, Named, Packed, Pair, Text, U, at_most, known
from nncjit.syntax.constants import (
    MAX_DIMENSIONS,
    PRIVATE_DATA_FORMAT,
    DataFormat,
    ParameterTypes,
    ParentNodeIdType,
    PayloadType,
)
from nncjit.syntax.element_lists import IndexList, NameList, distinct
from nncjit.syntax.syntax_tables import Check, Table, row, table

MAX_SCAN_ORDER = 4
_DC = int(ParameterTypes.DC)  # plain integers: the operators of IntFlag are slow


class EntryPoints(NamedTuple):
    """The entry points of all matrices of a unit, as (value, dq_state, offset). Spec, sections 2 and 3.

    Value u(8); dq_state u(3) with dq_flag, else 0; offset ue(11), after the first the difference to the previous ie(7).
    """

    def read(self, bits: BitReader, t: Any, c: Any) -> tuple[tuple[int, int, int], ...]:
        points: list[tuple[int, int, int]] = []
        offset = -1
        n_state = 3 if t.dq_flag else 0
        for _ in range(c.count_entry_points(t)):
            word = bits.u(8 + n_state)
            value, state = word >> n_state, word & ((1 << n_state) - 1)
            offset = offset + bits.ie(7) if points else bits.ue(11)
            if offset < 0:
                raise bits.error(f"entry point {len(points)} has the offset {offset}")
            points.append((value, state, offset))
        return tuple(points)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        n = c.count_entry_points(t)
        if len(x) != n:
            raise OptionError(
                f"{bits.path}: has {len(x)} entry points, the shape and scan_order {t.scan_order} ask for {n}"
            )
        previous = None
        for value, state, offset in x:
            bits.u(8, value)
            if t.dq_flag:
                bits.u(3, state)
            if previous is None:
                bits.ue(11, offset)
            else:
                bits.ie(7, offset - previous)
            previous = offset


def _multiple(t: Any, c: Any) -> Any:
    return t.nnr_multiple_topology_elements_present_flag


def _indexed(t: Any, c: Any) -> Any:
    return c.mps.mps_topology_indexed_reference_flag


def _second_edition(t: Any, c: Any) -> bool:
    return bool(c.edition)


def _node(t: Any, c: Any) -> Any:
    return t.node_id_present_flag


def _parent(t: Any, c: Any) -> Any:
    return t.parent_node_id_present_flag


def _single(t: Any, c: Any) -> bool:
    return not t.nnr_multiple_topology_elements_present_flag


def _named(t: Any, c: Any) -> bool:
    return not c.mps.mps_topology_indexed_reference_flag


def _parent_ids(t: Any, c: Any) -> bool:
    return bool(t.parent_node_id_type == ParentNodeIdType.IDS)


def _parent_unlike_node(t: Any, c: Any) -> bool:
    return not t.node_id_present_flag


def _float_or_block(t: Any, c: Any) -> bool:
    return t.nnr_compressed_data_unit_payload_type in (PayloadType.FLOAT, PayloadType.BLOCK)


def _inputs(t: Any, c: Any) -> Any:
    return t.input_parameters_present_flag


def _dc(t: Any, c: Any) -> bool:
    return bool((t.compressed_parameter_types or 0) & _DC)


def _mapped(t: Any, c: Any) -> bool:
    return bool(
        t.nnr_multiple_topology_elements_present_flag and t.nnr_compressed_data_unit_payload_type != PayloadType.BLOCK
    )


def _matrix(t: Any, c: Any) -> bool:
    return len(c.dimensions_of(t)) > 1


def _dimensions(value: tuple[int, ...], t: Any, c: Any) -> str | None:
    return f"has {len(value)} dimensions, more than {MAX_DIMENSIONS}" if len(value) > MAX_DIMENSIONS else None


def _n_elements(t: Any) -> int:
    return (t.count_topology_elements_minus2 or 0) + 2


def _has_name(names: type[IntEnum]) -> Check:
    """A check: the value has a name. Never lenient: what would follow a reserved value is not known."""
    members = frozenset(names)
    return lambda value, t, c: None if value in members else f"is {value}, which is reserved"


def _shift(value: int, t: Any, c: Any) -> str | None:
    n = len(c.dimensions_of(t))
    return f"moves the first of {n} dimensions to {value}" if value >= n else None


def _is_block(t: Any) -> bool:
    return bool(t.nnr_compressed_data_unit_payload_type == PayloadType.BLOCK)


def _any_input(t: Any) -> bool:
    given = (t.tensor_dimensions, t.cabac_unary_length_minus1, t.concatenation_axis_index, t.decomposition_rank)
    return bool(t.compressed_parameter_types) or any(x is not None for x in given)


def _count_minus2(t: Any) -> int | None:
    elements = t.topology_elem_ids if t.topology_elem_ids is not None else t.topology_elem_id_indices
    return None if elements is None else len(elements) - 2


def _no_shifts(t: Any) -> tuple[tuple[()], ...] | None:
    return None if t.concatenation_axis_index is None else ((),) * _n_elements(t)


@table
class NduHeader(Table):
    """Compressed data unit header. Spec, sections 2 and 11.

    Presence flags and counts follow from the values that are given. Give the elements as one `topology_elem_id` (or
    `topology_elem_id_index`, where the MPS has mps_topology_indexed_reference_flag), or as a tuple of two and more in
    `topology_elem_ids` (or `topology_elem_id_indices`).
    """

    aligned = True

    nnr_compressed_data_unit_payload_type: int = row(Named(5, PayloadType), check=_has_name(PayloadType))
    nnr_multiple_topology_elements_present_flag: int = row(
        FLAG, derive=lambda t: int(t.topology_elem_ids is not None or t.topology_elem_id_indices is not None)
    )
    nnr_decompressed_data_format_present_flag: int = row(
        FLAG, derive=lambda t: int(t.nnr_decompressed_data_format is not None)
    )
    input_parameters_present_flag: int = row(FLAG, derive=lambda t: int(_any_input(t)))
    count_topology_elements_minus2: int | None = row(UE(7), when=_multiple, derive=_count_minus2)
    topology_elem_ids: tuple[str, ...] | None = row(NameList(), when=(_multiple, _named), check=distinct)
    topology_elem_id_indices: tuple[int, ...] | None = row(IndexList(), when=(_multiple, _indexed), check=distinct)
    topology_elem_id: str | None = row(Text(), when=(_single, _named))
    topology_elem_id_index: int | None = row(UE(7), when=(_single, _indexed))
    node_id_present_flag: int = row(FLAG, when=_second_edition, derive=lambda t: int(t.device_id is not None))
    device_id: int | None = row(UE(1), when=_node)
    parameter_id: int | None = row(UE(5), when=_node)
    put_node_depth: int | None = row(UE(4), when=_node)
    parent_node_id_present_flag: int = row(
        FLAG,
        when=lambda t, c: c.edition and c.mps.mps_parent_signalling_enabled_flag,
        derive=lambda t: int(t.parent_node_id_type is not None),
    )
    parent_node_id_type: int | None = row(Named(2, ParentNodeIdType), when=_parent, check=_has_name(ParentNodeIdType))
    temporal_context_modeling_flag: int = row(FLAG, when=_parent, derive=lambda t: 0)
    parent_device_id: int | None = row(UE(1), when=(_parent, _parent_ids))
    parent_parameter_id: int | None = row(UE(5), when=(_parent, _parent_ids, _parent_unlike_node))
    parent_put_node_depth: int | None = row(UE(4), when=(_parent, _parent_ids, _parent_unlike_node))
    parent_node_payload_sha256: bytes | None = row(
        Packed(lambda t: 256), when=(_parent, lambda t, c: t.parent_node_id_type == ParentNodeIdType.SHA256)
    )
    parent_node_payload_sha512: bytes | None = row(
        Packed(lambda t: 512), when=(_parent, lambda t, c: t.parent_node_id_type == ParentNodeIdType.SHA512)
    )
    codebook_present_flag: int = row(FLAG, when=_float_or_block, derive=lambda t: int(t.codebook is not None))
    codebook: CodebookSyntax | None = row(CodebookCode(), when=(_float_or_block, lambda t, c: t.codebook_present_flag))
    dq_flag: int = row(
        FLAG,
        when=lambda t, c: t.nnr_compressed_data_unit_payload_type != PayloadType.RAW_FLOAT,
        derive=lambda t: 0,
    )
    nnr_decompressed_data_format: int | None = row(
        Named(7, DataFormat),
        when=lambda t, c: t.nnr_decompressed_data_format_present_flag,
        check=known(DataFormat, private_from=PRIVATE_DATA_FORMAT),
    )
    tensor_dimensions_flag: int | None = row(FLAG, when=_inputs, derive=lambda t: int(t.tensor_dimensions is not None))
    cabac_unary_length_flag: int | None = row(
        FLAG, when=_inputs, derive=lambda t: int(t.cabac_unary_length_minus1 is not None)
    )
    compressed_parameter_types: int | None = row(
        U(4), when=_inputs, derive=lambda t: 0 if t.input_parameters_present_flag else None
    )
    decomposition_rank: int | None = row(UE(3), when=(_inputs, _dc))
    g_number_of_rows: int | None = row(UE(3), when=(_inputs, _dc))
    tensor_dimensions: tuple[int, ...] | None = row(
        Counted(UE(1), UE(7)), when=(_inputs, lambda t, c: t.tensor_dimensions_flag), check=_dimensions
    )
    concatenation_axis_index: int | None = row(U(8), when=(_inputs, _mapped))
    split_index: tuple[int, ...] | None = row(UE(7), when=(_inputs, _mapped), count=lambda t, c: _n_elements(t) - 1)
    shifts: tuple[tuple[tuple[int, int], ...], ...] | None = row(
        Counted(UE(1), Pair(UE(7), UE(1))),
        when=(_inputs, _mapped),
        count=lambda t, c: _n_elements(t),
        derive=_no_shifts,
    )
    cabac_unary_length_minus1: int | None = row(U(8), when=(_inputs, lambda t, c: t.cabac_unary_length_flag))
    codebook_h: CodebookSyntax | None = row(
        CodebookCode(), when=lambda t, c: _is_block(t) and t.codebook_present_flag and c.types_of(t) & _DC
    )
    first_tensor_dimension_shift: int = row(
        UE(1),
        when=(_matrix, _second_edition),
        check=_shift,
        derive=lambda t: 0,
    )
    scan_order: int = row(U(4), when=_matrix, check=at_most(MAX_SCAN_ORDER), derive=lambda t: 0)
    entry_points: tuple[tuple[int, int, int], ...] = row(
        EntryPoints(), when=(_matrix, lambda t, c: t.scan_order), derive=lambda t: ()
    )

    def problem(self, context: Any) -> str | None:
        """What is wrong with the unit's dimensions and elements, or None."""
        problem: str | None = context.inputs_of(self).problem(self)
        return problem

    def with_name(self, name: str) -> NduHeader:
        """The header of another element, which has a name as this one has: nothing else hangs on it."""
        header = object.__new__(NduHeader)
        values = header.__dict__
        values.update(self.__dict__)
        values["topology_elem_id"] = name
        return header

    def at_node(self, node: tuple[int, int, int], **parent: Any) -> NduHeader:
        """The header of a unit at another node, (device_id, parameter_id, put_node_depth), with these fields of a
        parent; without them it has none.
        """
        header = object.__new__(NduHeader)
        values = header.__dict__
        values.update(self.__dict__, node_id_present_flag=1, parent_node_id_present_flag=int(bool(parent)), **parent)
        values["device_id"], values["parameter_id"], values["put_node_depth"] = node
        return header

    @property
    def node(self) -> tuple[int, int, int] | None:
        """(device_id, parameter_id, put_node_depth), or None."""
        if self.device_id is None:
            return None
        return self.device_id, self.parameter_id or 0, self.put_node_depth or 0

    @property
    def parent(self) -> tuple[int | bytes | None, ...] | None:
        """What names the parent node, or None: ids (those not repeated are None) or a hash."""
        if not self.parent_node_id_present_flag:
            return None
        if self.parent_node_id_type == ParentNodeIdType.IDS:
            return self.parent_device_id, self.parent_parameter_id, self.parent_put_node_depth
        return (self.parent_node_payload_sha256 or self.parent_node_payload_sha512,)
