"""What all tests share: the guard against kernels compiled twice."""

from __future__ import annotations

import sys

import pytest

TWO_SIGNATURES = frozenset[str]()
"""Kernels that must take more than one kind of array, as ``nncjit.room.module.name``."""


def is_helper(kernel):
    """Compiled into the kernels that call it, for the types they hold, and not cached by itself."""
    return type(kernel._cache).__name__ == "NullCache"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """One signature a kernel: a second one means a stray dtype, stride or read-only flag, and time to compile it."""
    extra = {
        f"{kernel.__module__}.{kernel.__name__}": len(kernel.signatures)
        for name, module in list(sys.modules.items())
        if name.startswith("nncjit.")
        for kernel in vars(module).values()
        if len(getattr(kernel, "signatures", ())) > 1 and hasattr(kernel, "py_func") and not is_helper(kernel)
    }
    extra = {name: n for name, n in extra.items() if name not in TWO_SIGNATURES}
    if extra:
        session.exitstatus = 1
        print("\nkernels compiled more than once:", *(f"{name}: {n}" for name, n in extra.items()), sep="\n  ")
