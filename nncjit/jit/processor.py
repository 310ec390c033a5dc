"""What the processor can do that kernels are compiled for, as far as kernels care."""

from __future__ import annotations

from functools import cache

import llvmlite.binding
from numba import config

WIDE = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
"""Vectors of 512 bits with all that `nncjit.jit.vectors` needs."""


@cache
def features() -> frozenset[str]:
    """Features that Numba compiles for, by LLVM's names; the user's settings of Numba count."""
    if config.CPU_FEATURES is not None:
        wanted = str(config.CPU_FEATURES).split(",")
        return frozenset(name.strip()[1:] for name in wanted if name.strip().startswith("+"))
    try:
        found = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell: Numba then compiles for none
        return frozenset()
    return frozenset(name for name, there in found.items() if there and (config.ENABLE_AVX or name[:3] != "avx"))


def name() -> str:
    """What Numba compiles for, by LLVM's name; empty where LLVM cannot tell."""
    if config.CPU_NAME is not None:
        return str(config.CPU_NAME)
    try:
        return str(llvmlite.binding.get_host_cpu_name())
    except RuntimeError:
        return ""


def has_slow_gathers() -> bool:
    """Whether a gather keeps other work waiting, and takes longer than a load for each element: AMD's Zen."""
    return name().startswith("znver")


def has_wide_vectors() -> bool:
    """Whether vectors of 512 bits can be compiled; without them they only run as plain Python."""
    return features() >= WIDE
