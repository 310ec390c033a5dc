"""Files at URLs, through fsspec: what is read are ranges of bytes, and what is written appears when it is complete."""

from __future__ import annotations

import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from nncjit.errors import ModelError, NncError
from nncjit.extras import require

__all__ = ["RemoteFile", "beside", "fetched", "identity", "is_url", "uploaded"]

BLOCK = 1 << 16
"""Bytes that are asked for at once where fewer are needed: headers are read in many small pieces."""
KEPT_BLOCKS = 64
WHOLE_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory", "hf", "oci", "r2"}
"""Protocols of stores in which an object appears only when all of it is there."""

ONLY_READ = {"http", "https", "zip", "tar", "libarchive", "github", "git", "data", "reference"}
"""Protocols of places from which files are only taken."""
BUCKETS = WHOLE_OBJECTS - {"memory", "hf"}
"""Protocols whose paths begin with a container, which is no file itself."""

_NOT_FOUND = 404
_MARKS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "generation")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(?:::|://)")


def is_url(path: Any) -> TypeGuard[str]:
    """Whether this is a URL rather than a path."""
    return isinstance(path, str) and _URL.match(path) is not None


def beside(url: str, name: str) -> str:
    """The URL of another file in the same folder."""
    return url.rpartition("/")[0] + f"/{name}"


def identity(url: str) -> list[int | str | None]:
    """The size of a file, and what else a file system tells that is different when the file is another one."""
    system, path = _file_system(url)
    with _errors(url):
        about = system.info(path)
        marks = [str(about[name]) for name in _MARKS if about.get(name) is not None]
        return [about.get("size"), str(system.ukey(path)), " ".join(marks)]


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into a ModelError of one line that names the URL."""
    try:
        yield
    except NncError:
        raise
    except Exception as error:
        # over HTTP, a server that cannot be reached is a file that is not found, because of another error
        cause = (error.__cause__ or error) if isinstance(error, FileNotFoundError) else error
        if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == _NOT_FOUND:
            raise ModelError(f"{url}: there is no such file") from None
        lines = (str(cause).strip() or type(cause).__name__).splitlines()
        said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise ModelError(f"{url}: {said}") from error


def _file_system(url: str) -> tuple[Any, str]:
    fsspec = require("fsspec", "URLs")
    with _errors(url):
        system, path = fsspec.core.url_to_fs(url)
    return system, path


class RemoteFile:
    """A file at a URL, of which ranges are read by any thread.

    Parameters
    ----------
    url : str

    Attributes
    ----------
    size : int
        Its bytes.

    Raises
    ------
    ModelError
        There is none, or no library for its file system, or it does not say its size.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._path = _file_system(url)
        with _errors(url):
            about = self._system.info(self._path)
            if about.get("type") == "directory":
                raise ModelError(f"{url}: is a folder, not a file")
            size = about.get("size")
        if not isinstance(size, int):
            raise ModelError(f"{url}: does not say its size, so no part of it can be read alone")
        self.size = size
        self._blocks: dict[int, bytes] = {}
        self._whole: bytes | None = None
        """All of it, where a server knows no ranges and sends that."""
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, fewer where the file ends."""
        stop = min(stop, self.size)
        if stop <= start:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        if last > first:
            return self._fetch(start, stop)
        with self._lock:
            block = self._blocks.get(first)
        if block is None:
            block = self._fetch(first * BLOCK, min((first + 1) * BLOCK, self.size))
            with self._lock:
                self._blocks[first] = block
                if len(self._blocks) > KEPT_BLOCKS:
                    del self._blocks[next(iter(self._blocks))]
        return block[start - first * BLOCK : stop - first * BLOCK]

    def _fetch(self, start: int, stop: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:stop]
        with _errors(self.url):
            data = self._system.cat_file(self._path, start=start, end=stop)
        if len(data) == self.size > stop - start:
            self._whole = bytes(data)
            return self._whole[start:stop]
        if len(data) != stop - start:
            raise ModelError(f"{self.url}: gave {len(data)} bytes, {stop - start} were asked for")
        return bytes(data)


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """A copy of a file at a URL, which is gone when the block ends."""
    system, path = _file_system(url)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / _name_of(url, path)
        with _errors(url):
            system.get_file(path, str(local))
        yield local


@contextmanager
def uploaded(url: str) -> Iterator[Path]:
    """A path for a file that goes to a URL when the block ends well, with others that were made beside it.

    In object stores, it appears when all of it is there. In other file systems, it is sent under another name and
    renamed.
    """
    first = _URL.match(url)
    if first is not None and first[0].rstrip(":/").lower() in ONLY_READ:
        raise ModelError(f"{url}: files are only read there; name a target elsewhere")
    system, path = _file_system(url)
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if protocols & BUCKETS and "/" not in path.strip("/"):
        raise ModelError(f"{url}: names no file")
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / _name_of(url, path)
        yield local
        for made in sorted(Path(folder).iterdir(), key=lambda file: file == local):
            goal = path.removesuffix(local.name) + made.name
            with _errors(url):
                if protocols & WHOLE_OBJECTS:
                    system.put_file(str(made), goal)
                    continue
                hidden = f"{goal}.{secrets.token_hex(6)}.tmp"
                try:
                    system.put_file(str(made), hidden)
                    system.mv(hidden, goal)
                except BaseException:
                    if system.exists(hidden):
                        system.rm_file(hidden)
                    raise


def _name_of(url: str, path: str) -> str:
    name = path.rpartition("/")[2]
    if not name or name in (".", "..") or "\0" in name:
        raise ModelError(f"{url}: names no file")
    return name
