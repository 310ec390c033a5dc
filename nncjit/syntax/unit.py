"""A unit of a stream: its header, and where its payload lies. Spec, section 2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter, Source
from nncjit.syntax.aggregate import AggHeader
from nncjit.syntax.codes import FLAG, Named, U
from nncjit.syntax.compiled_reader import Statements
from nncjit.syntax.constants import UnitType
from nncjit.syntax.context import Context
from nncjit.syntax.input_parameters import NOTHING_KNOWN, InputParameters
from nncjit.syntax.ndu import NduHeader
from nncjit.syntax.parameter_sets import LpsHeader, StrHeader
from nncjit.syntax.payloads import body_table, is_deflated, read_body
from nncjit.syntax.syntax_tables import Table, describe_table, plain, row, table
from nncjit.syntax.topology import QntHeader, TplHeader

HEADERS: dict[int, type[Table]] = {
    UnitType.STR: StrHeader,
    UnitType.LPS: LpsHeader,
    UnitType.TPL: TplHeader,
    UnitType.QNT: QntHeader,
    UnitType.NDU: NduHeader,
    UnitType.AGG: AggHeader,
}
"""The header table of each unit type; NNR_MPS has none."""

WITH_BODY = (UnitType.MPS, UnitType.LPS, UnitType.TPL, UnitType.QNT)


class _Size(NamedTuple):
    """nnr_unit_size: u(15), or u(31) with the flag."""

    def compile(self, code: Statements) -> str:
        return code.take("(31 if t.nnr_unit_size_flag else 15)")

    def read(self, bits: BitReader, t: Any, c: Any) -> int:
        return bits.u(31 if t.nnr_unit_size_flag else 15)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.u(31 if t.nnr_unit_size_flag else 15, x)


@table
class UnitHeader(Table):
    """What every unit starts with. Spec, section 2."""

    nnr_unit_size_flag: int = row(FLAG)
    nnr_unit_size: int = row(_Size())
    nnr_unit_type: int = row(Named(6, UnitType))
    independently_decodable_flag: int = row(FLAG)
    partial_data_counter_present_flag: int = row(FLAG, derive=lambda t: int(t.partial_data_counter is not None))
    partial_data_counter: int | None = row(U(8), when=lambda t, c: t.partial_data_counter_present_flag)


_UNREAD = object()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """One unit as it lies in its source; partial data units of one payload are joined to one.

    Attributes
    ----------
    type : UnitType
    offset, size : int
        First byte in the stream and number of bytes (of all parts together, where the payload came in parts).
    nnr_unit_size_flag, independently_decodable_flag : int
    partial_data_counter : int or None
        Of the unit header, or of the first part's: how many parts there are; None for a unit in one piece.
    header : Table or None
        StrHeader, LpsHeader, TplHeader, QntHeader, NduHeader or AggHeader; NNR_MPS has none.
    place, mark : Context, int
        The context of the reader, and how many data units there were before this one; see `context`.
    pieces : tuple of (start, stop)
        Where the payload's bytes lie in the stream.
    names : tuple of str
        Element names of a data unit, through the reference list where they are indices; empty for other units.
    inputs : InputParameters
        Dimensions, unary length and types of a data unit, from wherever they are known.
    aggregate : Unit or None
        The aggregate unit around this one.
    """

    type: UnitType
    offset: int
    size: int
    nnr_unit_size_flag: int
    independently_decodable_flag: int
    partial_data_counter: int | None
    header: Any
    place: Context = field(repr=False)
    mark: int
    pieces: tuple[tuple[int, int], ...]
    names: tuple[str, ...] = ()
    inputs: InputParameters = NOTHING_KNOWN
    aggregate: Unit | None = None
    source: Source = field(repr=False)
    limit: int = field(repr=False)
    _body: Any = field(default=_UNREAD, init=False, repr=False)

    @property
    def context(self) -> Context:
        """What came before the unit."""
        return self.place.at(self.mark)

    @property
    def unit_header(self) -> UnitHeader:
        """Of the unit, or of the first part."""
        return UnitHeader(
            nnr_unit_size_flag=self.nnr_unit_size_flag,
            nnr_unit_size=self.pieces[0][1] - self.offset,
            nnr_unit_type=self.type,
            independently_decodable_flag=self.independently_decodable_flag,
            partial_data_counter=self.partial_data_counter,
        )

    @property
    def payload_start(self) -> int:
        """First payload byte in the stream."""
        return self.pieces[0][0]

    @property
    def payload_stop(self) -> int:
        """The byte after the payload's last."""
        return self.pieces[-1][1]

    @property
    def payload_size(self) -> int:
        """Bytes of payload."""
        return sum(stop - start for start, stop in self.pieces)

    def payload(self, start: int = 0, stop: int | None = None) -> bytes | memoryview:
        """Read the payload, or some of its bytes: a view for memory and mapped files, else bytes; parts are joined."""
        stop = self.payload_size if stop is None else stop
        found, before = [], 0
        for first, last in self.pieces:
            here, there = max(first, first + start - before), min(last, first + stop - before)
            if here < there:
                found.append(self.source.read(here, there))
            before += last - first
        return found[0] if len(found) == 1 else b"".join(found)

    def starts_with(self, start: bytes) -> bool:
        """Whether the payload's first bytes are these; no more of it is read."""
        first, stop = self.pieces[0]
        return bytes(self.source.read(first, min(first + len(start), stop))) == start

    @property
    def is_read(self) -> bool:
        """Whether the body was asked for already."""
        return self._body is not _UNREAD

    @property
    def body(self) -> Any:
        """What the payload of an MPS, LPS, TPL or QNT unit says (read when first asked for), or None."""
        if self.type not in WITH_BODY:
            return None
        if self._body is _UNREAD:
            object.__setattr__(self, "_body", self.read_body(self.limit))
        return self._body

    def read_body(self, limit: int) -> Any:
        """The body anew. DEFLATE data may inflate to `limit` bytes."""
        bit = 8 * self.payload_start
        return read_body(self.type, self.header, self.payload(), self.context, bit=bit, limit=limit)


def describe(unit: Unit) -> dict[str, Any]:
    """The unit as plain values for JSON: every syntax element that is present, by the standard's name."""
    context = unit.context
    known: dict[str, Any] = {"type": unit.type.name, "offset": unit.offset, "size": unit.size}
    known |= describe_table(unit.unit_header, context)
    known["nnr_unit_type"] = unit.type.name
    if unit.header is not None:
        known["header"] = describe_table(unit.header, context)
    if unit.type in WITH_BODY:
        known["body"] = _describe_body(unit)
    if unit.type == UnitType.NDU:
        known["names"] = list(unit.names)
    known["payload_size"] = unit.payload_size
    if unit.aggregate is not None:
        known["aggregate"] = unit.aggregate.offset
    return known


def _describe_body(unit: Unit) -> Any:
    """What the payload says, where that is a table; its size where it is opaque or would have to be inflated."""
    if body_table(unit.type, unit.header) and (unit.is_read or not is_deflated(unit.header)):
        return plain(unit.body, unit.context)
    return f"{unit.payload_size} bytes" + (", deflated" if is_deflated(unit.header) else "")
