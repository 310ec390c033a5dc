"""What a stream has held so far, shared by its contexts."""

from __future__ import annotations

from typing import Any, NamedTuple

from nncjit.syntax.input_parameters import InputParameters


class DataUnitEntry(NamedTuple):
    """What is remembered of a data unit."""

    names: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]
    """What makes each of its elements differ from all others."""
    inputs: InputParameters


class EarlierUnits:
    """The data units of a stream so far: append-only and shared by the contexts of the stream.

    Each context sees the first `mark` entries, so contexts stay immutable without a copy per unit.
    """

    __slots__ = ("_inputs", "_keys", "length")

    def __init__(self) -> None:
        self.length = 0
        self._keys: dict[Any, int] = {}
        # by name: the latest parameters, the mark of their entry, and the same of the entry before
        self._inputs: dict[str, tuple[int, InputParameters, Any]] = {}

    def holds(self, key: Any, mark: int) -> bool:
        """Whether the key is among the first `mark` entries."""
        return self._keys.get(key, mark) < mark

    def inputs(self, name: str, mark: int) -> InputParameters | None:
        """The latest parameters for a name among the first `mark` entries."""
        latest = _before(self._inputs.get(name), mark)
        return None if latest is None else latest[1]

    def plus(self, mark: int, entry: DataUnitEntry) -> EarlierUnits:
        """A earlier with one entry more than the first `mark`: this one where that was its end, else a copy."""
        earlier = self if mark == self.length else self.first(mark)
        keys, inputs = earlier._keys, earlier._inputs  # noqa: SLF001 - its own kind
        for key in entry.keys:
            keys.setdefault(key, mark)
        for name in entry.names:
            inputs[name] = mark, entry.inputs, inputs.get(name)
        earlier.length = mark + 1
        return earlier

    def first(self, mark: int) -> EarlierUnits:
        """A earlier of its own with the first `mark` entries."""
        earlier = EarlierUnits()
        earlier._keys = {key: at for key, at in self._keys.items() if at < mark}
        cut = ((name, _before(latest, mark)) for name, latest in self._inputs.items())
        earlier._inputs = {name: latest for name, latest in cut if latest is not None}
        earlier.length = mark
        return earlier


def _before(latest: Any, mark: int) -> Any:
    while latest is not None and latest[0] >= mark:
        latest = latest[2]
    return latest
