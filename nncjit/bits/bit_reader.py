"""Reading the descriptors of the standard from bytes."""

from __future__ import annotations

import struct
from typing import NoReturn

from nncjit.errors import BitstreamError

MAX_UE_SUFFIX = 40
"""Most bits after the 1 of an Exp-Golomb code: 2^40 is the largest tensor, and damaged codes stay short."""

MAX_TEXT = 65535
"""Longest st(v) in bytes, without its zero byte."""

# Longest ue: MAX_UE_SUFFIX zeros, a one and the suffix are 81 bits, and the first may be the last bit of its byte.
_UE_WINDOW = (2 * MAX_UE_SUFFIX + 1 + 7 + 7) // 8


_number = int.from_bytes


class EndOfDataError(BitstreamError):
    """The bytes given to the reader end inside an element (with more bytes the element might be fine)."""


class BitReader:
    """Reads bits, most significant first. Spec, section 1.

    Parameters
    ----------
    data : bytes, bytearray or memoryview
        What is read; not kept where it can change (a copy is made of anything but bytes).
    bit : int
        Position of the first bit of `data` in the stream; added to the position in errors.

    Attributes
    ----------
    pos : int
        Bits read so far. An element that fails leaves it at its own first bit.
    path : str
        The syntax element being read, for errors.

    Raises
    ------
    BitstreamError
        From every read, where the bytes break the descriptor; `EndOfDataError` where they end too early.
    """

    __slots__ = ("_data", "_n_bits", "bit", "path", "pos")

    def __init__(self, data: bytes | bytearray | memoryview, *, bit: int = 0, path: str = "bitstream") -> None:
        self._data = data if isinstance(data, bytes) else bytes(data)
        self._n_bits = 8 * len(self._data)
        self.bit = bit
        self.path = path
        self.pos = 0

    @property
    def left(self) -> int:
        """Bits not yet read."""
        return self._n_bits - self.pos

    @property
    def held(self) -> tuple[bytes, int]:
        """The data, and how many bytes of them count."""
        return self._data, self._n_bits >> 3

    def stop_at(self, n_bytes: int) -> None:
        """Let the data end after `n_bytes`, where they do not end before."""
        self._n_bits = 8 * min(n_bytes, len(self._data))

    def error(self, reason: str, *, pos: int | None = None) -> BitstreamError:
        """An error of the element `path`, at the present position or at `pos`."""
        return BitstreamError(reason, bit=self.bit + (self.pos if pos is None else pos), path=self.path)

    def _ends(self, needs: str) -> NoReturn:
        raise EndOfDataError(f"needs {needs}, {self.left} left", bit=self.bit + self.pos, path=self.path)

    def u(self, n: int) -> int:
        """Read n bits, unsigned."""
        pos = self.pos
        end = pos + n
        if end > self._n_bits:
            self._ends(f"{n} bits")
        self.pos = end
        return _number(self._data[pos >> 3 : (end + 7) >> 3], "big") >> (-end & 7) & ((1 << n) - 1)

    def i(self, n: int) -> int:
        """Read n bits, two's complement."""
        value = self.u(n)
        return value - (1 << n) if value >> (n - 1) else value

    def ue(self, k: int) -> int:
        """Exp-Golomb of order k, suffix of at most `MAX_UE_SUFFIX` bits."""
        pos = self.pos
        window = self._data[pos >> 3 : (pos >> 3) + _UE_WINDOW]
        n = 8 * len(window) - (pos & 7)
        bits = _number(window, "big") & ((1 << n) - 1)
        zeros = n - bits.bit_length()
        length = 2 * zeros + k + 1
        if zeros + k > MAX_UE_SUFFIX or pos + length > self._n_bits:
            if min(zeros, self.left) + k > MAX_UE_SUFFIX:
                raise self.error(f"is an Exp-Golomb code with more than {MAX_UE_SUFFIX} bits after its prefix")
            self._ends(f"{length} bits")
        self.pos = pos + length
        return (bits >> (n - length)) - (1 << k)

    def ie(self, k: int) -> int:
        """Signed Exp-Golomb of order k: 0, 1, -1, 2, -2, ..."""
        y = self.ue(k)
        return (y + 1) >> 1 if y & 1 else -(y >> 1)

    def packed(self, n: int) -> bytes:
        """Read n bits as ceil(n / 8) bytes, the first bit on top, the last byte filled with zeros."""
        end = self.pos + n
        if end > self._n_bits:
            self._ends(f"{n} bits")
        if not (self.pos | n) & 7:
            value = self._data[self.pos >> 3 : end >> 3]
            self.pos = end
            return value
        return (self.u(n) << (-n & 7)).to_bytes((n + 7) >> 3, "big")

    def flt(self) -> float:
        """An IEEE-754 single, low byte first, wherever the bits stand."""
        value: float = struct.unpack("<f", self.packed(32))[0]
        return value

    def st(self) -> str:
        """UTF-8 up to a zero byte, on a byte boundary."""
        assert not self.pos & 7, "text starts on a byte boundary in every table"
        first = self.pos >> 3
        stop = self._data.find(b"\0", first, min(first + MAX_TEXT + 1, self._n_bits >> 3))
        if stop < 0:
            if self.left > 8 * MAX_TEXT:
                raise self.error(f"is a text of more than {MAX_TEXT} bytes")
            self._ends("a text that closes with a zero byte")
        try:
            value = self._data[first:stop].decode("utf-8")
        except UnicodeDecodeError as err:
            raise self.error("is not UTF-8", pos=8 * (first + err.start)) from None
        self.pos = 8 * (stop + 1)
        return value

    def align(self) -> None:
        """A one, then zeros up to the byte boundary; a whole byte where the position is on a boundary already."""
        n = 8 - (self.pos & 7)
        start = self.pos
        value = self.u(n)
        if value != 1 << (n - 1):
            self.pos = start
            raise self.error(f"alignment bits are {value:0{n}b}, not {1 << (n - 1):b}")
