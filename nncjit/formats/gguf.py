"""GGUF files: the blocks of quantised tensors as planes of integers, coded without loss, and packed again bit for bit.

A quantised tensor NAME becomes its levels, called NAME, and planes for its scales and the rest, called NAME.d_high and
so on (see `gguf_blocks`). In a file with such tensors all others are kept exactly, too: whoever quantised the model has
decided what it may lose. The graph is the header of the file, with vocabulary and all, followed by what else is in the
file and belongs to no tensor, and by the file's size.

In a big-endian file, numbers are swapped and blocks are not: the planes of their scales then have each other's names.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError, NncWarning
from nncjit.files import atomic_write, os_errors, read_at, reserve, write_at
from nncjit.formats.gguf_blocks import BLOCK_TYPES, PLAIN, WHOLE, BlockType
from nncjit.formats.gguf_header import Entry, Header, parse
from nncjit.formats.tensor_writer import Store
from nncjit.model import Graph, Model, Role, Tensor, TensorInfo

__all__ = ["GRAPH", "read", "write"]

GRAPH = "gguf"
"""The graph that `write` needs."""

Array = np.ndarray[Any, Any]

FIRST_READ = 1 << 20
"""Bytes of the header that are read at first; longer ones are read in steps of four times as many."""
MAX_LOOSE = 1 << 24
"""Bytes of a file that belong to no tensor, and are not zero or stand at the end."""
_SIZE, _PLACE = struct.Struct("<Q"), struct.Struct("<QQ")
_STEP = 1 << 20
_KEPT = Role("kept")


class Piece(NamedTuple):
    """A tensor of the file, and what it becomes."""

    entry: Entry
    block: BlockType | None
    """None where it is not taken apart."""
    infos: tuple[TensorInfo, ...]
    order: Literal["<", ">"]
    """Of the bytes of a number."""

    @property
    def storage(self) -> np.dtype[Any]:
        """Of the values of a tensor that is not taken apart, as the file has them."""
        return DTYPES[self.infos[0].dtype].storage.newbyteorder(self.order)


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open a file; see `nncjit.formats.open_model`."""
    with os_errors(path):
        file = Path(path).open("rb")  # noqa: SIM115 - the model keeps it
    try:
        header, data = _read_header(file)
        size = os.fstat(file.fileno()).st_size
        pieces = _pieces(header)
        _check_ends(pieces, header, size)
        loose = _loose(file, pieces, header, size)
        if header.parts > 1:
            said = f"{path}: is file {header.part + 1} of {header.parts} of a model, and holds only its own tensors"
            warnings.warn(said, NncWarning, stacklevel=2)
        recent = _Recent()
        tensors = [tensor for piece in pieces for tensor in _tensors(path, file, header, piece, recent)]
        graph = Graph(GRAPH, data + loose + _SIZE.pack(size))
        return Model(tensors, close=file.close, graphs=[graph])
    except ModelError as error:
        file.close()
        raise ModelError(f"{path}: {error}") from None
    except BaseException:
        file.close()
        raise


def _check_ends(pieces: list[Piece], header: Header, size: int) -> None:
    for piece in pieces:
        stop = header.data_start + piece.entry.offset + _n_bytes(piece.entry)
        if stop > size:
            raise ModelError(f"tensor {piece.entry.name}: would end at byte {stop} of the file, which has {size}")


def _loose(file: BinaryIO, pieces: list[Piece], header: Header, size: int) -> bytes:
    """What is not zero between tensors and behind the last one: place, length and bytes of each stretch."""
    starts = [(header.data_start + piece.entry.offset, _n_bytes(piece.entry)) for piece in pieces]
    found, at = [], header.data_start
    for start, n_bytes in [*sorted(starts), (size, 0)]:
        for place in range(at, start, _STEP):
            file.seek(place)
            data = file.read(min(_STEP, start - place)).rstrip(b"\0")
            if data:
                found += [_PLACE.pack(place, len(data)), data]
        at = max(at, start + n_bytes)
    if size > _longest(pieces, header) or sum(map(len, found)) > MAX_LOOSE:
        raise ModelError(f"holds more than {MAX_LOOSE} bytes that belong to no tensor")
    return b"".join(found)


