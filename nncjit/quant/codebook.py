"""Codebooks: few distinct levels, coded by their place in a table that the unit's header carries (spec, sections 2
and 5).
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nncjit.errors import OptionError
from nncjit.jit import address
from nncjit.quant import codebook_kernels as kernels
from nncjit.quant.flat_arrays import Levels, flat_levels
from nncjit.quant.work_sharing import run_pieces

LARGEST_SIZE = 4096
"""Most entries of a codebook that is derived here."""

_WIDEST_TABLE = 1 << 20
_ORDERS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """Levels in ascending order, the one that is coded as 0, and how the header writes them. Spec, section 2.

    Parameters
    ----------
    values : int64[m]
        Strictly increasing.
    zero : int
        Zero offset: place of the entry with coded value 0, 0..m - 1.
    egk : int
        codebook_egk, the Exp-Golomb order of the distances, 0..15.
    """

    values: NDArray[np.int64]
    zero: int
    egk: int

    def __post_init__(self) -> None:
        if not self.values.size or (np.diff(self.values) <= 0).any():
            raise OptionError("a codebook needs strictly increasing values")
        if not 0 <= self.zero < self.values.size or not 0 <= self.egk < _ORDERS:
            raise OptionError(f"zero offset {self.zero} or egk {self.egk} is out of range")

    @property
    def size(self) -> int:
        return int(self.values.size)

    def header_bits(self) -> int:
        """Bits of the codebook in a unit's header."""
        bits = 4 + _ue_bits(self.size, 2) + _ie_bits(self.zero - (self.size >> 1), 2)
        bits += _ie_bits(int(self.values[self.zero]), 7)
        return bits + int(_ue_bits_of(np.diff(self.values) - 1, self.egk).sum())

    def coded(self, levels: Levels, *, workers: Executor | None = None) -> Levels:
        """Coded values of levels that are all in the codebook, int32[n]: their places minus the zero offset."""
        low, high, levels = int(self.values[0]), int(self.values[-1]), flat_levels(levels)
        if high - low < _WIDEST_TABLE:
            return _looked_up(levels, low, self._places(np.arange(low, high + 1)), workers)
        out = np.empty(levels.size, np.int32)

        def piece(start: int, stop: int) -> None:
            out[start:stop] = self._places(levels[start:stop])

        run_pieces(piece, levels.size, workers)
        return out

    def levels(self, coded: Levels, *, workers: Executor | None = None) -> Levels:
        """The levels of coded values, int32[n]."""
        return _looked_up(flat_levels(coded), -self.zero, self.values.astype(np.int32), workers)

    def _places(self, levels: NDArray[np.int64] | Levels) -> Levels:
        return (np.searchsorted(self.values, levels) - self.zero).astype(np.int32)


def from_levels(levels: Levels, *, max_size: int = LARGEST_SIZE) -> Codebook | None:
    """The codebook of all levels that occur: nothing is lost.

    Parameters
    ----------
    levels : int32[n]
    max_size : int
        Most entries.

    Returns
    -------
    Codebook or None
        None where there are more distinct levels, or none at all.
    """
    if not levels.size:
        return None
    found = _distinct(flat_levels(levels), max_size)
    return None if found is None else _best(*found)


def _looked_up(levels: Levels, low: int, table: Levels, workers: Executor | None) -> Levels:
    """``table[level - low]`` of each level."""
    out = np.empty(levels.size, np.int32)
    source, entries, target = address(levels), address(table), address(out, writes=True)

    def piece(start: int, stop: int) -> None:
        kernels.look_up(source + 4 * start, stop - start, low, entries, table.size, target + 4 * start)

    run_pieces(piece, levels.size, workers)
    return out


def _distinct(levels: Levels, max_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Levels that occur and how often, None where there are more than max_size."""
    ends = np.empty(1, kernels.EXTENT)
    kernels.extent(address(levels), levels.size, address(ends, writes=True))
    low, high = ends.item()
    if high - low < _WIDEST_TABLE:
        counts = np.zeros(high - low + 1, np.int64)
        kernels.tally(address(levels), levels.size, low, address(counts, writes=True))
        places = np.flatnonzero(counts)
        return None if places.size > max_size else (places + low, counts[places])
    found: dict[int, int] = {}
    for start in range(0, levels.size, _WIDEST_TABLE):
        for level, count in zip(*np.unique(levels[start : start + _WIDEST_TABLE], return_counts=True), strict=True):
            found[int(level)] = found.get(int(level), 0) + int(count)
            if len(found) > max_size:
                return None
    ordered = sorted(found.items())
    return np.array([level for level, _ in ordered], np.int64), np.array([count for _, count in ordered], np.int64)


def _best(values: NDArray[np.int64], counts: NDArray[np.int64]) -> Codebook:
    """The codebook of some levels with the zero offset and the order that cost least."""
    total = np.cumsum(counts)
    nearest = int(np.argmin(np.abs(values)))
    offsets = {int(np.argmax(counts)), int(np.searchsorted(total, total[-1] / 2)), nearest, 0, values.size - 1}
    costs = {zero: _value_bits(counts, zero) + _ie_bits(zero - (values.size >> 1), 2) for zero in sorted(offsets)}
    zero = min(costs, key=lambda offset: (costs[offset], abs(int(values[offset]))))
    distances = np.diff(values) - 1
    egk = min(range(_ORDERS), key=lambda order: int(_ue_bits_of(distances, order).sum()))
    return Codebook(values, zero, egk)


def _value_bits(counts: NDArray[np.int64], zero: int) -> float:
    """About what coding the values costs with a zero offset: bins at their entropy, and bits to learn each context."""
    sides = counts[zero + 1 :].astype(np.float64), counts[:zero][::-1].astype(np.float64)
    bits = _bin_bits(float(counts[zero]), float(sides[0].sum() + sides[1].sum()))
    bits += _bin_bits(float(sides[0].sum()), float(sides[1].sum()))
    for side in sides:
        above = side[::-1].cumsum()[::-1]
        flags = min(side.size, 10)
        bits += sum(_bin_bits(above[k] - side[k], side[k]) for k in range(flags))
        sizes = np.arange(1, side.size - flags + 1)
        bits += float((side[flags:] * 2.0 * np.log2(sizes + 1)).sum())
    return bits


def _bin_bits(ones: float, zeros: float) -> float:
    """Bits of so many bins of one context, which cost a little even where they are all alike."""
    total = ones + zeros
    return 0.01 * total + sum(n * float(np.log2(total / n)) + 4.0 for n in (ones, zeros) if n > 0)


def _ue_bits_of(numbers: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Bits of ue(order) for each number. Spec, section 1."""
    # the prefix has one bit more for each doubling of the number / 2^order + 1
    doublings = np.frexp(((numbers >> order) + 1).astype(np.float64))[1] - 1
    return 2 * doublings.astype(np.int64) + 1 + order


def _ue_bits(number: int, order: int) -> int:
    return int(_ue_bits_of(np.array([number], np.int64), order)[0])


def _ie_bits(number: int, order: int) -> int:
    return _ue_bits(2 * number - 1 if number > 0 else -2 * number, order)
