"""Integers without loss: their high bits go to the arithmetic coder, their lowest bits stay as they are.

Levels of a quantised model with many bits have no two neighbours of much different frequency, so nothing predicts their
lowest bits, and each adaptive bin for them costs more than it saves. An integer tensor is then one of the same shape,
the high parts, less the most frequent of them, whose payload is followed by planes of single bits; a private data
format says so. A reader that ignores the format gets the levels of the high parts. docs/format.md has the layout.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.errors import ModelError
from nncjit.stream.float_planes import PIECE, Split

Array = np.ndarray[Any, Any]


class IntegerFields(NamedTuple):
    """What a private nnr_decompressed_data_format of split integers says."""

    dtype: str

    @property
    def bits(self) -> int:
        """Of a value."""
        return 8 * dtypes.find(self.dtype).itemsize

    def range_above(self, low_bits: int) -> range:
        """High parts that values without their lowest bits can have."""
        limits = np.iinfo(dtypes.find(self.dtype).storage)
        return range(int(limits.min) >> low_bits, (int(limits.max) >> low_bits) + 1)


FORMATS = {102 + k: IntegerFields(dtype) for k, dtype in enumerate(("int8", "uint8", "int16", "uint16"))}
"""nnr_decompressed_data_format -> what it says."""
CODES = {fields.dtype: code for code, fields in FORMATS.items()}

_END = struct.Struct("<Bi")
"""The last bytes: number of low bits, and the high part of level 0."""


def split(storage: Array, low_bits: int) -> Split:
    """The high parts of an integer tensor of 8 or 16 bits that is not empty as levels, and its other bits."""
    flat = np.ascontiguousarray(storage).reshape(-1)
    levels = np.empty(flat.size, np.int32)
    planes = np.empty((low_bits, -(-flat.size // 8)), np.uint8)
    for at in range(0, flat.size, PIECE):
        piece = flat[at : at + PIECE].astype(np.int32)
        levels[at : at + PIECE] = piece >> low_bits
        for k, plane in enumerate(planes):
            bits = np.packbits(piece >> k & 1, bitorder="little")
            plane[at // 8 : at // 8 + bits.size] = bits
    lowest = int(levels.min())
    middle = lowest + int(np.bincount(levels - lowest).argmax())
    levels -= middle
    tail = planes.tobytes() + _END.pack(low_bits, middle)
    return Split(levels.reshape(storage.shape), tail, CODES[storage.dtype.name])


@dataclass(frozen=True, slots=True)
class IntegerPlanes:
    """What follows the payload of the levels, understood."""

    fields: IntegerFields
    low_bits: int
    middle: int
    """The high part of level 0."""
    planes: Array
    """uint8[low_bits, bytes]: from the least significant bit on."""
    coded_bytes: int
    """Of the payload of the levels, which comes first."""

    @property
    def lowest(self) -> int:
        """The lowest level that the type has."""
        return self.fields.range_above(self.low_bits).start - self.middle

    @property
    def highest(self) -> int:
        """The highest."""
        return self.fields.range_above(self.low_bits).stop - 1 - self.middle

    @classmethod
    def parse(cls, payload: Array, fields: IntegerFields, size: int) -> IntegerPlanes:
        """From the payload of a unit of `size` values.

        Raises
        ------
        ModelError
            It is too short, or says what cannot be.
        """
        left = payload.size - _END.size
        if left < 0:
            raise ModelError("is cut off in the bits beside the high ones")
        low_bits, middle = _END.unpack(payload[left:].tobytes())
        # levels must fit 16 bits, and some bit must be coded
        if low_bits >= fields.bits or (fields.bits > 8 and not low_bits):
            raise ModelError(f"leaves {low_bits} of {fields.bits} bits uncoded")
        if middle not in fields.range_above(low_bits):
            raise ModelError(f"has high bits {middle} that {fields.dtype} does not have")
        n_bytes = low_bits * -(-size // 8)
        if n_bytes > left:
            raise ModelError(f"needs {n_bytes} bytes beside the high bits, {left} are there")
        planes = payload[left - n_bytes : left].reshape(low_bits, -(-size // 8))
        return cls(fields, low_bits, middle, planes, left - n_bytes)

    def join(self, levels: Array) -> Array:
        """The integers whose high parts have these levels, none of them out of range."""
        flat = levels.reshape(-1)
        values = np.empty(flat.size, dtypes.find(self.fields.dtype).storage)
        for at in range(0, flat.size, PIECE):
            piece = flat[at : at + PIECE].astype(np.int32) + self.middle << self.low_bits
            for k, plane in enumerate(self.planes):
                bits = np.unpackbits(plane[at // 8 :][: -(-piece.size // 8)], count=piece.size, bitorder="little")
                piece |= bits.astype(np.int32) << k
            values[at : at + PIECE] = piece
        return values.reshape(levels.shape)
