"""Where the bytes of a stream come from: memory, a file, or a file object. Reads are by position and thread-safe."""

from __future__ import annotations

import io
import mmap as mmap_module
import os
import stat
import threading
from abc import ABC, abstractmethod
from typing import Any, Self

from nncjit.errors import BitstreamError, ModelError
from nncjit.files import nearest_file
from nncjit.remote import RemoteFile, is_url

Buffer = bytes | bytearray | memoryview

_LARGEST_READ = 1 << 30  # the kernel returns at most about 2 GiB from one call


class Source(ABC):
    """Bytes that can be read at any place, by several threads at once. ``with source:`` closes it.

    Attributes
    ----------
    size : int
        How many bytes there are.
    """

    size: int

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` up to `stop`; BitstreamError where they are not all there."""

    def close(self) -> None:  # noqa: B027 - memory has nothing to give back
        """Give back what was opened; nothing can be read afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(start: int, stop: int, size: int) -> None:
    if not 0 <= start <= stop <= size:
        raise BitstreamError(f"bytes {start} to {stop} are asked for, there are {size}", bit=8 * min(start, size))


class MemorySource(Source):
    """Bytes in memory; `read` gives views without a copy."""

    def __init__(self, data: Buffer) -> None:
        view = memoryview(data)
        self._view = (view.cast("B") if view.nbytes and view.c_contiguous else memoryview(view.tobytes())).toreadonly()
        self.size = len(self._view)

    def read(self, start: int, stop: int) -> memoryview:
        """A view of the bytes from `start` up to `stop`."""
        _check(start, stop, self.size)
        return self._view[start:stop]


class StreamSource(Source):
    """A binary file object with `seek` and `read`. It is not closed by this object.

    Raises
    ------
    ModelError
        Where the object gives text, or fails to read.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size: int = file.seek(0, io.SEEK_END)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        _check(start, stop, self.size)
        pieces = []
        with self._lock:
            self._file.seek(start)
            while start < stop:
                try:
                    piece = self._file.read(min(stop - start, _LARGEST_READ))
                except OSError as err:
                    raise ModelError(f"the file object cannot be read: {err}") from err
                if not piece:
                    raise BitstreamError(f"the file ends before byte {stop}", bit=8 * start)
                if isinstance(piece, str):
                    raise ModelError("the file object gives text; open it in binary mode")
                pieces.append(piece)
                start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class FileSource(Source):
    """A file on disk, read by position (`os.pread`), or mapped into memory.

    Parameters
    ----------
    path : str or path-like
    mmap : bool
        Map the file: pages are read when touched and views are given without a copy. The file must not be cut
        while it is open.

    Raises
    ------
    ModelError
        The file does not exist or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = False) -> None:
        self._fd = -1
        self._view: memoryview | None = None
        self.path = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
            self.size = os.fstat(self._fd).st_size
            os.read(self._fd, 1)  # a directory opens, but cannot be read
            if mmap and self.size:
                self._view = memoryview(mmap_module.mmap(self._fd, 0, access=mmap_module.ACCESS_READ))
        except OSError as err:
            self.close()
            several = f"{os.fsdecode(self.path)}.index.json"
            hint = f"; {several} is the model in several streams" if os.path.exists(several) else ""  # noqa: PTH110
            hint = hint or (nearest_file(self.path) if isinstance(err, FileNotFoundError) else "")
            raise ModelError(f"{os.fsdecode(self.path)}: {(err.strerror or str(err)).lower()}{hint}") from err
        except ValueError:  # a zero, or what no encoding has
            raise ModelError(f"{self.path!a}: no file can have this name") from None
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` up to `stop`; a view where the file is mapped."""
        _check(start, stop, self.size)
        if self._view is not None:
            return self._view[start:stop]
        pieces = []
        while start < stop:
            try:
                piece = self._pread(min(stop - start, _LARGEST_READ), start)
            except OSError as err:
                raise ModelError(f"{self.path}: {err.strerror or err}") from err
            if not piece:
                raise BitstreamError(f"the file ends before byte {stop}", bit=8 * start)
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pread(self, n: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, n, start)
        with self._lock:  # no pread on Windows
            os.lseek(self._fd, start, os.SEEK_SET)
            return os.read(self._fd, n)

    def close(self) -> None:
        """Close the file; views of a mapped file stay valid as long as they are held."""
        self._view = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class RemoteSource(Source):
    """A file at a URL, of which ranges are read (see `nncjit.remote`)."""

    def __init__(self, url: str) -> None:
        self._file = RemoteFile(url)
        self.size = self._file.size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        _check(start, stop, self.size)
        return self._file.read(start, stop)


def as_source(data: Buffer | str | os.PathLike[str] | Source | Any, *, mmap: bool = False) -> Source:
    """The source behind bytes, a path, a file object or a source.

    Parameters
    ----------
    data : bytes-like, str, path-like, binary file object, or Source
        A str may be a URL of a file system that fsspec knows.
        A file object that cannot seek is read to its end.
    mmap : bool
        For a path: map the file instead of reading it.

    Raises
    ------
    ModelError
        The path cannot be opened, or the object is none of these.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return MemorySource(data)
    if is_url(data):
        return RemoteSource(data)
    if isinstance(data, (str, os.PathLike)):
        return _piped(data) if _is_pipe(data) else FileSource(data, mmap=mmap)
    if isinstance(data, Source):
        return data
    if not hasattr(data, "read"):
        raise ModelError(f"cannot read a stream from {type(data).__name__}: give bytes, a path or a binary file object")
    try:
        if hasattr(data, "seekable") and data.seekable():
            return StreamSource(data)
        whole = data.read()
    except OSError as err:
        raise ModelError(f"the file object cannot be read: {err}") from err
    if not isinstance(whole, (bytes, bytearray, memoryview)):
        raise ModelError("the file object gives text; open it in binary mode")
    return MemorySource(whole)


def _is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether this is a pipe with a name, which can only be read to its end."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - any path, and no more than its kind
    except (OSError, ValueError):
        return False


def _piped(path: str | os.PathLike[str]) -> MemorySource:
    try:
        with open(path, "rb") as pipe:  # noqa: PTH123
            return MemorySource(pipe.read())
    except OSError as err:
        raise ModelError(f"{os.fspath(path)}: {err.strerror or err}") from err
