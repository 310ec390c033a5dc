"""NumPy's npz files, member by member.

npz has no names for bfloat16 and float8. Such tensors are written as float32, which represents them exactly, or, where
nncjit does not compute with them, as their bits in uint8; a warning says so. Metadata are not stored. Nothing is ever
unpickled.
"""

from __future__ import annotations

import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy

from nncjit.dtypes import DTYPES, as_storage, to_float32
from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors
from nncjit.formats.tensor_writer import Store
from nncjit.model import Model, Tensor, TensorInfo

__all__ = ["read", "write"]

Array = np.ndarray[Any, Any]

_MEMBER = ".npy"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)
"""What zipfile and numpy.lib.format raise on damaged or encrypted members."""
_MOST_DEFLATED = 1032
"""DEFLATE cannot make anything smaller than one part in this."""


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - members of an archive are not mapped
    """Open a file; see `nncjit.formats.open_model`."""
    with os_errors(path):
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ModelError(f"{path}: not an npz file ({error})") from None
    try:
        return Model((_tensor(path, archive, member) for member in archive.infolist()), close=archive.close)
    except ModelError as error:
        archive.close()
        raise ModelError(f"{path}: {error}") from None
    except BaseException:
        archive.close()
        raise


def _tensor(path: str | os.PathLike[str], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    name = member.filename.removesuffix(_MEMBER)
    if name == member.filename:
        raise ModelError(f"{name}: is not an array")
    try:
        with archive.open(member) as file:
            shape, dtype = _read_header(file)
            header_size = file.tell()
    except _DAMAGE as error:
        raise ModelError(f"{name}: is damaged ({error})") from None
    if dtype.hasobject:
        raise ModelError(f"{name}: holds Python objects, which would need a pickle")
    if dtype.names is None and dtype.kind == "V":
        raise ModelError(f"{name}: holds raw bytes of an unknown type, as NumPy stores bfloat16 and float8")
    tensor = Tensor(name, shape, dtype.name, partial(_load, path, archive, member), fresh=True)
    possible = _MOST_DEFLATED * (member.compress_size + 1)
    if member.file_size != header_size + tensor.nbytes or member.file_size > possible:
        raise ModelError(f"{name}: is damaged (its size does not fit shape {list(shape)})")
    return tensor


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise ValueError(f"version {version}")
    shape, _, dtype = reader(file)
    return tuple(int(dim) for dim in shape), dtype


def _load(path: str | os.PathLike[str], archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    if archive.fp is None:
        raise ModelError(f"{path}: is closed")
    try:
        with archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
    except _DAMAGE as error:
        raise ModelError(f"{path}: {member.filename}: is damaged ({error})") from None
    return as_storage(array, member.filename)


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str],  # noqa: ARG001 - no place for it
    *,
    shard_size: int | None = None,  # noqa: ARG001 - only of meaning where there are shards
    fsync: bool = False,
) -> Iterator[Store]:
    """Write a file, not compressed, as ``numpy.savez`` does; see `nncjit.formats.create`."""
    order = {_member_name(path, info): place for place, info in enumerate(infos)}
    _warn_of_other_types(path, infos)
    lock = threading.Lock()
    with atomic_write(path, fsync=fsync) as file:
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

        def store(info: TensorInfo, array: Array) -> None:
            if _is_widened(info):
                array = to_float32(array, info.dtype)
            with lock, os_errors(path), archive.open(_member_name(path, info), "w", force_zip64=True) as member:
                npy.write_array(cast(Any, member), array, allow_pickle=False)

        try:
            yield store
            # members are stored in the order of completion; readers see the order of this list
            archive.filelist.sort(key=lambda member: order[member.filename])
            archive.close()
        except BaseException:
            # closed here rather than by the garbage collector after its file was closed
            with lock, suppress(OSError, ValueError):
                archive.close()
            raise


def _member_name(path: str | os.PathLike[str], info: TensorInfo) -> str:
    if "\0" in info.name or (os.sep != "/" and os.sep in info.name):
        raise ModelError(f"{path}: {info.name!r} cannot be the name of a tensor in an npz file")
    return info.name + _MEMBER


def _is_widened(info: TensorInfo) -> bool:
    """Whether this is a float type that NumPy has no name for."""
    return DTYPES[info.dtype].kind == "f" and DTYPES[info.dtype].storage.kind != "f"


def _is_written_as_bits(info: TensorInfo) -> bool:
    """Whether this is an opaque type that NumPy has no name for."""
    return DTYPES[info.dtype].kind == "o" and DTYPES[info.dtype].storage.kind == "u"


def _warn_of_other_types(path: str | os.PathLike[str], infos: Sequence[TensorInfo]) -> None:
    for stands_in, is_meant in (("float32", _is_widened), ("uint8", _is_written_as_bits)):
        found = [info.dtype for info in infos if is_meant(info)]
        if found:
            missing = ", ".join(dict.fromkeys(found))
            message = f"{path}: npz has no {missing}; {len(found)} tensors are written as {stands_in}"
            warnings.warn(message, UserWarning, stacklevel=2)
