"""Files that are written completely or not at all, reads at any position from any thread, and errors that name them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nncjit.errors import ModelError, NncWarning, OptionError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "MAX_INDEX",
    "as_path",
    "atomic_write",
    "check_readable",
    "check_writable",
    "nearest_file",
    "os_errors",
    "read_at",
    "read_index_bytes",
    "reserve",
    "resolved",
    "will_read",
    "write_at",
]

_UNNAMED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS),
    *(errno.ESTALE, errno.ENETDOWN, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ENOTCONN),
}
"""Errors of writing to an open file, for which the system does not name the file."""
_TOKEN = re.compile(r"[0-9a-f]{12}\.tmp")
STALE_AFTER = 60.0
"""Seconds after which an unlocked hidden file is taken to be left behind."""
SLOW_TO_FREE = 1 << 24
"""Bytes of a file from which it takes milliseconds to free what the system holds of it in memory: a fifth of the time
that writing it takes."""
MAX_INDEX = 100_000_000
"""Most bytes of an index, which says what is in other files."""
_PIECE = 1 << 30
"""Bytes of one system call: Linux stops at 2 GiB, macOS refuses more."""
_seek_lock = threading.Lock()


@contextmanager
def os_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError into a ModelError of one line that names the file."""
    try:
        yield
    except OSError as error:
        name = error.filename or os.fspath(path)
        hint = nearest_file(name) if error.errno == errno.ENOENT else ""
        raise ModelError(f"{name}: {_reason(error)}{hint}") from error


