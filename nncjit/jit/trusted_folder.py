"""Folders of files that are loaded as code: nobody else may have written them.

The names of such folders can be guessed, so another user may have made one, put a link or a pipe in its place, or
exchange it at any time. So nothing is checked by its name and then opened. The folder is opened first and checked
through its handle, files are opened relative to that handle, and what is read is the file that was checked.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from operator import or_
from pathlib import Path

_FILE_MODE = 0o644
_DRAFT = "draft-"


def _flags(*names: str) -> int:
    """Flags of os.open, as far as the system has them."""
    return reduce(or_, (getattr(os, name, 0) for name in names))


_FOLDER = _flags("O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
_READ = _flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
_CREATE = _flags("O_WRONLY", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
_BY_HANDLE = os.open in os.supports_dir_fd


class UntrustedError(OSError):
    """Somebody else may have written this."""


class TrustedFolder:
    """An open folder, see `open_folder`. Every method raises OSError where the system or a check says no."""

    def __init__(self, path: Path, handle: int | None, owners: frozenset[int]) -> None:
        self._path, self._handle, self._owners = path, handle, owners

    def read(self, name: str) -> bytes:
        """The content of a file."""
        handle = os.open(self._place(name), _READ, dir_fd=self._handle)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UntrustedError(f"{name} is no regular file")
            _check(status, _FILE_MODE, self._owners)
            with os.fdopen(handle, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(handle)

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file: all of it appears at once, or nothing does."""
        draft = self._place(_DRAFT + secrets.token_hex(8))
        handle = os.open(draft, _CREATE, _FILE_MODE, dir_fd=self._handle)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(draft, self._place(name), src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except OSError:
            with suppress(OSError):
                os.unlink(draft, dir_fd=self._handle)
            raise

    def remove_old(self, prefix: str, seconds: float) -> None:
        """Remove the files whose names begin so and that were last written so long ago, and drafts that were left."""
        names = os.listdir(self._path if self._handle is None else self._handle)
        for place in [self._place(name) for name in names if name.startswith((prefix, _DRAFT))]:
            written = os.stat(place, dir_fd=self._handle, follow_symlinks=False).st_mtime
            if time.time() - written > seconds:
                os.unlink(place, dir_fd=self._handle)

    def _place(self, name: str) -> str:
        return name if self._handle is not None else str(self._path / name)


@contextmanager
def open_folder(path: Path, mode: int, owners: frozenset[int] = frozenset()) -> Iterator[TrustedFolder]:
    """Open a folder that nobody else may write to.

    Where the system has no users with numbers (Windows), any folder will do: access is decided by where it is.

    Parameters
    ----------
    path : Path
        Must exist, and be no link.
    mode : int
        What the group and others may do there at most.
    owners : frozenset of int
        Users whose folders and files are trusted beside those of the user who runs this.

    Raises
    ------
    UntrustedError
        It belongs to somebody else, or others may do more there.
    OSError
        It cannot be opened.
    """
    handle = os.open(path, _FOLDER) if _BY_HANDLE else None
    try:
        status = os.lstat(path) if handle is None else os.fstat(handle)
        if not stat.S_ISDIR(status.st_mode):
            raise UntrustedError("no folder")
        _check(status, mode, owners)
        yield TrustedFolder(path, handle, owners)
    finally:
        if handle is not None:
            os.close(handle)


def _check(status: os.stat_result, mode: int, owners: frozenset[int]) -> None:
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid not in {os.geteuid(), *owners}:
        raise UntrustedError(f"belongs to user {status.st_uid}")
    if status.st_mode & 0o077 & ~mode:
        raise UntrustedError(f"others may do too much: {stat.filemode(status.st_mode)}")
