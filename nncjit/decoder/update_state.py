"""What a stream of incremental updates leaves for the next one. Spec, section 10."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nncjit.errors import OptionError
from nncjit.option_values import shown
from nncjit.stream.unit_parts import Part
from nncjit.syntax import Unit

Key = tuple[object, ...]


class LevelStore(Protocol):
    """Where the levels are that updates build on, and where those that they leave go."""

    def base_of(self, unit: Unit, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """(base levels, int32; history, uint8) of a part of a unit, raster order."""
        ...

    def wants(self, unit: Unit, part: Part) -> bool:
        """Whether the levels of a part of a unit are to be recorded."""
        ...

    def record(self, unit: Unit, part: Part, levels: np.ndarray) -> None:
        """Remember the levels that a part of a unit was decoded to, int32."""
        ...


@dataclass(slots=True)
class UpdateState:
    """Levels and places of all updates so far, by parameter and part of it.

    Give the same object to `decode` for the base and then for each update in turn; it grows with them. A stream that is
    refused leaves it as it was.
    """

    levels: dict[Key, np.ndarray] = field(default_factory=dict)
    """int32 levels of the latest unit of each part, raster order: the temporal contexts of the next one."""
    touched: dict[Key, np.ndarray] = field(default_factory=dict)
    """uint8, 1 where any update was not zero: the history of the next one."""

    def copy(self) -> UpdateState:
        """A state that can grow on its own; the arrays, which nobody changes, are shared."""
        return UpdateState(dict(self.levels), dict(self.touched))

    def replace(self, other: UpdateState) -> None:
        """Become what another state is."""
        if not isinstance(other, UpdateState):
            raise OptionError(f"other is {shown(other)}, must be an UpdateState")
        self.levels, self.touched = other.levels, other.touched

    def base_of(self, unit: Unit, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """(base levels, history) of a part of a unit; zeros where nothing of this size came before."""
        key = part_key(unit, part)
        base, touched = self.levels.get(key), self.touched.get(key)
        if base is None or touched is None or base.size != part.size:
            return np.zeros(part.size, np.int32), np.zeros(part.size, np.uint8)
        return base, touched

    def wants(self, unit: Unit, part: Part) -> bool:  # noqa: ARG002
        """All levels are recorded."""
        return True

    def record(self, unit: Unit, part: Part, levels: np.ndarray) -> None:
        """Remember the levels that a part of a unit was decoded to."""
        key = part_key(unit, part)
        now = (levels != 0).astype(np.uint8)
        before = self.touched.get(key)
        self.levels[key] = levels
        self.touched[key] = now if before is None or before.size != now.size else now | before


def part_key(unit: Unit, part: Part) -> Key:
    """What names a part of a parameter across streams: device and parameter id, else the element's name; and its role
    in the unit, since a BLOCK codes several tensors of one parameter.
    """
    node = unit.header.node
    name = ("node", *node[:2]) if node is not None else ("name", unit.context.names_of(unit.header)[0])
    return (*name, part.role)
