"""Standard input and output, and pipes with a name, in the place of files: ``-``."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from nncjit.errors import OptionError
from nncjit.files import os_errors
from nncjit.remote import is_url

__all__ = ["STANDARD", "is_pipe", "model_from", "standard_output", "stream_from", "through_file"]

STANDARD = Path("-")
_HEAD = 512
_KINDS = ((b"GGUF", ".gguf"), (b"PK\x03\x04", ".npz"))


def is_pipe(path: Path | None) -> bool:
    """Whether this stands for standard input or output, or is a pipe with a name."""
    return path is not None and not is_url(path) and (path == STANDARD or path.is_fifo())


@contextmanager
def model_from(path: Path) -> Iterator[Path]:
    """A model file. What comes through a pipe goes to a temporary file, since its header and values are read apart; its
    first bytes tell the format.

    Raises
    ------
    OptionError
        They tell of none.
    """
    if not is_pipe(path):
        yield path
        return
    with os_errors(path), _opened(path) as pipe, tempfile.TemporaryDirectory() as folder:
        head = pipe.read(_HEAD)
        copy = Path(folder) / f"model{_suffix_of(head)}"
        with copy.open("wb") as file:
            file.write(head)
            shutil.copyfileobj(pipe, file, 1 << 20)
        yield copy


def stream_from(path: Path) -> Any:
    """An NNC file: its path, or what comes through a pipe, read to its end."""
    return sys.stdin.buffer if path == STANDARD else path


def standard_output() -> BinaryIO:
    """Standard output as a file of bytes."""
    return sys.stdout.buffer


@contextmanager
def through_file(target: Path, suffix: str) -> Iterator[Path]:
    """`target`; for standard output, a temporary file that is copied there when the block ends well."""
    if target != STANDARD:
        yield target
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{suffix}"
        yield file
        with file.open("rb") as written:
            shutil.copyfileobj(written, standard_output(), 1 << 20)


def _opened(path: Path) -> Any:
    return open(0, "rb", closefd=False) if path == STANDARD else path.open("rb")


def _suffix_of(head: bytes) -> str:
    if b"data.pkl" in head:
        return ".pt"
    for magic, suffix in _KINDS:
        if head.startswith(magic):
            return suffix
    if head[8:9] == b"{":
        return ".safetensors"
    raise OptionError("standard input is no model file that its first bytes tell: safetensors, npz, PyTorch or GGUF")
