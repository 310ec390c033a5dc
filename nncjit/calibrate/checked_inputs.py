"""Arguments of what collects statistics: arrays of numbers, shapes and counts, or one error that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Dimensions, Whole, checked, shown

Array = NDArray[Any]

WIDEST = Whole(0, 1 << 31)
"""Values of `widest_block`."""
PROBES = Whole(1, 1 << 31)


def floats(what: str, values: Any, dtype: Any = np.float32) -> Array:
    """Real numbers as an array.

    Raises
    ------
    ModelError
        They are something else.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "cmMSU":
            return np.asarray(array, dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    raise ModelError(f"{what} are {shown(values)}, must be real numbers")


def whole_array(what: str, values: Any) -> Array:
    """Numbers of rows as an array, of whatever type.

    Raises
    ------
    ModelError
        They are no array.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"{what} are {shown(values)}, must be whole numbers") from None


def whole_numbers(what: str, values: Any) -> tuple[int, ...]:
    """A shape, or other whole numbers of 0 and more.

    Raises
    ------
    ModelError
        They are something else.
    """
    try:
        return Dimensions().check(values)
    except ValueError:
        raise ModelError(f"{what} is {shown(values)}, must be whole numbers") from None


def weight(name: Any, shape: Any) -> tuple[str, tuple[int, ...]]:
    """The name of a weight, and its shape.

    Raises
    ------
    ModelError
        They are none.
    """
    if not isinstance(name, str):
        raise ModelError(f"a weight is named by a text, not by {shown(name)}")
    return name, whole_numbers(f"{name}: its shape", shape)


def check_random(rng: Any) -> None:
    """Refuse what is no generator of NumPy."""
    if not isinstance(rng, np.random.Generator):
        raise OptionError(f"rng is {shown(rng)}, must be a numpy.random.Generator")


def count(what: str, value: Any) -> int:
    """A number of things."""
    found: int = checked(what, Whole(0, 1 << 62), value)
    return found
