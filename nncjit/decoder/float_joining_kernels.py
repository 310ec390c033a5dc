"""Signs and mantissas beside exponents that stand in their words already (docs/format.md, "Floats without loss").

The wrapper is `decoder/float_joining.py`.
"""

import numpy as np

from nncjit.jit import (
    helper,
    kernel,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    record_view,
    smaller,
    store_8,
    store_16,
    store_32,
    store_64,
)

PIECE = 1 << 11
"""Values that are worked on at a time, so that they stay in the cache; a multiple of 8."""

PLANES = np.dtype(
    [
        ("planes", "i8"),  # uint8, all planes of a run
        ("n_values", "i8"),  # values of the run
        ("n_bytes", "i8"),  # planes of 8 bits
        ("n_bits", "i8"),  # planes of single bits
        ("zeros", "i8"),  # lowest bits that are in none
        ("mantissa_bits", "i8"),
        ("exponent_bits", "i8"),
    ]
)
"""The planes of some values, from the least significant bit of the mantissa up to the sign."""

_planes_at = record_view(PLANES)


def _make_join(load, store):
    """The join of words of one size, which these load and store."""

    @helper
    def join(words, first, count, record):
        """Put the bits of `count` values, from value `first` of a run on, into their words at address `words`."""
        run = _planes_at(record)
        size, n_bytes, zeros = run.n_values, run.n_bytes, run.zeros
        mantissa_bits, sign_shift = run.mantissa_bits, run.mantissa_bits + run.exponent_bits
        mantissa = (np.int64(1) << mantissa_bits) - 1
        plane = run.planes + first
        if n_bytes >= 3:
            second, third = plane + size, plane + 2 * size
            for i in range(count):
                bits = (load_u8(plane, i) | load_u8(second, i) << 8 | load_u8(third, i) << 16) << zeros
                store(words, i, load(words, i) | bits & mantissa | (bits >> mantissa_bits) << sign_shift)
        for k in range(3 if n_bytes >= 3 else 0, n_bytes):
            plane, shift = run.planes + k * size + first, 8 * k + zeros
            for i in range(count):
                bits = load_u8(plane, i) << shift
                store(words, i, load(words, i) | bits & mantissa | (bits >> mantissa_bits) << sign_shift)
        for k in range(run.n_bits):
            plane = run.planes + n_bytes * size + k * ((size + 7) >> 3) + (first >> 3)
            shift = 8 * n_bytes + k + zeros
            if shift >= mantissa_bits:
                shift += sign_shift - mantissa_bits
            for i in range(count >> 3):
                byte = load_u8(plane, i)
                for j in range(8):
                    store(words, 8 * i + j, load(words, 8 * i + j) | ((byte >> j) & 1) << shift)
            for i in range(count & ~7, count):
                store(words, i, load(words, i) | ((load_u8(plane, i >> 3) >> (i & 7)) & 1) << shift)

    return join


join_8, join_16 = _make_join(load_u8, store_8), _make_join(load_u16, store_16)
join_32, join_64 = _make_join(load_u32, store_32), _make_join(load_i64, store_64)


@kernel
def join_planes(words, word_bytes, run):
    """Put signs and mantissas of a run of values beside their exponents.

    words      : address of uint8, uint16, uint32 or uint64[size]     exponents in, floats out
    word_bytes : int     of a word
    run        : address of a PLANES
    """
    size, first = _planes_at(run).n_values, 0
    while first < size:
        count, at = smaller(PIECE, size - first), words + word_bytes * first
        if word_bytes == 1:
            join_8(at, first, count, run)
        elif word_bytes == 2:
            join_16(at, first, count, run)
        elif word_bytes == 4:
            join_32(at, first, count, run)
        else:
            join_64(at, first, count, run)
        first += count
