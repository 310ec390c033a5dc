"""What all tests share: no test of random cases depends on the time it takes, and no kernel is compiled twice."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TWO_SIGNATURES = frozenset[str]()
"""Kernels that must take more than one kind of array, as ``nncjit.package.module.name``."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Each kernel has one signature: a second one means a stray dtype, stride or read-only flag, and compile time."""
    kernels = getattr(sys.modules.get("nncjit.jit.compile"), "KERNELS", ())
    several = [kernel for kernel in kernels if kernel.__module__.startswith("nncjit.") and len(kernel.signatures) > 1]
    extra = {f"{kernel.__module__}.{kernel.__name__}": len(kernel.signatures) for kernel in several}
    extra = {name: n for name, n in extra.items() if name not in TWO_SIGNATURES}
    if extra:
        session.exitstatus = 1
        print("\nkernels compiled more than once:", *(f"{name}: {n}" for name, n in extra.items()), sep="\n  ")
