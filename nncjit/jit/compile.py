"""How kernels are compiled: a few decorators, and no option anywhere else."""

import hashlib
from typing import Any

from numba import config, njit, prange

from nncjit.jit import numba_internals
from nncjit.jit.cache import KernelCache, ReplacedError

__all__ = ["JIT", "KERNELS", "helper", "identity", "inlined", "is_ready", "kernel", "parallel_kernel", "prange"]

JIT = not config.DISABLE_JIT
"""False when kernels run as plain Python (``NUMBA_DISABLE_JIT=1``)."""

KERNELS: list[Any] = []
"""Every kernel that can be compiled; ``stats`` of one tells whether it was, or came from the cache."""
_CACHES: dict[Any, KernelCache] = {}

_options = numba_internals.options
_compile = njit(nogil=True, error_model="numpy", **_options())
_compile_parallel = njit(nogil=True, error_model="numpy", **_options(parallel=True))
_compile_helper = njit(nogil=True, error_model="numpy", **_options(python=False))
_compile_inlined = njit(nogil=True, error_model="numpy", **_options(python=False, inline=True))


def kernel(function: Any, name: str = "") -> Any:
    """Compiled on its first call, kept on disk, without the GIL.

    One that is made by a function, of others that it gets, needs a `name`: the cache knows kernels by module and name.
    """
    if name:
        function.__name__ = function.__qualname__ = name
    return _kept(_compile(function))


def parallel_kernel(function: Any) -> Any:
    """A `kernel` whose `prange` runs on many threads."""
    return _kept(_compile_parallel(function))


def helper(function: Any) -> Any:
    """Compiled into the kernels that call it."""
    return _not_for_python(_compile_helper(function))


def inlined(function: Any) -> Any:
    """A `helper` that is put into each place that calls it, for the few where a call costs more than the work."""
    return _not_for_python(_compile_inlined(function))


def is_ready(worker: Any) -> bool:
    """Whether a kernel that runs as a worker (see `threads.run`) is compiled, here or on disk."""
    return not JIT or numba_internals.WORKER in worker.overloads or _CACHES[worker].holds(numba_internals.WORKER)


def identity(*workers: Any) -> str:
    """A name that is another one where anything is that the machine code of these kernels depends on, the processor
    among it; empty where that cannot be told.
    """
    try:
        parts = [_CACHES[worker].file_name(numba_internals.WORKER) for worker in workers]
    except (OSError, ReplacedError):
        return ""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]


def _kept(compiled: Any) -> Any:
    if JIT:
        _CACHES[compiled] = KernelCache(compiled.py_func)
        numba_internals.set_cache(compiled, _CACHES[compiled])
        numba_internals.compile_once(compiled)
        KERNELS.append(compiled)
    return compiled


def _not_for_python(compiled: Any) -> Any:
    """It has no wrapper for calls from Python, which takes a quarter of the time to compile: refuse them."""
    if JIT:
        numba_internals.compile_once(compiled)
        numba_internals.refuse_calls(compiled, f"{compiled.__name__} is a helper: only kernels can call it")
    return compiled
