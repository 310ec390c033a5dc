"""The CRC-32 of a stream from those of its parts, so that threads can share the work."""

from __future__ import annotations

import zlib
from functools import partial

from nncjit.bits import Source
from nncjit.jit import threads as thread_counts
from nncjit.jit.threads import share

PART = 1 << 24
"""Bytes of a part."""

_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, the coefficient of x^0 in the highest bit."""
_ONE = 1 << 31


def combined(first: int, second: int, n_bytes: int) -> int:
    """The CRC-32 of two parts one behind the other, from those of the parts; the second has `n_bytes`.

    To put bytes behind a part multiplies its remainder by ``x^(8 n)`` modulo the polynomial of the code.
    """
    power, square, n = _ONE, _ONE >> 8, n_bytes  # x^0 and x^8
    while n:
        if n & 1:
            power = _product(power, square)
        square, n = _product(square, square), n >> 1
    return _product(power, first) ^ second


def _product(a: int, b: int) -> int:
    """Of two polynomials modulo that of the code."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def crc32_of(source: Source, stop: int, threads: int | None = None) -> int:
    """The CRC-32 of the bytes before `stop`."""

    def part(start: int) -> int:
        return zlib.crc32(source.read(start, min(start + PART, stop)))

    starts = range(0, stop, PART)
    with thread_counts.pool(threads if stop > PART else 1) as pool:
        parts = share([partial(part, start) for start in starts], pool)
    crc32 = 0
    for start, found in zip(starts, parts, strict=True):
        crc32 = combined(crc32, found, min(PART, stop - start))
    return crc32
