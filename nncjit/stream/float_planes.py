"""Floats without loss: their exponents go to the arithmetic coder, their signs and mantissas stay as they are.

Weights have few exponents, which take about 2.6 bits, and mantissas that nothing can predict. So a float tensor is an
integer tensor of the same shape, the exponents, whose payload is followed by all other bits, and a private data format
says so. Nothing else in the stream changes; a reader that ignores the format gets the exponents' levels.

Levels count the exponents that occur in ascending order, with the most frequent one as level 0. Where zeros are
frequent they are level 0, and the most frequent other exponent is level 1. Of the other bits, the sign above the
mantissa, trailing zeros that all values of a chunk share are left out. The rest is cut into planes of 8 bits from the
least significant bit on, what remains above into planes of single bits. docs/format.md has the layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.errors import ModelError

Array = np.ndarray[Any, Any]


class FloatFields(NamedTuple):
    """The fields of a float type, below the sign."""

    dtype: str
    exponent_bits: int
    mantissa_bits: int

    @property
    def words(self) -> np.dtype[Any]:
        """Unsigned integers of the type's size."""
        return np.dtype(f"u{dtypes.find(self.dtype).itemsize}")

    @property
    def rest_bits(self) -> int:
        """Bits of sign and mantissa."""
        return self.mantissa_bits + 1


FORMATS = {
    96: FloatFields("float32", 8, 23),
    97: FloatFields("bfloat16", 8, 7),
    98: FloatFields("float16", 5, 10),
    99: FloatFields("float64", 11, 52),
    100: FloatFields("float8_e4m3fn", 4, 3),
    101: FloatFields("float8_e5m2", 5, 2),
}
"""nnr_decompressed_data_format -> the fields of the floats."""
CODES = {fields.dtype: code for code, fields in FORMATS.items()}

CHUNK = 1 << 12
"""Values that share trailing zeros."""
PIECE = 1 << 16
"""Values that are worked on at a time, so that temporaries stay in the cache; a multiple of CHUNK."""
FREQUENT = 4
"""Zeros are frequent where they are more than one value in so many."""

_END = struct.Struct("<Hh")
"""The last bytes: number of runs of exponents, and the lowest level."""
_RUN = struct.Struct("<HH")
"""A run of exponents: the first, and how many."""


class Split(NamedTuple):
    """A float tensor in two."""

    levels: Array
    """int32[shape]: of the exponents."""
    tail: bytes | bytearray
    """All else, which follows the payload of the levels."""
    code: int
    """nnr_decompressed_data_format."""


def split(storage: Array, dtype: str) -> Split:
    """The exponents of a float tensor that is not empty as levels, and its other bits."""
    fields = FORMATS[CODES[dtype]]
    words = np.ascontiguousarray(storage).reshape(-1).view(fields.words)
    order, lowest = _order(words, fields)
    level_of = np.zeros(1 << fields.exponent_bits, np.int32)
    level_of[order] = np.arange(lowest, lowest + len(order), dtype=np.int32)
    levels = np.empty(words.size, np.int32)
    rest = np.empty_like(words)
    mask = (1 << fields.exponent_bits) - 1
    for at in range(0, words.size, PIECE):
        piece = words[at : at + PIECE]
        levels[at : at + PIECE] = level_of[(piece >> fields.mantissa_bits) & mask]
        rest[at : at + PIECE] = _without_exponent(piece, fields)
    zeros = _trailing_zeros(rest, fields)
    parts = [plane for run in _runs(zeros, words.size) for plane in _planes(rest[run.start : run.stop], run, fields)]
    runs = _consecutive(order)
    parts += [bytes(zeros), *(_RUN.pack(*run) for run in runs), _END.pack(len(runs), lowest)]
    return Split(levels.reshape(storage.shape), b"".join(parts), CODES[dtype])