def _longest(pieces: list[Piece], header: Header) -> int:
    """Most bytes of a file with such tensors."""
    ends = (header.data_start + piece.entry.offset + _n_bytes(piece.entry) for piece in pieces)
    return max(ends, default=header.data_start) + header.alignment + MAX_LOOSE


def _read_header(file: BinaryIO) -> tuple[Header, bytes]:
    """The header, and its bytes up to the values."""
    size = os.fstat(file.fileno()).st_size
    length = min(FIRST_READ, size)
    while True:
        file.seek(0)
        data = file.read(length)
        header = parse(data, whole=length == size)
        if header is not None:
            return header, data[: header.data_start]
        length = min(4 * length, size)


def _n_bytes(entry: Entry) -> int:
    """Bytes of a tensor's values in the file."""
    if entry.kind in PLAIN:
        return entry.size * DTYPES[PLAIN[entry.kind]].itemsize
    weights, n_bytes = _block_size(entry)
    return entry.size // weights * n_bytes


def _block_size(entry: Entry) -> tuple[int, int]:
    """Weights and bytes of a block."""
    block = BLOCK_TYPES.get(entry.kind)
    if block is not None:
        return block.weights, block.n_bytes
    try:
        return WHOLE[entry.kind]
    except KeyError:
        raise ModelError(f"tensor {entry.name}: has type {entry.kind}, which nncjit does not know") from None


def _pieces(header: Header) -> list[Piece]:
    """What the tensors of a file become."""
    quantised = any(entry.kind not in PLAIN for entry in header.entries)
    return [_piece(entry, _KEPT if quantised else None, header.order) for entry in header.entries]


def _piece(entry: Entry, role: Role | None, order: Literal["<", ">"]) -> Piece:
    if entry.kind in PLAIN:
        return Piece(entry, None, (TensorInfo(entry.name, entry.shape, PLAIN[entry.kind], role=role),), order)
    weights, n_bytes = _block_size(entry)
    if not entry.shape or entry.shape[-1] % weights:
        raise ModelError(f"tensor {entry.name}: shape {list(entry.shape)} is not made of blocks of {weights}")
    rows, per_row = entry.shape[:-1], entry.shape[-1] // weights
    block = BLOCK_TYPES.get(entry.kind)
    if block is None:
        return Piece(entry, None, (TensorInfo(entry.name, (*rows, per_row * n_bytes), "uint8", role=role),), order)
    planes = block.unpack(np.zeros((1, block.n_bytes), np.uint8))
    infos = (
        TensorInfo(entry.name + suffix, (*rows, per_row * plane.shape[1]), plane.dtype.name, role=role)
        for suffix, plane in planes.items()
    )
    return Piece(entry, block, tuple(infos), order)


def _tensors(
    path: str | os.PathLike[str], file: BinaryIO, header: Header, piece: Piece, recent: _Recent
) -> Iterator[Tensor]:
    load = partial(_load, path, file, header.data_start + piece.entry.offset, piece)
    for info in piece.infos:
        plane = partial(recent.plane, piece.entry.name, load, info.name[len(piece.entry.name) :], info.shape)
        yield Tensor(info.name, info.shape, info.dtype, plane, role=info.role)


def _load(path: str | os.PathLike[str], file: BinaryIO, offset: int, piece: Piece) -> dict[str, Array]:
    """The planes of a tensor."""
    if file.closed:
        raise ModelError(f"{path}: is closed")
    raw = np.empty(_n_bytes(piece.entry), np.uint8)
    with os_errors(path):
        count = read_at(file, raw, offset)
    if count < raw.size:
        raise ModelError(f"{path}: tensor {piece.entry.name}: ends early, {count} of {raw.size} bytes are there")
    if piece.block is not None:
        return piece.block.unpack(raw.reshape(-1, piece.block.n_bytes))
    values = raw.view(piece.storage)
    return {"": values.astype(values.dtype.newbyteorder("="), copy=False)}


