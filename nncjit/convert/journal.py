"""What a job has done, so that the same call can go on after it was ended at any moment.

A journal is a file beside the target with a line of JSON for each thing that was finished: first the plan, then every
file. Lines are only added, and a line counts when it is whole. A file counts where its line has the key of what is
wanted now, and the file on the disk is the one that was written then.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nncjit.errors import ModelError, NncWarning
from nncjit.files import os_errors

TAIL = 4096
"""Bytes at the end of a file that are compared: a stream ends with the checksum of the rest."""


def key_of(*wanted: Any) -> str:
    """A short name for what is wanted, equal only for equal values."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True, default=str).encode()).hexdigest()[:32]


def mark_of(path: Path) -> dict[str, Any]:
    """What a finished file is recognised by."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL, 0))
        return {"bytes": size, "tail": hashlib.sha256(file.read()).hexdigest()[:32]}


class Journal:
    """The lines of a journal, and the file that they are added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan: Any = None
        self.files: dict[str, dict[str, Any]] = {}
        """By name, the latest line of each file."""
        self.announced: tuple[str, ...] = ()
        """Files that the latest job makes."""
        self.own: set[str] = set()
        """Files that a job on this journal has made or was about to make."""
        for entry in _lines(path):
            if isinstance(entry.get("announced"), list):
                self.announced = tuple(name for name in entry["announced"] if _is_file_name(name))
                self.own.update(self.announced)
            if "plan" in entry:
                self.plan = entry["plan"]
            elif isinstance(entry.get("file"), str):
                self.files[entry["file"]] = entry

    def finished(self, name: str, key: str, read: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
        """The line of a file that need not be made again; `read` fails on a line that is damaged."""
        entry = self.files.get(name)
        if entry is None or entry.get("key") != key:
            return None
        try:
            mark = mark_of(self.path.parent / name)
            read(entry)
        except (OSError, KeyError, TypeError, ValueError, AttributeError):
            return None
        return entry if entry.get("mark") == mark else None

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with os_errors(self.path), self.path.open("ab") as file:
            if file.tell() and not _ends_line(self.path):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def announce(self, names: Sequence[str]) -> None:
        """Say which files will be made, so that a later job knows them as its own."""
        if self.announced != tuple(names):
            self.add({"announced": list(names)})
            self.announced = tuple(names)
            self.own.update(names)

    def check_there(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Refuse files that are not as they were written.

        Raises
        ------
        ModelError
            One is gone or was changed since.
        """
        for entry in entries:
            path = self.path.parent / entry["file"]
            try:
                same = mark_of(path) == entry["mark"]
            except OSError:
                same = False
            if not same:
                raise ModelError(f"{path}: is gone, or was changed, since it was written: the same call makes it anew")

    def warn_of_others(self) -> None:
        """Tell of files of earlier jobs with other files that are still there."""
        left = sorted(name for name in self.own - {*self.announced} if (self.path.parent / name).exists())
        if left:
            some = f"{left[0]} and {len(left) - 1} more" if len(left) > 1 else left[0]
            said = f"{some} of an earlier job are still there, and belong to the model no more"
            warnings.warn(f"{self.path.parent}: {said}", NncWarning, stacklevel=3)

    def restart(self) -> None:
        """Forget all lines."""
        with os_errors(self.path):
            self.path.write_bytes(b"")
        self.plan, self.files, self.announced = None, {}, ()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the journal: a second job on the same target is refused. The system lets go when the process ends.

        Raises
        ------
        ModelError
            Another process is at work.
        """
        with os_errors(self.path):
            file = self.path.open("ab")
        with file:
            try:
                _lock(file.fileno())
            except BlockingIOError:
                raise ModelError(f"{self.path}: another process is at work on this target") from None
            yield

    def is_locked(self) -> bool:
        """Whether a process is at work."""
        try:
            with self.path.open("ab") as file:
                _lock(file.fileno())
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def _is_file_name(name: Any) -> bool:
    """Whether this names a file beside the journal."""
    return isinstance(name, str) and "\0" not in name and Path(name).name == name


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal; one that was cut off or is no JSON is passed over."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    for line in data.split(b"\n"):
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry
