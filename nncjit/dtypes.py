"""The element types of tensors: a table, and conversions between each type and float32.

NumPy has no bfloat16 and no float8, so tensors travel through the package as *storage arrays*: the raw bits of these
types in uint16 or uint8, every other type as itself. `ml_dtypes` is used only to hand such tensors to the user, where
it is installed.

Types that the codec does not quantise are *opaque*: their tensors are carried as they are, and nobody computes with
them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from nncjit.errors import ModelError

__all__ = [
    "DTYPES",
    "PACKED",
    "DType",
    "as_array",
    "as_storage",
    "by_code",
    "find",
    "float8_codes",
    "from_float32",
    "name_of",
    "nearest_integers",
    "numpy_name",
    "to_float32",
]

Array = np.ndarray[Any, Any]


class DType(NamedTuple):
    """An element type and how it is held in memory."""

    name: str
    """As NumPy, ml_dtypes or PyTorch spell it."""
    itemsize: int
    """Bytes of one element of a storage array."""
    kind: str
    """``"f"`` float, ``"i"`` signed, ``"u"`` unsigned, ``"b"`` bool, ``"o"`` opaque."""
    storage: np.dtype[Any]
    code: int
    """nnr_decompressed_data_format: 0 to 9 are the standard's, from 64 on this project's own."""
    bits: int
    """Bits that carry the value; below ``8 * itemsize`` for int2, int3 and int4 only."""


def _table() -> dict[str, DType]:
    rows = (
        ("int32", "i", "i4", 0, 32),
        ("float32", "f", "f4", 1, 32),
        ("int2", "i", "i1", 2, 2),
        ("int3", "i", "i1", 3, 3),
        ("int4", "i", "i1", 4, 4),
        ("int8", "i", "i1", 5, 8),
        ("int16", "i", "i2", 6, 16),
        ("int64", "i", "i8", 7, 64),
        ("float16", "f", "f2", 8, 16),
        ("float64", "f", "f8", 9, 64),
        ("bfloat16", "f", "u2", 64, 16),
        ("uint8", "u", "u1", 65, 8),
        ("uint16", "u", "u2", 66, 16),
        ("uint32", "u", "u4", 67, 32),
        ("uint64", "u", "u8", 68, 64),
        ("bool", "b", "?", 69, 1),
        ("float8_e4m3fn", "f", "u1", 70, 8),
        ("float8_e5m2", "f", "u1", 71, 8),
        ("complex64", "o", "c8", 80, 64),
        ("complex128", "o", "c16", 81, 128),
        ("float8_e8m0fnu", "o", "u1", 82, 8),
        ("float8_e4m3fnuz", "o", "u1", 83, 8),
        ("float8_e5m2fnuz", "o", "u1", 84, 8),
        ("float4_e2m1fn_x2", "o", "u1", 85, 8),
        ("float6_e2m3fn_packed", "o", "u1", 86, 8),
        ("float6_e3m2fn_packed", "o", "u1", 87, 8),
    )
    return {
        name: DType(name, np.dtype(storage).itemsize, kind, np.dtype(storage), code, bits)
        for name, kind, storage, code, bits in rows
    }


DTYPES = _table()
"""Every element type that nncjit holds, by name."""

_BY_CODE = {dtype.code: dtype for dtype in DTYPES.values()}
_RAW = frozenset({"bfloat16", "float8_e4m3fn", "float8_e5m2"})
"""Floats whose storage array holds bits, not numbers."""
PACKED = {"float4_e2m1fn_x2": 4, "float6_e2m3fn_packed": 6, "float6_e3m2fn_packed": 6}
"""Bits of a float of the types whose elements here are bytes of packed floats."""
_VIEWED = _RAW | {"float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", *PACKED}
"""All types whose storage array holds bits."""
_NARROW = frozenset({"int2", "int3", "int4"})
_CHUNK = 1 << 16
"""Elements converted at a time: temporaries stay in the cache and never reach the size of a tensor."""


def find(name: str) -> DType:
    """The row of `DTYPES`; ModelError if there is none."""
    try:
        return DTYPES[name]
    except KeyError:
        raise ModelError(f"dtype {name} is not one that nncjit handles ({', '.join(DTYPES)})") from None


def by_code(code: int) -> DType:
    """The dtype of a nnr_decompressed_data_format; ModelError if there is none."""
    try:
        return _BY_CODE[code]
    except KeyError:
        raise ModelError(f"data format {code} is not one that nncjit handles") from None


def name_of(array: Any) -> str:
    """The name of an array's dtype (NumPy's own or one of ml_dtypes'); ModelError where nncjit cannot hold it."""
    return find(numpy_name(array.dtype)).name


