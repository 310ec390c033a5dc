"""Levels that depend on nothing but each other, one stream at a time (spec, section 5)."""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    CONTEXT_SIZE,
    CONTEXTS,
    bypass,
    decode_bin,
    decode_even_bin,
    decode_rare_bin,
    next_state,
)
from nncjit.cabac.layer import Contexts
from nncjit.jit import helper, inlined, larger, store_32

SIG, SIG_TEMPORAL, SIG_HISTORY, SIGN, GTX = (CONTEXTS + CONTEXT_SIZE * at for at in Contexts.for_unary_length(1)[:5])
"""Where these families of contexts begin in a stream, in bytes; it does not depend on the unary length."""

UNBOUNDED = 1 << 40


@inlined
def rest_of_level(space, rem, bound, value, range_, window):
    """The Exp-Golomb part: prefix with the contexts from address `rem` on, then bypass bins. Spec, section 5.

    Returns the whole magnitude, range_ and window. The magnitude is UNBOUNDED where the prefix is longer than a decoder
    accepts, or the magnitude above `bound`.

    Rare, but a call of it would take the registers of the loop around it: pairs were 2 to 4 % slower.
    """
    n_bits = np.int64(0)
    while n_bits < 32 and bound >= value + (1 << n_bits):
        bin, range_, window = decode_rare_bin(space, rem + CONTEXT_SIZE * n_bits, range_, window)
        if bin == 0:
            break
        value += 1 << n_bits
        n_bits += 1
    suffix, window = bypass(space, n_bits, range_, window)
    value += suffix
    if n_bits == 32 or value > bound:
        value = np.int64(UNBOUNDED)
    return value, range_, window


@helper
def plain_levels(space, unary_length, dq, count, target, state, previous, range_, window):
    """`count` levels that depend on nothing but each other, to int32[] at `target`. Spec, sections 5 and 6.

    state    : the quantiser's, always 0 without dq
    previous : sign class of the coded value before: 0 zero, 1 negative, 2 positive
    Returns state, previous, the greatest magnitude of the values with an Exp-Golomb part, range_ and window.
    """
    most = np.int64(0)
    for at in range(target, target + 4 * count, 4):
        level = np.int64(0)
        bin, range_, window = decode_bin(space, space + SIG + CONTEXT_SIZE * (3 * state + previous), range_, window)
        if bin:
            negative, range_, window = decode_even_bin(space, space + SIGN + CONTEXT_SIZE * previous, range_, window)
            previous = 2 - negative
            first = space + GTX + CONTEXT_SIZE * negative
            context, stop = first, first + 2 * CONTEXT_SIZE * unary_length
            bin, range_, window = decode_bin(space, context, range_, window)
            while bin:
                context += 2 * CONTEXT_SIZE
                if context == stop:
                    break
                bin, range_, window = decode_bin(space, context, range_, window)
            level = 1 + (context - first) // (2 * CONTEXT_SIZE)
            if bin:
                rem = space + GTX + 4 * CONTEXT_SIZE * unary_length
                level, range_, window = rest_of_level(space, rem, UNBOUNDED, level, range_, window)
                most = larger(most, level)
            if dq:
                after = next_state(space, state, level)
                level = 2 * level - (state & 1)
                state = after
            level = (level ^ -negative) + negative
        else:
            previous = np.int64(0)
            if dq:
                state = next_state(space, state, 0)
        store_32(at, 0, level)
    return state, previous, most, range_, window
