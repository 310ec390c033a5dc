"""The one door from arrays to the addresses that kernels work with.

A kernel takes numbers: sizes, factors, and addresses as plain int64. That makes it fast, with one signature, and leaves
two duties to the caller, which nothing checks in compiled code: the array must live as long as its address is in use,
and every access must stay inside it. So an address comes from here and from nowhere else (`tests/test_addresses.py`
holds the project to it).

Guard pages find accesses outside of a buffer in compiled code, but only next to it; the tests use them as well. Numba's
own bounds checks do not see addresses. So plain mode (``NUMBA_DISABLE_JIT=1``) keeps books: `address` notes the
interval and the object that owns the memory, and every load and store asks `check` whether its bytes lie inside one
interval whose owner is alive. The books hold a reference to each owner. An owner that nobody else holds is dead; it
stays in the books for a while, so that a new array cannot get its memory and make a stale address look right.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from threading import Lock
from typing import Any

import numpy as np

from nncjit.jit.compile import JIT

__all__ = ["StrayAddressError", "address", "aligned_zeros", "check", "writeable"]

_PAGE_BYTES = 1 << 12
_VECTOR_BYTES = 64
_SWEEP_BYTES = 1 << 21
"""The books look for dead owners whenever so much memory was entered."""
_QUARANTINE_BYTES = 1 << 26
"""Dead owners are kept until there is more of them than this."""


class StrayAddressError(AssertionError):
    """A kernel in plain mode touched memory that nobody gave it: a bug of this package."""


def address(array: np.ndarray[Any, Any], *, writes: bool = False) -> int:
    """The address of an array's first byte, for kernels.

    The caller keeps the array until no kernel can use the address any more; `nncjit.jit.Table` does so for tables of
    records.

    Parameters
    ----------
    array : ndarray
        C-contiguous, of any shape and dtype.
    writes : bool
        Whether a kernel may store there; the array must then be writeable. Checked in plain mode at each store.
    """
    flags = array.flags
    assert flags.c_contiguous, "kernels take contiguous arrays"
    assert not writes or flags.writeable, "a kernel may not write to a read-only array"
    try:
        memory: Any = array
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))  # half the time of array.ctypes
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of a dtype without a buffer
        start = array.ctypes.data
    if not JIT and array.nbytes:
        _books.enter(array, start, start + array.nbytes, writes)
    return start


def aligned_zeros(count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array of zeros that begins where a vector of 64 bytes may."""
    memory = np.zeros(count * dtype.itemsize + _VECTOR_BYTES, np.uint8)
    start = -memory.ctypes.data % _VECTOR_BYTES
    return memory[start : start + count * dtype.itemsize].view(dtype)


def check(start: int, n_bytes: int, *, writes: bool = False) -> None:
    """In plain mode, raise StrayAddressError unless these bytes lie in one interval that `address` gave out and whose
    owner lives.
    """
    if n_bytes and not JIT and not _books.cover(start, start + n_bytes, writes):
        raise StrayAddressError(_books.reason(start, start + n_bytes, writes))


def writeable(start: int, n_bytes: int) -> bool:
    """Whether `check` lets a kernel store there."""
    return _books.cover(start, start + n_bytes, writes=True)


def _owner_of(array: np.ndarray[Any, Any]) -> object:
    """The object whose memory the array sees: the end of its chain of views."""
    owner: Any = array
    while True:
        below = owner.base if isinstance(owner, np.ndarray) else owner.obj if isinstance(owner, memoryview) else None
        if below is None:
            return owner
        owner = below


class _Owner:
    """An object that owns memory, and what was given out of it."""

    __slots__ = ("intervals", "n_bytes", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.n_bytes = sys.getsizeof(owner) + _PAGE_BYTES
        self.intervals: dict[tuple[int, int], _Interval] = {}

    def lives(self) -> bool:
        """Whether anyone but the books holds the owner, and it has not given up its memory, as a closed mmap has."""
        held = sys.getrefcount(self.owner) > sys.getrefcount(_UNHELD.owner)
        return held and not getattr(self.owner, "closed", False)


_UNHELD = _Owner(object())


class _Interval:
    """Bytes that kernels may load, and store if `writes`."""

    __slots__ = ("owner", "start", "stop", "writes")

    def __init__(self, owner: _Owner, start: int, stop: int) -> None:
        self.owner, self.start, self.stop, self.writes = owner, start, stop, False

    def covers(self, start: int, stop: int) -> bool:
        return self.start <= start <= stop <= self.stop

    def pages(self) -> range:
        return range(self.start // _PAGE_BYTES, (self.stop - 1) // _PAGE_BYTES + 1)


class _Books:
    """Which memory kernels were given, by page. May be asked from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owners: dict[int, _Owner] = {}
        self._pages: dict[int, list[_Interval]] = {}
        self._dead: deque[_Owner] = deque()
        self._dead_bytes = self._new_bytes = 0

    def enter(self, array: np.ndarray[Any, Any], start: int, stop: int, writes: bool) -> None:
        found = _owner_of(array)
        with self._lock:
            owner = self._owners.get(id(found))
            if owner is None:
                owner = self._owners[id(found)] = _Owner(found)
                self._new_bytes += owner.n_bytes
            interval = owner.intervals.get((start, stop))
            if interval is None:
                interval = owner.intervals[start, stop] = _Interval(owner, start, stop)
                for page in interval.pages():
                    self._pages.setdefault(page, []).append(interval)
            interval.writes |= writes
            if self._new_bytes > _SWEEP_BYTES:
                self._sweep()

    def cover(self, start: int, stop: int, writes: bool) -> bool:
        with self._lock:
            for interval in self._pages.get(start // _PAGE_BYTES, ()):
                if interval.covers(start, stop) and interval.writes >= writes and interval.owner.lives():
                    return True
        return False

    def reason(self, start: int, stop: int, writes: bool) -> str:
        """Why `cover` says no."""
        what = f"{'store' if writes else 'load'} of {stop - start} bytes at {start:#x}"
        for interval in self._pages.get(start // _PAGE_BYTES, ()):
            if interval.covers(start, stop):
                if not interval.owner.lives():
                    return f"{what}: nobody keeps the {type(interval.owner.owner).__name__} that owns this memory"
                size = interval.stop - interval.start
                return f"{what}: byte {start - interval.start} of {size} that were given for loads only"
        return f"{what}: no array that was given to a kernel lies there"

    def _sweep(self) -> None:
        """Set dead owners aside, and forget the oldest of them."""
        self._new_bytes = 0
        for key in [key for key, owner in self._owners.items() if not owner.lives()]:
            owner = self._owners.pop(key)
            self._dead.append(owner)
            self._dead_bytes += owner.n_bytes
        while self._dead_bytes > _QUARANTINE_BYTES:
            owner = self._dead.popleft()
            self._dead_bytes -= owner.n_bytes
            for interval in owner.intervals.values():
                for page in interval.pages():
                    self._pages[page].remove(interval)
                    if not self._pages[page]:
                        del self._pages[page]


_books = _Books()
