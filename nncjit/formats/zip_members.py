"""Members of zip archives that hold models, read in place and without trust.

Nothing is extracted to a path of the archive's choosing. Members that are stored, as Keras and PyTorch write them, are
read where they lie; those that are deflated may not become much larger than they are.
"""

from __future__ import annotations

import io
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from nncjit.errors import ModelError
from nncjit.files import os_errors, read_at

__all__ = ["MemberFile", "ZipMembers", "check_name"]

Array = np.ndarray[Any, Any]

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)
"""What zipfile raises on damaged or encrypted archives."""
MAX_MEMBERS = 1 << 20
MAX_EXPANSION = 100
"""Bytes that a deflated member may become for each of its own, beyond the first `FREE`."""
FREE = 1 << 20
_LOCAL_HEADER = 30


def check_name(name: str) -> None:
    """Refuse the name of a member that leads out of a folder, or that no file can have.

    Raises
    ------
    ModelError
        With the name.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or PureWindowsPath(name).anchor or "\0" in name:
        raise ModelError(f"member {name!r} leads out of the archive")


class ZipMembers:
    """A zip archive open for reading; any thread may read.

    Parameters
    ----------
    path : path or binary file

    Raises
    ------
    ModelError
        It is no zip archive, or two members have one name, or a name leads out of it.
    """

    def __init__(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        self._path = path if isinstance(path, str | os.PathLike) else "archive"
        self._lock = threading.RLock()
        with os_errors(self._path):
            try:
                self._archive = zipfile.ZipFile(path)
            except DAMAGE as error:
                raise ModelError(f"not a zip archive, or a damaged one ({error})") from None
        try:
            self._members = self._checked()
        except BaseException:
            self.close()
            raise

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        if len(self._archive.filelist) > MAX_MEMBERS:
            raise ModelError(f"has {len(self._archive.filelist)} members, at most {MAX_MEMBERS} are possible")
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.filelist:
            if info.is_dir():
                continue
            check_name(info.filename)
            if info.filename in members:
                raise ModelError(f"two members are named {info.filename!r}")
            members[info.filename] = info
        return members

    @property
    def names(self) -> list[str]:
        """Names of the members that are no folders, in order."""
        return list(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes of a member.

        Raises
        ------
        ModelError
            There is none of the name, or it would become much larger than it is.
        """
        info = self._info(name)
        if info.file_size > MAX_EXPANSION * info.compress_size + FREE:
            raise ModelError(f"member {name}: {info.compress_size} bytes would become {info.file_size}")
        return info.file_size

    def comment(self, name: str) -> bytes:
        """What the archive's list says beside a member."""
        return self._info(name).comment

    def read(self, name: str, limit: int) -> bytes:
        """A whole member; ModelError where it has more bytes than `limit`."""
        size = self.size(name)
        if size > limit:
            raise ModelError(f"member {name}: has {size} bytes, at most {limit} are possible here")
        with self._damage(name), self._archive.open(self._info(name)) as file:
            return file.read(size)

    def read_array(self, name: str) -> Array:
        """A whole member as uint8."""
        array = np.empty(self.size(name), np.uint8)
        view, done = array.data, 0
        with self._damage(name), self.open(name) as file:
            while done < len(view) and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
                done += count
            if done < len(view):
                raise ValueError(f"{done} of {len(view)} bytes are there")
            if zlib.crc32(view) != self._info(name).CRC:
                raise ValueError("its checksum is wrong")
        return array

    def open(self, name: str) -> BinaryIO:
        """A member as a file that can be sought in; it is read in place where it is stored, else it is in memory."""
        info = self._info(name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            return io.BytesIO(self.read(name, self.size(name)))
        file = self._file()
        head = np.empty(_LOCAL_HEADER, np.uint8)
        with os_errors(self._path):
            count = read_at(file, head, info.header_offset)
            length = os.fstat(file.fileno()).st_size
        start = info.header_offset + _LOCAL_HEADER + int(head[26:28].view("<u2")[0]) + int(head[28:30].view("<u2")[0])
        if count < _LOCAL_HEADER or bytes(head[:4]) != b"PK\x03\x04" or start + info.file_size > length:
            raise ModelError(f"member {name}: is damaged, or the archive is cut off")
        return io.BufferedReader(MemberFile(file, start, info.file_size))

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()

    def _info(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._members[name]
        except KeyError:
            raise ModelError(f"has no member {name}") from None

    def _file(self) -> BinaryIO:
        if self._archive.fp is None:
            raise ModelError(f"{self._path}: is closed")
        file: Any = self._archive.fp
        return file  # type: ignore[no-any-return]

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        self._file()
        with self._lock, os_errors(self._path):
            try:
                yield
            except DAMAGE as error:
                said = str(error) or "it ends early"
                raise ModelError(f"{self._path}: member {name}: is damaged ({said})") from None


class MemberFile(io.RawIOBase):
    """Part of a file as a file of its own; it does not move the position of the file behind it."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._behind, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self._size - self._at), 0)
        if count:
            count = read_at(self._behind, np.frombuffer(view[:count], np.uint8), self._start + self._at)
        self._at += count
        return count
