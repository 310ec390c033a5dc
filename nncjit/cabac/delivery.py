"""What the levels of a layer become in the array that gets them (spec, section 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncjit.cabac import delivery_kernels as kinds

Array = np.ndarray[Any, Any]

MIN_INT32, MAX_INT32 = -(1 << 31), (1 << 31) - 1

_FLOAT_KINDS: dict[str, tuple[int, np.dtype[Any]]] = {
    "float32": (kinds.FLOAT32, np.dtype(np.float32)),
    "float64": (kinds.FLOAT64, np.dtype(np.float64)),
    "bfloat16": (kinds.BFLOAT16, np.dtype(np.uint16)),
    "float16": (kinds.FLOAT16, np.dtype(np.float16)),
    "float8_e4m3fn": (kinds.FLOAT8, np.dtype(np.uint8)),
    "float8_e5m2": (kinds.FLOAT8, np.dtype(np.uint8)),
}
"""Kind and storage dtype by the name of the element type."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How levels become elements. Made by `floats`, `looked_up` and `integers`; `LEVELS` leaves them as they are.

    Attributes
    ----------
    kind : int
        One of `delivery_kernels`.
    dtype : dtype
        Of the array that gets the elements.
    lowest, highest : int
        Levels that have an element.
    step_of : callable, optional
        From the layer's qp_delta to the step, a float32.
    table_of : callable, optional
        From the layer's qp_delta to the table that the kind needs.
    """

    kind: int
    dtype: np.dtype[Any]
    lowest: int = MIN_INT32
    highest: int = MAX_INT32
    step_of: Callable[[int], np.float32] | None = None
    table_of: Callable[[int], Array] | None = None
    table: str = "the codebook"
    """What it is, for errors."""

    @property
    def elements(self) -> str:
        """What there is one of for each level in range; for errors."""
        if self.kind == kinds.LOOKED_UP:
            return f"{self.table} of {self.highest - self.lowest + 1} values"
        return f"the range {self.lowest}..{self.highest}"


LEVELS = Delivery(kinds.LEVELS, np.dtype(np.int32))


def floats(name: str, step_of: Callable[[int], np.float32], codes: Array | None = None) -> Delivery:
    """Float32 products of step and level, rounded to an element type as `nncjit.dtypes.from_float32` rounds.

    Parameters
    ----------
    name : str
        The element type: float32, float64, bfloat16, float16, float8_e4m3fn or float8_e5m2.
    step_of : callable
        From the layer's qp_delta to the step, a float32.
    codes : uint8[65536], optional
        For float8: the code by the upper half of a float32, see `nncjit.dtypes.float8_codes`.
    """
    kind, dtype = _FLOAT_KINDS[name]
    table_of = None if codes is None else lambda _: codes
    return Delivery(kind, dtype, step_of=step_of, table_of=table_of)


def looked_up(
    values_of: Callable[[int], Array], dtype: np.dtype[Any], size: int, zero: int, table: str = "the codebook"
) -> Delivery:
    """Values of a codebook, or of another table.

    Parameters
    ----------
    values_of : callable
        From the layer's qp_delta to the values, `dtype` [size].
    dtype : dtype
        Of 1, 2, 4 or 8 bytes.
    size, zero : int
        How many values there are, and the index of the one that level 0 stands for.
    table : str
        What holds them, for errors.
    """
    return Delivery(kinds.LOOKED_UP, dtype, -zero, size - 1 - zero, table_of=values_of, table=table)


def integers(dtype: np.dtype[Any], lowest: int, highest: int) -> Delivery:
    """Levels as integers of another type.

    Parameters
    ----------
    dtype : dtype
        Of 1, 2, 4 or 8 bytes.
    lowest, highest : int
        The type's range.
    """
    return Delivery(kinds.INTEGERS, dtype, lowest, highest)
