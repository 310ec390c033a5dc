"""Codebooks: few distinct levels, coded by their place in a table that the unit's header carries (spec, sections 2
and 5).
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nncjit.errors import OptionError
from nncjit.quant import codebook_kernels as kernels
from nncjit.quant.uniform import uniform
from nncjit.quant.work_sharing import frozen, run_pieces

Floats = NDArray[np.float32]
Levels = NDArray[np.int32]

LARGEST_SIZE = 4096
"""Most entries of a codebook that is derived here."""

_WIDEST_TABLE = 1 << 20
_ORDERS = 16
_ROUNDS = 40


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
        """Coded values of the entries nearest to the levels, int32[n]: place in the codebook minus zero offset."""
        low, high, levels = int(self.values[0]), int(self.values[-1]), frozen(levels)
        out = np.empty(levels.size, np.int32)
        if high - low < _WIDEST_TABLE:
            table = self._nearest(np.arange(low, high + 1))
            run_pieces(lambda a, b: kernels.look_up(levels[a:b], low, table, out[a:b]), levels.size, workers)
        else:

            def piece(start: int, stop: int) -> None:
                out[start:stop] = self._nearest(levels[start:stop])

            run_pieces(piece, levels.size, workers)
        return out

    def levels(self, coded: Levels, *, workers: Executor | None = None) -> Levels:
        """The levels of coded values, int32[n]."""
        coded = frozen(coded)
        out = np.empty(coded.size, np.int32)
        table = self.values.astype(np.int32)
        run_pieces(lambda a, b: kernels.look_up(coded[a:b], -self.zero, table, out[a:b]), coded.size, workers)
        return out

    def quantise(self, values: Floats, step: float, *, workers: Executor | None = None) -> Levels:
        """Coded values of the entries nearest to ``values / step``, int32[n]."""
        return self.coded(uniform(values, step, workers=workers), workers=workers)

    def table(self, step: float) -> Floats:
        """What each entry stands for: float32 ``step * value``. Spec, section 8."""
        return np.float32(step) * self.values.astype(np.float32)

    def _nearest(self, levels: NDArray[np.int64] | Levels) -> Levels:
        """Coded values of the nearest entries; of two the one nearer to 0."""
        above = np.searchsorted(self.values, levels).clip(1, max(self.size - 1, 1))
        below = above - 1
        if self.size == 1:
            return np.full(levels.size, -self.zero, np.int32)
        up, down = self.values[above] - levels, levels - self.values[below]
        take_below = (down < up) | ((down == up) & (np.sign(levels) > 0))
        return (np.where(take_below, below, above) - self.zero).astype(np.int32)


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
    found = _distinct(frozen(levels), max_size)
    return None if found is None else _best(*found)


def fit(values: Floats, step: float, size: int, *, workers: Executor | None = None) -> Codebook:
    """A codebook of least squared error for some values: Lloyd's method on the grid of the step.

    Parameters
    ----------
    values : float32[n]
        n >= 1.
    step : float
        Entries are whole multiples of it; much finer than the entries' distances.
    size : int
        Most entries, 1..LARGEST_SIZE; fewer where the values need no more.
    workers : Executor or None

    Raises
    ------
    OptionError
        `size` is out of range or there are no values.
    """
    if not 1 <= size <= LARGEST_SIZE or not values.size:
        raise OptionError(f"a codebook of {size} entries for {values.size} values cannot be made")
    levels = uniform(values, step, workers=workers)
    places, counts = _histogram(frozen(levels))
    if places.size > size:
        places, counts = _lloyd(places, counts, size)
    return _best(places, counts)


def _extent(levels: Levels) -> tuple[int, int]:
    ends = np.empty(2, np.int64)
    kernels.extent(levels, ends)
    return int(ends[0]), int(ends[1])


def _histogram(levels: Levels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Levels that occur and how often; where they spread too far, multiples of a power of two in their stead."""
    low, high = _extent(levels)
    shift = max(0, (high - low).bit_length() - _WIDEST_TABLE.bit_length() + 1)
    if shift:
        levels = frozen(levels >> shift)
        low, high = low >> shift, high >> shift
    counts = np.zeros(high - low + 1, np.int64)
    kernels.tally(levels, low, counts)
    places = np.flatnonzero(counts)
    return (places + low << shift) + ((1 << shift) >> 1), counts[places]


def _distinct(levels: Levels, max_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Levels that occur and how often, None where there are more than max_size."""
    low, high = _extent(levels)
    if high - low < _WIDEST_TABLE:
        places, counts = _histogram(levels)
        return None if places.size > max_size else (places, counts)
    found: dict[int, int] = {}
    for start in range(0, levels.size, _WIDEST_TABLE):
        for level, count in zip(*np.unique(levels[start : start + _WIDEST_TABLE], return_counts=True), strict=True):
            found[int(level)] = found.get(int(level), 0) + int(count)
            if len(found) > max_size:
                return None
    ordered = sorted(found.items())
    return np.array([level for level, _ in ordered], np.int64), np.array([count for _, count in ordered], np.int64)


def _lloyd(
    places: NDArray[np.int64], counts: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At most `size` whole centres for weighted places on a line, and how many values each one gets."""
    weight = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    moment = np.concatenate([[0.0], np.cumsum(counts * places, dtype=np.float64)])
    # centres spread as the cube root of the density, which is best where they are many
    spread = np.cumsum((counts / np.gradient(places)) ** (1 / 3) * np.gradient(places))
    centres = np.interp((np.arange(size) + 0.5) / size * spread[-1], spread, places).astype(np.float64)
    for _ in range(_ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(places, (centres[1:] + centres[:-1]) / 2), [places.size]])
        inside = np.diff(weight[cuts])
        filled = inside > 0
        moved = np.diff(moment[cuts])[filled] / inside[filled]
        if moved.size == centres.size and np.abs(moved - centres).max() < 0.25:
            break
        centres = moved
    whole = np.unique(np.rint(centres).astype(np.int64))
    zeros = counts[places == 0].sum()
    if zeros * size > weight[-1] and 0 not in whole:
        whole[np.argmin(np.abs(whole))] = 0
    cuts = np.concatenate([[0], np.searchsorted(places, (whole[1:] + whole[:-1]) / 2), [places.size]])
    return whole, np.diff(weight[cuts]).astype(np.int64)


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
    """About what coding the values costs with a zero offset: each bin at its entropy, some bits to learn each model."""
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
    """Bits of so many bins of one model, which cost a little even where they are all alike."""
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
