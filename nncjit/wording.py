"""Sizes, counts, times and ratios in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["bits", "count", "decibels", "seconds", "shape", "size", "threads", "three_digits"]

_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def three_digits(x: float) -> str:
    """``9.87``, ``32.1``, ``104``; ``-`` for what is no number."""
    if math.isnan(x):
        return "-"
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"


def bits(per_weight: float) -> str:
    """Bits per weight: ``4.32``; ``-`` where there are no weights."""
    return "-" if math.isnan(per_weight) else f"{per_weight:.2f}"


def size(n_bytes: float) -> str:
    """``12345678`` as ``12.3 MB``: three digits, decimal units as file managers show them."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    scale = min(int(math.log10(n_bytes)) // 3, len(_UNITS) - 1)
    return f"{three_digits(n_bytes / 1000**scale)} {_UNITS[scale]}"


def count(n: int) -> str:
    """``22713216`` as ``22.7 million``; small numbers with separators."""
    if n < 1_000_000:
        return f"{n:,}"
    return f"{three_digits(n / 1e6)} million" if n < 1e9 else f"{three_digits(n / 1e9)} billion"


def seconds(s: float) -> str:
    """A duration as ``43 ms``, ``2.31 s`` or ``3 min 12 s``."""
    if s < 1:
        return f"{1000 * s:.0f} ms"
    minutes, rest = divmod(round(s), 60)
    return f"{three_digits(s)} s" if s < 100 else f"{minutes} min {rest} s"


def threads(n: int) -> str:
    """A number of threads."""
    return "1 thread" if n == 1 else f"{n} threads"


def decibels(snr: float | None) -> str:
    """A signal-to-noise ratio as ``32.1 dB``; ``exact`` where nothing was lost, ``-`` where it is not known."""
    if snr is None or math.isnan(snr):
        return "-"
    return "exact" if math.isinf(snr) else f"{snr:.1f} dB"


def shape(dims: Sequence[int]) -> str:
    """A shape as ``64 x 3 x 3``; ``scalar`` for a single number."""
    return " x ".join(map(str, dims)) or "scalar"
