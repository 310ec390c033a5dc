"""The only room that imports numba: how kernels are compiled, and how they touch memory.

`kernel`
    compiled on first call, cached on disk, releases the GIL, allocates nothing, raises nothing.
`helper`, `inlined`
    a function that only kernels call; compiled into them, not cached by itself; `inlined`: without a call.
`parallel_kernel`
    one `prange` over independent work, used by the few drivers that need it.
"""

from nncjit.jit.compile import JIT, helper, inlined, kernel, parallel_kernel, prange
from nncjit.jit.memory import (
    address,
    atomic_add,
    byteswap32,
    copy_bytes,
    leading_zeros,
    load_f32,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    store_8,
    store_16,
    store_32,
    store_64,
    store_f32,
    zero_bytes,
)

__all__ = [
    "JIT",
    "address",
    "atomic_add",
    "byteswap32",
    "copy_bytes",
    "helper",
    "inlined",
    "kernel",
    "leading_zeros",
    "load_f32",
    "load_i8",
    "load_i16",
    "load_i32",
    "load_i64",
    "load_u8",
    "load_u16",
    "load_u32",
    "parallel_kernel",
    "prange",
    "store_8",
    "store_16",
    "store_32",
    "store_64",
    "store_f32",
    "zero_bytes",
]
