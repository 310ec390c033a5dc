"""Integers without loss in pieces (see `stream.integer_pieces`), and how many bits that takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np

from nncjit.encoder.float_piece_encoder import code_pieces
from nncjit.stream import integer_pieces
from nncjit.stream.float_pieces import SLOTS, STATES, count_pieces
from nncjit.stream.float_planes import Split
from nncjit.stream.integer_pieces import HIGHEST_SYMBOL, MOST_LOW_BITS, PACKED, IntegerSymbols, Offsets

Array = np.ndarray[Any, Any]


class Way(NamedTuple):
    """One way to make symbols of a tensor."""

    code: int
    """nnr_decompressed_data_format."""
    offsets: Offsets

    @property
    def symbols(self) -> IntegerSymbols:
        """What the format says."""
        return integer_pieces.FORMATS[self.code]


class CostedWay(NamedTuple):
    """A way, and what it takes."""

    bits: float
    way: Way


def cheapest_way(storage: Array, dtype: str, sample: Array) -> CostedWay | None:
    """The way that takes the fewest bits, by a sample of the tensor; None for a type that does not go in pieces.

    Parameters
    ----------
    storage : ndarray
        Not empty.
    dtype : str
    sample : ndarray
        Some of its values, one dimension.
    """
    found = [
        CostedWay(bits, way)
        for code, symbols in integer_pieces.FORMATS.items()
        if symbols.dtype == dtype
        for bits, way in _costs(code, symbols, storage, sample)
    ]
    return min(found, default=None)


def in_pieces(storage: Array, way: Way, workers: Executor | None) -> Split:
    """Levels that are all zero, and the pieces of a tensor."""
    flat, symbols = np.ascontiguousarray(storage).reshape(-1), way.symbols

    def part(start: int, stop: int) -> Array:
        ends = slice(start // symbols.per_value, stop // symbols.per_value)
        return integer_pieces.symbols_of(flat[ends], symbols, way.offsets)

    tail = code_pieces(part, flat.size * symbols.per_value, way.offsets.fields, workers)
    if symbols.bits == 8:
        tail += way.offsets.pack()
    return Split(np.zeros(storage.shape, np.int32), tail, way.code)


def _costs(code: int, symbols: IntegerSymbols, storage: Array, sample: Array) -> Iterator[CostedWay]:
    """Ways with this format, and what they take."""
    if symbols.bits == 4:
        counts = np.bincount(integer_pieces.symbols_of(sample, symbols, PACKED), minlength=16)
        yield CostedWay(_bits(counts, storage.size * symbols.per_value), Way(code, PACKED))
        return
    lowest, highest = int(storage.min()), int(storage.max())
    counts = np.bincount(sample.astype(np.int64) - lowest, minlength=256)
    for low_bits in range(MOST_LOW_BITS + 1):
        if low_bits or highest - lowest <= HIGHEST_SYMBOL:
            bits = _bits(counts, storage.size) + low_bits * storage.size
            yield CostedWay(bits, Way(code, Offsets(low_bits, lowest)))
        counts = counts.reshape(-1, 2).sum(axis=1)


def _bits(counts: Array, size: int) -> float:
    """What `size` symbols take that are distributed like these."""
    counts = counts[counts > 0]
    frequencies = np.maximum(np.rint(counts * (SLOTS / counts.sum())), 1)
    each = np.log2(frequencies.sum() / frequencies) @ counts / counts.sum()
    table = 2 + 3 * counts.size + 2 * STATES + 4  # half of each state is information
    return float(size * each + 8 * table * count_pieces(size))
