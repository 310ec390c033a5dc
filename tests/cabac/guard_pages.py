"""Arrays beside a page that nobody may touch: in compiled code too, an access outside of them ends the process."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections import deque

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
NOTHING, LOADS = 0, 1


def owner_of(array: np.ndarray) -> object:
    """The object whose memory the array sees."""
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner


class GuardPages:
    """Guarded copies of arrays; `side`, "before" or "behind", is where the forbidden page is."""

    def __init__(self, side: str) -> None:
        self.side = side
        self._lock = threading.Lock()
        self._inputs: dict[int, np.ndarray] = {}
        self._dead: deque[np.ndarray] = deque(maxlen=1000)
        self._outputs: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def copy(self, array: np.ndarray, *, writes: bool = True) -> np.ndarray:
        """A copy whose first or last byte is beside the forbidden page; without `writes` a store to it ends the process
        as well.
        """
        pages = -(-array.nbytes // PAGE)
        area = mmap.mmap(-1, (pages + 1) * PAGE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(area))
        start = PAGE if self.side == "before" else pages * PAGE - array.nbytes
        guarded = np.frombuffer(area, np.uint8, array.nbytes, start).view(array.dtype).reshape(array.shape)
        guarded[...] = array
        forbidden, allowed = (first, first + PAGE) if self.side == "before" else (first + pages * PAGE, first)
        assert LIBC.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(PAGE), NOTHING) == 0
        if pages and not writes:
            assert LIBC.mprotect(ctypes.c_void_p(allowed), ctypes.c_size_t(pages * PAGE), LOADS) == 0
        if writes:
            self._outputs.add(area)
        return guarded

    def numpy(self, *names: str) -> GuardedNumpy:
        """NumPy, but the arrays that these of its functions make are guarded."""
        return GuardedNumpy(self, names)

    def address(self, array: np.ndarray, *, writes: bool = False) -> int:
        """In place of `nncjit.jit.address`: kernels get a guarded copy of an input, which lives exactly as long as the
        array itself. Their outputs must be guarded already, except for a single record: no index leads out of that.
        """
        if writes:
            single_record = array.dtype.names is not None and array.size == 1
            assert single_record or owner_of(array) in self._outputs, "an output without a guard page"
            return int(array.ctypes.data)
        with self._lock:
            if id(array) not in self._inputs:
                self._inputs[id(array)] = self.copy(array, writes=False)
                weakref.finalize(array, self._forbid, id(array))
            return int(self._inputs[id(array)].ctypes.data)

    def _forbid(self, key: int) -> None:
        """The array is gone: nobody may touch its copy any more."""
        guarded = self._inputs.pop(key)
        first = guarded.ctypes.data // PAGE * PAGE
        size = -(-guarded.nbytes // PAGE) * PAGE
        assert LIBC.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(size), NOTHING) == 0
        self._dead.append(guarded)


class GuardedNumpy:
    """See `GuardPages.numpy`."""

    def __init__(self, pages: GuardPages, names: tuple[str, ...]) -> None:
        self._pages, self._names = pages, names

    def __getattr__(self, name: str) -> object:
        found = getattr(np, name)
        if name not in self._names:
            return found
        return lambda *args, **options: self._pages.copy(found(*args, **options))
