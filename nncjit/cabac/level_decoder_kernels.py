"""Levels, one stream at a time (spec, section 5): where a decoder of one stream spends its time."""

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
from nncjit.jit import helper, inlined, load_i32, load_u8, store_32

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
                most = max(most, level)
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


@helper
def context_levels(
    space,
    unary_length,
    dq,
    fixed_sign,
    below,
    above,
    bases,
    histories,
    count,
    target,
    state,
    previous,
    range_,
    window,
):
    """`plain_levels` with all that a layer can have. Spec, sections 5 and 6.

    fixed_sign   : -1 where signs are coded, else 0 (positive) or 1 (negative)
    below, above : bounds of the magnitude of negative and positive values, UNBOUNDED without codebook
    bases        : address of int32[count], the base levels; zeros where base levels choose no contexts
    histories    : address of uint8[count], 1 where an earlier update was not zero; zeros without history
    """
    most = np.int64(0)
    gtx, gtx_temporal = space + GTX, space + GTX + 2 * CONTEXT_SIZE * unary_length
    rem = space + GTX + 4 * CONTEXT_SIZE * unary_length
    for k in range(count):
        base = load_i32(bases, k)
        size = abs(base)
        context = space + SIG + CONTEXT_SIZE * (3 * state + previous)
        if load_u8(histories, k):
            context = space + SIG_HISTORY + CONTEXT_SIZE * state
        elif size > 0:
            context = space + SIG_TEMPORAL + CONTEXT_SIZE * (2 * state + (1 if size > 1 else 0))
        level = np.int64(0)
        bin, range_, window = decode_bin(space, context, range_, window)
        if bin:
            negative = fixed_sign
            if fixed_sign < 0:
                context = space + SIGN + CONTEXT_SIZE * (previous if size == 0 else 3 + (1 if base > 0 else 0))
                negative, range_, window = decode_even_bin(space, context, range_, window)
            previous = 2 - negative
            bound = below if negative else above
            level = np.int64(1)
            j = np.int64(0)
            while bin and j < unary_length and level < bound:
                context = gtx + CONTEXT_SIZE * (2 * j + negative)
                if size > 0:
                    context = gtx_temporal + CONTEXT_SIZE * (2 * j + (0 if size >= j else 1))
                bin, range_, window = decode_bin(space, context, range_, window)
                level += bin
                j += 1
            if bin and level < bound:
                level, range_, window = rest_of_level(space, rem, bound, level, range_, window)
                most = max(most, level)
            if dq:
                after = next_state(space, state, level)
                level = 2 * level - (state & 1)
                state = after
            level = (level ^ -negative) + negative
        else:
            previous = np.int64(0)
            if dq:
                state = next_state(space, state, 0)
        store_32(target, k, level)
    return state, previous, most, range_, window
