"""Protocol buffers on the wire: large fields of nested messages cut out, or holes left for them, and nothing parsed.

An ONNX file is one nested message, and nearly all of it are the bytes of tensors. Python's protobuf would copy them
several times. Here they stay where they are: `rewrite` walks the fields down to those that its caller wants replaced,
and composes the message anew from ranges of the old one, with the lengths of all messages around them adjusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nncjit.errors import ModelError

MAX_DEPTH = 100
"""Nested messages, as in protobuf's own parsers."""

Descent = Mapping[str, Mapping[int, str]]
"""Kind of message -> number of a field -> kind of message in it."""


class Range(NamedTuple):
    """Bytes of the old message."""

    start: int
    stop: int


class Hole(NamedTuple):
    """A place for bytes that come later."""

    name: str
    size: int


Piece = Range | Hole | bytes
Replace = Callable[[str, int, Range], Sequence[Piece] | None]
"""Asked for the value of each field that is no message to descend into, by kind of the message, number and place. Gives
whole fields in its stead, tag and length included, or None where it stays.
"""


class Field(NamedTuple):
    """A field of a message."""

    number: int
    is_bytes: bool
    """Whether the value is length-delimited: bytes, text or a message."""
    start: int
    """Of the tag."""
    value: Range


def size_of(piece: Piece) -> int:
    """Bytes of a piece."""
    if isinstance(piece, Range):
        return piece.stop - piece.start
    return piece.size if isinstance(piece, Hole) else len(piece)


def varint(value: int) -> bytes:
    """An unsigned integer, seven bits a byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data: memoryview, place: Range) -> Iterator[Field]:
    """The fields of a message.

    Raises
    ------
    ModelError
        The bytes are no message.
    """
    at, stop = place
    while at < stop:
        start = at
        tag, at = _varint(data, at, stop)
        wire = tag & 7
        if wire == 2:
            size, at = _varint(data, at, stop)
        elif wire == 0:
            size = _varint(data, at, stop)[1] - at
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ModelError(f"is damaged: a field of unknown kind at byte {start}")
        if size > stop - at:
            raise ModelError(f"is damaged or cut off: a field at byte {start} goes on for {size} bytes")
        yield Field(tag >> 3, wire == 2, start, Range(at, at + size))
        at += size


def rewrite(
    data: memoryview, place: Range, kind: str, descent: Descent, replace: Replace, depth: int = MAX_DEPTH
) -> list[Piece]:
    """A message of the given kind with some of its fields replaced, those of messages inside it included."""
    if not depth:
        raise ModelError(f"has more than {MAX_DEPTH} messages inside each other")
    inner = descent[kind]
    pieces: list[Piece] = []
    kept = place.start
    for field in fields(data, place):
        new: Sequence[Piece] | None
        if field.is_bytes and field.number in inner:
            body = rewrite(data, field.value, inner[field.number], descent, replace, depth - 1)
            if body in ([], [field.value]):
                continue
            head = varint(field.number << 3 | 2) + varint(sum(map(size_of, body)))
            new = [head, *body]
        else:
            new = replace(kind, field.number, field.value)
        if new is not None:
            if kept < field.start:
                pieces.append(Range(kept, field.start))
            pieces += new
            kept = field.value.stop
    if kept < place.stop:
        pieces.append(Range(kept, place.stop))
    return pieces


def _varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= stop or shift > 63:
            raise ModelError(f"is damaged or cut off at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
