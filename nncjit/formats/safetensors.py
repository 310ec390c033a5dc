"""safetensors files, tensor by tensor.

The safetensors library is not used, for three reasons. Its writer needs all tensors in memory at once. It cannot give
float8 to NumPy, and bfloat16 only with ml_dtypes. A single unknown element type makes the whole file unreadable. The
format is small, and the tests compare with the library in both directions.
"""

from __future__ import annotations

import mmap as memory_map
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors, read_at, reserve, will_read, write_at
from nncjit.formats.safetensors_header import LENGTH_BYTES, MAX_LENGTH, Entry, build, parse
from nncjit.formats.tensor_writer import PlacedStore
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.remote import RemoteFile

__all__ = ["read", "write"]

READ_AHEAD = 1 << 26
"""Bytes behind a tensor that the system begins to read when the tensor is: most readers want them next."""


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:
    """Open a file; see `nncjit.formats.open_model`."""
    with os_errors(path):
        file = Path(path).open("rb")  # noqa: SIM115 - the model keeps it
    try:
        entries, metadata, data_start = _read_header(partial(_range_of, file), os.fstat(file.fileno()).st_size)
        view = _map(file) if mmap else None
        tensors = []
        for info, start, _ in entries:
            load = partial(_load, path, file, view, info, data_start + start)
            part = partial(_load_part, path, file, info, data_start + start) if info.dtype != "bool" else None
            tensors.append(Tensor(info.name, info.shape, info.dtype, load, fresh=view is None, part=part))
        return Model(tensors, metadata, file.close)
    except ModelError as error:
        file.close()
        raise ModelError(f"{path}: {error}") from None
    except BaseException:
        file.close()
        raise


def _range_of(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def read_url(url: str) -> Model:
    """Open a file at a URL, of which ranges are read."""
    file = RemoteFile(url)
    try:
        entries, metadata, data_start = _read_header(file.read, file.size)
        tensors = [
            Tensor(info.name, info.shape, info.dtype, partial(_load_range, file, info, data_start + start), fresh=True)
            for info, start, _ in entries
        ]
        return Model(tensors, metadata)
    except ModelError as error:
        raise error if url in str(error) else ModelError(f"{url}: {error}") from None


def _load_range(file: RemoteFile, info: TensorInfo, offset: int) -> np.ndarray[Any, Any]:
    raw = np.frombuffer(bytearray(file.read(offset, offset + info.nbytes)), np.uint8)
    array: np.ndarray[Any, Any] = raw != 0 if info.dtype == "bool" else raw.view(DTYPES[info.dtype].storage)
    return array.reshape(info.shape)


def _read_header(read: Callable[[int, int], bytes], size: int) -> tuple[list[Entry], dict[str, str], int]:
    """Tensors, metadata, and the position of the values.

    Parameters
    ----------
    read : callable
        Bytes from one position to another, fewer where the file ends.
    size : int
        Of the file.
    """
    first = read(0, LENGTH_BYTES)
    if len(first) < LENGTH_BYTES:
        raise ModelError(f"not a safetensors file: {size} bytes are too few")
    length = int.from_bytes(first, "little")
    if first.startswith(b"PK\x03\x04"):
        raise ModelError("not a safetensors file but a zip archive (PyTorch or NumPy?)")
    if length > MAX_LENGTH:
        raise ModelError(f"not a safetensors file: a header of {length} bytes is more than the {MAX_LENGTH} allowed")
    if length > size - LENGTH_BYTES:
        raise ModelError(f"ends early: {size - LENGTH_BYTES} of {length} bytes of the header are there")
    header = read(LENGTH_BYTES, LENGTH_BYTES + length)
    if not header.startswith(b"{"):
        raise ModelError("not a safetensors file: the header does not start with {")
    start = LENGTH_BYTES + length
    return *parse(header, size - start), start


def _map(file: BinaryIO) -> np.ndarray[Any, Any]:
    with os_errors(file.name):
        return np.frombuffer(memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_READ), np.uint8)


def _load(
    path: str | os.PathLike[str],
    file: BinaryIO,
    view: np.ndarray[Any, Any] | None,
    info: TensorInfo,
    offset: int,
) -> np.ndarray[Any, Any]:
    if view is not None and offset % info.itemsize == 0 and not file.closed:
        array = view[offset : offset + info.nbytes].view(DTYPES[info.dtype].storage).reshape(info.shape)
    else:
        array = _load_part(path, file, info, offset, 0, info.size).reshape(info.shape)
    return array if info.dtype != "bool" else array.view(np.uint8) != 0  # NumPy expects no other bytes than 0 and 1


def _load_part(
    path: str | os.PathLike[str], file: BinaryIO, info: TensorInfo, offset: int, start: int, stop: int
) -> np.ndarray[Any, Any]:
    """Some elements of a tensor that begins at `offset`."""
    if file.closed:
        raise ModelError(f"{path}: is closed")
    array = np.empty(stop - start, DTYPES[info.dtype].storage)
    with os_errors(path):
        if array.nbytes == info.nbytes:
            will_read(file, offset + info.nbytes, READ_AHEAD)
        count = read_at(file, array, offset + start * info.itemsize)
    if count < array.nbytes:
        raise ModelError(f"{path}: {info.name}: ends early, {count} of {array.nbytes} bytes are there")
    return array


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    shard_size: int | None = None,  # noqa: ARG001 - only of meaning where there are shards
    fsync: bool = False,
) -> Iterator[PlacedStore]:
    """Write a file; see `nncjit.formats.create`."""
    try:
        header, entries = build(infos, metadata)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    offsets = {info.name: len(header) + start for info, start, _ in entries}
    with atomic_write(path, fsync=fsync) as file:
        reserve(file, len(header) + sum(info.nbytes for info in infos))
        write_at(file, np.frombuffer(header, np.uint8), 0)

        def put(info: TensorInfo, array: np.ndarray[Any, Any], start: int) -> None:
            with os_errors(path):
                write_at(file, array, offsets[info.name] + start * info.itemsize)

        yield PlacedStore(put)
