"""What text of variable length in an HDF5 file claims, before the HDF5 library believes it.

An element of such text is 16 bytes: a length of four bytes, and the place of the characters in a heap. The library
takes memory for the length before it looks at the heap, and tells nobody the length before. So the elements are
read here, where the library will read them: in the headers of objects, in the heaps of those with many attributes, and
in the storage of datasets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import Any, BinaryIO

import numpy as np

from nncjit.errors import ModelError
from nncjit.extras import require

__all__ = ["ELEMENT", "TextClaims"]

ELEMENT = 16
"""Bytes of an element in files whose offsets have eight bytes."""
_LAYOUT, _ATTRIBUTE, _CONTINUATION, _ATTRIBUTE_INFO = 0x08, 0x0C, 0x10, 0x15
"""Messages of an object's header."""
_SHARED = 2
"""Flag of a message that lies elsewhere."""
_UNDEFINED = (1 << 64) - 1
_MAX_PIECES = 1 << 12
"""Pieces of one header."""
_LONGEST_PREFIX = 34
"""Bytes of what stands before the messages of a header."""
_PIECE = 1 << 22
"""Bytes of the file that are searched at a time."""
_ID = 8
"""Bytes that name an attribute in a heap: too few for the attribute itself, or for its address."""
_MAX_BLOCK = 1 << 16
"""Bytes of a block of a heap of attributes."""


