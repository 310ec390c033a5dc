"""The one door from arrays to the addresses that kernels work with.

A kernel takes numbers: sizes, factors, and addresses as plain int64. That makes it fast, with one signature, and leaves
two duties to the caller, which nothing checks in compiled code: the array must live as long as its address is in use,
and every access must stay inside it. So an address comes from here and from nowhere else (`tests/test_addresses.py`
holds the project to it).

Three ways to check the duties were weighed. Guard pages find accesses outside of a buffer in compiled code, but only
next to it; the tests use them as well. Numba's own bounds checks do not see addresses. What remains is to keep books in
plain mode (``NUMBA_DISABLE_JIT=1``): `address` notes the interval and who owns the memory, and every load and store
asks `check` whether its bytes lie in one interval whose owner somebody still holds. An owner that is held by nobody but
the books is dead, even though its memory cannot yet have been given to another.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import numpy as np

from nncjit.jit.compile import JIT

__all__ = ["StrayAddressError", "address", "check"]

_PAGE_BITS = 12
_SWEEP_EVERY = 512
_QUARANTINE_BYTES = 1 << 26


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
    assert array.flags.c_contiguous, "kernels take contiguous arrays"
    assert array.flags.writeable or not writes, "a kernel may not write to a read-only array"
    start = int(array.ctypes.data)  # the array interface would describe the dtype, at 30 us for a record
    if not JIT and array.nbytes:
        _books.enter(array, start, start + array.nbytes, writes)
    return start


def check(start: int, n_bytes: int, *, writes: bool = False) -> None:
    """Raise StrayAddressError unless these bytes lie in an interval that `address` gave out and whose owner lives."""
    if n_bytes:
        _books.check(start, start + n_bytes, writes)


def _owner(array: np.ndarray[Any, Any]) -> object:
    """What must stay alive for the array's memory to stay: the last of its chain of bases."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


class _Entry:
    """An owner in the books."""

    __slots__ = ("intervals", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.intervals: dict[tuple[int, int], bool] = {}
        """(start, stop) -> whether kernels may write there."""

    def references(self) -> int:
        return sys.getrefcount(self.owner)


class _Books:
    """Who owns which memory that kernels were given."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._pages: dict[int, list[_Entry]] = {}
        self._dead: deque[_Entry] = deque()
        self._dead_bytes = self._since_sweep = 0
        self._held_by_books = _Entry(object()).references()

    def enter(self, array: np.ndarray[Any, Any], start: int, stop: int, writes: bool) -> None:
        self._since_sweep += 1
        if self._since_sweep >= _SWEEP_EVERY:
            self._sweep()
        owner = _owner(array)
        entry = self._entries.setdefault(id(owner), _Entry(owner))
        known = entry.intervals.get((start, stop))
        entry.intervals[start, stop] = writes or bool(known)
        if known is None:
            for page in self._pages_of(start, stop):
                on_page = self._pages.setdefault(page, [])
                if entry not in on_page:
                    on_page.append(entry)

    def check(self, start: int, stop: int, writes: bool) -> None:
        for entry in self._pages.get(start >> _PAGE_BITS, ()):
            for (first, behind), writeable in entry.intervals.items():
                if first <= start and stop <= behind and writeable >= writes and self._lives(entry):
                    return
        raise StrayAddressError(self._reason(start, stop, writes))

    def _lives(self, entry: _Entry) -> bool:
        return entry.references() > self._held_by_books

    def _reason(self, start: int, stop: int, writes: bool) -> str:
        what = f"{'store' if writes else 'load'} of {stop - start} bytes at {start:#x}"
        for entry in self._pages.get(start >> _PAGE_BITS, ()):
            for (first, behind), writeable in entry.intervals.items():
                if first <= start and stop <= behind:
                    if not self._lives(entry):
                        return f"{what}: nobody keeps the {type(entry.owner).__name__} that owns this memory"
                    if writes and not writeable:
                        return f"{what}: byte {start - first} of {behind - first} that were given for loads only"
        return f"{what}: no array that was given to a kernel lies there"

    def _sweep(self) -> None:
        """Put the dead into quarantine, so that no new array gets their memory soon; free the oldest of them."""
        self._since_sweep = 0
        for key in [key for key, entry in self._entries.items() if not self._lives(entry)]:
            entry = self._entries.pop(key)
            self._dead.append(entry)
            self._dead_bytes += self._size(entry)
        while self._dead_bytes > _QUARANTINE_BYTES:
            entry = self._dead.popleft()
            self._dead_bytes -= self._size(entry)
            for interval in entry.intervals:
                for page in self._pages_of(*interval):
                    if entry in self._pages[page]:
                        self._pages[page].remove(entry)

    @staticmethod
    def _pages_of(start: int, stop: int) -> range:
        return range(start >> _PAGE_BITS, (stop - 1 >> _PAGE_BITS) + 1)

    @staticmethod
    def _size(entry: _Entry) -> int:
        return sum(stop - start for start, stop in entry.intervals)


_books = _Books()
