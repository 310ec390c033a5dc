"""The arithmetic decoder and its probability models. Spec, sections 3 and 4."""

from __future__ import annotations

import json
import pathlib

from oracle.bits import DamagedError

TABLES = json.loads((pathlib.Path(__file__).parent / "tables.json").read_text())
RLPS = TABLES["rlps"]
DELTA = TABLES["delta"]
CONTEXT_INIT = TABLES["context_init"]


class Model:
    """A pair of estimators of one bin. Spec, section 4."""

    __slots__ = ("h0", "h1", "k", "s0", "t")

    def __init__(self, k: int = 0) -> None:
        self.k = k
        self.reset()

    def reset(self) -> None:
        a, self.h1, self.t, self.s0 = CONTEXT_INIT[self.k]
        self.h0 = a + 4

    def update(self, bin_: int) -> None:
        g = 1 if bin_ else -1
        s0, s1 = self.s0, self.t - 16 * self.s0
        s0 += g * (DELTA[16 + (g * s0 >> 3)] >> self.h0)
        s1 += g * (DELTA[16 + (g * s1 >> 7)] >> self.h1)
        self.s0, self.t = s0, s1 + 16 * s0


class Engine:
    """Range and offset over one payload. Spec, section 3."""

    def __init__(self, payload: bytes) -> None:
        self.n_bytes = len(payload)
        self.bits = [byte >> shift & 1 for byte in bytes(payload) for shift in range(7, -1, -1)]
        self.pos = 0
        self.range = 510
        self.value = 0
        self._read(9)
        if self.value >= self.range:
            raise DamagedError("the first 9 bits are out of range")

    def _read(self, n: int = 1) -> None:
        for _ in range(n):
            if self.pos >= len(self.bits):
                raise DamagedError("payload ends too early")
            self.value = 2 * self.value + self.bits[self.pos]
            self.pos += 1

    def bin(self, model: Model) -> int:
        t = model.t
        less_probable = RLPS[self.range >> 5 & 7][abs(t >> 7)]
        self.range -= less_probable
        bin_ = 1 if t >= 0 else 0
        if self.value >= self.range:
            self.value -= self.range
            self.range = less_probable
            bin_ = 1 - bin_
        while self.range < 256:
            self.range *= 2
            self._read()
        model.update(bin_)
        return bin_

    def bypass(self, n: int = 1) -> int:
        """A number of n bypass bins."""
        number = 0
        for _ in range(n):
            self._read()
            bin_ = self.value >= self.range
            if bin_:
                self.value -= self.range
            number = 2 * number + bin_
        return number

    def iae(self, n: int) -> int:
        """A number of n bypass bins in two's complement."""
        number = self.bypass(n)
        return number - (1 << n) if number >> (n - 1) else number

    def restart(self) -> None:
        """The start of a block row."""
        self.range = 256
        if self.value >= 256:
            raise DamagedError("offset of an entry point is out of range")

    def finish(self) -> None:
        """The terminating bin, the stop bit and the end of the payload."""
        self.range -= 2
        if self.value < self.range:
            raise DamagedError("no terminating bin")
        if self.bits[self.pos - 1] != 1:
            raise DamagedError("no stop bit")
        end = -(-self.pos // 8) * 8
        if any(self.bits[self.pos : end]):
            raise DamagedError("bits after the stop bit")
        if end != 8 * self.n_bytes:
            raise DamagedError("bytes after the stop bit")
