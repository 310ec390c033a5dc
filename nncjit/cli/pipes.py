"""Standard input and output, pipes with a name, and devices, in the place of files: ``-``."""

from __future__ import annotations

import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nncjit.errors import ModelError, NncError, OptionError
from nncjit.files import os_errors
from nncjit.remote import fetched, is_url

__all__ = ["STANDARD", "behind_pipe", "is_standard", "on_this_machine", "through_file"]

STANDARD = Path("-")
_HEAD = 512
_KINDS = ((b"GGUF", ".gguf"), (b"PK\x03\x04", ".npz"), (b"\x89HDF\r\n", ".h5"))
_PIECE = 1 << 20


def is_standard(path: Any, stream: str) -> bool:
    """Whether a path stands for standard ``"input"`` or ``"output"``."""
    return path in (STANDARD, Path(f"/dev/std{stream.removesuffix('put')}"))


def _is_pipe(path: Any) -> bool:
    """Whether this is standard input, or a pipe with a name or of the shell."""
    return path is not None and not is_url(path) and (is_standard(path, "input") or path.is_fifo())


@contextmanager
def behind_pipe(path: Any, *, streams: bool = True) -> Iterator[Any]:
    """The file to read for a path. What comes through a pipe goes to a temporary file, since its parts are not read in
    their order; its first bytes tell the format. Errors name what the user named.

    Parameters
    ----------
    path : path
    streams : bool
        Whether an NNC file may come, too.

    Raises
    ------
    OptionError
        The first bytes tell of no format.
    """
    if not _is_pipe(path):
        yield path
        return
    name = "standard input" if is_standard(path, "input") else str(path)
    with tempfile.TemporaryDirectory() as folder:
        with os_errors(path), _opened(path) as pipe:
            head = pipe.read(_HEAD)
            copy = Path(folder) / f"model{_suffix_of(head, name, streams=streams)}"
            with copy.open("wb") as file:
                file.write(head)
                shutil.copyfileobj(pipe, file, _PIECE)
        with _called(copy, name):
            yield copy


@contextmanager
def on_this_machine(path: Any) -> Iterator[Any]:
    """The file for a path; for a URL a copy of it, where it is read many times. Errors name what the user named.

    Raises
    ------
    OptionError
        The URL is of a model in several files.
    """
    if not is_url(path):
        yield path
        return
    if path.lower().endswith(".index.json"):
        raise OptionError(f"{path}: a model in several files is read from this machine here, not from a URL")
    with fetched(path) as copy, _called(copy, path):
        yield copy


@contextmanager
def _called(copy: Path, name: str) -> Iterator[None]:
    """Errors that tell of a copy tell of what it was made of."""
    try:
        yield
    except NncError as error:
        error.args = (str(error).replace(str(copy), name), *error.args[1:])
        raise


@contextmanager
def _sink(path: Any) -> Iterator[Any]:
    """Where bytes go that are written in their order: standard output, a pipe or a device as a file, others as they
    are.
    """
    if is_standard(path, "output"):
        yield sys.stdout.buffer
    elif _takes_bytes_in_order(path):
        with os_errors(path), path.open("wb") as file:
            yield file
    else:
        yield path


@contextmanager
def through_file(path: Any, suffix: str) -> Iterator[Any]:
    """`path`; where bytes go in their order, a temporary file that is copied there when the block ends well."""
    with _sink(path) as target:
        if target is path:
            yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model{suffix}"
            yield file
            if file.exists():  # a dry run writes nothing
                with file.open("rb") as written:
                    _copy(target, written)


def _copy(target: BinaryIO, written: Any) -> None:
    """Copy a file to one that bytes go to in their order."""
    try:
        shutil.copyfileobj(written, target, _PIECE)
        target.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        name = str(getattr(target, "name", target)).replace("<stdout>", "standard output")
        raise ModelError(f"{name}: {(error.strerror or str(error)).lower()}") from error


def _takes_bytes_in_order(path: Any) -> bool:
    if path is None or is_url(path):
        return False
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _opened(path: Path) -> Any:
    return open(0, "rb", closefd=False) if is_standard(path, "input") else path.open("rb")


def _suffix_of(head: bytes, name: str, *, streams: bool) -> str:
    if not head:
        raise OptionError(f"{name} is empty")
    if b"data.pkl" in head:
        return ".pt"
    for magic, suffix in _KINDS:
        if head.startswith(magic):
            return suffix
    if head[8:9] == b"{":
        return ".safetensors"
    if streams:
        return ".nnc"
    raise OptionError(f"{name} is no model file that its first bytes tell: safetensors, npz, PyTorch, GGUF or HDF5")
