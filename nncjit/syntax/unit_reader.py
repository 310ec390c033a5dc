"""Reading a stream unit by unit, lazily, with the rules about their order. Spec, sections 2 and 11."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from nncjit.bits import BitReader, EndOfDataError, Source, as_source
from nncjit.errors import BitstreamError
from nncjit.syntax import syntax_tables
from nncjit.syntax.constants import MAX_INFLATED, UnitType
from nncjit.syntax.context import Context
from nncjit.syntax.earlier_units import DataUnitEntry
from nncjit.syntax.input_parameters import NOTHING_KNOWN, InputParameters
from nncjit.syntax.ndu import NduHeader
from nncjit.syntax.payloads import is_reference_list
from nncjit.syntax.repeated_headers import RepeatedHeaders
from nncjit.syntax.syntax_tables import Table
from nncjit.syntax.unit import HEADERS, Unit, UnitHeader

WINDOW = 4096
"""Bytes read at first to parse a unit's head; more where the head is longer."""

_KNOWN = frozenset(UnitType)
_MAY_BE_PARTIAL = (UnitType.TPL, UnitType.QNT, UnitType.NDU)
_LARGEST_START = 16  # generous: 6 are enough for every NNR_STR
_ONLY_OUTSIDE = (UnitType.STR, UnitType.MPS, UnitType.AGG)


def read_units(
    source: Any, *, context: Context | None = None, lenient: bool = False, limit: int = MAX_INFLATED
) -> Iterator[Unit]:
    """The units of a stream in their order, each parsed when it is asked for; tensor payloads are not read.

    An aggregate unit comes first and then the units inside it, whose `aggregate` is that unit. A payload in parts comes
    as one unit when its last part has arrived.

    Parameters
    ----------
    source : bytes-like, path, binary file object or Source
        The stream. It must stay open and unchanged as long as units are used.
    context : Context, optional
        What the caller knows: shapes and more of tensors whose units do not say them (`Context.known`).
    lenient : bool
        Skip reserved unit types, take newer profiles as the second edition, let reserved values and NaN through.
    limit : int
        Most bytes that compressed topology or quantisation data may inflate to.

    Raises
    ------
    BitstreamError
        While iterating, where the stream breaks a rule.
    ModelError
        The source cannot be opened.
    """
    opened = as_source(source)
    context = context or Context()
    return _Walk(opened, replace(context.growing(), lenient=lenient or context.lenient), limit).stream()


@dataclass(slots=True)
class _Parts:
    """A payload whose last part has not arrived."""

    unit: Unit
    due: int  # counter of the next part