@dataclass(frozen=True, slots=True)
class FloatPlanes:
    """What follows the payload of the levels, understood."""

    fields: FloatFields
    exponents: Array
    """Of each level, from `lowest` on."""
    lowest: int
    zeros: bytes
    """Trailing zeros of each chunk."""
    planes: Array
    """uint8: all planes, one after another."""
    coded_bytes: int
    """Of the payload of the levels, which comes first."""

    @classmethod
    def parse(cls, payload: Array, fields: FloatFields, size: int) -> FloatPlanes:
        """From the payload of a unit of `size` values.

        Raises
        ------
        ModelError
            It is too short, or says what cannot be.
        """
        n_chunks, left = -(-size // CHUNK), payload.size - _END.size
        if left < n_chunks:
            raise ModelError("is cut off in the bits beside the exponents")
        n_runs, lowest = _END.unpack(payload[left:].tobytes())
        left -= _RUN.size * n_runs
        if left < n_chunks or not n_runs:
            raise ModelError(f"cannot have {n_runs} runs of exponents")
        runs = list(_RUN.iter_unpack(payload[left : payload.size - _END.size].tobytes()))
        if sum(count for _, count in runs) > 1 << fields.exponent_bits:
            raise ModelError(f"has more exponents than {fields.dtype}")
        exponents = np.concatenate([np.arange(first, first + count, dtype=np.int64) for first, count in runs])
        if not exponents.size or exponents.max() >> fields.exponent_bits or not 0 <= -lowest < exponents.size:
            raise ModelError(f"has exponents that {fields.dtype} does not have")
        left -= n_chunks
        zeros = payload[left : left + n_chunks].tobytes()
        if zeros and max(zeros) > fields.rest_bits:
            raise ModelError(f"leaves out {max(zeros)} of {fields.rest_bits} bits")
        n_bytes = sum(run.n_bytes(fields) for run in _runs(zeros, size))
        if n_bytes > left:
            raise ModelError(f"needs {n_bytes} bytes beside the exponents, {left} are there")
        return cls(fields, exponents, lowest, zeros, payload[left - n_bytes : left], left - n_bytes)

    def runs(self, size: int) -> Iterator[Run]:
        """The runs of chunks of so many values, whose planes follow each other."""
        return _runs(self.zeros, size)


class Run(NamedTuple):
    """Neighbouring chunks with the same number of trailing zeros."""

    start: int
    stop: int
    zeros: int

    def n_bytes(self, fields: FloatFields) -> int:
        """Of all its planes."""
        n_bytes, n_bits = divmod(fields.rest_bits - self.zeros, 8)
        size = self.stop - self.start
        return n_bytes * size + n_bits * -(-size // 8)


def _runs(zeros: bytes | Array, size: int) -> Iterator[Run]:
    """The runs of chunks."""
    start = 0
    for k in range(1, len(zeros) + 1):
        if k == len(zeros) or zeros[k] != zeros[start]:
            yield Run(start * CHUNK, min(k * CHUNK, size), int(zeros[start]))
            start = k


def _planes(rest: Array, run: Run, fields: FloatFields) -> Iterator[bytes]:
    n_bytes, n_bits = divmod(fields.rest_bits - run.zeros, 8)
    for k in range(n_bytes):
        yield (rest >> (8 * k + run.zeros)).astype(np.uint8).tobytes()
    for k in range(n_bits):
        bits = (rest >> (8 * n_bytes + k + run.zeros)).astype(np.uint8) & 1
        yield np.packbits(bits, bitorder="little").tobytes()


def _order(words: Array, fields: FloatFields) -> tuple[Array, int]:
    """The exponents in the order of their levels, and the lowest level."""
    counts = np.zeros(1 << fields.exponent_bits, np.int64)
    for at in range(0, words.size, PIECE):
        exponents = (words[at : at + PIECE] >> fields.mantissa_bits) & ((1 << fields.exponent_bits) - 1)
        counts += np.bincount(exponents.astype(np.int64), minlength=counts.size)
    used = np.flatnonzero(counts)
    if used.size > 1 and used[0] == 0 and FREQUENT * counts[0] > words.size:
        others = used[1:]
        below = int(counts[others].argmax())
        return np.concatenate([others[:below], used[:1], others[below:]]), -below
    return used, -int(counts[used].argmax())


def _consecutive(order: Array) -> list[tuple[int, int]]:
    """Runs (first, count) of numbers that follow each other."""
    starts = np.flatnonzero(np.diff(order, prepend=order[0] - 2) != 1)
    return [(int(order[a]), int(b - a)) for a, b in zip(starts, [*starts[1:], order.size], strict=True)]


def _without_exponent(words: Array, fields: FloatFields) -> Array:
    """The sign right above the mantissa."""
    sign = words >> (fields.mantissa_bits + fields.exponent_bits)
    rest: Array = (sign << fields.mantissa_bits) | (words & ((1 << fields.mantissa_bits) - 1))
    return rest


def _trailing_zeros(rest: Array, fields: FloatFields) -> Array:
    """uint8[chunks]: how many of the lowest bits are zero in all values of the chunk."""
    together = np.bitwise_or.reduceat(rest, np.arange(0, rest.size, CHUNK))
    return np.array([(int(x) & -int(x)).bit_length() - 1 if x else fields.rest_bits for x in together], np.uint8)
