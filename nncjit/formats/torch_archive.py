"""PyTorch's archives with a network in them: TorchScript (`torch.jit.save`) and programs (`torch.export.save`).

The topology is the archive itself with the members empty that hold tensors, and their sizes as comments. It is a zip
archive, too, and its pickles and tables say what goes where. Nothing in it is run or unpickled.
"""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.files import atomic_write, os_errors
from nncjit.formats.tensor_writer import Store
from nncjit.formats.torch_sites import Site, is_export, is_torchscript, sites
from nncjit.formats.zip_members import ZipMembers
from nncjit.model import Graph, Model, Tensor, TensorInfo

__all__ = ["GRAPH", "holds_network", "read", "write"]

GRAPH = "pytorch"
"""The graph that `write` needs."""

Array = np.ndarray[Any, Any]

MAX_GRAPH = 1 << 28
"""Bytes of all that is no tensor."""
_PROGRAM = ".pt2"
_ALIGNMENT = 64
_LOCAL_HEADER, _ZIP64, _EXTRA = 30, 20, b"FB"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def holds_network(path: str | os.PathLike[str]) -> bool:
    """Whether a file is such an archive, rather than a state dict."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return is_torchscript(names) or is_export(names)


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - members are read one by one
    """Open a file; see `nncjit.formats.open_model`."""
    try:
        archive = ZipMembers(path)
        try:
            return _model(archive)
        except BaseException:
            archive.close()
            raise
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _model(archive: ZipMembers) -> Model:
    if not is_torchscript(archive.names) and not is_export(archive.names):
        raise ModelError("is no archive of torch.jit.save or torch.export.save")
    if any("/aotinductor/" in name for name in archive.names):
        raise ModelError("holds code that is compiled for its weights (AOTInductor); the exported program is read")
    found = list(sites(archive, archive.size))
    if not found:
        raise ModelError("holds no tensors that nncjit finds; archives of torch before 2.8 must be saved anew")
    tensors = [
        Tensor(info.name, info.shape, info.dtype, partial(_load, archive, member, info), fresh=True, role=info.role)
        for member, info in found
    ]
    return Model(
        tensors, close=archive.close, graphs=[Graph(GRAPH, _without(archive, {site.member for site in found}))]
    )


def _load(archive: ZipMembers, member: str, info: TensorInfo) -> Array:
    raw: Array = archive.read_array(member)
    storage = DTYPES[info.dtype].storage
    if info.dtype == "bool":
        raw = raw != 0
    values: Array = raw.view(storage.newbyteorder("<")).astype(storage, copy=False).reshape(info.shape)
    return values


def _without(archive: ZipMembers, taken: set[str]) -> bytes:
    """The archive with some members empty."""
    left = MAX_GRAPH
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as graph:
        for name in archive.names:
            data = b"" if name in taken else archive.read(name, left)
            left -= len(data)
            info = zipfile.ZipInfo(name, _EPOCH)
            if name in taken:
                info.comment = str(archive.size(name)).encode()
            graph.writestr(info, data)
    return buffer.getvalue()


def _former_size(members: ZipMembers, name: str) -> int:
    """Bytes of a member before tensors were taken out."""
    comment = members.comment(name)
    return int(comment) if comment.isdigit() and len(comment) < 19 else members.size(name)


@contextmanager
def write(
    path: str | os.PathLike[str], infos: Sequence[TensorInfo], graph: Graph, *, fsync: bool = False
) -> Iterator[Store]:
    """Put tensors back into their archive; see `nncjit.formats.create`.

    Raises
    ------
    ModelError
        The archive in the stream is damaged, or of another kind; or a tensor does not fit it.
    """
    try:
        members = ZipMembers(io.BytesIO(graph.data))
        found = {site.info.name: site for site in sites(members, partial(_former_size, members))}
        _check(path, members.names, found, {info.name: info for info in infos})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    filled = {site.member for site in found.values()}
    lock = threading.Lock()
    with atomic_write(path, fsync=fsync) as file:
        archive = zipfile.ZipFile(file, "w", allowZip64=True)

        def store(info: TensorInfo, array: Array) -> None:
            values = array.astype(array.dtype.newbyteorder("<"), copy=False)
            with lock, os_errors(path):
                _put(archive, found[info.name].member, values.reshape(-1).view(np.uint8).data)

        try:
            with os_errors(path):
                for name in members.names:
                    if name not in filled:
                        _put(archive, name, memoryview(members.read(name, MAX_GRAPH)))
            yield store
            order = {name: k for k, name in enumerate(members.names)}
            archive.filelist.sort(key=lambda member: order[member.filename])
            archive.close()
        except BaseException:
            with lock, suppress(OSError, ValueError):
                archive.close()
            raise


def _put(archive: zipfile.ZipFile, name: str, data: memoryview) -> None:
    """Write a member as torch does: code deflated, all else in place and aligned."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED if "/code/" in name else zipfile.ZIP_STORED
    info.file_size = data.nbytes
    head = _LOCAL_HEADER + len(name.encode()) + 4
    large = data.nbytes * 1.05 > zipfile.ZIP64_LIMIT
    padding = -(archive.fp.tell() + head + _ZIP64 * large) % _ALIGNMENT  # type: ignore[union-attr]
    info.extra = _EXTRA + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w") as member:
        member.write(data)


def _check(
    path: str | os.PathLike[str], names: list[str], found: Mapping[str, Site], infos: Mapping[str, TensorInfo]
) -> None:
    """Refuse an archive of another kind than the target's name says, and tensors that do not fit."""
    program = is_export(names)
    if not program and not is_torchscript(names):
        raise ModelError("the graph in the stream is no archive of torch.jit.save or torch.export.save")
    if program != os.fspath(path).lower().endswith(_PROGRAM):
        kind = "an exported program, which needs a name with .pt2" if program else "TorchScript, which is no .pt2 file"
        raise ModelError(f"the model was {kind}")
    for name, site in found.items():
        info = infos.get(name)
        if info is None:
            raise ModelError(f"tensor {name}: is in the archive, but not in the stream")
        if (info.dtype, info.shape) != (site.info.dtype, site.info.shape):
            is_now, should = (f"{i.dtype}{list(i.shape)}" for i in (info, site.info))
            raise ModelError(f"tensor {name}: is {is_now}, the archive wants {should}")
    for name in infos:
        if name not in found:
            raise ModelError(f"tensor {name}: has no place in the archive")
