"""Reading, writing and listing every syntax table.

A table is a frozen dataclass (made by `table`) whose fields are `row`s in bitstream order. A row has a *code* (how one
value is read and written), may be present only `when` something holds, and may be repeated `count` times; both are
asked of the rows above it and of the `Context`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast, dataclass_transform

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import BitstreamError, OptionError
from nncjit.syntax.compiled_reader import Reader, compile_reader
from nncjit.syntax.compiled_writer import Writer, compile_writer


class Code(Protocol):
    """How one value stands in the bits. `t` is the table (or the rows above, while reading), `c` the context."""

    def read(self, bits: BitReader, t: Any, c: Any) -> Any: ...

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None: ...


class UnknownError(Exception):
    """A rule asks for what is neither in the stream nor given from outside; becomes a BitstreamError or OptionError."""


Ask = Callable[[Any, Any], Any]
"""A question about the rows above (or the table) and the context."""

Check = Callable[[Any, Any, Any], str | None]
"""Asked of a value, the rows above and the context: what is wrong with the value, or None."""


class Row(NamedTuple):
    """One row of a table, compiled: its field's name, its name in errors, and what `row` was given."""

    name: str
    path: str
    code: Code
    conditions: tuple[Ask, ...]
    """All must hold for the row to be present; each is asked only where those before it hold."""
    when: Ask | None
    """The conditions as one; None where there are none."""
    repeat: Ask | None
    check: Check | None


def row(
    code: Code,
    *,
    when: Ask | tuple[Ask, ...] = (),
    count: Ask | None = None,
    check: Check | None = None,
    derive: Callable[[Any], Any] | None = None,
) -> Any:
    """A dataclass field that is a row of a syntax table.

    Parameters
    ----------
    code : Code
        Reads and writes one value.
    when : callable(table, context), or a tuple of them
        Whether the row is present; of several, all must hold. Neighbours share what they have in common in front.
    count : callable(table, context)
        How many times the code is repeated; the field is then a tuple.
    check : callable(value, table, context)
        What is wrong with a value, or None.
    derive : callable(table)
        The value of the field where the constructor got none: counts and presence flags follow from what they count
        or announce.
    """
    conditions = when if isinstance(when, tuple) else (when,)
    return field(
        default=None, metadata={"row": (code, conditions, _together(conditions), count, check), "derive": derive}
    )


def _together(conditions: tuple[Ask, ...]) -> Ask | None:
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return lambda t, c: all(condition(t, c) for condition in conditions)


class Table:
    """Base of the syntax tables: frozen dataclasses of `row` fields, compared and shown row by row."""

    aligned: ClassVar[bool] = False
    """Whether alignment bits close the table."""

    ROWS: ClassVar[tuple[Row, ...]] = ()
    """The rows in bitstream order."""

    DERIVED: ClassVar[tuple[tuple[str, Callable[[Any], Any]], ...]] = ()
    """The fields that follow from others where they are not given."""

    READER: ClassVar[Reader]
    """Reads a table in which nothing is wrong."""

    WRITER: ClassVar[Writer]
    """Writes a table in which nothing is wrong."""

    def __post_init__(self) -> None:
        for name, derive in self.DERIVED:
            if getattr(self, name) is None:
                object.__setattr__(self, name, derive(self))

    def problem(self, context: Any) -> str | None:
        """What is wrong with the table as a whole, or None."""
        return None

    def values(self) -> tuple[Any, ...]:
        """The values of all rows; None where there is none."""
        return tuple([getattr(self, r.name) for r in self.ROWS])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and type(self) is type(other) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash((type(self), self.values()))

    def __repr__(self) -> str:
        given = ((r.name, getattr(self, r.name)) for r in self.ROWS)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"


T = TypeVar("T", bound=Table)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def table(cls: type[T]) -> type[T]:
    """Make a syntax table of a class: a frozen dataclass whose rows are compiled once.

    What `Table` can do for all tables is not generated for each, so that imports stay fast.
    """
    made: Any = dataclass(frozen=True, kw_only=True, repr=False, eq=False)(cls)
    made.ROWS = tuple(Row(f.name, f"{made.__name__}.{f.name}", *f.metadata["row"]) for f in fields(made))
    made.DERIVED = tuple((f.name, f.metadata["derive"]) for f in fields(made) if f.metadata["derive"])
    made.READER = staticmethod(compile_reader(made))
    made.WRITER = staticmethod(compile_writer(made))
    return cast("type[T]", made)


