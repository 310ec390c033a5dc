"""What a unit must know of the units before it, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nncjit.syntax.constants import (
    LAST_PROFILE,
    AggregateType,
    ParameterTypes,
    PayloadType,
    UnitType,
)
from nncjit.syntax.earlier_units import DataUnitEntry, EarlierUnits
from nncjit.syntax.input_parameters import NOTHING_KNOWN, InputParameters
from nncjit.syntax.ndu import NduHeader
from nncjit.syntax.parameter_sets import LpsPayload, MpsPayload, StrHeader
from nncjit.syntax.syntax_tables import UnknownError
from nncjit.syntax.topology import ReferenceList, TplHeader

_DC = int(ParameterTypes.DC)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """What came before a unit, and what the caller knows. Spec, section 2.

    Parameters
    ----------
    profile : int or None
        general_profile_idc; None before NNR_STR.
    mps, lps : MpsPayload, LpsPayload or None
        The parameter sets in force.
    topology : TplHeader or None
        The latest topology unit.
    element_names : tuple of str or None
        The reference list (TPL format 6): names by index.
    known : mapping of str to InputParameters
        From the caller: shapes and more of tensors whose units do not say them.
    lenient : bool
        Let reserved values through.
    aggregate : int or None
        nnr_aggregate_unit_type inside an aggregate unit.
    """

    profile: int | None = None
    mps: MpsPayload | None = None
    lps: LpsPayload | None = None
    topology: TplHeader | None = None
    element_names: tuple[str, ...] | None = None
    known: Mapping[str, InputParameters] = field(default_factory=dict)
    lenient: bool = False
    aggregate: int | None = None
    earlier: EarlierUnits = field(default_factory=EarlierUnits, repr=False)
    mark: int | None = 0
    """How many of the earlier data units it sees; None: all, also those that are still to come."""

    @property
    def seen(self) -> int:
        """How many earlier data units there are."""
        return self.earlier.length if self.mark is None else self.mark

    @property
    def edition(self) -> int:
        """0 or 1: which syntax holds."""
        return min(self.profile or 0, LAST_PROFILE)

    @property
    def qp_density(self) -> int | None:
        """qp_density in force: the LPS's, else the MPS's."""
        if self.lps is not None and self.lps.lps_qp_density is not None:
            return self.lps.lps_qp_density
        return self.mps.mps_qp_density if self.mps is not None else None

    @property
    def quantization_parameter(self) -> int | None:
        """quantization_parameter in force: the LPS's, else the MPS's."""
        if self.lps is not None and self.lps.lps_quantization_parameter is not None:
            return self.lps.lps_quantization_parameter
        return self.mps.mps_quantization_parameter if self.mps is not None else None

    def names_of(self, header: Any) -> tuple[str, ...]:
        """The element names of a data unit; an index without a reference list gives ``#index``."""
        if header.topology_elem_id is not None:
            return (header.topology_elem_id,)
        if header.topology_elem_ids is not None:
            return tuple(header.topology_elem_ids)
        if header.topology_elem_id_indices is None and header.topology_elem_id_index is None:
            raise UnknownError("no element is named")
        indices = header.topology_elem_id_indices or (header.topology_elem_id_index,)
        if self.element_names is None:
            return tuple(f"#{i}" for i in indices)
        beyond = [i for i in indices if i >= len(self.element_names)]
        if beyond:
            raise UnknownError(f"element {beyond[0]} is beyond the reference list of {len(self.element_names)}")
        return tuple(self.element_names[i] for i in indices)

    def inputs_of(self, header: Any) -> InputParameters:
        """The parameters of a data unit: its own, else an earlier unit's for the same tensor, else the caller's."""
        return InputParameters.of(header, self.inputs_by_name(self.names_of(header)[0]) or NOTHING_KNOWN)

    def inputs_by_name(self, name: str) -> InputParameters | None:
        """What an earlier unit, else the caller, says of a tensor."""
        return self.earlier.inputs(name, self.seen) or self.known.get(name)

    def types_of(self, header: Any) -> int:
        """compressed_parameter_types of a data unit."""
        own: int | None = header.compressed_parameter_types
        return self.inputs_of(header).compressed_parameter_types if own is None else own

    def dimensions_of(self, header: Any) -> tuple[int, ...]:
        """tensor_dimensions of a data unit.

        Raises
        ------
        UnknownError
            They are neither in the unit nor known.
        """
        dims = header.tensor_dimensions
        if dims is None:
            dims = self.inputs_of(header).tensor_dimensions
        if dims is None:
            raise UnknownError(f"the dimensions of {self.names_of(header)[0]!r} are neither in the stream nor given")
        return tuple(dims)

    def count_entry_points(self, header: Any) -> int:
        """How many entry points the header lists: for each matrix its block rows but the first. Spec, section 2.

        The number follows from the rows alone: a matrix of width 1, though coded without blocks, has its share.
        """
        rows = [self.dimensions_of(header)[0]]
        block = header.nnr_compressed_data_unit_payload_type == PayloadType.BLOCK
        if block and self.types_of(header) & _DC:
            inputs = self.inputs_of(header)
            if inputs.g_number_of_rows is None or inputs.decomposition_rank is None:
                raise UnknownError("the rank and the rows of G are neither in the stream nor given")
            rows = [inputs.g_number_of_rows, inputs.decomposition_rank]
        side = 4 << header.scan_order
        return sum(max(-(-r // side) - 1, 0) for r in rows)

    def problem(self, unit_type: int, header: Any = None) -> str | None:
        """Why a unit of this type and header may not stand here, or None. Spec, section 2 (order of units)."""
        if unit_type == UnitType.STR:
            return None if self.profile is None else "a second NNR_STR"
        if self.profile is None:
            return f"not an NNC bitstream: it starts with a unit of type {unit_type}, not with NNR_STR"
        if unit_type == UnitType.MPS:
            return None if self.mps is None else "a second NNR_MPS"
        if self.mps is None:
            return f"a unit of type {unit_type} before NNR_MPS"
        if unit_type == UnitType.TPL and not self.mps.topology_carriage_flag and not self.lenient:
            return "NNR_TPL although topology_carriage_flag is 0"
        if unit_type == UnitType.NDU:
            return self._ndu_problem(header)
        return None

    def _ndu_problem(self, header: Any) -> str | None:
        if self.mps is not None and self.mps.topology_carriage_flag and self.topology is None:
            return "NNR_NDU before NNR_TPL although topology_carriage_flag is 1"
        if header is None:
            return None
        return self.repeated(self.entry_of(header))

    def repeated(self, entry: DataUnitEntry) -> str | None:
        """Which of a data unit's elements the stream holds already, or None."""
        for key in entry.keys:
            if self.earlier.holds(key, self.seen):
                return f"the element {key[0]!r} is in the stream already"
        return None

    def entry_of(self, header: NduHeader, inputs: InputParameters | None = None) -> DataUnitEntry:
        """What the stream will hold with this data unit, whose parameters may be known already.

        Elements differ in name, node, parent or types; G and H, each in a unit of its own, may share them.
        """
        names, inputs = self.names_of(header), inputs or self.inputs_of(header)
        types = inputs.compressed_parameter_types
        rest = (header.node, header.parent, types)
        keys = tuple([(name, *rest, 0) for name in names])
        twins = types & _DC and header.nnr_compressed_data_unit_payload_type != PayloadType.BLOCK
        if twins and self.earlier.holds(keys[0], self.seen):
            keys = tuple([(name, *rest, 1) for name in names])
        return DataUnitEntry(names, keys, inputs)

    def after(self, unit_type: int, header: Any = None, body: Any = None) -> Context:
        """The context of the unit that follows one of this type, header and body."""
        if unit_type == UnitType.STR:
            assert isinstance(header, StrHeader)
            return replace(self, profile=header.general_profile_idc)
        if unit_type == UnitType.MPS:
            return replace(self, mps=body)
        if unit_type == UnitType.LPS:
            return replace(self, lps=body)
        if unit_type == UnitType.TPL:
            names = body.topology_elem_ids if isinstance(body, ReferenceList) else self.element_names
            return replace(self, topology=header, element_names=names)
        if unit_type == UnitType.NDU:
            return self.with_entry(self.entry_of(header))
        return self

    def with_entry(self, entry: DataUnitEntry) -> Context:
        """The context of the unit that follows a data unit; a growing one is the same object."""
        if self.mark is None:
            self.earlier.plus(self.seen, entry)
            return self
        return replace(self, earlier=self.earlier.plus(self.seen, entry), mark=self.seen + 1)

    def growing(self) -> Context:
        """The same for who reads or writes a stream, and adds to `earlier` itself: nobody else sees what it adds."""
        return replace(self, earlier=self.earlier.first(self.seen), mark=None)

    def with_only(self, entry: DataUnitEntry) -> Context:
        """The same where there was no data unit but one."""
        return replace(self, earlier=EarlierUnits().plus(0, entry), mark=1)

    def at(self, mark: int) -> Context:
        """A growing context as it was when there were so many data units."""
        return self if self.mark is not None else replace(self, mark=mark)

    def inside(self, aggregate_type: int) -> Context:
        """The context at the start of an aggregate's payload. A self-contained one sees no LPS from outside."""
        lps = None if aggregate_type == AggregateType.SELF_CONTAINED else self.lps
        return replace(self, aggregate=aggregate_type, lps=lps)

    def outside(self, before: Context) -> Context:
        """The context after an aggregate that stood at `before`: an LPS inside it has ended."""
        return replace(self, aggregate=before.aggregate, lps=before.lps)
