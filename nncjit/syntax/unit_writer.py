"""Writing units: whole, split into parts, and wrapped in an aggregate. Spec, sections 2 and 11."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import OptionError
from nncjit.syntax import syntax_tables
from nncjit.syntax.aggregate import AggHeader
from nncjit.syntax.constants import MAX_UNIT_SIZE, SHORT_UNIT_SIZE, AggregateType, UnitType
from nncjit.syntax.context import Context
from nncjit.syntax.payloads import write_body
from nncjit.syntax.syntax_tables import UnknownError
from nncjit.syntax.unit import HEADERS, WITH_BODY, UnitHeader

MAX_PARTS = 255


def write_unit(
    unit_type: UnitType,
    header: Any = None,
    body: Any = None,
    context: Context | None = None,
    *,
    independently_decodable_flag: int = 1,
    long_size: bool = False,
) -> bytes:
    """The bytes of one unit.

    Parameters
    ----------
    unit_type : UnitType
    header : Table or None
        The header of that type; None for NNR_MPS.
    body : Table, bytes-like or None
        The payload: a table (MPS, LPS, TPL formats 5 and 6), topology or quantisation data, or coded bytes.
    context : Context
        What comes before the unit; `Context.after` gives the next one.
    long_size : bool
        Use the long size field also for a unit below `SHORT_UNIT_SIZE`.

    Raises
    ------
    OptionError
        A value does not fit its field, is missing or out of place; the unit may not stand here; it is too large.
    """
    context = context or Context()
    payload = _payload(unit_type, header, body, context)
    head = unit_head(
        unit_type,
        header,
        len(payload),
        context,
        independently_decodable_flag=independently_decodable_flag,
        long_size=long_size,
    )
    return b"".join((head, payload))


def unit_head(
    unit_type: UnitType,
    header: Any,
    payload_size: int,
    context: Context,
    *,
    independently_decodable_flag: int = 1,
    long_size: bool = False,
) -> bytes:
    """The bytes of a unit before its payload of `payload_size` bytes, so that a large payload need not be copied."""
    _check_kind(unit_type, header)
    try:
        reason = context.problem(unit_type, header)
    except UnknownError as err:
        reason = str(err)
    if reason:
        raise OptionError(f"{UnitType(unit_type).name}: {reason}")
    return _head(unit_type, _header(header, context), payload_size, independently_decodable_flag, None, long_size)


def split_unit(
    unit_type: UnitType,
    header: Any,
    body: Any,
    context: Context,
    max_bytes: int,
    *,
    independently_decodable_flag: int = 1,
) -> list[bytes]:
    """One data, topology or quantisation unit as partial data units of at most `max_bytes`; as one unit where it fits.

    The first part has the whole header. The later parts of a data unit repeat what identifies it and leave out
    codebook, dimensions and entry points, which a reader takes from the first.

    Raises
    ------
    OptionError
        As `write_unit`; or `max_bytes` leaves no room for payload, or asks for more than `MAX_PARTS` parts.
    """
    payload = memoryview(_payload(unit_type, header, body, context))
    parts = split_heads(
        unit_type,
        header,
        len(payload),
        context,
        max_bytes,
        independently_decodable_flag=independently_decodable_flag,
    )
    return [b"".join((part.head, payload[part.start : part.stop])) for part in parts]


class PartHead(NamedTuple):
    """The bytes of a part before its payload, and which bytes of the whole payload follow."""

    head: bytes
    start: int
    stop: int


def split_heads(
    unit_type: UnitType,
    header: Any,
    payload_size: int,
    context: Context,
    max_bytes: int,
    *,
    independently_decodable_flag: int = 1,
) -> list[PartHead]:
    """The same without the payload of `payload_size` bytes, so that a large one need not be in memory."""
    # checked by its header alone: a unit beyond the largest size cannot be written whole
    size = len(unit_head(unit_type, header, 0, context)) + payload_size
    if size + 2 * (size >= SHORT_UNIT_SIZE) <= max_bytes:
        whole = unit_head(
            unit_type, header, payload_size, context, independently_decodable_flag=independently_decodable_flag
        )
        return [PartHead(whole, 0, payload_size)]
    if unit_type not in (UnitType.NDU, UnitType.TPL, UnitType.QNT):
        raise OptionError(f"NNR_{unit_type.name} cannot be split")
    long_size = max_bytes >= SHORT_UNIT_SIZE
    heads = [_header(header, context)]
    if unit_type == UnitType.NDU:
        heads.append(_header(_later_part(header), context.with_only(context.entry_of(header))))
    room = [max_bytes - len(_head(unit_type, head, 0, 0, 1, long_size)) for head in heads]
    if min(room) < 1:
        raise OptionError(f"parts of {max_bytes} bytes have no room beside a header of {max_bytes - min(room)}")
    cuts = [0, min(room[0], payload_size)]
    while cuts[-1] < payload_size:
        cuts.append(min(cuts[-1] + room[-1], payload_size))
    n = len(cuts) - 1
    if n > MAX_PARTS:
        raise OptionError(f"parts of {max_bytes} bytes would be {n}, at most {MAX_PARTS} can be counted")
    parts = []
    for i, (start, stop) in enumerate(pairwise(cuts)):
        head = heads[0] if i == 0 else heads[-1]
        head = _head(unit_type, head, stop - start, independently_decodable_flag, n - i, False)
        parts.append(PartHead(head, start, stop))
    return parts


def aggregate_units(
    units: Sequence[bytes],
    *,
    aggregate_type: AggregateType = AggregateType.GENERIC,
    entry_points: bool = True,
    independently_decodable_flag: int = 1,
) -> bytes:
    """Whole units, at least two, wrapped in one aggregate unit.

    Parameters
    ----------
    units : sequence of bytes
        As `write_unit` gives them.
    aggregate_type : AggregateType
        SELF_CONTAINED says that they can be decoded after NNR_STR and NNR_MPS alone.
    entry_points : bool
        List type and place of each unit in the header.
    """
    heads = [syntax_tables.read(UnitHeader, BitReader(unit[:8]), Context()) for unit in units]
    if any(head.nnr_unit_size != len(unit) for head, unit in zip(heads, units, strict=True)):
        raise OptionError("AGG: what is to be wrapped are not whole units")
    types = [head.nnr_unit_type for head in heads]
    inside = [t for t in types if t in (UnitType.STR, UnitType.MPS, UnitType.AGG)]
    if inside:
        raise OptionError(f"AGG: NNR_{UnitType(inside[0]).name} cannot stand inside an aggregate unit")
    if len(units) < 2:
        raise OptionError(f"AGG: {len(units)} unit given, an aggregate holds at least 2")
    payload_size = sum(len(unit) for unit in units)

    def head(points: tuple[tuple[int, int], ...] | None) -> bytes:
        header = AggHeader(
            nnr_aggregate_unit_type=aggregate_type, num_of_nnr_units_minus2=len(units) - 2, entry_points=points
        )
        header_bytes = _header(header, Context())
        return _head(UnitType.AGG, header_bytes, payload_size, independently_decodable_flag, None, False)

    if not entry_points:
        return b"".join((head(None), *units))
    offsets = [len(head(tuple((t, 0) for t in types)))]
    for unit in units[:-1]:
        offsets.append(offsets[-1] + len(unit))
    return b"".join((head(tuple(zip(types, offsets, strict=True))), *units))


def _payload(unit_type: UnitType, header: Any, body: Any, context: Context) -> Any:
    if unit_type in WITH_BODY:
        return write_body(unit_type, header, body, context)
    if body is None:
        return b""
    try:
        return memoryview(body).cast("B")
    except TypeError:
        raise OptionError(f"{UnitType(unit_type).name}: the payload is {type(body).__name__}, not bytes") from None


def _check_kind(unit_type: UnitType, header: Any) -> None:
    table = HEADERS.get(unit_type)
    if table is None and header is not None:
        raise OptionError(f"NNR_{UnitType(unit_type).name} has no header")
    if table is not None and not isinstance(header, table):
        raise OptionError(f"NNR_{UnitType(unit_type).name} needs a {table.__name__}, not {type(header).__name__}")


def _header(header: Any, context: Context) -> bytes:
    bits = BitWriter()
    if header is not None:
        syntax_tables.write(header, bits, context)
    return bits.getvalue()


def _head(
    unit_type: UnitType, header: bytes, payload_size: int, independent: int, counter: int | None, long_size: bool
) -> bytes:
    return unit_start(unit_type, len(header) + payload_size, independent, counter, long_size=long_size) + header


@lru_cache(maxsize=1024)
def unit_start(
    unit_type: UnitType, n_bytes: int, independent: int = 1, counter: int | None = None, *, long_size: bool = False
) -> bytes:
    """The unit header of a unit that has so many bytes behind it."""
    size = 3 + (counter is not None) + n_bytes
    long_size = long_size or size >= SHORT_UNIT_SIZE
    size += 2 * long_size
    if size > MAX_UNIT_SIZE:
        raise OptionError(f"NNR_{UnitType(unit_type).name} of {size} bytes is larger than {MAX_UNIT_SIZE}")
    bits = BitWriter()
    unit_header = UnitHeader(
        nnr_unit_size_flag=int(long_size),
        nnr_unit_size=size,
        nnr_unit_type=unit_type,
        independently_decodable_flag=int(independent),
        partial_data_counter=counter,
    )
    syntax_tables.write(unit_header, bits, Context())
    return bits.getvalue()


def _later_part(header: Any) -> Any:
    """The header of the second and later parts of a data unit."""
    return replace(
        header,
        nnr_decompressed_data_format=None,
        nnr_decompressed_data_format_present_flag=0,
        codebook=None,
        codebook_h=None,
        codebook_present_flag=0,
        input_parameters_present_flag=0,
        tensor_dimensions=None,
        tensor_dimensions_flag=None,
        cabac_unary_length_minus1=None,
        cabac_unary_length_flag=None,
        compressed_parameter_types=None,
        decomposition_rank=None,
        g_number_of_rows=None,
        concatenation_axis_index=None,
        split_index=None,
        shifts=None,
        scan_order=0,
        entry_points=(),
    )
