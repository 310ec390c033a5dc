"""How what a chain needs is kept in memory: levels in as few bytes as they fit into, marks as bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.model import TensorInfo
from nncjit.updates.chain_state import Array, Parameter, Reader, value_digest


def narrowed(levels: Array) -> Array:
    """Integers in the narrowest signed type that holds them."""
    low, high = int(levels.min(initial=0)), int(levels.max(initial=0))
    for dtype in (np.int8, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return levels.astype(dtype)
    return levels


def as_levels(narrow: Array) -> Array:
    """What was narrowed, int32."""
    return narrow.astype(np.int32)


def as_marks(packed: Array, n: int) -> Array:
    """What was packed into bits: uint8[n]."""
    return np.unpackbits(np.asarray(packed), count=n)


@dataclass(frozen=True, slots=True)
class Kind:
    """An array that is kept of a parameter."""

    field: str
    """The field of `Parameter` that reads it."""
    pack: Callable[[Array], Array]
    unpack: Callable[[Array, int], Array]
    """Gets what `pack` gave, and the number of levels."""
    fits: Callable[[np.dtype[Any], tuple[int, ...], TensorInfo, int], bool]
    """Whether what `pack` gave may have this type and shape, of a tensor with so many levels."""
    words: str
    """What it is."""


def _is_storage(dtype: np.dtype[Any], shape: tuple[int, ...], info: TensorInfo, n_levels: int) -> bool:  # noqa: ARG001
    return (dtype, shape) == (dtypes.find(info.dtype).storage, info.shape)


def _is_float32(dtype: np.dtype[Any], shape: tuple[int, ...], info: TensorInfo, n_levels: int) -> bool:  # noqa: ARG001
    return (dtype, shape) == (np.dtype(np.float32), info.shape)


def _are_levels(dtype: np.dtype[Any], shape: tuple[int, ...], info: TensorInfo, n_levels: int) -> bool:  # noqa: ARG001
    return dtype.kind == "i" and shape == (n_levels,)


def _are_marks(dtype: np.dtype[Any], shape: tuple[int, ...], info: TensorInfo, n_levels: int) -> bool:  # noqa: ARG001
    return (dtype, shape) == (np.dtype(np.uint8), (-(-n_levels // 8),))


KINDS = (
    Kind("read", lambda values: values, lambda values, _: values, _is_storage, "values"),
    Kind("levels", narrowed, lambda narrow, _: as_levels(narrow), _are_levels, "levels"),
    Kind("touched", np.packbits, as_marks, _are_marks, "history"),
    Kind("change", lambda change: change, lambda change, _: change, _is_float32, "prediction"),
    Kind("residual", lambda residual: residual, lambda residual, _: residual, _is_float32, "left over"),
)


def kept_with(parameter: Parameter, before: Parameter | None, store: Callable[[Kind, Array], Reader]) -> Parameter:
    """A parameter all of whose arrays are in the keeping of `store`; those that it shares with `before` stay there.

    Parameters
    ----------
    store : callable
        Gets an array, packed, and gives back what reads it from now on, unpacked.
    """
    readers: dict[str, Any] = {}
    digest = parameter.value_sha256
    for kind in KINDS:
        read: Reader | None = getattr(parameter, kind.field)
        if read is None or (before is not None and getattr(before, kind.field) is read):
            continue
        array = read()
        readers[kind.field] = store(kind, kind.pack(array))
        if kind.field == "read" and digest is None:
            digest = value_digest(array)
    if digest is None:
        digest = value_digest(parameter.read())
    if parameter.release is not None:
        parameter.release()
    return replace(parameter.with_hashes(), value_sha256=digest, release=None, **readers)


def kept_in_memory(parameter: Parameter, before: Parameter | None = None) -> Parameter:
    """A parameter whose arrays are its own and cannot be written to."""

    def store(kind: Kind, array: Array) -> Reader:
        own = array.copy() if kind.field == "read" else array
        own.flags.writeable = False
        return partial(kind.unpack, own, parameter.n_levels)

    return kept_with(parameter, before, store)
