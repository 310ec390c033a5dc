"""Payloads of data units: bytes, or what gives them piece by piece when they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from nncjit.encoder import huge_tensors
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.stages import stage


@dataclass(frozen=True, slots=True)
class JoinedPayload:
    """Pieces that follow each other, and are not copied to lie side by side."""

    parts: tuple[bytes | bytearray, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def pieces(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """The bytes ``start`` to ``stop``."""
        for part, (first, last) in zip(self.parts, pairwise(accumulate(map(len, self.parts), initial=0)), strict=True):
            if first < stop and last > start:
                yield memoryview(part)[max(start - first, 0) : stop - first]


@dataclass(frozen=True, slots=True)
class StoredPayload:
    """The values of a huge tensor as they are, which are read when they are written."""

    tensor: HugeTensor

    def __len__(self) -> int:
        return self.tensor.size * self.tensor.itemsize

    def pieces(self, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """The bytes ``start`` to ``stop``."""
        itemsize, together = self.tensor.itemsize, huge_tensors.STRIP
        for first in range(start // itemsize, -(-stop // itemsize), together):
            with stage("read"):
                storage = self.tensor.part(first, min(first + together, self.tensor.size))
            data = memoryview(little_endian(storage).view(np.uint8))  # type: ignore[arg-type]
            yield data[max(start - first * itemsize, 0) : stop - first * itemsize]


Payload = bytes | JoinedPayload | StoredPayload


def joined(*parts: bytes | bytearray) -> Payload:
    """Some bytes after each other; those that are empty are left out."""
    some = tuple(part for part in parts if part)
    return JoinedPayload(some) if len(some) > 1 else bytes(some[0]) if some else b""


def pieces_of(payload: Payload, start: int, stop: int) -> Iterator[bytes | memoryview]:
    """The bytes ``start`` to ``stop`` of a payload."""
    if isinstance(payload, bytes):
        yield payload if stop - start == len(payload) else memoryview(payload)[start:stop]
    else:
        yield from payload.pieces(start, stop)


def in_memory(payload: Payload) -> bytes:
    """All bytes of a payload."""
    return payload if isinstance(payload, bytes) else b"".join(payload.pieces(0, len(payload)))


def little_endian(storage: np.ndarray) -> np.ndarray:
    """Values as they are in streams, contiguous."""
    return np.ascontiguousarray(storage, storage.dtype.newbyteorder("<"))