class _Walk:
    """The state of one reading: the context, and the payloads in parts that are not whole yet."""

    def __init__(self, source: Source, context: Context, limit: int) -> None:
        self.source, self.context, self.limit = source, context, limit
        self.bits = BitReader(b"")
        self.window = range(0)  # which bytes of the stream `bits` holds
        self.parts: dict[Any, _Parts] = {}
        self.repeated = RepeatedHeaders()

    def stream(self) -> Iterator[Unit]:
        """All units, and what must hold at the end."""
        yield from self.units(0, self.source.size, None)
        mps = self.context.mps
        for pending in self.parts.values():
            reason = f"the stream ends before part {pending.due} (the parts count down to 1)"
            raise BitstreamError(reason, bit=8 * self.source.size, path=_label(pending.unit))
        if mps is None or (mps.topology_carriage_flag and self.context.topology is None):
            missing = "NNR_MPS" if mps is None else "NNR_TPL"
            raise EndOfDataError(f"the stream ends before {missing}", bit=8 * self.source.size)

    def units(self, start: int, stop: int, aggregate: Unit | None) -> Iterator[Unit]:
        """The units between two bytes."""
        n = 0
        while start < stop:
            head, header, inputs, payload_start = self._head(start, stop, aggregate)
            if aggregate is not None:
                _check_entry(aggregate, n, head.nnr_unit_type, start)
            n += 1
            end = start + head.nnr_unit_size
            if head.nnr_unit_type in _KNOWN:
                entry = self.context.entry_of(header, inputs) if head.nnr_unit_type == UnitType.NDU else None
                unit = self._unit(head, header, entry, (start, payload_start, end), aggregate)
                if unit is not None:
                    yield unit
                    if unit.type == UnitType.AGG:
                        yield from self._inside(unit)
            start = end
        if aggregate is not None and n != aggregate.header.num_of_nnr_units_minus2 + 2:
            reason = f"holds {n} units, its header says {aggregate.header.num_of_nnr_units_minus2 + 2}"
            raise BitstreamError(reason, bit=8 * aggregate.offset, path="AGG")

    def _inside(self, aggregate: Unit) -> Iterator[Unit]:
        before = self.context
        self.context = before.inside(aggregate.header.nnr_aggregate_unit_type)
        yield from self.units(aggregate.payload_start, aggregate.payload_stop, aggregate)
        self.context = self.context.outside(before)

    def _unit(
        self,
        head: UnitHeader,
        header: Any,
        entry: DataUnitEntry | None,
        place: tuple[int, int, int],
        aggregate: Unit | None,
    ) -> Unit | None:
        """The unit at a place (its first byte, that of its payload, its end); None where more parts are to come."""
        start, payload_start, end = place
        unit = Unit(
            type=UnitType(head.nnr_unit_type),
            offset=start,
            size=end - start,
            nnr_unit_size_flag=head.nnr_unit_size_flag,
            independently_decodable_flag=head.independently_decodable_flag,
            partial_data_counter=head.partial_data_counter,
            header=header,
            place=self.context,
            mark=self.context.seen,
            pieces=((payload_start, end),),
            names=() if entry is None else entry.names,
            inputs=NOTHING_KNOWN if entry is None else entry.inputs,
            aggregate=aggregate,
            source=self.source,
            limit=self.limit,
        )
        return self._joined(unit, entry) if head.partial_data_counter_present_flag else self._accepted(unit, entry)

    def _head(
        self, start: int, stop: int, aggregate: Unit | None
    ) -> tuple[UnitHeader, Any, InputParameters | None, int]:
        """The unit header, the header of the unit's type, its parameters where they are known already, and the first
        byte after the headers. The window grows as needed.
        """
        unit_end = stop
        if start not in self.window:
            self._load(start, WINDOW)
        while True:
            bits, first = self.bits, self.window.start
            bits.pos = begin = 8 * (start - first)
            bits.stop_at(stop - first)
            try:
                head = syntax_tables.read(UnitHeader, bits, self.context)
                unit_end = start + self._checked_size(head, begin, stop - start, aggregate)
                bits.stop_at(unit_end - first)
                header, inputs = self._type_header(head.nnr_unit_type)
            except EndOfDataError:
                if self.window.stop >= unit_end:
                    raise
                self._load(start, max(WINDOW, 8 * (self.window.stop - start)))
                continue
            if head.nnr_unit_type == UnitType.STR and bits.left:
                raise bits.error(f"the unit goes on for {bits.left // 8} bytes after its end")
            return head, header, inputs, first + bits.pos // 8

    def _type_header(self, unit_type: int) -> tuple[Table | None, InputParameters | None]:
        """The header of a unit's type, and the unit's parameters where they are known already."""
        if unit_type != UnitType.NDU:
            table = HEADERS.get(unit_type)
            return None if table is None else syntax_tables.read(table, self.bits, self.context), None
        found = self.repeated.find(self.bits, self.context)
        if found is not None:
            return found
        start = self.bits.pos
        header = syntax_tables.read(NduHeader, self.bits, self.context)
        self.repeated.keep(self.bits, start, header, self.context)
        return header, None

    def _load(self, start: int, n_bytes: int) -> None:
        """Hold the bytes from `start` on."""
        self.window = range(start, min(start + n_bytes, self.source.size))
        self.bits = BitReader(self.source.read(start, self.window.stop), bit=8 * start)

    def _checked_size(self, head: UnitHeader, begin: int, left: int, aggregate: Unit | None) -> int:
        reason = self._size_problem(head, begin, left, aggregate)
        if reason:
            self.bits.path = "UnitHeader"
            raise self.bits.error(reason, pos=begin)
        return head.nnr_unit_size

    def _size_problem(self, head: UnitHeader, begin: int, left: int, aggregate: Unit | None) -> str | None:
        """Why a unit of this type and size may not stand here, or None."""
        unit_type, size = head.nnr_unit_type, head.nnr_unit_size
        if unit_type in _KNOWN or self.context.profile is None:
            reason = self.context.problem(unit_type)
            if reason:
                return reason
        elif not self.context.lenient:
            return f"unit type {unit_type} is {'private' if unit_type >= 32 else 'reserved'} and not known"
        if unit_type == UnitType.STR and size > _LARGEST_START:
            return f"not an NNC bitstream: it starts with {size} bytes of NNR_STR"
        if aggregate is not None and unit_type in _ONLY_OUTSIDE:
            return f"NNR_{UnitType(unit_type).name} inside an aggregate unit"
        if size > left:
            return f"the unit has {size} bytes, {left} left"
        if 8 * size < self.bits.pos - begin:
            return f"the unit has {size} bytes, less than its header"
        if head.partial_data_counter_present_flag and unit_type not in _MAY_BE_PARTIAL and unit_type in _KNOWN:
            return f"NNR_{UnitType(unit_type).name} comes in parts, which is not supported"
        return None

    def _accepted(self, unit: Unit, entry: DataUnitEntry | None) -> Unit:
        """The unit, once its place in the stream is checked and the context holds it."""
        context = self.context
        reason = context.problem(unit.type, unit.header) if entry is None else context.repeated(entry)
        if reason:
            raise BitstreamError(reason, bit=8 * unit.offset, path=_label(unit))
        if entry is None:
            self.context = context.after(unit.type, unit.header, unit.body if _is_eager(unit) else None)
        else:
            context.with_entry(entry)
        return unit

    def _joined(self, unit: Unit, entry: DataUnitEntry | None) -> Unit | None:
        """The whole unit where this was the last part, else None."""
        counter = unit.partial_data_counter
        if not counter:
            reason = "the partial data counter is 0; the last part has 1"
            raise BitstreamError(reason, bit=8 * unit.offset, path=_label(unit))
        key = _part_key(unit)
        pending = self.parts.get(key)
        if pending is None:
            if entry is not None:  # from its first part on: the later parts may leave the shape to it
                self._accepted(unit, entry)
        elif pending.due != counter:
            reason = f"is part {counter}, but part {pending.due} is due (the parts count down to 1)"
            raise BitstreamError(reason, bit=8 * unit.offset, path=_label(unit))
        else:
            size, pieces = pending.unit.size + unit.size, pending.unit.pieces + unit.pieces
            unit = replace(pending.unit, size=size, pieces=pieces)
        if counter > 1:
            self.parts[key] = _Parts(unit, counter - 1)
            return None
        self.parts.pop(key, None)
        return unit if entry is not None else self._accepted(unit, None)


def _is_eager(unit: Unit) -> bool:
    """Whether the units that follow hang on what this one's payload says."""
    return unit.type in (UnitType.MPS, UnitType.LPS) or is_reference_list(unit.header)


def _part_key(unit: Unit) -> Any:
    """What the parts of one payload have in common."""
    if unit.type == UnitType.NDU:
        return unit.type, unit.names, unit.header.node, unit.header.nnr_compressed_data_unit_payload_type
    return unit.type, unit.header


def _label(unit: Unit) -> str:
    return f"{unit.type.name} {unit.names[0]!r}" if unit.names else unit.type.name


def _check_entry(aggregate: Unit, n: int, unit_type: int, start: int) -> None:
    points = aggregate.header.entry_points
    if points is None or n >= len(points):
        return
    if tuple(points[n]) != (unit_type, start - aggregate.offset):
        reason = f"entry point {n} is type {int(points[n][0])} at byte {points[n][1]}, the unit there is type "
        reason += f"{int(unit_type)} at byte {start - aggregate.offset}"
        raise BitstreamError(reason, bit=8 * aggregate.offset, path="AggHeader.entry_points")