class _Recent:
    """The planes of the tensor that was taken apart last: they are asked for one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name: str | None = None
        self._planes: dict[str, Array] = {}

    def plane(self, name: str, load: Callable[[], dict[str, Array]], suffix: str, shape: tuple[int, ...]) -> Array:
        """A plane of a tensor, which `load` takes apart."""
        with self._lock:
            if self._name != name:
                self._planes = {}
                self._planes, self._name = load(), name
            plane = self._planes[suffix]
        return np.ascontiguousarray(plane).reshape(shape)


@contextmanager
def write(
    path: str | os.PathLike[str], infos: Sequence[TensorInfo], graph: Graph, *, fsync: bool = False
) -> Iterator[Store]:
    """Pack tensors into blocks again; see `nncjit.formats.create`.

    Raises
    ------
    ModelError
        The header is damaged, or a tensor does not fit it.
    """
    try:
        header, data, loose, size = _header_in(graph)
        pieces = _pieces(header)
        _check_fit(pieces, {info.name: info for info in infos}, size, header)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    owner = {info.name: piece for piece in pieces for info in piece.infos}
    waiting: dict[str, dict[str, Array]] = {}
    lock = threading.Lock()
    with atomic_write(path, fsync=fsync) as file:
        reserve(file, size)
        for place, stretch in [(0, data), *loose]:
            write_at(file, np.frombuffer(stretch, np.uint8), place)

        def store(info: TensorInfo, array: Array) -> None:
            piece = owner[info.name]
            with lock:
                planes = waiting.setdefault(piece.entry.name, {})
                planes[info.name[len(piece.entry.name) :]] = array.copy()
                if len(planes) < len(piece.infos):
                    return
                del waiting[piece.entry.name]
            with os_errors(path):
                write_at(file, _packed(piece, planes), header.data_start + piece.entry.offset)

        yield store


def _packed(piece: Piece, planes: dict[str, Array]) -> Array:
    if piece.block is None:
        return planes[""].astype(piece.storage, copy=False)
    n_blocks = piece.entry.size // piece.block.weights
    blocks = piece.block.pack({suffix: plane.reshape(n_blocks, -1) for suffix, plane in planes.items()})
    return np.ascontiguousarray(blocks)


def _header_in(graph: Graph) -> tuple[Header, bytes, list[tuple[int, bytes]], int]:
    """The header in a graph, its bytes, the stretches that belong to no tensor, and the size of the file."""
    data = graph.data[: -_SIZE.size]
    header = parse(data, whole=True) if len(graph.data) > _SIZE.size else None
    if header is None:
        raise ModelError("the graph in the stream is no header of a GGUF file")
    size, at, loose = _SIZE.unpack(graph.data[-_SIZE.size :])[0], header.data_start, []
    while at < len(data):
        place, length = _PLACE.unpack(data[at : at + _PLACE.size].ljust(_PLACE.size, b"\xff"))
        at += _PLACE.size + length
        if at > len(data) or place < header.data_start or place + length > size:
            raise ModelError("the graph in the stream is no header of a GGUF file: its end is damaged")
        loose.append((place, data[at - length : at]))
    return header, data[: header.data_start], loose, size


def _check_fit(pieces: list[Piece], infos: dict[str, TensorInfo], size: int, header: Header) -> None:
    left = dict(infos)
    for piece in pieces:
        for wanted in piece.infos:
            info = left.pop(wanted.name, None)
            if info is None:
                raise ModelError(f"tensor {wanted.name}: is in the header, but not in the stream")
            if (info.shape, info.dtype) != (wanted.shape, wanted.dtype):
                is_now, should = (f"{i.dtype}{list(i.shape)}" for i in (info, wanted))
                raise ModelError(f"tensor {wanted.name}: is {is_now}, the header wants {should}")
    for name in left:
        raise ModelError(f"tensor {name}: has no place in the header")
    longest = _longest(pieces, header)
    end = longest - header.alignment - MAX_LOOSE
    if not end <= size <= longest:
        raise ModelError(f"the file would have {size} bytes, its tensors end at {end}")
