"""Levels of 32 bits to fewer, and back."""

from nncjit.jit import kernel, load_i8, load_i16, load_i32, store_8, store_16, store_32


@kernel
def narrow_to_8(levels, n, narrow):
    """narrow = the levels that 8 bits hold, 0 for the others; returns the number of these.

    levels : address of int32[n]
    narrow : address of int8[n]    out
    """
    others = 0
    for i in range(n):
        level = load_i32(levels, i)
        fits = -128 <= level <= 127
        store_8(narrow, i, level if fits else 0)
        others += 0 if fits else 1
    return others


@kernel
def narrow_to_16(levels, n, narrow):
    """`narrow_to_8` for 16 bits. narrow : address of int16[n]    out"""
    others = 0
    for i in range(n):
        level = load_i32(levels, i)
        fits = -32768 <= level <= 32767
        store_16(narrow, i, level if fits else 0)
        others += 0 if fits else 1
    return others


@kernel
def widen_8(narrow, n, levels):
    """levels = narrow. narrow : address of int8[n]; levels : address of int32[n]    out"""
    for i in range(n):
        store_32(levels, i, load_i8(narrow, i))


@kernel
def widen_16(narrow, n, levels):
    """levels = narrow. narrow : address of int16[n]; levels : address of int32[n]    out"""
    for i in range(n):
        store_32(levels, i, load_i16(narrow, i))
