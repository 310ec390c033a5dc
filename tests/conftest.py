"""What all tests share: no test of random cases depends on the time it takes, and no kernel is compiled twice."""

from __future__ import annotations

import sys
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

TWO_SIGNATURES = frozenset[str]()
"""Kernels that must take more than one kind of array, as ``nncjit.package.module.name``."""
SIGNATURES: defaultdict[str, set[str]] = defaultdict(set)
"""Those that kernels were compiled for, here and in the workers of pytest-xdist."""


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """A worker has ended, and hands over what `pytest_sessionfinish` has found there."""
    for name, signatures in getattr(node, "workeroutput", {}).get("signatures", {}).items():
        SIGNATURES[name].update(signatures)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Each kernel has one signature: a second one means a stray dtype, stride or read-only flag, and compile time."""
    for kernel in getattr(sys.modules.get("nncjit.jit.compile"), "KERNELS", ()):
        if kernel.__module__.startswith("nncjit."):
            SIGNATURES[f"{kernel.__module__}.{kernel.__name__}"].update(map(str, kernel.signatures))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["signatures"] = {name: sorted(found) for name, found in SIGNATURES.items()}
        return
    extra = {name: len(found) for name, found in SIGNATURES.items() if len(found) > 1 and name not in TWO_SIGNATURES}
    if extra:
        session.exitstatus = 1
        print("\nkernels compiled more than once:", *(f"{name}: {n}" for name, n in extra.items()), sep="\n  ")