class TextClaims:
    """Lengths of the text of one open file.

    Parameters
    ----------
    source : binary file
        What h5py reads.
    size : int
        Its bytes.
    file : h5py.File
        The same file as h5py has it.
    """

    def __init__(self, source: BinaryIO, size: int, file: Any) -> None:
        self._source, self._size = source, size
        plist = file.id.get_create_plist()
        self._plain = plist.get_sizes() == (8, 8) and not plist.get_userblock()
        self._heaps: dict[int, list[int]] | None = None

    def of(self, owner: Any, name: str | None, count: int) -> int:
        """Bytes that `count` elements claim: of an attribute by its name, or of a dataset itself.

        Raises
        ------
        ModelError
            The elements are not where this class looks for them, or they are packed.
        """
        if not self._plain:
            raise ModelError("is text of variable length in a file with a user block or short offsets")
        address = require("h5py", "HDF5 and Keras files").h5o.get_info(owner.id).addr
        return self._of_dataset(owner, address, count) if name is None else self._of_attribute(address, name, count)

    def _of_attribute(self, address: int, name: str, count: int) -> int:
        wanted = name.encode("utf-8", "surrogateescape")
        found = []
        for kind, flags, body in self._messages(address):
            if kind == _ATTRIBUTE:
                if flags & _SHARED:
                    raise ModelError("is text of variable length that objects share, which nncjit does not read")
                found += [_value_of(body, 0, wanted)]
            elif kind == _ATTRIBUTE_INFO:
                found += self._in_heap(body, wanted)
        return self._claimed([value for value in found if value is not None], count)

    def _of_dataset(self, item: Any, address: int, count: int) -> int:
        if item.id.get_create_plist().get_nfilters():
            raise ModelError("is packed text of variable length, which nncjit does not read")
        if item.chunks:
            return self._of_chunks(item)
        start = item.id.get_offset()
        if start is not None:
            return self._claimed([self._read(start, count * ELEMENT)], count)
        compact = [body[4:] for kind, _, body in self._messages(address) if kind == _LAYOUT and body[1:2] == b"\0"]
        return self._claimed(compact, count)

    def _of_chunks(self, item: Any) -> int:
        chunks = prod(-(-length // chunk) for length, chunk in zip(item.shape, item.chunks, strict=True))
        count = prod(item.chunks)
        found: list[Any] = []
        if chunks * count * ELEMENT <= self._size:
            item.id.chunk_iter(found.append)
        if len(found) != chunks:
            raise ModelError("is text of variable length that is not all there")
        return sum(self._claimed([self._read(info.byte_offset, count * ELEMENT)], count) for info in found)

    def _claimed(self, values: list[bytes], count: int) -> int:
        """The most that one of several places claims, each of which may be the one that the library reads."""
        if not values or any(len(value) < count * ELEMENT for value in values):
            raise ModelError("is text of variable length that is not where nncjit looks for it")
        lengths = (np.frombuffer(value, "<u4", count * ELEMENT // 4)[:: ELEMENT // 4] for value in values)
        return max(int(row.sum(dtype=np.uint64)) for row in lengths)

    def _read(self, start: int, count: int) -> bytes:
        if start + count > self._size:
            raise ModelError("leads beyond the end of the file")
        self._source.seek(start)
        data = self._source.read(count)
        if len(data) < count:
            raise ModelError("the file is cut off")
        return data

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and body of the messages of an object's header, in either version."""
        head = self._read(address, min(_LONGEST_PREFIX, max(self._size - address, 0)))
        new = head[:4] == b"OHDR"
        if new:
            flags = head[5]
            at = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
            width = 1 << (flags & 3)
            pieces = [(address + at + width, int.from_bytes(head[at : at + width], "little"))]
            shape, skip = struct.Struct("<BHB"), 2 if flags & 4 else 0
        else:
            pieces = [(address + 16, int.from_bytes(head[8:12], "little"))]
            shape, skip = struct.Struct("<HHB"), 3
        done = 0
        for k, (start, length) in enumerate(pieces):
            done += length
            if k > _MAX_PIECES or done > self._size:
                raise ModelError("has a header of too many pieces")
            data = self._read(start, length)
            at, end = (4, length - 4) if new and k else (0, length)
            while at + shape.size + skip <= end:
                kind, size, flags = shape.unpack_from(data, at)
                at += shape.size + skip
                body = data[at : min(at + size, end)]
                at += size
                if kind == _CONTINUATION and len(body) >= 16:
                    pieces.append(struct.unpack_from("<QQ", body))
                yield kind, flags, body

    def _in_heap(self, body: bytes, name: bytes) -> list[bytes | None]:
        """What may be the attribute in the blocks of the heap that a message names."""
        at = 4 if body[1:2] and body[1] & 1 else 2
        (address,) = struct.unpack_from("<Q", body.ljust(at + 8, b"\0"), at)
        if address == _UNDEFINED:
            return []
        self._check_heap(address)
        if self._heaps is None:
            self._heaps = self._blocks()
        found = []
        for start in self._heaps.get(address, ()):
            block = self._read(start, min(_MAX_BLOCK, self._size - start))
            at = block.find(name + b"\0")
            while at >= 0:
                found += [_value_of(block, at - lead, name) for lead in (8, 9) if at >= lead]
                at = block.find(name + b"\0", at + 1)
        return found

    def _check_heap(self, address: int) -> None:
        """Refuse a heap that can hold objects elsewhere than in blocks of its own."""
        head = self._read(address, 128)
        id_size, filters = struct.unpack_from("<HH", head, 5)
        (outside,) = struct.unpack_from("<Q", head, 22)
        (block,) = struct.unpack_from("<Q", head, 120)
        if id_size != _ID or filters or outside != _UNDEFINED or block > _MAX_BLOCK:
            raise ModelError("is text of variable length beside attributes too large for their heap")

    def _blocks(self) -> dict[int, list[int]]:
        """Where the blocks of heaps are, by the heap's address."""
        found: dict[int, list[int]] = {}
        sign, done = b"FHDB\0", 0
        while done < self._size:
            data = self._read(done, min(_PIECE + 16, self._size - done))
            at = data.find(sign)
            while 0 <= at < _PIECE:
                found.setdefault(int.from_bytes(data[at + 5 : at + 13], "little"), []).append(done + at)
                at = data.find(sign, at + 1)
            done += _PIECE
        return found


def _value_of(data: bytes, at: int, name: bytes) -> bytes | None:
    """The value of the attribute whose message starts at a position, from there on; None where it is another's."""
    if at + 9 > len(data) or data[at] not in (1, 2, 3):
        return None
    sizes = struct.unpack_from("<HHH", data, at + 2)
    start = at + (9 if data[at] == 3 else 8)
    if data[start : start + sizes[0]].split(b"\0")[0] != name:
        return None
    return data[start + sum(-(-size // 8) * 8 if data[at] == 1 else size for size in sizes) :]
