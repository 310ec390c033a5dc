"""The tensors of ONNX: how each element type is held, and the bytes of a TensorProto as a storage array and back.

Integers of two and four bits are unpacked to one level each. Floats of eight bits and fewer are quantised already, by
whoever made the model; they are held as levels, sign and magnitude of their codes, so that they are coded without loss.
Text and complex numbers are not held: they stay in the graph.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.formats.packed_codes import codes_of_levels, levels_of_codes, packed, unpacked

Array = Any
"""ndarray; NumPy's own types say no more than that of the results of views and shifts."""


class OnnxType(NamedTuple):
    """How elements of one data_type are held."""

    name: str
    """As ONNX spells it."""
    dtype: str
    """In `nncjit.dtypes`."""
    bits: int
    """Of an element in raw_data."""
    signed_code: bool = False
    """Whether it is a code of sign and magnitude, held as a signed level."""


TYPES = {
    1: OnnxType("FLOAT", "float32", 32),
    2: OnnxType("UINT8", "uint8", 8),
    3: OnnxType("INT8", "int8", 8),
    4: OnnxType("UINT16", "uint16", 16),
    5: OnnxType("INT16", "int16", 16),
    6: OnnxType("INT32", "int32", 32),
    7: OnnxType("INT64", "int64", 64),
    9: OnnxType("BOOL", "bool", 8),
    10: OnnxType("FLOAT16", "float16", 16),
    11: OnnxType("DOUBLE", "float64", 64),
    12: OnnxType("UINT32", "uint32", 32),
    13: OnnxType("UINT64", "uint64", 64),
    16: OnnxType("BFLOAT16", "bfloat16", 16),
    17: OnnxType("FLOAT8E4M3FN", "int8", 8, True),
    18: OnnxType("FLOAT8E4M3FNUZ", "int8", 8, True),
    19: OnnxType("FLOAT8E5M2", "int8", 8, True),
    20: OnnxType("FLOAT8E5M2FNUZ", "int8", 8, True),
    21: OnnxType("UINT4", "uint8", 4),
    22: OnnxType("INT4", "int4", 4),
    23: OnnxType("FLOAT4E2M1", "int4", 4, True),
    24: OnnxType("FLOAT8E8M0", "uint8", 8),
    25: OnnxType("UINT2", "uint8", 2),
    26: OnnxType("INT2", "int2", 2),
    27: OnnxType("FLOAT6E2M3", "int8", 6, True),
    28: OnnxType("FLOAT6E3M2", "int8", 6, True),
}
"""TensorProto.DataType -> how it is held. STRING (8) and COMPLEX (14, 15) are not."""

_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
"""Where values lie that are not in raw_data; all other types are in int32_data."""


def type_of(tensor: Any) -> OnnxType | None:
    """How a TensorProto is held; None where it is not.

    Raises
    ------
    ModelError
        The type is not one of ONNX's.
    """
    if tensor.data_type in (8, 14, 15):
        return None
    try:
        return TYPES[tensor.data_type]
    except KeyError:
        raise ModelError(f"has data_type {tensor.data_type}, which nncjit does not know") from None


def raw_size(kind: OnnxType, shape: tuple[int, ...]) -> int:
    """Bytes of raw_data."""
    return -(-math.prod(shape) * kind.bits // 8)


def is_plain(kind: OnnxType) -> bool:
    """Whether elements have whole bytes, which are those of the storage array."""
    return kind.bits >= 8 and not kind.signed_code and kind.dtype != "bool"


def from_raw(kind: OnnxType, shape: tuple[int, ...], raw: Array) -> Array:
    """The storage array of raw_data, which has the right size and may be overwritten.

    Parameters
    ----------
    raw : ndarray
        uint8.
    """
    storage = DTYPES[kind.dtype].storage
    if kind.bits >= 8 and not kind.signed_code:
        if kind.dtype == "bool":
            return (raw != 0).reshape(shape)
        return raw.view(storage.newbyteorder("<")).astype(storage, copy=False).reshape(shape)
    codes = unpacked(raw, kind.bits)[: math.prod(shape)]
    if kind.signed_code:
        return levels_of_codes(codes, kind.bits).reshape(shape)
    if kind.dtype in ("int4", "int2"):
        top = 8 - kind.bits
        return ((codes << top).view(np.int8) >> top).reshape(shape)
    return codes.reshape(shape)


def to_raw(kind: OnnxType, array: Array) -> Array:
    """raw_data of a storage array, as uint8; the inverse of `from_raw`."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if kind.bits >= 8 and not kind.signed_code:
        return flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    codes = codes_of_levels(flat, kind.bits) if kind.signed_code else flat.view(np.uint8)
    return packed(codes & (2**kind.bits - 1), kind.bits)


def from_fields(kind: OnnxType, tensor: Any, shape: tuple[int, ...]) -> Array:
    """The storage array of a TensorProto whose values are not in raw_data.

    Raises
    ------
    ModelError
        It has more or fewer values than its shape.
    """
    name = _FIELDS.get(tensor.data_type, "int32_data")
    in_bytes = kind.bits in (2, 4)  # codes of six bits have an entry each
    count = raw_size(kind, shape) if in_bytes else math.prod(shape)
    values = getattr(tensor, name)
    if len(values) != count:
        raise ModelError(f"has {len(values)} values in {name}, its shape {list(shape)} needs {count}")
    wide = {"float_data": np.float32, "double_data": np.float64, "uint64_data": np.uint64}.get(name, np.int64)
    array = np.array(values, wide)
    if name in ("float_data", "int64_data", "double_data") or tensor.data_type == 13:
        return array.reshape(shape)
    if in_bytes:
        return from_raw(kind, shape, array.astype(np.uint8))
    if kind.signed_code:
        return levels_of_codes(array.astype(np.uint8), kind.bits).reshape(shape)
    if kind.dtype == "bool":
        return (array != 0).reshape(shape)
    if kind.dtype in ("float16", "bfloat16"):  # their bits
        return array.astype(np.uint16).view(DTYPES[kind.dtype].storage).reshape(shape)
    return array.astype(DTYPES[kind.dtype].storage).reshape(shape)
