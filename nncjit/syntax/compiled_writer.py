"""Syntax tables compiled for writing, once per class, so that writing thousands of headers is fast.

A compiled function stops at the first thing that is not in order, and the walk over the rows then says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

Writer = Callable[[Any, Any, Any], bool]
"""Of a table, a BitWriter and a Context."""


class _Constants:
    """What the source of a function refers to, each under a name of its own."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def name(self, value: Any) -> str:
        name = f"_{len(self.values)}"
        self.values[name] = value
        return name


def compile_writer(cls: type[Any]) -> Writer:
    """The function ``write(t, bits, c)`` of a table: whether all was written. If not, some of it may have been."""
    constants = _Constants()
    body = [
        "if t.problem(c): return False",
        *_rows(cls.ROWS, 0, constants),
        *(["bits.align()"] if cls.aligned else []),
        "return True",
    ]
    source = "\n".join(["def write(t, bits, c):", *_indented(body)])
    exec(compile(source, f"<writer of {cls.__name__}>", "exec"), constants.values)  # noqa: S102 - of the rows alone
    writer: Writer = constants.values["write"]
    return writer


def _indented(lines: Sequence[str]) -> list[str]:
    return ["    " + line for line in lines]


def _rows(rows: Sequence[Any], depth: int, constants: _Constants) -> Iterator[str]:
    """Statements that write rows whose first `depth` conditions hold: runs with the same next condition share it."""
    for condition, members in groupby(rows, lambda r: r.conditions[depth] if len(r.conditions) > depth else None):
        run = list(members)
        if condition is None:
            for r in run:
                yield from _present(r, constants)
            continue
        yield f"if {constants.name(condition)}(t, c):"
        yield from _indented(list(_rows(run, depth + 1, constants)))
        yield "else:"
        yield f"    for x in ({', '.join(f't.{r.name}' for r in run)},):"
        yield "        if x is not None and x != 0 and x != (): return False"


def _present(row: Any, constants: _Constants) -> Iterator[str]:
    """Statements that write a row that is there."""
    write = constants.name(row.code.write)
    yield f"x = t.{row.name}"
    yield "if x is None: return False"
    if row.check is not None:
        yield f"if {constants.name(row.check)}(x, t, c): return False"
    if row.repeat is None:
        yield f"{write}(bits, x, t, c)"
    else:
        yield f"if len(x) != {constants.name(row.repeat)}(t, c): return False"
        yield f"for y in x: {write}(bits, y, t, c)"
