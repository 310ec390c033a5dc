"""NNEF models in one file: the folder as a tar archive, plain or gzipped.

Regular files alone are unpacked, into a temporary folder, and no more of them than the archive's size warrants.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from nncjit.errors import ModelError, NncWarning
from nncjit.files import atomic_write, os_errors
from nncjit.formats import nnef
from nncjit.formats.tensor_writer import Store
from nncjit.formats.zip_members import FREE, MAX_EXPANSION, MAX_MEMBERS, check_name
from nncjit.model import Graph, Model, TensorInfo

__all__ = ["GRAPH", "KEEPS_METADATA", "read", "write"]

GRAPH = nnef.GRAPH
"""The graph that `write` needs."""
KEEPS_METADATA = True
"""`write` takes all graphs and the metadata."""

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, ValueError, OSError)
_NAME = "graph.nnef"
_PIECE = 1 << 20
_PLAIN = ".tar"


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open an archive; see `nncjit.formats.open_model`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _unpack(path, folder)
        graphs = sorted(folder.rglob(_NAME), key=lambda graph: len(graph.parts))
        if not graphs:
            raise ModelError(f"{path}: holds no {_NAME}")
        try:
            model = stack.enter_context(nnef.read(graphs[0]))
        except ModelError as error:
            raise ModelError(f"{path}: {str(error).removeprefix(f'{graphs[0]}: ')}") from None
        _warn_of_others(path, folder, graphs[0], model)
        return Model(model, model.metadata, stack.pop_all().close, model.graphs)


def _warn_of_others(path: str | os.PathLike[str], folder: Path, graph: Path, model: Model) -> None:
    """Name members that are no part of the model: a stream has no place for them."""
    own = {graph, graph.with_suffix(".quant"), *(graph.parent / f"{name}.dat" for name in model.names)}
    others = sorted(made.relative_to(folder).as_posix() for made in folder.rglob("*") if made.is_file())
    others = [name for name in others if folder / name not in own]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        said = f"{path}: left out, being no part of the graph: {', '.join(others[:3])}{more}"
        warnings.warn(said, NncWarning, stacklevel=4)


def _unpack(path: str | os.PathLike[str], folder: Path) -> None:
    left = MAX_EXPANSION * Path(path).stat().st_size + FREE
    try:
        with tarfile.open(path, "r|*") as archive:
            for count, member in enumerate(archive):
                left -= member.size
                _check(member, left, count, folder)
                if member.isreg():
                    _copy(archive, member, folder / member.name)
    except _DAMAGE as error:
        raise ModelError(f"{path}: not a tar archive, or a damaged one ({error})") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _check(member: tarfile.TarInfo, left: int, count: int, folder: Path) -> None:
    if count >= MAX_MEMBERS:
        raise ModelError(f"has more than {MAX_MEMBERS} members")
    if left < 0:
        raise ModelError(f"member {member.name}: the archive would become more than {MAX_EXPANSION} times its size")
    if member.isdir():
        return
    if not member.isreg():
        raise ModelError(f"member {member.name}: is no regular file")
    check_name(member.name)
    if (folder / member.name).exists():
        raise ModelError(f"two members are named {member.name!r}")


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, "a regular file"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)


@contextmanager
def write(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    graph: Graph,
    *,
    graphs: Sequence[Graph] = (),
    metadata: Mapping[str, str],
    fsync: bool = False,
) -> Iterator[Store]:
    """Write a folder and pack it; see `nncjit.formats.create`.

    Raises
    ------
    ModelError
        Tensors do not fit the variables of the graph.
    """
    with atomic_write(path, fsync=fsync) as file, tempfile.TemporaryDirectory(dir=_parent(path)) as name:
        folder = Path(name)
        with nnef.write(folder / _NAME, infos, graph, graphs=graphs, metadata=metadata) as store:
            yield store
        with os_errors(path), _packing(path, file) as target, tarfile.open(fileobj=target, mode="w") as archive:
            for made in sorted(folder.rglob("*"), key=lambda made: (made != folder / _NAME, made)):
                if made.is_file():
                    archive.add(made, str(made.relative_to(folder)), recursive=False, filter=_anonymous)


def _packing(path: str | os.PathLike[str], file: BinaryIO) -> AbstractContextManager[Any]:
    """Where the archive is written: into the file, or through gzip, which gets no time to write down."""
    if os.fspath(path).lower().endswith(_PLAIN):
        return nullcontext(file)
    return gzip.GzipFile(fileobj=file, mode="wb", mtime=0)


def _parent(path: str | os.PathLike[str]) -> Path:
    return Path(path).resolve().parent


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without owner and time, so that equal models are equal archives."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member