def nearest_file(path: Any) -> str:
    """A remark that names the file that may be meant instead of one that does not exist; empty where none is."""
    try:
        missing = Path(os.fsdecode(path))
        return did_you_mean(missing.name, (entry.name for entry in os.scandir(missing.parent)))
    except (OSError, TypeError, ValueError):
        return ""


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def check_readable(path: str | os.PathLike[str]) -> None:
    """Refuse what cannot be a model: a missing file, a folder, an empty file, a git-lfs pointer, a web page.

    Raises
    ------
    ModelError
        With the path and what to do about it.
    """
    path = as_path(path)
    with os_errors(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelError(f"{path}: is a folder, not a file{_hint(path)}")
        if not stat.S_ISREG(mode):
            raise ModelError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            head = file.read(256)
    if not head:
        raise ModelError(f"{path}: is empty")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: is a git-lfs pointer, not the model itself: run `git lfs pull` to fetch it")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise ModelError(f"{path}: is a web page, not a model: the download has failed")


def read_index_bytes(path: Path) -> bytes:
    """All of an index that is at hand.

    Raises
    ------
    ModelError
        It cannot be read, or is larger than `MAX_INDEX`.
    """
    with os_errors(path):
        size = path.stat().st_size
        if size > MAX_INDEX:
            raise ModelError(f"{path}: {size} bytes are too many for an index")
        return path.read_bytes()


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path, links followed; ModelError for a link that leads to itself, and for what is no name."""
    try:
        return as_path(path).resolve()
    except (OSError, RuntimeError) as error:
        said = _reason(error) if isinstance(error, OSError) else "too many levels of symbolic links"
        raise ModelError(f"{path}: {said}") from None


def as_path(path: str | os.PathLike[str]) -> Path:
    """The path; OptionError for what names no file, ModelError for a name that no file can have."""
    given: object = path
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise OptionError(f"a file is named by a path, not by a {type(path).__name__}")
    name = os.fspath(path)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ModelError(f"{name!a}: no file can have this name") from None
    if "\0" in name:
        raise ModelError(f"{name!r}: no file can have this name")
    return Path(path)


def _hint(folder: Path) -> str:
    """The model that the user may have meant."""
    for suffix in (".index.json", ".safetensors", ".nnc"):
        for name in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(suffix)):
            return f"; it holds {name}"
    return ""


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, fsync: bool = False) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when it is complete.

    The bytes go to a hidden file in the same folder, which takes the place of `path` when the block ends well and is
    removed when it does not, Ctrl-C included; an old file at `path` is then as it was. The new file has the old one's
    permissions. A link is followed.

    Parameters
    ----------
    path : path
        In a folder that exists.
    fsync : bool
        Wait until all data are on the disk. This is safe against a power cut, but slow.

    A run that was killed leaves its hidden file behind. The next one to write under the name removes it, and says so.

    Yields
    ------
    file
        Binary, for reading and writing, with a file descriptor.

    Raises
    ------
    ModelError
        The folder does not exist or may not be written, `path` is a folder, a device or write-protected, the disk is
        full.
    """
    target = resolved(path)
    mode = _mode_of(target, path)
    temporary = target.with_name(f"{_hidden_start(target)}{secrets.token_hex(6)}.tmp")
    with os_errors(path):
        if not target.parent.is_dir():
            raise ModelError(f"{path}: there is no folder {target.parent}")
    file: BinaryIO | None = None
    try:  # a signal may come when the file is there, and before `open` has returned
        try:
            file = temporary.open("x+b")
        except OSError as error:
            raise ModelError(f"{path}: cannot write in {target.parent}: {_reason(error)}") from error
        _is_unlocked(file)  # tells others that somebody is at work
        _remove_stale(target)
        try:
            yield file
            file.flush()
            if mode is not None:
                temporary.chmod(mode)
            if fsync:
                os.fsync(file.fileno())
            file.close()
            _replace(temporary, target)
        except OSError as error:
            if error.errno in _UNNAMED or error.filename == str(temporary):
                raise ModelError(f"{path}: {_reason(error)}") from error
            raise
    except BaseException:
        with suppress(OSError):
            if file is not None:
                file.close()  # may flush, and fail to, again
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink()
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse before long work what `atomic_write` would refuse at its end.

    Raises
    ------
    ModelError
        The folder does not exist or may not be written, `path` is a folder, a device or write-protected.
    """
    with suppress(_TriedError), atomic_write(path):
        raise _TriedError


class _TriedError(Exception):
    """Ends a write that was only tried."""


def _replace(new: Path, old: Path) -> None:
    """Rename. The old file is held until then, so that the system does not free its memory before this returns."""
    held = -1
    if os.name == "posix":  # elsewhere a file that is open cannot be replaced
        with suppress(OSError):
            held = os.open(old, os.O_RDONLY | os.O_NONBLOCK)
    try:
        new.replace(old)
    finally:
        if held >= 0:
            _let_go(held)


def _let_go(held: int) -> None:
    """Close the last handle of a file, on a thread of its own where that takes milliseconds."""
    if os.fstat(held).st_size >= SLOW_TO_FREE:
        with suppress(RuntimeError):  # no thread can be started any more
            threading.Thread(target=os.close, args=(held,), name="nncjit-close").start()
            return
    os.close(held)


def _hidden_start(target: Path) -> str:
    """What the names of hidden files for `target` start with."""
    return f".{target.name[:40]}."


def _remove_stale(target: Path) -> None:
    """Remove what runs that were killed have left of `target`, and warn of it."""
    start = _hidden_start(target)
    with suppress(OSError):
        for path in target.parent.iterdir():
            if path.name.startswith(start) and _TOKEN.fullmatch(path.name[len(start) :]) and _is_stale(path):
                size = path.stat().st_size
                path.unlink()
                said = f"{path}: removed, {size:,} bytes that a run left which was killed"
                warnings.warn(said, NncWarning, stacklevel=4)


def _is_stale(path: Path) -> bool:
    """Whether nobody writes a hidden file: it is locked by its writer, but in the moment after it was made."""
    try:
        if time.time() - path.lstat().st_mtime < STALE_AFTER or not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("r+b") as file:
            return _is_unlocked(file)
    except OSError:
        return False


def _is_unlocked(file: BinaryIO) -> bool:
    """Whether nobody else holds the lock of an open file; takes it. False where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _mode_of(target: Path, path: str | os.PathLike[str]) -> int | None:
    """The permissions of a file that is about to be replaced, None if there is none."""
    with os_errors(path):
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            return None
    if stat.S_ISDIR(mode):
        raise ModelError(f"{path}: is a folder")
    if not stat.S_ISREG(mode):
        raise ModelError(f"{path}: is not a regular file")
    if not os.access(target, os.W_OK):
        raise ModelError(f"{path}: is write-protected")
    return stat.S_IMODE(mode)


def reserve(file: BinaryIO, size: int) -> None:
    """Make `file` `size` bytes long, so that a full disk is noticed now rather than hours later."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _UNNAMED:
                raise
        else:
            return
    file.truncate(size)


def read_at(file: BinaryIO, array: np.ndarray[Any, Any], offset: int) -> int:
    """Fill a C-contiguous array from `offset` on and return how many bytes there were; threads may share `file`."""
    view = memoryview(array.reshape(-1).view("u1"))  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        part = view[done : done + _PIECE]
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [part], offset + done)
        else:
            with _seek_lock:
                file.seek(offset + done)
                count = file.readinto(part)  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def will_read(file: BinaryIO, offset: int, size: int) -> None:
    """Tell the system that these bytes will be wanted, so that it fetches them meanwhile, where it can be told."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)


def write_at(file: BinaryIO, array: np.ndarray[Any, Any], offset: int) -> None:
    """Write a C-contiguous array at `offset`; threads may share `file`."""
    view = memoryview(array.reshape(-1).view("u1"))  # type: ignore[arg-type]
    done = 0
    while done < len(view):
        part = view[done : done + _PIECE]
        if hasattr(os, "pwrite"):
            done += os.pwrite(file.fileno(), part, offset + done)
        else:
            with _seek_lock:
                file.seek(offset + done)
                done += file.write(part)
