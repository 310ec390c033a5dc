"""Rates from counts: what levels cost while the probabilities stand still, for the fast quantisers with rate.

A quantiser takes the rates of a block as fixed, decides the block, counts what it chose, and works out the rates of
the next block from the counts so far, older ones fading. Rates are in squared steps: bits times `steps.bit_weight`.

counts      : float32[COUNTS]       significance: [state][was the last value non-zero][is this one], then signs [2],
                                    then sizes [negative][size class]
zero_rates  : float32[4, 8]         of a zero after a zero, a zero after a non-zero, a non-zero after either, by state
level_rates : float32[2, LEVELS]    [negative][|value|]: sign, "greater than" flags, rest; the last one for all above
"""

import math

import numpy as np

from nncjit.jit import helper, kernel, larger, leading_zeros, load_f32, smaller, store_f32

SIGNS = 32
SIZES = 34
SIZE_CLASSES = 64
COUNTS = SIZES + 2 * SIZE_CLASSES
LEVELS = 512
LONGEST_UNARY = 30

SETTING_FIELDS = [
    ("values", "i8"),  # address of float32[n]; |value / step| stays below trellis_lanes_kernels.EXACT_BELOW
    ("n", "i8"),
    ("levels", "i8"),  # address of int32[n], out
    ("sample", "i8"),  # values of a block that are counted, at least; all where zeros abound
    ("vector", "i8"),  # 1: lane programs as vectors, 0: as scalars; the levels are the same
    ("unary_length", "i8"),  # 1..LONGEST_UNARY
    ("inverse", "f4"),  # 1 / step
    ("weight", "f4"),  # what a bit costs in squared steps
    ("fade", "f4"),  # factor of the counts from block to block
    ("counts", "f4", COUNTS),  # to start with; after the last block
    ("zero_rates", "f4", (4, 8)),
    ("level_rates", "f4", (2, LEVELS)),
]
"""What the records of both quantisers begin with; the last two are scratch."""

_FLOOR = np.float32(0.4)


@helper
def size_class(size, unary_length):
    """Class of |value| >= 1: itself up to the unary length, then one for each Exp-Golomb order."""
    if size <= unary_length:
        return size
    return unary_length + 64 - leading_zeros(size - unary_length)


@helper
def rate(part, other):
    """Bits of an outcome counted `part` times against `other` times."""
    return np.float32(math.log2((part + other + 2 * _FLOOR) / (part + _FLOOR)))


@kernel
def guess(values, n, inverse, counts):
    """Counts to start with, from the mean magnitude of some values.

    values  : address of float32[n]
    n       : int
    inverse : float64                     1 / step of the coded values (twice the level's step with the trellis)
    counts  : address of float32[COUNTS]  out; the two places of size 0 are left alone
    """
    total, finite = 0.0, 0
    for i in range(n):
        size = abs(np.float64(load_f32(values, i)) * inverse)
        if size < 1e9:
            total += size
            finite += 1
    mean = larger(total / larger(finite, 1), 0.15)
    for i in range(SIZES):
        store_f32(counts, i, np.float32(0.5))
    for size in range(1, SIZE_CLASSES):
        count = np.float32(4.0 * math.exp(-size / mean))
        store_f32(counts, SIZES + size, count)
        store_f32(counts, SIZES + SIZE_CLASSES + size, count)


@helper
def update(at):
    """Work out the rates from the counts of a record with SETTING_FIELDS; the counts then fade."""
    counts, zero_rates, level_rates, weight, fade = at.counts, at.zero_rates, at.level_rates, at.weight, at.fade
    for state in range(8):
        for was in range(2):
            zero, other = counts[4 * state + 2 * was], counts[4 * state + 2 * was + 1]
            zero_rates[was, state] = weight * rate(zero, other)
            zero_rates[2 + was, state] = weight * rate(other, zero)
    for negative in range(2):
        reached = weight * rate(counts[SIGNS + negative], counts[SIGNS + 1 - negative])
        base = SIZES + negative * SIZE_CLASSES
        above = np.float32(0.0)
        for place in range(1, SIZE_CLASSES):
            above += counts[base + place]
        level_rates[negative, 0] = np.float32(0.0)
        size, place, order = 1, 1, 0
        while size < LEVELS:
            here = counts[base + place]
            above = larger(above - here, np.float32(0.0))
            stop = reached + weight * (rate(here, above) + np.float32(order))
            reached += weight * rate(above, here)
            after = smaller(size + (1 << order), LEVELS)
            for k in range(size, after):
                level_rates[negative, k] = stop
            size = after
            order += 1 if place > at.unary_length else 0
            place += 1
    for i in range(COUNTS):
        counts[i] *= fade
