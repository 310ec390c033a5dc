"""What a pickle says, without doing it: nothing is imported and nothing is called.

The pickle is run on a stack of our own. Names of classes and functions stay names, and calls become records.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

from nncjit.errors import ModelError

__all__ = ["Called", "Named", "Persistent", "values_of"]

MAX_VALUES = 1 << 22
"""Instructions of one pickle."""
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Persistent:
    """Something that lies outside the pickle."""

    about: Any


@dataclass(slots=True, eq=False)
class Called:
    """A call that was not made, or an object that was not built."""

    what: Any
    arguments: Any
    state: Any = field(default=None)


def values_of(data: bytes) -> Any:
    """The value of a pickle, of plain values and the classes of this module.

    Raises
    ------
    ModelError
        It is damaged, or has an instruction that files of PyTorch do not have.
    """
    machine = _Machine()
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAX_VALUES:
                raise ModelError(f"its pickle has more than {MAX_VALUES} instructions")
            if code.name == "STOP":
                return machine.stack.pop()
            machine.run(code.name, argument)
    except _DAMAGE as error:
        raise ModelError(f"its pickle is damaged ({error})") from None
    raise ModelError("its pickle is cut off")


_MARK = object()
_IGNORED = ("PROTO", "FRAME")
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
)  # fmt: skip


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(Named(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Named(f"{module}.{name}"))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE" | "LIST" | "APPENDS" | "SETITEMS":
                self._gather(name, self._to_mark())
            case "REDUCE" | "NEWOBJ":
                arguments, what = stack.pop(), stack.pop()
                stack.append({} if what == Named("collections.OrderedDict") else Called(what, arguments))
            case "BINPERSID":
                stack.append(Persistent(stack.pop()))
            case "APPEND" | "SETITEM" | "BUILD":
                self._put(name, stack.pop())
            case _:
                raise ModelError(f"its pickle has the instruction {name}, which files of PyTorch do not need")

    def _gather(self, name: str, items: list[Any]) -> None:
        """Make something of all items behind a mark."""
        match name:
            case "TUPLE" | "LIST":
                self.stack.append(tuple(items) if name == "TUPLE" else items)
            case "APPENDS":
                self.stack[-1].extend(items)
            case _:
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _put(self, name: str, value: Any) -> None:
        """Put a value into what lies below it."""
        match name:
            case "APPEND":
                self.stack[-1].append(value)
            case "SETITEM":
                key = self.stack.pop()
                self.stack[-1][key] = value
            case _:
                self.stack[-1].state = value

    def _to_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items
