"""Text and tables for people: sizes with units, aligned columns, control characters escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nncjit.stream.reports import TensorReport

_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def three_digits(x: float) -> str:
    """``9.87``, ``32.1``, ``104``."""
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"


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


def printable(text: str) -> str:
    """`text` on one line, with all that could move the cursor or colour the terminal shown as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,), head: bool = True) -> str:
    """Rows as aligned columns, the columns `left` to the left and the others to the right.

    Parameters
    ----------
    rows : iterable of equally long sequences of str
        With `head`, the first one names the columns and is underlined.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if head:
        cells.insert(1, ["-" * width for width in widths])
    return "\n".join(_line(row, widths, left) for row in cells)


def tensor_table(tensors: Iterable[TensorReport]) -> str:
    """One line for each tensor: how it is coded and what it takes; empty columns are left out."""
    head = ("tensor", "shape", "type", "coded as", "step", "size", "bits/weight", "exactness", "")
    rows = [
        (
            row.name,
            shape(row.shape),
            row.dtype,
            row.tool,
            "-" if row.step is None else f"{row.step:.3g}",
            size(row.bytes),
            f"{row.bits_per_weight:.2f}",
            decibels(row.snr),
            row.note,
        )
        for row in tensors
    ]
    telling = [k for k in range(len(head)) if any(row[k] not in ("", "-") for row in rows)]
    left = [at for at, k in enumerate(telling) if head[k] in ("tensor", "type", "coded as", "")]
    return table([[row[k] for k in telling] for row in (head, *rows)], left=left)


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    cells = (cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
    return "  ".join(cells).rstrip()
