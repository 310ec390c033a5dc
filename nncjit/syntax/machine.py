"""The one machine that reads, writes and lists every syntax table.

A table is a frozen dataclass (made by `table`) whose fields are `row`s in bitstream order. A row has a *code* (how one
value is read and written), may be present only `when` something holds, and may be repeated `count` times; both are
asked of the rows above it and of the `Context`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, cast, dataclass_transform

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import OptionError


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
    when: Ask | None
    repeat: Ask | None
    check: Check | None


def row(
    code: Code,
    *,
    when: Ask | None = None,
    count: Ask | None = None,
    check: Check | None = None,
    derive: Callable[[Any], Any] | None = None,
) -> Any:
    """A dataclass field that is a row of a syntax table.

    Parameters
    ----------
    code : Code
        Reads and writes one value.
    when : callable(table, context)
        Whether the row is present.
    count : callable(table, context)
        How many times the code is repeated; the field is then a tuple.
    check : callable(value, table, context)
        What is wrong with a value, or None.
    derive : callable(table)
        The value of the field where the constructor got none: counts and presence flags follow from what they count
        or announce.
    """
    return field(default=None, metadata={"row": (code, when, count, check), "derive": derive})


class Table:
    """Base of the syntax tables: frozen dataclasses of `row` fields, compared and shown row by row."""

    __slots__ = ()

    aligned: ClassVar[bool] = False
    """Whether alignment bits close the table."""

    ROWS: ClassVar[tuple[Row, ...]] = ()
    """The rows in bitstream order."""

    BLANK: ClassVar[dict[str, None]] = {}
    """Every row's name, with None."""

    DERIVED: ClassVar[tuple[tuple[str, Callable[[Any], Any]], ...]] = ()
    """The fields that follow from others where they are not given."""

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
    made: Any = dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)(cls)
    made.ROWS = tuple(Row(f.name, f"{made.__name__}.{f.name}", *f.metadata["row"]) for f in fields(made))
    made.BLANK = dict.fromkeys((r.name for r in made.ROWS), None)
    made.DERIVED = tuple((f.name, f.metadata["derive"]) for f in fields(made) if f.metadata["derive"])
    return cast("type[T]", made)


def rows(cls: type[Table], above: Any, context: Any) -> Iterator[Row]:
    """The rows that are present, in bitstream order, given the values above each."""
    for r in cls.ROWS:
        if r.when is None or r.when(above, context):
            yield r


def blank(cls: type[Table]) -> Any:
    """A namespace with all fields of the table None, to be filled row by row."""
    return SimpleNamespace(**cls.BLANK)


def read(cls: type[T], bits: BitReader, context: Any) -> T:
    """Read one table.

    Raises
    ------
    BitstreamError
        The bytes break a rule of the table.
    """
    above = blank(cls)
    start = bits.pos
    try:
        for name, path, code, when, count, check in cls.ROWS:
            bits.path = path
            start = bits.pos
            if when is not None and not when(above, context):
                continue
            if count is None:
                value = code.read(bits, above, context)
            else:
                value = tuple([code.read(bits, above, context) for _ in range(count(above, context))])
            if check is not None:
                reason = check(value, above, context)
                if reason:
                    bits.path = path
                    raise bits.error(reason, pos=start)
            setattr(above, name, value)
        if cls.aligned:
            bits.path = cls.__name__
            bits.align()
        unit = cls(**vars(above))
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
