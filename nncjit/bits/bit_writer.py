"""Writing the descriptors of the standard."""

from __future__ import annotations

import math
import struct
from operator import index
from typing import NoReturn

from nncjit.bits.bit_reader import MAX_TEXT, MAX_UE_SUFFIX
from nncjit.errors import OptionError

_FLUSH = 2048


class BitWriter:
    """Writes bits, most significant first: the same calls as `BitReader`, with the value last. Spec, section 1.

    Attributes
    ----------
    path : str
        The syntax element being written, for errors.

    Raises
    ------
    OptionError
        From every write, where the value does not fit its descriptor.
    """

    __slots__ = ("_done", "_n_pending", "_pending", "path")

    def __init__(self) -> None:
        self._done = bytearray()
        self._pending = 0  # bits not yet in _done, as one number
        self._n_pending = 0
        self.path = "bitstream"

    @property
    def pos(self) -> int:
        """Bits written so far."""
        return 8 * len(self._done) + self._n_pending

    def getvalue(self) -> bytes:
        """All that was written; the position must be on a byte boundary."""
        assert not self._n_pending & 7, "every unit and header closes on a byte boundary"
        self._flush()
        return bytes(self._done)

    def mark(self) -> tuple[int, int, int]:
        """What has been written, for `back_to`."""
        return len(self._done), self._pending, self._n_pending

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Take back what was written since the `mark`."""
        size, self._pending, self._n_pending = mark
        del self._done[size:]

    def _flush(self) -> None:
        rest = self._n_pending & 7
        self._done += (self._pending >> rest).to_bytes(self._n_pending >> 3, "big")
        self._pending &= (1 << rest) - 1
        self._n_pending = rest

    def _put(self, n: int, value: int) -> None:
        self._pending = self._pending << n | value
        self._n_pending += n
        if self._n_pending >= _FLUSH:
            self._flush()

    def _refuse(self, value: object, why: str) -> NoReturn:
        raise OptionError(f"{self.path}: {value!r} {why}")

    def _int(self, value: object) -> int:
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            self._refuse(value, "is not an integer")

    def u(self, n: int, value: int) -> None:
        """Write n bits, unsigned."""
        value = self._int(value)
        if value < 0 or value >> n:
            self._refuse(value, f"does not fit u({n})")
        self._put(n, value)

    def i(self, n: int, value: int) -> None:
        """Write n bits, two's complement."""
        value = self._int(value)
        if not -(1 << (n - 1)) <= value < 1 << (n - 1):
            self._refuse(value, f"does not fit i({n})")
        self._put(n, value & ((1 << n) - 1))

    def ue(self, k: int, value: int) -> None:
        """Exp-Golomb of order k."""
        value = self._int(value)
        plus = value + (1 << k)
        n = plus.bit_length() - 1
        if value < 0 or n > MAX_UE_SUFFIX:
            self._refuse(value, f"does not fit ue({k})")
        self._put(2 * n - k + 1, plus)

    def ie(self, k: int, value: int) -> None:
        """Signed Exp-Golomb of order k."""
        value = self._int(value)
        self.ue(k, 2 * value - 1 if value > 0 else -2 * value)

    def packed(self, n: int, data: bytes | bytearray | memoryview) -> None:
        """The first n bits of `data`, which has ceil(n / 8) bytes and zeros after bit n."""
        data = bytes(data)
        if len(data) != (n + 7) >> 3 or (n & 7 and data[-1] & (0xFF >> (n & 7))):
            self._refuse(f"{len(data)} bytes", f"are not {n} bits and zeros up to the byte")
        if not self._n_pending & 7 and not n & 7:
            self._flush()
            self._done += data
        else:
            self._put(n, int.from_bytes(data, "big") >> (-n & 7))

    def flt(self, value: float) -> None:
        """An IEEE-754 single, low byte first; the value is rounded to one."""
        try:
            single = struct.pack("<f", value)
        except (OverflowError, struct.error):
            self._refuse(value, "does not fit flt(32)")
        if not math.isfinite(value):
            self._refuse(value, "is not finite")
        self.packed(32, single)

    def st(self, value: str) -> None:
        """UTF-8 and a zero byte, on a byte boundary."""
        assert not self._n_pending & 7, "text starts on a byte boundary in every table"
        if not isinstance(value, str):
            self._refuse(value, "is not a text")
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError:
            self._refuse(value, "cannot be written as UTF-8")
        if b"\0" in data:
            self._refuse(value, "holds a zero byte, which ends a text")
        if len(data) > MAX_TEXT:
            self._refuse(value[:40] + "...", f"is longer than {MAX_TEXT} bytes")
        self.packed(8 * len(data) + 8, data + b"\0")

    def align(self) -> None:
        """A one, then zeros up to the byte boundary."""
        n = 8 - (self._n_pending & 7)
        self._put(n, 1 << (n - 1))
