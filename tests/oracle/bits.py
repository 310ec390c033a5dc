"""Reading header bits. Spec, section 1."""

from __future__ import annotations


class DamagedError(Exception):
    """The bytes break the standard."""


class Bits:
    """Bits of `data`, most significant first, one at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)
        self.pos = 0

    def bit(self) -> int:
        if self.pos >= 8 * len(self.data):
            raise DamagedError(f"ends at bit {self.pos}")
        value = self.data[self.pos >> 3] >> (7 - (self.pos & 7)) & 1
        self.pos += 1
        return value

    def u(self, n: int) -> int:
        value = 0
        for _ in range(n):
            value = 2 * value + self.bit()
        return value

    def i(self, n: int) -> int:
        value = self.u(n)
        return value - (1 << n) if value >> (n - 1) else value

    def ue(self, k: int) -> int:
        value = 0
        while self.bit() == 0:
            value += 1 << k
            k += 1
        return value + self.u(k)

    def ie(self, k: int) -> int:
        y = self.ue(k)
        return (y + 1) // 2 if y % 2 else -(y // 2)

    def st(self) -> str:
        self.need_byte_boundary()
        out = bytearray()
        while byte := self.u(8):
            out.append(byte)
        try:
            return out.decode()
        except UnicodeDecodeError as error:
            raise DamagedError("text is not UTF-8") from error

    def take(self, n: int) -> bytes:
        self.need_byte_boundary()
        return bytes(self.u(8) for _ in range(n))

    def align(self) -> None:
        if self.bit() != 1:
            raise DamagedError(f"align: no 1 at bit {self.pos - 1}")
        while self.pos % 8:
            if self.bit():
                raise DamagedError(f"align: no 0 at bit {self.pos - 1}")

    def zeros(self, n: int) -> None:
        if self.u(n):
            raise DamagedError(f"reserved bits are not zero at bit {self.pos - n}")

    def need_byte_boundary(self) -> None:
        if self.pos % 8:
            raise DamagedError(f"not on a byte boundary at bit {self.pos}")

    @property
    def left(self) -> int:
        """Whole bytes left."""
        return len(self.data) - (self.pos + 7) // 8
