"""Integers without loss in pieces: packed codes of four bits, and levels of a byte, by the symbols of `float_pieces`.

A binary coder that adapts spends a little more than the entropy on each of its bins, and a level of four bits takes
four of them, one of eight bits ten. Frequencies that are counted and sent cost less where a tensor is large and its
levels are distributed alike everywhere, as those of a quantised model are. So each piece has *symbols* of its own: the
packed codes of four bits, of a word the lowest first; or the values of a byte less the lowest one, of which some low
bits may stay as they are.

The unit is that of an integer tensor of the same shape, all zeros, whose payload the pieces follow. A private data
format says so. docs/format.md has the layout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.errors import ModelError
from nncjit.stream.float_pieces import FloatPieces
from nncjit.stream.float_planes import FloatFields

Array = np.ndarray[Any, Any]


class IntegerSymbols(NamedTuple):
    """What a private nnr_decompressed_data_format of integers in pieces says."""

    dtype: str
    bits: int
    """Of a symbol: 4 where values are packed codes, else 8."""

    @property
    def per_value(self) -> int:
        """Symbols of a value."""
        return 8 * dtypes.find(self.dtype).itemsize // self.bits


FORMATS = {
    116: IntegerSymbols("int8", 8),
    117: IntegerSymbols("uint8", 8),
    118: IntegerSymbols("int4", 8),
    119: IntegerSymbols("uint8", 4),
    120: IntegerSymbols("int32", 4),
    121: IntegerSymbols("uint32", 4),
    122: IntegerSymbols("int64", 4),
    123: IntegerSymbols("uint64", 4),
    124: IntegerSymbols("float4_e2m1fn_x2", 4),
    125: IntegerSymbols("float8_e8m0fnu", 8),
}
"""nnr_decompressed_data_format -> what it says."""

MOST_LOW_BITS = 6
"""That may stay as they are."""
HIGHEST_SYMBOL = 127
"""Of values of a byte, without their low bits."""
AT_ONCE = 1 << 16
"""Symbols that are worked on at a time, so that temporaries stay in the cache."""

_END = struct.Struct("<Bh")
"""The last bytes where symbols have eight bits: number of low bits, and the lowest value."""


class Offsets(NamedTuple):
    """How a value of a byte becomes a symbol and low bits."""

    low_bits: int
    lowest: int

    @property
    def fields(self) -> FloatFields:
        """Where they lie in a byte: the lowest bit is the "sign", the symbol the "exponent"."""
        mantissa_bits = max(self.low_bits - 1, 0)
        return FloatFields("uint8", 7 - mantissa_bits, mantissa_bits)

    def pack(self) -> bytes:
        """The last bytes of a payload."""
        return _END.pack(self.low_bits, self.lowest)


PACKED = Offsets(0, 0)
"""Of codes of four bits."""


def symbols_of(values: Array, symbols: IntegerSymbols, offsets: Offsets) -> Array:
    """The bytes that pieces hold of some values, uint8[values * per_value].

    Parameters
    ----------
    values : ndarray
        One dimension, C-contiguous, of the storage dtype.
    symbols : IntegerSymbols
    offsets : Offsets
        They fit the values.
    """
    if symbols.bits == 4:
        pairs = values.astype(values.dtype.newbyteorder("<"), copy=False).view(np.uint8).astype("<u2")
        pairs |= pairs << 4
        pairs &= 0x0F0F
        return pairs.view(np.uint8)
    above = values.view(np.uint8) - np.uint8(offsets.lowest & 255)
    if not offsets.low_bits:
        return above
    left = offsets.low_bits - 1
    words: Array = above << 7 | above >> offsets.low_bits << left | above >> 1 & (1 << left) - 1
    return words


@dataclass(frozen=True, slots=True)
class IntegerPieces:
    """What follows the payload of the zeros, taken apart."""

    symbols: IntegerSymbols
    offsets: Offsets
    pieces: FloatPieces

    @classmethod
    def read(
        cls,
        read: Callable[[int, int], Any],
        n_bytes: int,
        symbols: IntegerSymbols,
        size: int,
        chosen: range | None = None,
    ) -> IntegerPieces:
        """Some pieces of a unit of `size` values, or all; parameters as in `FloatPieces.read`.

        Raises
        ------
        ModelError
            The payload is too short, or says what cannot be.
        """
        offsets, left = PACKED, n_bytes
        if symbols.bits == 8:
            left -= _END.size
            if left < 0:
                raise ModelError("is cut off behind its pieces")
            offsets = Offsets(*_END.unpack(read(left, n_bytes)))
            lowest, highest = _limits(symbols.dtype)
            if offsets.low_bits > MOST_LOW_BITS or not lowest <= offsets.lowest <= highest:
                raise ModelError(f"leaves {offsets.low_bits} bits as they are above {offsets.lowest}")
        pieces = FloatPieces.read(read, left, offsets.fields, size * symbols.per_value, chosen)
        return cls(symbols, offsets, pieces)

    def join(self, words: Array) -> Array:
        """The storage array whose symbols these are.

        Parameters
        ----------
        words : ndarray
            uint8[*shape, per_value]: what the pieces gave.

        Returns
        -------
        ndarray
            Of the shape.

        Raises
        ------
        ModelError
            Values that the type does not have.
        """
        flat, storage = words.reshape(-1), dtypes.find(self.symbols.dtype).storage
        octets = np.empty(flat.size * self.symbols.bits // 8, np.uint8)
        joined = self._packed if self.symbols.bits == 4 else self._values
        step = AT_ONCE * self.symbols.bits // 8
        for at in range(0, octets.size, step):
            octets[at : at + step] = joined(flat[at * 8 // self.symbols.bits :][:AT_ONCE])
        return octets.view(storage.newbyteorder("<")).astype(storage, copy=False).reshape(words.shape[:-1])

    def _packed(self, words: Array) -> Array:
        """Octets of codes of four bits."""
        if words.max() > 15:
            raise ModelError(f"has symbol {words.max()} among codes of four bits")
        pairs = words.view("<u2")
        octets: Array = (pairs | pairs >> 4).astype(np.uint8)
        return octets

    def _values(self, words: Array) -> Array:
        """Octets of values of a byte."""
        above, low_bits = words, self.offsets.low_bits
        if low_bits:
            left = low_bits - 1
            above = words >> left << low_bits | (words & (1 << left) - 1) << 1 | words >> 7
        highest = int(above.max()) + self.offsets.lowest
        if highest > _limits(self.symbols.dtype)[1]:
            raise ModelError(f"has value {highest}, which {self.symbols.dtype} does not have")
        octets: Array = above + np.uint8(self.offsets.lowest & 255)
        return octets


def _limits(name: str) -> tuple[int, int]:
    """The lowest and the highest value of an integer type of up to eight bits."""
    dtype = dtypes.find(name)
    lowest = -(1 << dtype.bits - 1) if dtype.kind == "i" else 0
    return lowest, lowest + (1 << dtype.bits) - 1
