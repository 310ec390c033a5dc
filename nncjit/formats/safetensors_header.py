"""Parse and build the header of a safetensors file. The parser checks every rule of the format.

A file is 8 bytes (little-endian length of the header), the header (a JSON object: name -> dtype, shape, data_offsets),
and the values. The offsets count from the end of the header and must tile the rest of the file: no gap, no overlap.
Shapes count floats also where these have 4 or 6 bits; here their last dimension counts bytes, as PyTorch has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nncjit.dtypes import PACKED
from nncjit.errors import ModelError
from nncjit.model import TensorInfo

__all__ = ["LENGTH_BYTES", "MAX_LENGTH", "Entry", "build", "parse"]

LENGTH_BYTES = 8
MAX_LENGTH = 100_000_000
"""The cap of the safetensors library; checked before anything is allocated."""
_METADATA = "__metadata__"
_ALIGNMENT = 8
"""The header is padded with spaces so that the values start at a multiple of this."""

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "float6_e2m3fn_packed",
    "F6_E3M2": "float6_e3m2fn_packed",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_CODES = {name: code for code, name in _NAMES.items()} | {"int2": "I8", "int3": "I8", "int4": "I8"}


class Entry(NamedTuple):
    """A tensor and where its values are, in bytes from the end of the header."""

    info: TensorInfo
    start: int
    stop: int


def parse(header: bytes, data_size: int) -> tuple[list[Entry], dict[str, str]]:
    """The tensors of a header, in its order, and the metadata.

    Parameters
    ----------
    header : bytes
        The JSON text.
    data_size : int
        Bytes of the file after the header.

    Raises
    ------
    ModelError
        Whatever breaks the format; a dtype that nncjit cannot hold.
    """
    try:
        table = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the header is not JSON ({error})") from None
    if not isinstance(table, dict):
        raise ModelError("the header is not a JSON object")
    metadata = _check_metadata(table.pop(_METADATA, {}))
    entries = [_entry(name, value) for name, value in table.items()]
    _check_tiling(entries, data_size)
    return entries, metadata


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name!r} occurs twice")
        table[name] = value
    return table


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{_METADATA} is not a table of texts")
    return metadata


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # a bool is not a size


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise ModelError(f"{name}: needs dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _NAMES:
        raise ModelError(f"{name}: dtype {code} is not one that nncjit handles ({', '.join(_NAMES)})")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ModelError(f"{name}: shape {shape} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ModelError(f"{name}: data_offsets {offsets} is not a pair of positions")
    info = TensorInfo(name, _shape_in_bytes(name, code, shape), _NAMES[code])
    start, stop = offsets
    if stop - start != info.nbytes:
        raise ModelError(f"{name}: {stop - start} bytes for {code}{shape}, which needs {info.nbytes}")
    return Entry(info, start, stop)


def _shape_in_bytes(name: str, code: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape here of a shape in the file, which counts floats also where several share a byte."""
    bits = PACKED.get(_NAMES[code], 0)
    if not bits:
        return tuple(shape)
    if math.prod(shape) * bits % 8:
        raise ModelError(f"{name}: {code}{list(shape)} does not end at a byte")
    if not shape or shape[-1] * bits % 8:
        raise ModelError(f"{name}: the rows of {code}{list(shape)} do not end at bytes, which nncjit needs")
    return (*shape[:-1], shape[-1] * bits // 8)


def _shape_in_floats(info: TensorInfo) -> list[int]:
    """The inverse of `_shape_in_bytes`."""
    bits = PACKED.get(info.dtype, 0)
    if not bits:
        return list(info.shape)
    if not info.shape or info.shape[-1] * 8 % bits:
        raise ModelError(f"{info.name}: {list(info.shape)} bytes are no whole number of floats of {bits} bits")
    return [*info.shape[:-1], info.shape[-1] * 8 // bits]


def _check_tiling(entries: Iterable[Entry], data_size: int) -> None:
    at = 0
    for info, start, stop in sorted(entries, key=lambda entry: entry[1:]):
        if start != at:
            raise ModelError(f"{info.name}: starts at {start}, where the tensor before it ends at {at}")
        at = stop
    if at > data_size:
        raise ModelError(f"ends early: {data_size} of {at} bytes of values are there")
    if at < data_size:
        raise ModelError(f"{data_size - at} bytes follow the last tensor")


def build(infos: Sequence[TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, list[Entry]]:
    """The first bytes of a file, up to the values, and where each tensor goes.

    The header lists tensors in the order given. Their values lie in that order too, but wider elements before narrower
    ones, so that each tensor is aligned: the library does so, and PyTorch cannot view a tensor that is not.
    """
    _check_metadata(dict(metadata))
    places: dict[str, Entry] = {}
    at = 0
    for info in sorted(infos, key=lambda info: -info.itemsize):
        places[info.name] = Entry(info, at, at + info.nbytes)
        at += info.nbytes
    table: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    for info in infos:
        if info.name == _METADATA:
            raise ModelError(f"{_METADATA} cannot be the name of a tensor in a safetensors file")
        if info.dtype not in _CODES:
            raise ModelError(f"{info.name}: safetensors has no {info.dtype}")
        _, start, stop = places[info.name]
        table[info.name] = {
            "dtype": _CODES[info.dtype],
            "shape": _shape_in_floats(info),
            "data_offsets": [start, stop],
        }
    try:
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"a name is not valid Unicode ({error.reason})") from None
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_LENGTH:
        raise ModelError(f"the header would have {len(text)} bytes, the format allows {MAX_LENGTH}")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, [places[info.name] for info in infos]
