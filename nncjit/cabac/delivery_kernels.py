"""From levels to the elements of a tensor, in the type in which it is held in memory (spec, section 8).

`deliver_run` converts levels that follow each other in the tensor and writes them to their places. The kinds:

LEVELS
    the levels themselves, int32.
INTEGERS
    integers of `item_size` bytes; levels must be in lowest..highest.
LOOKED_UP
    ``table[level - lowest]``, elements of `item_size` bytes; levels must be in lowest..highest.
FLOAT32, FLOAT64, BFLOAT16, FLOAT16, FLOAT8
    the float32 product of step and level, rounded as `nncjit.dtypes.from_float32` rounds it. FLOAT8 finds the code in
    `table`, uint8[65536], by the upper half of the product.
"""

import numpy as np

from nncjit.jit import (
    copy_bytes,
    float_bits,
    helper,
    larger,
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
)

LEVELS, INTEGERS, LOOKED_UP, FLOAT32, FLOAT64, BFLOAT16, FLOAT16, FLOAT8 = range(8)

LARGEST_BFLOAT16, LARGEST_FLOAT16 = 0x7F7F, 0x7BFF
FLOAT32_INFINITY = 0x7F800000
LEAST_NORMAL_FLOAT16 = (127 - 14) << 23


@helper
def bits_of(step, level):
    """The 32 bits of the float32 product of step and level."""
    return float_bits(step * np.float32(level))


@helper
def to_bfloat16(bits):
    """The bfloat16 nearest to a float32, given and returned as bits: ties to even, nothing finite becomes infinite."""
    magnitude = bits & 0x7FFFFFFF
    nearest = smaller((magnitude + 0x7FFF + (magnitude >> 16 & 1)) >> 16, LARGEST_BFLOAT16)
    if magnitude >= FLOAT32_INFINITY:
        nearest = magnitude >> 16
    return bits >> 16 & 0x8000 | nearest


@helper
def to_float16(bits):
    """The same for float16."""
    magnitude = bits & 0x7FFFFFFF
    if magnitude >= FLOAT32_INFINITY:
        nearest = 0x7C00 | (magnitude >> 13 & 0x3FF)
    elif magnitude >= LEAST_NORMAL_FLOAT16:
        rounded = (magnitude + 0xFFF + (magnitude >> 13 & 1)) >> 13
        nearest = smaller(rounded - ((127 - 15) << 10), LARGEST_FLOAT16)
    else:  # a multiple of 2^-24, the unit of float16's subnormal numbers
        exponent, significand = magnitude >> 23, magnitude & 0x7FFFFF
        if exponent > 0:
            significand |= 0x800000
        shift = smaller(126 - exponent, 31)
        nearest = (significand + (1 << (shift - 1)) - 1 + (significand >> shift & 1)) >> shift
    return bits >> 16 & 0x8000 | nearest


@helper
def all_in_range(levels, count, lowest, highest):
    """Whether each of the int32 at address `levels` is in lowest..highest."""
    least, greatest = highest, lowest
    for i in range(count):
        level = load_i32(levels, i)
        least, greatest = smaller(least, level), larger(greatest, level)
    return least >= lowest and greatest <= highest


@helper
def store_integers(out, at, levels, count, item_size):
    """`count` levels to elements `at`, ... of an array of integers at address `out`."""
    if item_size == 1:
        for i in range(count):
            store_8(out, at + i, load_i32(levels, i))
    elif item_size == 2:
        for i in range(count):
            store_16(out, at + i, load_i32(levels, i))
    elif item_size == 4:
        copy_bytes(out + 4 * at, levels, 4 * count)
    else:
        for i in range(count):
            store_64(out, at + i, load_i32(levels, i))


@helper
def store_looked_up(out, at, levels, count, item_size, table, lowest):
    """`count` elements ``table[level - lowest]`` to elements `at`, ... of the array at address `out`."""
    if item_size == 1:
        for i in range(count):
            store_8(out, at + i, load_u8(table, load_i32(levels, i) - lowest))
    elif item_size == 2:
        for i in range(count):
            store_16(out, at + i, load_u16(table, load_i32(levels, i) - lowest))
    elif item_size == 4:
        for i in range(count):
            store_32(out, at + i, load_u32(table, load_i32(levels, i) - lowest))
    else:
        for i in range(count):
            store_64(out, at + i, load_i64(table, load_i32(levels, i) - lowest))


@helper
def deliver_run(layer, levels, count, at):
    """Convert `count` levels and write them to elements `at`, ... of the layer's output.

    layer  : record
    levels : address of int32[count]
    Returns whether all levels are in range; if not, nothing is written.
    """
    kind, out, step = layer.kind, layer.out, np.float32(layer.step)
    if layer.levels:
        copy_bytes(layer.levels + 4 * at, levels, 4 * count)
    if kind == FLOAT32:
        for i in range(count):
            store_f32(out, at + i, step * np.float32(load_i32(levels, i)))
    elif kind == LEVELS:
        copy_bytes(out + 4 * at, levels, 4 * count)
    elif kind == BFLOAT16:
        for i in range(count):
            store_16(out, at + i, to_bfloat16(bits_of(step, load_i32(levels, i))))
    elif kind == FLOAT16:
        for i in range(count):
            store_16(out, at + i, to_float16(bits_of(step, load_i32(levels, i))))
    elif kind == FLOAT8:
        codes = layer.table
        for i in range(count):
            bits = bits_of(step, load_i32(levels, i))
            store_8(out, at + i, load_u8(codes, bits >> 16 | (1 if bits & 0xFFFF else 0)))
    elif kind == FLOAT64:
        for i in range(count):
            store_f64(out, at + i, np.float64(step * np.float32(load_i32(levels, i))))
    else:
        lowest = layer.lowest
        if not all_in_range(levels, count, lowest, layer.highest):
            return False
        if kind == INTEGERS:
            store_integers(out, at, levels, count, layer.item_size)
        else:
            store_looked_up(out, at, levels, count, layer.item_size, layer.table, lowest)
    return True
