"""Lists of topology elements, by name or by index. Spec, section 2 (element-id list)."""

from __future__ import annotations

from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import OptionError


class NameList(NamedTuple):
    """Alignment, then count_topology_elements_minus2 + 2 names."""

    def read(self, bits: BitReader, t: Any, c: Any) -> tuple[str, ...]:
        bits.align()
        return tuple([bits.st() for _ in range(t.count_topology_elements_minus2 + 2)])

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        _check_count(len(x), t, bits.path)
        bits.align()
        for name in x:
            bits.st(name)


class IndexList(NamedTuple):
    """count_topology_elements_minus2 + 2 indices ue(7), then alignment."""

    def read(self, bits: BitReader, t: Any, c: Any) -> tuple[int, ...]:
        indices = tuple([bits.ue(7) for _ in range(t.count_topology_elements_minus2 + 2)])
        bits.align()
        return indices

    def write(self, bits: BitWriter, x: Any, t: Any, c: Any) -> None:
        _check_count(len(x), t, bits.path)
        for index in x:
            bits.ue(7, index)
        bits.align()


def _check_count(n: int, t: Any, path: str) -> None:
    if n != t.count_topology_elements_minus2 + 2:
        raise OptionError(f"{path}: has {n} elements, a list has at least 2 and the count says so")


def distinct(value: tuple[Any, ...], t: Any, c: Any) -> str | None:
    """A check: no element stands twice in a list."""
    seen: set[Any] = set()
    for x in value:
        if x in seen:
            return f"lists {x!r} twice"
        seen.add(x)
    return None
