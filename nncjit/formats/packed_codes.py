"""Codes of fewer than eight bits in bytes, and codes of sign and magnitude as levels."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
"""ndarray; NumPy's own types say no more than that of the results of views and shifts."""


def unpacked(raw: Array, bits: int) -> Array:
    """One code of 2, 4, 6 or 8 bits a byte; codes lie in `raw` from the lowest bit on."""
    if bits == 8:
        return raw
    if bits == 6:
        words = np.zeros((-(-raw.size // 3), 3), np.uint8)
        words.reshape(-1)[: raw.size] = raw
        a, b, c = words.T
        return np.stack([a & 63, a >> 6 | (b & 15) << 2, b >> 4 | (c & 3) << 4, c >> 2], 1).reshape(-1)
    codes = np.empty((raw.size, 8 // bits), np.uint8)
    for k in range(8 // bits):
        codes[:, k] = raw >> k * bits & 2**bits - 1
    return codes.reshape(-1)


def packed(codes: Array, bits: int) -> Array:
    """The inverse of `unpacked`, the last byte filled up with zeros."""
    if bits == 8:
        return codes
    group = 4 if bits == 6 else 8 // bits
    padded = np.zeros((-(-codes.size // group), group), np.uint8)
    padded.reshape(-1)[: codes.size] = codes
    if bits == 6:
        a, b, c, d = padded.T
        return np.stack([a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2], 1).reshape(-1)[: -(-codes.size * 6 // 8)]
    out = np.zeros(len(padded), np.uint8)
    for k in range(group):
        out |= padded[:, k] << k * bits
    return out


def levels_of_codes(codes: Array, bits: int) -> Array:
    """Codes of sign and magnitude as signed levels, int8; minus zero is the lowest of all."""
    magnitude = (codes & (2 ** (bits - 1) - 1)).astype(np.int8)
    negative = codes >> bits - 1 & 1 != 0
    return np.where(negative, np.where(magnitude == 0, -(2 ** (bits - 1)), -magnitude), magnitude).astype(np.int8)


def codes_of_levels(levels: Array, bits: int) -> Array:
    """The inverse of `levels_of_codes`, uint8."""
    lowest = -(2 ** (bits - 1))
    magnitude = np.where(levels == lowest, 0, np.abs(levels.astype(np.int16)))
    return (magnitude | (levels < 0) << bits - 1).astype(np.uint8)
