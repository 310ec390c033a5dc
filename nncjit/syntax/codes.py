"""The codes of the rows: descriptors, enumerations, nested tables. Each pairs `read` and `write`.

Those that data units use most also give the statements that read them in a compiled table, and the expression of the
value (`compile`); the numbers of a bit field, of always `n` bits, may stand for `members`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter
from nncjit.syntax import syntax_tables
from nncjit.syntax.compiled_reader import Statements


class U(NamedTuple):
    """u(n)."""

    n: int

    @property
    def members(self) -> Mapping[int, int]:
        """Numbers that stand for something."""
        return {}

    def compile(self, code: Statements) -> str:
        return code.take(self.n)

    def read(self, bits: BitReader, t: Any, c: Any) -> int:
        return bits.u(self.n)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.u(self.n, x)


class I(NamedTuple):  # noqa: E742 - the standard's letter
    """i(n)."""

    n: int

    def read(self, bits: BitReader, t: Any, c: Any) -> int:
        return bits.i(self.n)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.i(self.n, x)


class UE(NamedTuple):
    """ue(k)."""

    k: int

    def compile(self, code: Statements) -> str:
        return code.take_exp_golomb(self.k)

    def read(self, bits: BitReader, t: Any, c: Any) -> int:
        return bits.ue(self.k)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.ue(self.k, x)


class Text(NamedTuple):
    """st(v)."""

    def compile(self, code: Statements) -> str:
        return code.take_text()

    def read(self, bits: BitReader, t: Any, c: Any) -> str:
        return bits.st()

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.st(x)


class Float(NamedTuple):
    """flt(32), finite."""

    def read(self, bits: BitReader, t: Any, c: Any) -> float:
        start = bits.pos
        value = bits.flt()
        if not (math.isfinite(value) or c.lenient):
            raise bits.error(f"is {value}", pos=start)
        return value

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.flt(x)


class Packed(NamedTuple):
    """A run of bits as bytes; its length in bits may hang on the rows above."""

    n: Callable[[Any], int]

    def read(self, bits: BitReader, t: Any, c: Any) -> bytes:
        return bits.packed(self.n(t))

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.packed(self.n(t), x)


class Named(NamedTuple):
    """u(n) whose values have names. Values without one stay plain integers; `known` refuses them."""

    n: int
    names: type[IntEnum]

    @property
    def members(self) -> Mapping[int, int]:
        return {int(x): x for x in self.names}

    def read(self, bits: BitReader, t: Any, c: Any) -> int:
        value = bits.u(self.n)
        return self.members.get(value, value)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        bits.u(self.n, x)


class Nested(NamedTuple):
    """A table inside a table."""

    table: type[syntax_tables.Table]

    def read(self, bits: BitReader, t: Any, c: Any) -> syntax_tables.Table:
        return syntax_tables.read(self.table, bits, c)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        syntax_tables.write(x, bits, c)


class Pair(NamedTuple):
    """Two values that belong together, as a tuple."""

    first: syntax_tables.Code
    second: syntax_tables.Code

    def compile(self, code: Statements) -> str:
        return f"({code.take_value(self.first)}, {code.take_value(self.second)})"

    def read(self, bits: BitReader, t: Any, c: Any) -> tuple[Any, Any]:
        return self.first.read(bits, t, c), self.second.read(bits, t, c)

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        self.first.write(bits, x[0], t, c)
        self.second.write(bits, x[1], t, c)


class Counted(NamedTuple):
    """A count, then that many values, as a tuple."""

    length: syntax_tables.Code
    code: syntax_tables.Code

    def compile(self, code: Statements) -> str:
        return code.take_list(code.take_value(self.length), self.code)

    def read(self, bits: BitReader, t: Any, c: Any) -> tuple[Any, ...]:
        return tuple([self.code.read(bits, t, c) for _ in range(self.length.read(bits, t, c))])

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        self.length.write(bits, len(x), t, c)
        for value in x:
            self.code.write(bits, value, t, c)


FLAG = U(1)


def at_most(limit: int) -> syntax_tables.Check:
    """A check: the value is `limit` at the most."""
    return lambda value, t, c: f"is {value}, at most {limit} is allowed" if value > limit else None


def known(names: type[IntEnum], *, private_from: int | None = None) -> syntax_tables.Check:
    """A check: the value has a name, or is private. A lenient context lets all through."""
    members = frozenset(names)

    def check(value: int, t: Any, c: Any) -> str | None:
        if value in members or c.lenient:
            return None
        if private_from is not None and value >= private_from:
            return None
        return f"is {value}, which is reserved (known: {', '.join(f'{x.value} {x.name}' for x in names)})"

    return check


def zero(value: int, t: Any, c: Any) -> str | None:
    """A check: reserved bits are zero. A lenient context lets all through."""
    return f"reserved bits are {value}, not 0" if value and not c.lenient else None
