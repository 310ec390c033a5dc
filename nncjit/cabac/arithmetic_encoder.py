"""The arithmetic coder's state and its output, for the kernels that write to it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nncjit.cabac import arithmetic_encoder_kernels as kernels
from nncjit.cabac import encoder_records as er
from nncjit.cabac.encoder_input import TABLES

Array = NDArray[Any]

_SLOTS = slice(er.OUT, er.PENDING + 1)
_LIST_END = np.array([er.LIST_END, 0], np.uint16)


class _Kernel(Protocol):
    def __call__(self, run: int, /) -> int: ...


class Coder:
    """A string that is being written. Spec, section 12.

    Parameters
    ----------
    span : int
        The range at the start: 510, or 256 for a string that will be appended to another.
    pending : int
        0, or 7 for a string that will be appended, see `encode_kernels.append`.
    """

    def __init__(self, span: int = 510, pending: int = 0) -> None:
        self.out = np.empty(1 << 12, np.uint8)
        self._slots = np.zeros(er.FIELDS, np.int64)
        self._slots[er.RANGE], self._slots[er.PENDING] = span, pending

    def drive(self, kernel: _Kernel, run: Array) -> None:
        """Let a kernel write; `run` is its record. A kernel that finds too little room goes on where it was after we
        have made some.
        """
        while True:
            self._slots[er.OUT], self._slots[er.CAPACITY] = self.out.ctypes.data, len(self.out)
            run[_SLOTS] = self._slots[_SLOTS]
            done = kernel(run.ctypes.data)
            self._slots[_SLOTS] = run[_SLOTS]
            if done:
                return
            self._reserve(len(self.out) // 2 + 2 * int(run[er.COUNT]) + int(run[er.CHUNK]) + 8)

    def code(self, codes: Array, words: Array) -> None:
        """Write a list of codes, uint16[n], with the models `words`, uint32[any], which adapt."""
        run = np.zeros(er.FIELDS, np.int64)
        codes, count = np.concatenate([codes, _LIST_END]), len(codes)
        run[er.CODES], run[er.COUNT] = codes.ctypes.data, count
        run[er.WORDS], run[er.TABLES] = words.ctypes.data, TABLES.ctypes.data
        self.drive(kernels.code, run)

    @property
    def bits(self) -> int:
        """Bits that no shift can change any more, but for a carry: p - 9 of the decoder. Spec, section 3."""
        return 8 * int(self._slots[er.POSITION]) + int(self._slots[er.PENDING])

    @property
    def low(self) -> int:
        """The lower end of the interval, modulo 512."""
        return int(self._slots[er.LOW]) & 511

    def append(self, piece: Coder) -> None:
        """Add a string that was started with span 256 and pending 7 where this one stands, as if it had been written
        here.
        """
        size = int(piece._slots[er.POSITION])
        self._reserve(size + 16)
        run = self._slots.copy()
        run[er.OUT] = self.out.ctypes.data
        tail, tail_bits = int(piece._slots[er.LOW]), int(piece._slots[er.PENDING]) + er.WINDOW
        kernels.append(run.ctypes.data, piece.out.ctypes.data, size, tail, tail_bits)
        self._slots[_SLOTS] = run[_SLOTS]
        self._slots[er.RANGE] = piece._slots[er.RANGE]

    def finish(self) -> bytes:
        """The string with the terminating bin and the stop bit, in whole bytes. Spec, sections 3 and 12."""
        low, span, pending, size = (int(self._slots[k]) for k in (er.LOW, er.RANGE, er.PENDING, er.POSITION))
        n_bits = pending + er.WINDOW
        tail = (low + span - 2) | 1
        body = bytearray(self.out[:size])
        if tail >> n_bits:
            while body[size - 1] == 255:
                size -= 1
                body[size] = 0
            body[size - 1] += 1
        n_bytes = -(-n_bits // 8)
        return bytes(body) + (tail << (8 * n_bytes - n_bits) & (1 << 8 * n_bytes) - 1).to_bytes(n_bytes, "big")

    def _reserve(self, room: int) -> None:
        """Make place for `room` bytes more."""
        size = int(self._slots[er.POSITION])
        if len(self.out) - size < room:
            out = np.empty(size + max(room, size // 2), np.uint8)
            out[:size] = self.out[:size]
            self.out = out
