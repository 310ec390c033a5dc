"""Memory that was freed, given back to the system.

glibc keeps what is freed in pieces below 32 MiB, in an area for each thread. After the steps of a huge tensor that may
be a hundred MB that the next step cannot use. Other C libraries have no such call, and need none.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def _trim_of_libc() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None


_TRIM = _trim_of_libc()


def give_back() -> None:
    """Give it back. Takes milliseconds, so this is for steps of seconds."""
    if _TRIM is not None:
        _TRIM(0)
