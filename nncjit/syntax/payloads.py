"""The payloads that are not tensors: parameter sets, topology and quantisation data. Spec, sections 2 and 11."""

from __future__ import annotations

from typing import Any

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import BitstreamError, OptionError
from nncjit.syntax import syntax_tables
from nncjit.syntax.constants import (
    FREE_INFLATION,
    MAX_INFLATION,
    CompressionFormat,
    TopologyFormat,
    UnitType,
)
from nncjit.syntax.context import Context
from nncjit.syntax.parameter_sets import LpsPayload, MpsPayload
from nncjit.syntax.topology import PruningContainer, QntHeader, ReferenceList, TplHeader

Body = syntax_tables.Table | bytes | None

_EMPTY = b"\0"  # topology or quantisation data of no bytes: a text that ends at once


def body_table(unit_type: int, header: Any) -> type[syntax_tables.Table] | None:
    """The table that the payload of a unit is made of, or None where it is plain bytes."""
    if unit_type == UnitType.MPS:
        return MpsPayload
    if unit_type == UnitType.LPS:
        return LpsPayload
    if isinstance(header, TplHeader):
        if header.topology_storage_format == TopologyFormat.PRUN:
            return PruningContainer
        if is_reference_list(header):
            return ReferenceList
    return None


def is_reference_list(header: Any) -> bool:
    """Whether a unit with this header holds the names that data units refer to by index."""
    return isinstance(header, TplHeader) and header.topology_storage_format == TopologyFormat.REFLIST


def read_body(
    unit_type: int, header: Any, data: bytes | memoryview, context: Context, *, bit: int = 0, limit: int
) -> Body:
    """What the payload of an MPS, LPS, TPL or QNT unit says.

    Parameters
    ----------
    data : bytes-like
        The whole payload.
    bit : int
        Where it starts in the stream, for errors.
    limit : int
        Most bytes that DEFLATE data may inflate to; less for names, which every reader needs.

    Returns
    -------
    Table or bytes
        A table; or the data itself, inflated, for formats that are opaque to a decoder.

    Raises
    ------
    BitstreamError
        The payload breaks its table, or ends before or after it.
    """
    path = UnitType(unit_type).name
    empty = bytes(data[:2]) == _EMPTY
    if is_deflated(header) and not empty:
        if is_reference_list(header):
            limit = min(limit, FREE_INFLATION + MAX_INFLATION * len(data))
        data = inflate(bytes(data), limit, bit=bit, path=f"{path}.data")
    table = body_table(unit_type, header)
    if table is None:
        return b"" if empty else bytes(data)
    bits = BitReader(data, bit=bit)
    body = syntax_tables.read(table, bits, context)
    if bits.left:
        raise bits.error(f"the unit goes on for {bits.left // 8} bytes after its end")
    return body


def write_body(unit_type: int, header: Any, body: Any, context: Context) -> bytes:
    """The payload of an MPS, LPS, TPL or QNT unit; the inverse of `read_body`."""
    table = body_table(unit_type, header)
    if table is not None:
        if not isinstance(body, table):
            raise OptionError(f"{UnitType(unit_type).name}: the body is {type(body).__name__}, not {table.__name__}")
        bits = BitWriter()
        syntax_tables.write(body, bits, context)
        data = bits.getvalue()
    else:
        data = bytes(body if body is not None else b"") or _EMPTY
        if body == _EMPTY and not is_deflated(header):
            raise OptionError(
                f"{UnitType(unit_type).name}: a lone zero byte stands for empty data and cannot be data itself"
            )
    if is_deflated(header) and (data != _EMPTY or body == _EMPTY):
        import zlib

        data = zlib.compress(data, 9)
    return data


def is_deflated(header: Any) -> bool:
    """Whether the payload of a unit with this header is DEFLATE data."""
    if isinstance(header, TplHeader):
        return header.topology_compression_format == CompressionFormat.DEFLATE
    if isinstance(header, QntHeader):
        return header.quantization_compression_format == CompressionFormat.DEFLATE
    return False


def inflate(data: bytes, limit: int, *, bit: int = 0, path: str = "data") -> bytes:
    """Inflate DEFLATE data with the RFC 1950 wrapping, or bare RFC 1951. Spec, section 11.

    Raises
    ------
    BitstreamError
        The data are damaged, cut, followed by more, or inflate to more than `limit` bytes.
    """
    import zlib

    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(window)
        try:
            plain = stream.decompress(data, limit + 1)
        except zlib.error:
            continue
        if len(plain) > limit:
            raise BitstreamError(f"inflates to more than {limit} bytes", bit=bit, path=path)
        if stream.eof and not stream.unused_data:
            return plain
    raise BitstreamError("is not one whole DEFLATE stream (RFC 1950 or 1951)", bit=bit, path=path)
