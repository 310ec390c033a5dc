"""Text and tables for people: sizes with units, aligned columns, control characters escaped."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nncjit.terminal_text import columns, ellipsis, ljust, printable, rjust, showable
from nncjit.wording import bits, count, decibels, seconds, shape, size, threads, three_digits

if TYPE_CHECKING:
    from nncjit.stream.reports import TensorReport

__all__ = [
    "bits",
    "count",
    "decibels",
    "paragraphs",
    "printable",
    "seconds",
    "shape",
    "size",
    "table",
    "tensor_table",
    "threads",
    "three_digits",
]


GAP = "  "
"""Between columns of a table."""
NAME_WIDTH = 24
"""Columns that names keep in a table, however narrow the terminal."""
NARROWEST = 11
"""Columns of text, also where the terminal says that it has fewer; those of argparse."""


def paragraphs(text: str) -> str:
    """`text` filled to the terminal's width; paragraphs with indented lines, such as examples, stay as they are."""
    width = max(shutil.get_terminal_size().columns - 2, NARROWEST)  # as argparse does for everything else
    kept = (p if "\n " in f"\n{p}" else textwrap.fill(p, width) for p in text.strip("\n").split("\n\n"))
    return "\n\n".join(kept)


def table(rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,), head: bool = True) -> str:
    """Rows as aligned columns, the columns `left` to the left and the others to the right.

    On a terminal that is too narrow, the first column of a table with a head, which holds names, loses their middles;
    in a file or pipe names are whole.

    Parameters
    ----------
    rows : iterable of equally long sequences of str
        With `head`, the first one names the columns and is underlined.
    """
    cells = [[showable(cell, sys.stdout) for cell in row] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    if head:
        widths[0] = min(widths[0], max(_room() - sum(widths[1:]) - len(GAP) * (len(widths) - 1), NAME_WIDTH))
        cells = [[ellipsis(row[0], widths[0], sys.stdout), *row[1:]] for row in cells]
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
            bits(row.bits_per_weight),
            decibels(row.snr),
            row.note,
        )
        for row in tensors
    ]
    telling = [k for k in range(len(head)) if any(row[k] not in ("", "-") for row in rows)]
    left = [at for at, k in enumerate(telling) if head[k] in ("tensor", "type", "coded as", "")]
    return table([[row[k] for k in telling] for row in (head, *rows)], left=left)


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    cells = (
        (ljust if k in left else rjust)(cell, width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return GAP.join(cells).rstrip()


def _room() -> int:
    """Columns of the terminal; as good as endless where output goes elsewhere."""
    try:
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    except ValueError:  # standard output is closed
        return sys.maxsize