@lru_cache(maxsize=1 << 8)
def numpy_name(dtype: Any) -> str:
    """The name that a dtype of NumPy has, which takes NumPy 2 us to find."""
    return str(dtype.name)


def as_storage(array: Any, tensor: str = "array") -> Array:
    """The storage array of anything that NumPy can read as an array of numbers.

    Parameters
    ----------
    array : array_like
        Any shape, byte order and strides; dtype one of `DTYPES`, as NumPy or ml_dtypes has it.
    tensor : str
        What an error names.

    Returns
    -------
    ndarray
        C-contiguous, native byte order, ``find(name_of(array)).storage``; a view where that is possible.

    Raises
    ------
    ModelError
        Text, objects, dates, records, and floats wider than 64 bits.
    """
    array = np.asarray(array)
    name = numpy_name(array.dtype)
    if name not in DTYPES:
        raise ModelError(f"{tensor}: dtype {name} is not one that nncjit handles ({', '.join(DTYPES)})")
    dtype = DTYPES[name]
    if name in _VIEWED:
        return np.asarray(array, order="C").view(dtype.storage)
    return np.asarray(array, dtype.storage, order="C")


def as_array(storage: Array, name: str) -> Array:
    """A storage array as a user wants it: bfloat16 and float8 as ml_dtypes' types. Where these are not installed, as
    exact float32, and opaque types as their bits.
    """
    if name not in _VIEWED:
        return storage
    try:
        dtype = getattr(importlib.import_module("ml_dtypes"), name)
    except (ImportError, AttributeError):  # older versions have fewer types
        return to_float32(storage, name) if name in _RAW else storage
    return storage.view(dtype)


