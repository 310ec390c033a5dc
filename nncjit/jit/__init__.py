"""The only package that imports numba: how kernels are compiled, and how they touch memory.

`kernel`
    compiled on first call, cached on disk, releases the GIL, allocates nothing, raises nothing.
`helper`, `inlined`
    a function that only kernels call; compiled into them, not cached by itself; `inlined`: without a call.
`CompiledLater`
    whether a kernel that takes long to compile is used already.
`parallel_kernel`
    one `prange` over independent work, used by the few drivers that need it.
`address`, `Table`
    how arrays get to kernels: an address, or a table of records that owns every array it names.
`record_view`
    how a kernel sees a record: named fields at an address.
`vectors`
    16 lanes of 32 bits as one value, for machines with AVX-512.

All kernels are called alike: they take numbers only, that is sizes, factors and addresses, and where these would be
more than a handful, the address of a record that holds them. They return a number or nothing.
"""

from nncjit.jit.addresses import StrayAddressError, address, aligned_zeros
from nncjit.jit.compile import JIT, helper, identity, inlined, is_ready, kernel, parallel_kernel, prange
from nncjit.jit.compiled_later import CompiledLater
from nncjit.jit.raw_memory import (
    atomic_add,
    byteswap32,
    copy_bytes,
    float_bits,
    float_of_bits,
    larger,
    leading_zeros,
    load_f32,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    smaller,
    store_8,
    store_16,
    store_32,
    store_64,
    store_f32,
    store_f64,
    zero_bytes,
)
from nncjit.jit.records import Table, field_offset, record_view

__all__ = [
    "JIT",
    "CompiledLater",
    "StrayAddressError",
    "Table",
    "address",
    "aligned_zeros",
    "atomic_add",
    "byteswap32",
    "copy_bytes",
    "field_offset",
    "float_bits",
    "float_of_bits",
    "helper",
    "identity",
    "inlined",
    "is_ready",
    "kernel",
    "larger",
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
    "record_view",
    "smaller",
    "store_8",
    "store_16",
    "store_32",
    "store_64",
    "store_f32",
    "store_f64",
    "zero_bytes",
]
