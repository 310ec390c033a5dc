"""Kernels that take seconds to compile and are not needed: when they are compiled all the same."""

from __future__ import annotations

from typing import Any

from nncjit.jit import numba_internals
from nncjit.jit.compile import is_ready

__all__ = ["CompiledLater"]


class CompiledLater:
    """Whether a kernel is used, or the slower way that is compiled already.

    Parameters
    ----------
    kernel : kernel of two int64
    worth : int
        Work, in units of the caller's, that takes so much longer without the kernel as it takes to compile it.
    """

    def __init__(self, kernel: Any, worth: int) -> None:
        self._kernel, self._worth = kernel, worth
        self._compiled: bool | None = None
        self._waited = 0

    def pays(self, work: int) -> bool:
        """Whether so much work should use the kernel: yes if it was compiled when this process first asked, or enough
        work has gone without it.
        """
        if self._compiled is None:  # to look at the disk takes milliseconds
            self._compiled = is_ready(self._kernel)
        if self._compiled:
            return True
        self._waited += work
        return self._waited >= self._worth

    def compile(self) -> None:
        """Compile the kernel now."""
        numba_internals.compile_worker(self._kernel)
        self._compiled = True
