"""Headers of NNEF's .dat files: 128 bytes with type and shape, also of files whose values are an NNC stream."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import NamedTuple

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.model import TensorInfo

HEADERS = "nnef headers"
"""Key of the metadata: headers by label, where they are not what type and shape imply; JSON, in base64."""
ENCODED = 0x434E
"""Vendor code ("NC" in the file) of .dat files with an NNC stream: this project's own, not assigned by Khronos."""
MAX_DIMENSIONS = 8
HEADER_BYTES = 128

_HEADER = struct.Struct("<2sBBII8IIHH")
_MAGIC = b"N\xef"
TYPES = {
    (0, 16): "float16",
    (0, 32): "float32",
    (0, 64): "float64",
    **{(kind, bits): f"uint{bits}" for kind in (1, 2) for bits in (8, 16, 32, 64)},
    **{(kind, bits): f"int{bits}" for kind in (3, 4) for bits in (8, 16, 32, 64)},
}
"""Item type and bits -> dtype. All others are held as their bytes."""
_ITEM_TYPES = {"f": 0, "u": 1, "i": 4}


class DatHeader(NamedTuple):
    """The start of a .dat file."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    """Of the values."""


def parse_header(data: bytes) -> DatHeader:
    """The header of a .dat file.

    Raises
    ------
    ModelError
        It is none, or contradicts itself.
    """
    magic, major, minor, n_bytes, rank, *rest = _HEADER.unpack_from(data)
    dims, (bits, kind, vendor) = rest[:8], rest[8:]
    if magic != _MAGIC:
        raise ModelError("its .dat file does not start as one")
    if major != 1:
        raise ModelError(f"its .dat file has version {major}.{minor}, nncjit reads 1")
    if rank > MAX_DIMENSIONS:
        raise ModelError(f"has {rank} dimensions, at most {MAX_DIMENSIONS} are possible")
    shape = tuple(dims[:rank])
    dtype = TYPES.get((kind, bits)) if not vendor else None
    if dtype is None:
        return DatHeader(data, "uint8", (n_bytes,), n_bytes)
    wanted = TensorInfo("its .dat file", shape, dtype).nbytes
    if n_bytes != wanted:
        raise ModelError(f"its .dat file has {n_bytes} bytes of values, type and shape {list(shape)} need {wanted}")
    return DatHeader(data, dtype, shape, n_bytes)


def usual_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header that type and shape imply."""
    row = DTYPES[dtype]
    dims = [*shape, *[0] * (8 - len(shape))]
    n_bytes = TensorInfo("x", shape, dtype).nbytes
    packed = _HEADER.pack(_MAGIC, 1, 0, n_bytes, len(shape), *dims, row.bits, _ITEM_TYPES[row.kind], 0)
    return packed.ljust(HEADER_BYTES, b"\0")


def encoded_header(header: bytes, size: int) -> bytes:
    """The header of a file whose values became a stream: all but vendor and number of bytes stay as they were."""
    return _changed(header, size, ENCODED)


def is_encoded_header(header: bytes) -> bool:
    """Whether the file has a stream in the place of values."""
    return bool(_HEADER.unpack_from(header)[-1] == ENCODED)


def is_typed(header: bytes) -> bool:
    """Whether the values have one of the item types of NNEF that nncjit knows."""
    *_, bits, kind, vendor = _HEADER.unpack_from(header)
    return not vendor and (kind, bits) in TYPES


def plain_header(header: bytes) -> DatHeader:
    """What the header was before the values became a stream.

    Raises
    ------
    ModelError
        It cannot have been one of values.
    """
    fields = _HEADER.unpack_from(header)
    rank, dims, bits, kind = fields[4], fields[5:13], fields[13], fields[14]
    dtype = TYPES.get((kind, bits))
    if dtype is None or rank > MAX_DIMENSIONS:
        raise ModelError(f"its .dat file has item type {kind} of {bits} bits, which nncjit does not encode")
    n_bytes = TensorInfo("its .dat file", tuple(dims[:rank]), dtype).nbytes
    if n_bytes >= 1 << 32:
        raise ModelError(f"its .dat file would have {n_bytes} bytes of values, at most 2^32 - 1 are possible")
    return parse_header(_changed(header, n_bytes, 0))


def _changed(header: bytes, n_bytes: int, vendor: int) -> bytes:
    fields = _HEADER.unpack_from(header)
    packed = _HEADER.pack(*fields[:3], n_bytes, *fields[4:-1], vendor)
    return packed + header[_HEADER.size :]


def kept_headers(headers: Mapping[str, bytes]) -> dict[str, str]:
    """Metadata with headers by label."""
    texts = {label: base64.b64encode(data).decode() for label, data in headers.items()}
    return {HEADERS: json.dumps(texts)} if texts else {}


def headers_in(metadata: Mapping[str, str]) -> dict[str, bytes]:
    """Headers by label that are in metadata.

    Raises
    ------
    ModelError
        They are damaged.
    """
    try:
        return {label: base64.b64decode(data) for label, data in json.loads(metadata.get(HEADERS, "{}")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ModelError("the headers of its .dat files are damaged in the stream") from None
