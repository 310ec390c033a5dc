"""How kernels are compiled: a few decorators, and no option anywhere else."""

from typing import Any

from numba import config, njit, prange

from nncjit.jit.cache import KernelCache

__all__ = ["JIT", "helper", "inlined", "kernel", "parallel_kernel", "prange"]

JIT = not config.DISABLE_JIT
"""False when kernels run as plain Python (``NUMBA_DISABLE_JIT=1``)."""

_compile = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)
_compile_parallel = njit(nogil=True, parallel=True, error_model="numpy", no_cfunc_wrapper=True)
_compile_helper = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, no_cpython_wrapper=True)
_compile_inlined = njit(
    nogil=True, error_model="numpy", no_cfunc_wrapper=True, no_cpython_wrapper=True, forceinline=True
)


def kernel(function: Any) -> Any:
    """Compiled on its first call, kept on disk, without the GIL."""
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


def _kept(compiled: Any) -> Any:
    if JIT:
        compiled._cache = KernelCache(compiled.py_func)
    return compiled


def _not_for_python(compiled: Any) -> Any:
    """It has no wrapper for calls from Python, which takes a quarter of the time to compile: refuse them."""
    if JIT:

        def refuse(*_args: Any, **_options: Any) -> Any:
            raise TypeError(f"{compiled.__name__} is a helper: only kernels can call it")

        compiled._insert = lambda *_args, **_options: None  # the direct way from a call to its code
        compiled._compile_for_args = refuse
    return compiled