def to_float32(storage: Array, name: str) -> Array:
    """The values of a storage array as float32.

    Exact for every float type up to 32 bits and for integers up to 24 bits. Wider ones are rounded to nearest, ties to
    even; float64 beyond float32's range becomes infinite, and below it the least number of its sign: none vanishes.

    Returns
    -------
    ndarray
        float32, C-contiguous, same shape; `storage` itself where it already is that.

    Raises
    ------
    ModelError
        The type is opaque.
    """
    _refuse_opaque(name)
    if name == "bfloat16":
        wide = storage.astype(np.uint32, order="C")
        wide <<= 16
        return wide.view(np.float32)
    if name in _RAW:
        values = _float8_values(name)
        return _by_chunks(lambda part, out: values.take(part, out=out, mode="clip"), storage, np.dtype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(storage, np.float32, order="C")
    if name == "float64" and np.count_nonzero(values) != np.count_nonzero(storage):
        vanished = (values == 0) & (storage != 0)
        np.copyto(values, np.copysign(np.finfo(np.float32).smallest_subnormal, storage), "same_kind", where=vanished)
    return values


def from_float32(values: Array, name: str) -> Array:
    """The storage array nearest to float32 values: ties to even, and no finite number becomes infinite or NaN.

    Frameworks let a finite float that is too large become infinite (NaN in float8_e4m3fn). Here it becomes the largest
    finite value of the same sign: what a decoder converts is a number that fitted before quantisation moved it, and one
    NaN would spoil the whole model.

    Parameters
    ----------
    values : ndarray
        float32, any shape.
    name : str
        Floats keep infinities and NaN (float8_e4m3fn has no infinity: NaN). Integers saturate, NaN gives 0. bool:
        anything but 0 is true.

    Returns
    -------
    ndarray
        ``find(name).storage``, C-contiguous, same shape; `values` itself for float32.

    Raises
    ------
    ModelError
        The type is opaque.
    """
    _refuse_opaque(name)
    dtype = find(name)
    values = np.asarray(values, np.float32, order="C")
    if name == "bfloat16":
        return _by_chunks(_to_bfloat16, values, dtype.storage)
    if name in _RAW:
        codes = float8_codes(name)
        return _by_chunks(lambda part, out: _to_float8(codes, part, out), values, dtype.storage)
    if name == "float16":
        return _by_chunks(_to_float16, values, dtype.storage)
    if dtype.kind != "f":
        return nearest_integers(values, name)
    return values.astype(dtype.storage, copy=False)


def _refuse_opaque(name: str) -> None:
    if find(name).kind == "o":
        raise ModelError(f"{name} is kept as it is: nncjit does not compute with it")


def nearest_integers(values: Array, name: str) -> Array:
    """The array of integers or bool nearest to float32 or float64 values.

    Parameters
    ----------
    values : ndarray
        Any shape, C-contiguous.
    name : str
        Integers saturate, NaN gives 0. bool: anything but 0 is true.

    Returns
    -------
    ndarray
        ``find(name).storage``, C-contiguous, same shape.
    """
    dtype = find(name)
    if dtype.kind == "b":
        return values.astype(dtype.storage)
    return _by_chunks(lambda part, out: _to_integers(dtype, part, out), values, dtype.storage)


def _by_chunks(convert: Callable[[Array, Array], object], values: Array, to: np.dtype[Any]) -> Array:
    """`values` converted piece by piece: ``convert(piece, out)`` fills `out`."""
    result = np.empty(values.shape, to)
    source, target = values.reshape(-1), result.reshape(-1)
    for start in range(0, values.size, _CHUNK):
        convert(source[start : start + _CHUNK], target[start : start + _CHUNK])
    return result


def _to_bfloat16(values: Array, out: Array) -> None:
    bits = values.view(np.uint32)
    wide = bits >> 16
    wide &= 1
    wide += 0x7FFF
    wide += bits
    wide >>= 16
    out[:] = wide
    # most tensors have no such values, so this check must be cheap
    if (out & 0x7F80).max(initial=0) == 0x7F80 or not np.isfinite(values).all():
        special = np.flatnonzero(bits & 0x7F800000 >= 0x7F000000)
        out[special] = _special_bfloat16(bits[special], out[special])


def _special_bfloat16(bits: Array, rounded: Array) -> Array:
    """bfloat16 of float32 bits that are huge, infinite or NaN."""
    high = (bits >> 16).astype(np.uint16)
    magnitude = bits & 0x7FFFFFFF
    # a NaN whose payload is all in the low half must not become an infinity
    high[(magnitude > 0x7F800000) & (high & 0x7F == 0)] |= 0x40
    overflow = rounded & 0x7FFF == 0x7F80
    return np.where(magnitude >= 0x7F800000, high, rounded - overflow)


def _to_float16(values: Array, out: Array) -> None:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out[:] = values
    infinite = np.flatnonzero(out.view(np.uint16) & 0x7FFF == 0x7C00)
    over = infinite[np.isfinite(values[infinite])]
    out[over] = np.copysign(np.float16(65504), out[over])


def _to_integers(dtype: DType, values: Array, out: Array) -> None:
    top = (1 << (dtype.bits - (dtype.kind == "i"))) - 1
    bottom = -top - 1 if dtype.kind == "i" else 0
    values = np.rint(values)
    # a power of two, so exact in float32, where `top` itself may not be
    high, low, nan = values >= np.float32(top + 1), values < np.float32(bottom), np.isnan(values)
    with np.errstate(invalid="ignore"):
        out[:] = values.astype(out.dtype)
    out[high], out[low], out[nan] = top, bottom, 0


def _to_float8(codes: Array, values: Array, out: Array) -> None:
    bits = values.view(np.uint32)
    index = bits >> 16
    index |= bits & 0xFFFF != 0
    codes.take(index, out=out, mode="clip")


@cache
def _float8_values(name: str) -> Array:
    """float32[256]: the value of each code of a float8 type."""
    mantissa_bits, bias = (3, 7) if name == "float8_e4m3fn" else (2, 15)
    code = np.arange(128)
    exponent, mantissa = code >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    significand = mantissa + ((exponent > 0) << mantissa_bits)
    values = np.ldexp(significand.astype(np.float32), np.maximum(exponent, 1) - bias - mantissa_bits)
    if name == "float8_e4m3fn":
        values[0x7F] = np.nan
    else:
        values[0x7C] = np.inf
        values.view(np.uint32)[0x7D:] = 0x7F800000 | mantissa[0x7D:] << 21  # NaN, each with its own payload
    return np.concatenate([values, -values])


@cache
def float8_codes(name: str) -> Array:
    """uint8[65536]: the nearest code for each upper half of a float32, ties to even.

    The lowest bit of the index is also set if any bit of the lower half is (rounding to odd). The second rounding, to
    fewer bits, is then correct.
    """
    finite = _float8_values(name)[:128]
    finite = finite[np.isfinite(finite)]
    middle = (finite[1:] + finite[:-1]) / 2
    high = np.arange(1 << 15, dtype=np.uint32)
    values = (high << 16).view(np.float32)
    codes = np.searchsorted(middle, values)  # the lower neighbour at a tie
    tie = np.append(middle, np.inf)[codes] == values
    codes += tie & (codes & 1 == 1)
    if name == "float8_e4m3fn":
        codes[high >= 0x7F80] = 0x7F
    else:
        payload = high >> 5 & 3
        codes[high >= 0x7F80] = 0x7C | np.where(payload == 0, 2, payload)[high >= 0x7F80]
        codes[0x7F80] = 0x7C
    return np.concatenate([codes, codes | 0x80]).astype(np.uint8)
