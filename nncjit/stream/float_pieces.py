"""Large float tensors without loss: pieces whose upper bits are coded by range, 32 states side by side.

The exponents of weights take about 2.6 bits, and an adaptive binary coder decodes at least as many bins as they have
bits, one after the other: that bounds its speed (docs/measurements.md). So tensors of `SMALLEST` values and more have a
format of their own. Each piece of them codes its *symbols*, the bits below the sign and above the mantissa's low ones,
with the frequencies that they have in it, by asymmetric numeral systems (rANS); 32 states take turns, so that their
steps are those of vectors. Signs and low mantissa bits are planes, as in `float_planes`.

The unit is that of an integer tensor of the same shape, all zeros, whose payload the pieces follow. A private data
format says so. A reader that ignores the format gets the zeros. docs/format.md has the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.stream.float_planes import FloatFields

Array = np.ndarray[Any, Any]

FORMATS = {
    106: FloatFields("float32", 8, 23),
    107: FloatFields("bfloat16", 8, 7),
    108: FloatFields("float16", 8, 7),  # five bits of exponent, and the three highest of the mantissa
    109: FloatFields("float8_e4m3fn", 7, 0),
    110: FloatFields("float8_e5m2", 7, 0),
}
"""nnr_decompressed_data_format -> the fields of the values: a sign, a symbol (the "exponent"), and what is below it."""
CODES = {fields.dtype: code for code, fields in FORMATS.items()}

SMALLEST = 1 << 14
"""Values from which the tables of a piece cost less than they save."""
PIECE = 1 << 18
"""Values of a piece; the last one may have fewer."""
CHUNK = 1 << 11
"""Values that share trailing zeros, and whose planes stand together."""
EACH_ITS_OWN = 255
"""In place of the trailing zeros of all chunks: those of each follow."""
STATES = 32
SCALE_BITS = 12
SLOTS = 1 << SCALE_BITS
"""What frequencies add up to."""
LOWEST_STATE = 1 << 16
"""Where each state begins in coding, and ends in decoding; below it 16 bits are moved."""
FEWEST_BYTES = 2 + 3 + 4 * STATES
"""Of a piece: trailing zeros, number of symbols less one, a symbol and its frequency, the states."""

_LENGTH = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class FloatPieces:
    """What follows the payload of the zeros, taken apart."""

    fields: FloatFields
    data: Array
    """uint8: all pieces, one after another."""
    lengths: Array
    """int64[pieces]: their bytes."""
    first: int = 0
    """Which piece of the tensor is the first one here."""

    @classmethod
    def read(
        cls, read: Callable[[int, int], Any], n_bytes: int, fields: FloatFields, size: int, chosen: range | None = None
    ) -> FloatPieces:
        """Some pieces of a unit of `size` values, or all.

        Parameters
        ----------
        read : callable
            Gives the payload's bytes from a start up to a stop.
        n_bytes : int
            Of the payload.
        fields : FloatFields
        size : int
        chosen : range, optional
            Which pieces, step 1; None: all.

        Raises
        ------
        ModelError
            The payload is too short.
        """
        left = n_bytes - _LENGTH.itemsize * count_pieces(size)
        chosen = range(count_pieces(size)) if chosen is None else chosen
        if left < 0:
            raise ModelError("is cut off in the lengths of its pieces")
        lengths = np.frombuffer(read(left, n_bytes), _LENGTH).astype(np.int64)
        if lengths.size and lengths.min() < FEWEST_BYTES:
            raise ModelError(f"has a piece of {lengths.min()} bytes, {FEWEST_BYTES} is the least")
        if lengths.sum() > left:
            raise ModelError(f"has pieces of {lengths.sum()} bytes, {left} are there")
        starts = left - int(lengths.sum()) + np.append(0, np.cumsum(lengths))
        data = np.frombuffer(read(int(starts[chosen.start]), int(starts[chosen.stop])), np.uint8)
        return cls(fields, data, lengths[chosen.start : chosen.stop], chosen.start)


def count_pieces(size: int) -> int:
    """How many pieces so many values have."""
    return -(-size // PIECE)


def packed_lengths(lengths: list[int]) -> bytes:
    """What stands behind the last piece."""
    return np.array(lengths, _LENGTH).tobytes()
