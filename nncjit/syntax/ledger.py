"""What a stream has held so far, shared by its contexts."""

from __future__ import annotations

from typing import Any

from nncjit.syntax.inputs import InputParameters


class Ledger:
    """The data units of a stream so far: append-only and shared by the contexts of the stream.

    Each context sees the first `mark` entries, so contexts stay immutable without a copy per unit.
    """

    __slots__ = ("_inputs", "_keys", "length")

    def __init__(self) -> None:
        self.length = 0
        self._keys: dict[Any, int] = {}
        self._inputs: dict[str, list[tuple[int, InputParameters]]] = {}

    def holds(self, key: Any, mark: int) -> bool:
        """Whether the key is among the first `mark` entries."""
        return self._keys.get(key, mark) < mark

    def inputs(self, name: str, mark: int) -> InputParameters | None:
        """The latest parameters for a name among the first `mark` entries."""
        return next((inputs for at, inputs in reversed(self._inputs.get(name, ())) if at < mark), None)

    def plus(self, mark: int, keys: list[Any], names: tuple[str, ...], inputs: InputParameters) -> Ledger:
        """A ledger with one entry more than the first `mark`: this one where that was its end, else a copy."""
        ledger = self if mark == self.length else self.first(mark)
        for key in keys:
            ledger._keys.setdefault(key, mark)  # noqa: SLF001 - its own kind
        for name in names:
            ledger._inputs.setdefault(name, []).append((mark, inputs))  # noqa: SLF001
        ledger.length = mark + 1
        return ledger

    def first(self, mark: int) -> Ledger:
        """A ledger of its own with the first `mark` entries."""
        ledger = Ledger()
        ledger._keys = {key: at for key, at in self._keys.items() if at < mark}
        ledger._inputs = {name: [x for x in seen if x[0] < mark] for name, seen in self._inputs.items()}
        ledger.length = mark
        return ledger