def rows(cls: type[Table], above: Any, context: Any) -> Iterator[Row]:
    """The rows that are present, in bitstream order, given the values above each."""
    for r in cls.ROWS:
        if r.when is None or r.when(above, context):
            yield r


def read(cls: type[T], bits: BitReader, context: Any) -> T:
    """Read one table.

    Raises
    ------
    BitstreamError
        The bytes break a rule of the table.
    """
    start = bits.pos
    try:
        unit: T | None = cls.READER(bits, context)
    except (BitstreamError, UnknownError, UnicodeDecodeError):
        unit = None
    if unit is None:
        bits.pos = start
        unit = _read_rows(cls, bits, context)
    return unit


def _read_rows(cls: type[T], bits: BitReader, context: Any) -> T:
    """Read one table row by row, so that an error names its row and place."""
    unit = object.__new__(cls)  # rows that are not there yet are None
    values = vars(unit)
    start = bits.pos
    try:
        for r in cls.ROWS:
            bits.path = r.path
            start = bits.pos
            if r.when is not None and not r.when(unit, context):
                continue
            if r.repeat is None:
                value = r.code.read(bits, unit, context)
            else:
                value = tuple([r.code.read(bits, unit, context) for _ in range(r.repeat(unit, context))])
            reason = r.check(value, unit, context) if r.check is not None else None
            if reason:
                bits.path = r.path
                raise bits.error(reason, pos=start)
            values[r.name] = value
        if cls.aligned:
            bits.path = cls.__name__
            bits.align()
        unit.__post_init__()
        reason = unit.problem(context)
    except UnknownError as err:
        raise bits.error(str(err), pos=start) from None
    if reason:
        bits.path = cls.__name__
        raise bits.error(reason)
    return unit


def write(unit: Table, bits: BitWriter, context: Any) -> None:
    """Write one table.

    Raises
    ------
    OptionError
        A value is missing, has no place where it is, or does not fit its field.
    """
    before = bits.mark()
    try:
        written = type(unit).WRITER(unit, bits, context)
    except (OptionError, UnknownError, TypeError, AttributeError):
        written = False
    if not written:
        bits.back_to(before)
        _write_rows(unit, bits, context)


def _write_rows(unit: Table, bits: BitWriter, context: Any) -> None:
    """Write one table row by row, so that an error names its row."""
    cls = type(unit)
    bits.path = cls.__name__
    try:
        reason = unit.problem(context)
        if reason:
            raise OptionError(f"{cls.__name__}: {reason}")
        for r in cls.ROWS:
            bits.path = r.path
            value = getattr(unit, r.name)
            if r.when is None or r.when(unit, context):
                _write_row(r, value, unit, bits, context)
            elif value is not None and value != 0 and value != ():
                raise OptionError(f"{r.path}: {value!r} has no place here")
    except UnknownError as err:
        raise OptionError(f"{bits.path}: {err}") from None
    except (TypeError, AttributeError) as err:
        raise OptionError(f"{bits.path}: a value is not of the right kind ({err})") from err
    if cls.aligned:
        bits.align()


def _write_row(r: Row, value: Any, unit: Table, bits: BitWriter, context: Any) -> None:
    if value is None:
        raise OptionError(f"{r.path}: is missing")
    reason = r.check(value, unit, context) if r.check else None
    if reason:
        raise OptionError(f"{r.path}: {reason}")
    if r.repeat is None:
        r.code.write(bits, value, unit, context)
        return
    if len(value) != r.repeat(unit, context):
        raise OptionError(f"{r.path}: has {len(value)} values, {r.repeat(unit, context)} are announced")
    for x in value:
        r.code.write(bits, x, unit, context)


def describe_table(unit: Table, context: Any) -> dict[str, Any]:
    """The rows that are present as a dict of plain values (enum names, lists, hex text), in bitstream order."""
    return {r.name: plain(getattr(unit, r.name), context) for r in rows(type(unit), unit, context)}


def plain(value: Any, context: Any) -> Any:
    """A value of a table as JSON can hold it."""
    if isinstance(value, Table):
        return describe_table(value, context)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), context) for f in fields(value)}
    if isinstance(value, tuple):
        return [plain(x, context) for x in value]
    return value
