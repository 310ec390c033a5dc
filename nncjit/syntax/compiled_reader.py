"""Syntax tables compiled to Python functions, once per class, so that reading thousands of headers is fast.

A compiled function takes the bits out of one integer, without a call for each field. It stops at the first thing that
is not in order, and the rows are then read again one by one, which gives the error its place; so does a table whose
names and numbers are longer than usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from nncjit.bits.bit_reader import MAX_TEXT, MAX_UE_SUFFIX

Reader = Callable[[Any, Any], Any]
"""Of a BitReader and a Context."""

WORD = 32
"""Bytes that are one integer at a time: most headers have fewer, but for the name."""


class Statements:
    """The statements of a function in the making.

    Its variables: `t` is the table and `values` its fields, `c` the context; `word` holds the next `left` bits, and
    `stop` is the bit after them in `data`, of which `n_bytes` count.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.values: dict[str, Any] = {}
        self._depth = 1
        self._variables = 0

    def add(self, line: str) -> None:
        """One statement."""
        self.lines.append("    " * self._depth + line)

    @contextmanager
    def under(self, head: str) -> Iterator[None]:
        """Statements under an ``if`` or ``for``."""
        self.add(head)
        self._depth += 1
        yield
        self._depth -= 1

    def constant(self, value: Any) -> str:
        """A name for a value that the function refers to."""
        name = f"_{len(self.values)}"
        self.values[name] = value
        return name

    def variable(self) -> str:
        """A name that no other statement uses."""
        self._variables += 1
        return f"v{self._variables}"

    def load(self, pos: str) -> None:
        """Hold the bits from a position on."""
        self.add(f"word, left, stop = load(data, {pos}, n_bytes)")

    def take(self, n: str | int) -> str:
        """The next n bits."""
        value = self.variable()
        self.add(f"left -= {n}")
        self.add("if left < 0: return None")
        self.add(f"{value} = word >> left")
        self.add("word &= (1 << left) - 1")
        return value

    def take_exp_golomb(self, k: int) -> str:
        """The next code of order k."""
        zeros = self.variable()
        self.add(f"{zeros} = left - word.bit_length()")
        self.add(f"if {zeros} > {MAX_UE_SUFFIX - k}: return None")
        return f"{self.take(f'2 * {zeros} + {k + 1}')} - {1 << k}"

    def take_text(self) -> str:
        """The text up to the next zero byte."""
        first, last, value = self.variable(), self.variable(), self.variable()
        self.add("if left & 7: return None")
        self.add(f"{first} = (stop - left) >> 3")
        self.add(f"{last} = data.find(ZERO, {first}, min({first} + {MAX_TEXT + 1}, n_bytes))")
        self.add(f"if {last} < 0: return None")
        self.add(f"{value} = str(data[{first}:{last}], 'utf-8')")
        self.load(f"8 * {last} + 8")
        return value

    def take_other(self, code: Any) -> str:
        """A value whose code has no statements of its own."""
        value = self.variable()
        self.add("bits.pos = stop - left")
        self.add(f"{value} = {self.constant(code.read)}(bits, t, c)")
        self.load("bits.pos")
        return value

    def take_value(self, code: Any) -> str:
        """A value of any code."""
        if hasattr(code, "compile"):
            expression: str = code.compile(self)
            return expression
        return self.take_other(code)

    def take_list(self, count: str, code: Any) -> str:
        """So many values of a code, as a tuple."""
        found = self.variable()
        self.add(f"{found} = []")
        with self.under(f"for _ in range({count}):"):
            self.add(f"{found}.append({self.take_value(code)})")
        return f"tuple({found})"

    def align(self) -> None:
        """Alignment bits."""
        n_bits = self.variable()
        self.add(f"{n_bits} = left & 7 or 8")
        self.add(f"if {self.take(n_bits)} != 1 << ({n_bits} - 1): return None")


def _load(data: bytes, pos: int, n_bytes: int) -> tuple[int, int, int]:
    first = pos >> 3
    window = data[first : min(first + WORD, n_bytes)]
    n_bits = 8 * len(window)
    left = n_bits - (pos & 7)
    return int.from_bytes(window, "big") & ((1 << max(left, 0)) - 1), left, (first << 3) + n_bits


def compile_reader(cls: type[Any]) -> Reader:
    """The function ``read(bits, c)`` of a table: what is read, or None."""
    code = Statements()
    code.add(f"t = new({code.constant(cls)})")
    code.add("values = t.__dict__")
    code.add("data, n_bytes = bits.held")
    code.load("bits.pos")
    _compile_rows(code, cls.ROWS, 0, dict(cls.DERIVED))
    if cls.aligned:
        code.align()
    code.add("bits.pos = stop - left")
    code.add("return None if t.problem(c) else t")
    source = "\n".join(["def read(bits, c):", *code.lines])
    space = {"new": object.__new__, "load": _load, "ZERO": b"\0", **code.values}
    exec(compile(source, f"<reader of {cls.__name__}>", "exec"), space)  # noqa: S102 - made of the rows above alone
    reader: Reader = space["read"]
    return reader


def _compile_rows(code: Statements, rows: Sequence[Any], depth: int, derived: dict[str, Any]) -> None:
    """Statements that read rows whose first `depth` conditions hold: runs with the same next condition share it."""
    for condition, members in groupby(rows, lambda r: r.conditions[depth] if len(r.conditions) > depth else None):
        run = list(members)
        if condition is None:
            _compile_present(code, run)
            continue
        with code.under(f"if {code.constant(condition)}(t, c):"):
            _compile_rows(code, run, depth + 1, derived)
        absent = [r.name for r in run if r.name in derived]
        if absent:
            with code.under("else:"):
                for name in absent:
                    code.add(f"values[{name!r}] = {code.constant(derived[name])}(t)")


def _compile_present(code: Statements, rows: Sequence[Any]) -> None:
    """Statements that read rows that are there; bit fields side by side are cut out of one word."""
    for is_field, members in groupby(rows, lambda r: r.repeat is None and hasattr(r.code, "members")):
        run = list(members)
        if not is_field:
            for r in run:
                repeat = None if r.repeat is None else f"{code.constant(r.repeat)}(t, c)"
                _store(code, r, code.take_value(r.code) if repeat is None else code.take_list(repeat, r.code))
            continue
        left = sum(r.code.n for r in run)
        word = code.take(left)
        for r in run:
            left -= r.code.n
            value = f"{word} >> {left} & {(1 << r.code.n) - 1}"
            if r.code.members:
                number = code.variable()
                code.add(f"{number} = {value}")
                value = f"{code.constant(r.code.members)}.get({number}, {number})"
            _store(code, r, value)


def _store(code: Statements, row: Any, expression: str) -> None:
    if row.check is None:
        code.add(f"values[{row.name!r}] = {expression}")
        return
    code.add(f"values[{row.name!r}] = value = {expression}")
    code.add(f"if {code.constant(row.check)}(value, t, c): return None")
