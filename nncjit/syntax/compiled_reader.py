"""Tables compiled for reading: the rows of a table become one function without loops, as `dataclass` does for __init__.

A stream may hold many thousands of units, and walking their rows one by one would take most of the time to open it. The
function gives the table, or None where anything is wrong; what is wrong, and where, is then found by the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

Reader = Callable[[Any, Any], Any]
"""Of a BitReader and a Context."""


class _Names:
    """Values that the source refers to, each under a name of its own."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def of(self, value: Any) -> str:
        name = f"_{len(self.values)}"
        self.values[name] = value
        return name


def compile_reader(cls: type[Any]) -> Reader:
    """The function ``read(bits, c)`` of a table: what is read, or None."""
    names = _Names()
    body = [
        f"t = new({names.of(cls)})",
        "values = t.__dict__",
        "u, ue, ie, st = bits.u, bits.ue, bits.ie, bits.st",
        *_rows(cls.ROWS, 0, dict(cls.DERIVED), names),
        *(["bits.align()"] if cls.aligned else []),
        "return None if t.problem(c) else t",
    ]
    source = "\n".join(["def read(bits, c):", *_indented(body)])
    space = {"new": object.__new__, **names.values}
    exec(compile(source, f"<reader of {cls.__name__}>", "exec"), space)  # noqa: S102 - made of the rows above alone
    reader: Reader = space["read"]
    return reader


def _indented(lines: Sequence[str]) -> list[str]:
    return ["    " + line for line in lines]


def _rows(rows: Sequence[Any], depth: int, derived: dict[str, Any], names: _Names) -> Iterator[str]:
    """Statements that read rows whose first `depth` conditions hold: runs with the same next condition share it."""
    for condition, members in groupby(rows, lambda r: r.conditions[depth] if len(r.conditions) > depth else None):
        run = list(members)
        if condition is None:
            yield from _present(run, names)
            continue
        yield f"if {names.of(condition)}(t, c):"
        yield from _indented(list(_rows(run, depth + 1, derived, names)))
        absent = [f"values[{r.name!r}] = {names.of(derived[r.name])}(t)" for r in run if r.name in derived]
        if absent:
            yield "else:"
            yield from _indented(absent)


def _present(rows: Sequence[Any], names: _Names) -> Iterator[str]:
    """Statements that read rows that are there; bit fields side by side are cut out of one word."""
    for is_field, members in groupby(rows, lambda r: r.repeat is None and hasattr(r.code, "members")):
        run = list(members)
        if not is_field:
            for r in run:
                times = "" if r.repeat is None else f" for _ in range({names.of(r.repeat)}(t, c))"
                value = _expression(r.code, names)
                yield from _store(r, f"tuple([{value}{times}])" if times else value, names)
            continue
        left = sum(r.code.n for r in run)
        yield f"word = u({left})"
        for r in run:
            left -= r.code.n
            value = f"word >> {left} & {(1 << r.code.n) - 1}"
            if r.code.members:
                yield f"value = {value}"
                value = f"{names.of(r.code.members)}.get(value, value)"
            yield from _store(r, value, names)


def _store(r: Any, expression: str, names: _Names) -> Iterator[str]:
    if r.check is None:
        yield f"values[{r.name!r}] = {expression}"
        return
    yield f"values[{r.name!r}] = value = {expression}"
    yield f"if {names.of(r.check)}(value, t, c): return None"


def _expression(code: Any, names: _Names) -> str:
    """What reads one value: the code's own expression, or a call of its `read`."""
    inline: str | None = code.inline(lambda inner: _expression(inner, names)) if hasattr(code, "inline") else None
    return inline if inline is not None else f"{names.of(code.read)}(bits, t, c)"
