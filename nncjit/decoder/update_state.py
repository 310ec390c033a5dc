"""What a stream of incremental updates leaves for the next one. Spec, section 10."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nncjit.syntax import Unit

Key = tuple[object, ...]


@dataclass(slots=True)
class UpdateState:
    """Levels and places of all updates so far, by parameter.

    Give the same object to `decode` for the base and then for each update in turn; it grows with them.
    """

    levels: dict[Key, np.ndarray] = field(default_factory=dict)
    """int32 levels of the latest unit of each parameter, raster order: the temporal contexts of the next one."""
    touched: dict[Key, np.ndarray] = field(default_factory=dict)
    """uint8, 1 where any update was not zero: the history of the next one."""

    def base_of(self, unit: Unit, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(base levels, history) of a unit with this many elements; zeros where nothing came before."""
        key = parameter_key(unit)
        base, touched = self.levels.get(key), self.touched.get(key)
        if base is None or touched is None or base.size != size:
            return np.zeros(size, np.int32), np.zeros(size, np.uint8)
        return base, touched

    def record(self, unit: Unit, levels: np.ndarray) -> None:
        """Remember the levels that a unit was decoded to."""
        key = parameter_key(unit)
        now = (levels != 0).astype(np.uint8)
        before = self.touched.get(key)
        self.levels[key] = levels
        self.touched[key] = now if before is None or before.size != now.size else now | before


def parameter_key(unit: Unit) -> Key:
    """What names the parameter of a unit across streams: device and parameter id, else the element's name."""
    node = unit.header.node
    return ("node", *node[:2]) if node is not None else ("name", unit.context.names_of(unit.header)[0])
