"""The codebook of a data unit. Spec, section 2."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import OptionError

MAX_CODEBOOK_SIZE = 1 << 16
"""Most values of a codebook."""

MAX_CODEBOOK_VALUE = (1 << 31) - 1
"""Largest magnitude of a codebook's value."""


@dataclass(frozen=True, slots=True)
class CodebookSyntax:
    """Strictly growing integers; coded level v stands for ``values[v + codebook_zero_offset]``.

    Parameters
    ----------
    values : tuple of int
        At least one.
    codebook_zero_offset : int
        Index of the value that level 0 stands for.
    codebook_egk : int
        Exp-Golomb order of the differences between values, 0..15.
    """

    values: tuple[int, ...]
    codebook_zero_offset: int
    codebook_egk: int = 0


class CodebookCode(NamedTuple):
    """codebook_egk, codebook_size, the zero offset from the middle, the value there, the differences down and up."""

    def read(self, bits: BitReader, t: Any, c: Any) -> CodebookSyntax:
        k = bits.u(4)
        size = bits.ue(2)
        zero = (size >> 1) + bits.ie(2)
        if not 0 <= zero < size or size > MAX_CODEBOOK_SIZE:
            raise bits.error(_bad_size(zero, size))
        middle = bits.ie(7)
        below: list[int] = []
        above = [middle]
        value = middle
        for _ in range(zero):
            value -= bits.ue(k) + 1
            below.append(value)
        for _ in range(size - zero - 1):
            above.append(above[-1] + bits.ue(k) + 1)
        values = tuple(below[::-1] + above)
        if values[0] < -MAX_CODEBOOK_VALUE or values[-1] > MAX_CODEBOOK_VALUE:
            raise bits.error(f"its values reach from {values[0]} to {values[-1]}, beyond {MAX_CODEBOOK_VALUE}")
        return CodebookSyntax(values, zero, k)

    def write(self, bits: BitWriter, x: CodebookSyntax, t: Any, c: Any) -> None:
        values, zero, k = [int(value) for value in x.values], x.codebook_zero_offset, x.codebook_egk
        if not 0 <= zero < len(values) or len(values) > MAX_CODEBOOK_SIZE:
            raise OptionError(f"{bits.path}: {_bad_size(zero, len(values))}")
        if values[0] < -MAX_CODEBOOK_VALUE or values[-1] > MAX_CODEBOOK_VALUE:
            raise OptionError(f"{bits.path}: its values go beyond {MAX_CODEBOOK_VALUE}")
        if any(b <= a for a, b in pairwise(values)):
            raise OptionError(f"{bits.path}: its values do not grow strictly")
        bits.u(4, k)
        bits.ue(2, len(values))
        bits.ie(2, zero - (len(values) >> 1))
        bits.ie(7, values[zero])
        for j in range(zero - 1, -1, -1):
            bits.ue(k, values[j + 1] - values[j] - 1)
        for j in range(zero + 1, len(values)):
            bits.ue(k, values[j] - values[j - 1] - 1)


def _bad_size(zero: int, size: int) -> str:
    return f"its zero is at {zero} of {size} values; 1 to {MAX_CODEBOOK_SIZE} values are allowed"
