"""The header of a GGUF file, every length of it checked: which tensors there are, of which type, and where."""

from __future__ import annotations

import math
import struct
from typing import Literal, NamedTuple

from nncjit.errors import ModelError

__all__ = ["Entry", "Header", "parse"]

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_DIMENSIONS = 8
MAX_DEPTH = 4
"""Arrays of arrays."""

_ALIGNMENT_KEY = b"general.alignment"
_SPLIT_KEYS = {b"split.no": 0, b"split.count": 1}
_STRING, _ARRAY, _UINT16, _UINT32 = 8, 9, 2, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> its bytes."""


class Entry(NamedTuple):
    """A tensor of a file."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as NumPy has it."""
    kind: int
    """ggml_type."""
    offset: int
    """Of its values, from the end of the header."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """What comes before the values."""

    entries: tuple[Entry, ...]
    data_start: int
    alignment: int
    part: int = 0
    """Which file of its model this is, from 0 on."""
    parts: int = 1
    """Files of the model."""
    order: Literal["<", ">"] = "<"
    """Of the bytes of a number."""


class _EndError(Exception):
    """The bytes end within the header."""


class _Reader:
    """Reads values one after the other, in an order of bytes and with a type of lengths that the version tells."""

    order: Literal["<", ">"] = "<"
    lengths: Literal["I", "Q"] = "Q"

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self._data):
            raise _EndError
        return self._data[start : self.at]

    def number(self, code: Literal["H", "I", "Q"]) -> int:
        return int(struct.unpack(f"{self.order}{code}", self.take(struct.calcsize(f"={code}")))[0])

    def length(self) -> int:
        return self.number(self.lengths)

    def text(self) -> bytes:
        return self.take(self.length())

    def skip(self, kind: int, depth: int = MAX_DEPTH) -> None:
        """Pass over a value."""
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY and depth:
            inner, count = self.number("I"), self.length()
            if inner in _SIZES:
                self.take(count * _SIZES[inner])
                return
            for _ in range(count):
                self.skip(inner, depth - 1)
        elif kind in _SIZES:
            self.take(_SIZES[kind])
        else:
            raise ModelError(f"is damaged: a value of unknown type {kind} at byte {self.at}")


def parse(data: bytes, *, whole: bool) -> Header | None:
    """The header at the start of these bytes.

    Parameters
    ----------
    data : bytes
    whole : bool
        Whether the file has no more than these.

    Returns
    -------
    Header
        None where it goes on after these bytes, and there are more.

    Raises
    ------
    ModelError
        This is no GGUF file, or a damaged one.
    """
    reader = _Reader(data)
    try:
        return _parse(reader)
    except _EndError:
        if not whole:
            return None
        raise ModelError(f"not a GGUF file, or cut off: its header goes on after {len(data)} bytes") from None


def _parse(reader: _Reader) -> Header:
    if reader.take(4) != MAGIC:
        raise ModelError("not a GGUF file")
    version = reader.number("I")
    if version & 0xFFFF == 0:
        version, reader.order = int.from_bytes(version.to_bytes(4, "little")), ">"
    if version not in VERSIONS:
        raise ModelError(f"is version {version} of GGUF, nncjit reads 1 to 3")
    reader.lengths = "I" if version == 1 else "Q"
    n_tensors, n_values = reader.length(), reader.length()
    alignment, split = DEFAULT_ALIGNMENT, [0, 1]
    for _ in range(n_values):
        key = reader.text()
        kind = reader.number("I")
        if key == _ALIGNMENT_KEY and kind == _UINT32:
            alignment = reader.number("I")
            if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
                raise ModelError(f"is damaged: general.alignment is {alignment}, must be a power of two")
        elif key in _SPLIT_KEYS and kind == _UINT16:
            split[_SPLIT_KEYS[key]] = reader.number("H")
        else:
            reader.skip(kind)
    entries = tuple(_entry(reader) for _ in range(n_tensors))
    reader.take(-reader.at % alignment if entries else 0)
    _check(entries, alignment)
    part, parts = split
    return Header(entries, reader.at, alignment, part, parts, reader.order)


def _entry(reader: _Reader) -> Entry:
    try:
        name = reader.text().decode()
    except UnicodeDecodeError:
        raise ModelError(f"is damaged: the name of a tensor before byte {reader.at} is not valid Unicode") from None
    rank = reader.number("I")
    if rank > MAX_DIMENSIONS:
        raise ModelError(f"tensor {name}: has {rank} dimensions, at most {MAX_DIMENSIONS} are possible")
    shape = tuple(reader.length() for _ in range(rank))[::-1]
    return Entry(name, shape, reader.number("I"), reader.number("Q"))


def _check(entries: tuple[Entry, ...], alignment: int) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise ModelError(f"tensor {entry.name}: is there twice")
        seen.add(entry.name)
        if entry.offset % alignment:
            raise ModelError(f"tensor {entry.name}: starts at {entry.offset}, which is no multiple of {alignment}")
