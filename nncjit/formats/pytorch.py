"""PyTorch checkpoints: state dicts, read and written by torch itself without running code from a pickle.

A checkpoint is a state dict, or holds one under a name that training scripts use (`NESTED`), or under any name where it
is the only one. Other contents (an optimizer's state, a count of epochs) are left out, and a warning names them. Files
are written as plain state dicts.
Tensors that share memory are tied, and come back tied.
"""

from __future__ import annotations

import ctypes
import mmap as memory_map
import os
import pickle
import re
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from nncjit import arrays
from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.files import atomic_write, os_errors, reserve, write_at
from nncjit.formats import torch_archive
from nncjit.formats.tensor_writer import Store
from nncjit.model import Model, Tensor, TensorInfo, tensors_of

__all__ = ["NESTED", "NETWORK", "read", "write"]

NETWORK = torch_archive.GRAPH
"""Models with this graph are written as archives with a network."""

NESTED = ("state_dict", "model_state_dict", "model", "module", "params", "weights")
"""Where checkpoints of training scripts keep the state dict, most usual first."""

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_RELEASE_EVERY = 1 << 24
"""Bytes written to a checkpoint before the pages that were read are released."""
_ALIGNMENT = 64


def _torch(path: str | os.PathLike[str]) -> ModuleType:
    return require("torch", f"{path}: PyTorch files")


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - torch maps what it can
    """Open a file; see `nncjit.formats.open_model`."""
    if torch_archive.holds_network(path):
        return torch_archive.read(path)
    table, rest = _state_dict(path, _load(path))
    if rest:
        warnings.warn(f"{path}: left out, being no tensors: {', '.join(rest)}", UserWarning, stacklevel=3)
    try:
        return Model(_detached(tensor, table[tensor.name]) for tensor in tensors_of(table))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _load(path: str | os.PathLike[str]) -> Any:
    torch = _torch(path)
    with os_errors(path), Path(path).open("rb") as file:
        mapped = (
            file.read(4) == b"PK\x03\x04"
        )  # files written by torch before 1.6 are not archives and cannot be mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        code = _GLOBAL.search(str(error))
        if code is None:
            raise ModelError(f"{path}: not a PyTorch file, or a damaged one") from error
        reason = f"it needs {code[1]}, and nncjit runs no code from files; save the state dict alone"
        raise ModelError(f"{path}: cannot be read safely: {reason}") from error
    except Exception as error:  # on damaged bytes, torch.load may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not a PyTorch file, or a damaged one ({first})") from error


def _state_dict(path: str | os.PathLike[str], loaded: Any) -> tuple[dict[Any, Any], list[str]]:
    """The state dict of a checkpoint, and the names of its other contents."""
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    rest: list[str] = []
    for name in NESTED:
        inner = loaded.get(name)
        if isinstance(inner, Mapping) and any(map(arrays.is_torch, inner.values())):
            rest, loaded = [str(key) for key in loaded if key != name], inner
            break
    table = {key: value for key, value in loaded.items() if arrays.is_torch(value)}
    if loaded and not table:
        inner = [key for key, value in loaded.items() if _is_state_dict(value)]
        some = ", ".join(str(key) for key in (inner or list(loaded))[:5])
        if not inner:
            raise ModelError(f"{path}: no tensors under {some}; they are sought there and in {', '.join(NESTED)}")
        if len(inner) > 1:
            raise ModelError(f"{path}: holds several state dicts ({some}): save the one that is meant")
        return dict(loaded[inner[0]]), [str(key) for key in loaded if key != inner[0]]
    return table, rest + [str(key) for key in loaded if key not in table]


def _is_state_dict(value: Any) -> bool:
    """Whether this is a table of nothing but tensors by name."""
    return isinstance(value, Mapping) and bool(value) and all(map(arrays.is_torch, value.values()))


def _detached(tensor: Tensor, source: Any) -> Tensor:
    """`tensor`, read into an array of its own, so that the pages of the file need not stay in memory."""
    load = partial(_copy, source, tensor.name)
    return Tensor(tensor.name, tensor.shape, tensor.dtype, load, tensor.same_as, fresh=True)


def _copy(source: Any, name: str) -> np.ndarray[Any, Any]:
    array = np.array(arrays.to_storage(source, name), copy=True, order="C")
    memory = source.untyped_storage()
    _page_out(memory.data_ptr(), memory.nbytes())
    return array


def _page_out(address: int, size: int) -> None:
    """Tell the system that it may page out part of a file map. This is a hint; no data are lost."""
    if sys.platform != "linux":
        return
    start = -(-address // memory_map.PAGESIZE) * memory_map.PAGESIZE
    size = (address + size - start) // memory_map.PAGESIZE * memory_map.PAGESIZE
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 21)  # MADV_PAGEOUT


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str],  # noqa: ARG001 - no place for it
    *,
    shard_size: int | None = None,  # noqa: ARG001 - only of meaning where there are shards
    fsync: bool = False,
) -> Iterator[Store]:
    """Write a state dict; see `nncjit.formats.create`.

    torch needs all tensors at once. So they are stored in an unnamed file in the same folder, which is mapped when
    torch writes the checkpoint.
    """
    torch = _torch(path)
    for info in infos:
        if not hasattr(torch, _dtype_in_file(info)):
            raise ModelError(f"{path}: {info.name}: this version of torch has no {info.dtype}")
    offsets: dict[str, int] = {}
    at = 0
    for info in infos:
        if info.same_as is None:
            offsets[info.name] = at
            at += -(-info.nbytes // _ALIGNMENT) * _ALIGNMENT
    folder = Path(path).resolve().parent
    with atomic_write(path, fsync=fsync) as file, tempfile.TemporaryFile(dir=folder) as scratch:
        reserve(scratch, at)

        def store(info: TensorInfo, array: np.ndarray[Any, Any]) -> None:
            if info.same_as is None:
                with os_errors(path):
                    write_at(scratch, array, offsets[info.name])

        yield store
        if at:
            pages = memory_map.mmap(scratch.fileno(), at)
            torch.save(_tensors(torch, infos, offsets, pages), _Releasing(file, pages))
        else:
            torch.save(_tensors(torch, infos, offsets, b""), file)


def _dtype_in_file(info: TensorInfo) -> str:
    return DTYPES[info.dtype].storage.name if info.dtype in ("int2", "int3", "int4") else info.dtype


def _tensors(torch: Any, infos: Sequence[TensorInfo], offsets: Mapping[str, int], pages: Any) -> OrderedDict[str, Any]:
    """The state dict, its values in `pages`."""
    table: OrderedDict[str, Any] = OrderedDict()
    for info in infos:
        if info.same_as is not None:
            table[info.name] = table[info.same_as]
            continue
        dtype = getattr(torch, _dtype_in_file(info))
        if info.size:
            flat = torch.frombuffer(pages, dtype=dtype, count=info.size, offset=offsets[info.name])
            table[info.name] = flat.reshape(info.shape)
        else:
            table[info.name] = torch.empty(info.shape, dtype=dtype)
    return table


class _Releasing:
    """A file that torch writes to. It regularly releases the pages that torch has already read."""

    def __init__(self, file: BinaryIO, pages: memory_map.mmap) -> None:
        self._file, self._pages, self._written = file, pages, 0

    def write(self, data: Any) -> int:
        self._written += len(data)
        if self._written >= _RELEASE_EVERY and hasattr(memory_map, "MADV_DONTNEED"):
            self._written = 0
            self._pages.madvise(memory_map.MADV_DONTNEED)  # a shared map: the file keeps what the memory forgets
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
