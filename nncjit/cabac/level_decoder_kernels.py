"""Levels, one stream at a time (spec, section 5): where a decoder of one stream spends its time."""

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    MODEL,
    MODELS,
    bypass,
    decode_bin,
    decode_even_bin,
    decode_rare_bin,
    next_state,
)
from nncjit.cabac.layer import Contexts
from nncjit.jit import helper, load_i32, load_u8, store_32

SIG, SIG_TEMPORAL, SIG_HISTORY, SIGN, GTX = (MODELS + MODEL * at for at in Contexts.for_unary_length(1)[:5])
"""Where these families of models start in a workspace, in bytes; it does not depend on the unary length."""

UNBOUNDED = 1 << 40


@helper
def rest_of_level(space, rem, bound, value, span, window):
    """The Exp-Golomb part: prefix with the models from address `rem` on, then bypass bins. Spec, section 5.

    Returns the whole magnitude and the engine. The magnitude is UNBOUNDED where the prefix is longer than a decoder
    accepts, or the magnitude above `bound`.
    """
    n_bits = np.int64(0)
    while n_bits < 32 and bound >= value + (1 << n_bits):
        bin, span, window = decode_rare_bin(space, rem + MODEL * n_bits, span, window)
        if bin == 0:
            break
        value += 1 << n_bits
        n_bits += 1
    suffix, window = bypass(space, n_bits, span, window)
    value += suffix
    if n_bits == 32 or value > bound:
        value = np.int64(UNBOUNDED)
    return value, span, window


@helper
def plain_levels(space, unary_length, dq, count, target, state, previous, span, window):
    """`count` levels that depend on nothing but each other, to int32[] at `target`. Spec, sections 5 and 6.

    state    : the quantiser's, always 0 without dq
    previous : sign class of the coded value before: 0 zero, 1 negative, 2 positive
    Returns state, previous, the greatest magnitude of the values with an Exp-Golomb part, and the engine.
    """
    most = np.int64(0)
    for at in range(target, target + 4 * count, 4):
        level = np.int64(0)
        bin, span, window = decode_bin(space, space + SIG + MODEL * (3 * state + previous), span, window)
        if bin:
            negative, span, window = decode_even_bin(space, space + SIGN + MODEL * previous, span, window)
            previous = 2 - negative
            first = space + GTX + MODEL * negative
            model, stop = first, first + 2 * MODEL * unary_length
            bin, span, window = decode_bin(space, model, span, window)
            while bin:
                model += 2 * MODEL
                if model == stop:
                    break
                bin, span, window = decode_bin(space, model, span, window)
            level = 1 + (model - first) // (2 * MODEL)
            if bin:
                rem = space + GTX + 4 * MODEL * unary_length
                level, span, window = rest_of_level(space, rem, UNBOUNDED, level, span, window)
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
    return state, previous, most, span, window


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
    span,
    window,
):
    """`plain_levels` with all that a layer can have. Spec, sections 5 and 6.

    fixed_sign   : -1 where signs are coded, else 0 (positive) or 1 (negative)
    below, above : bounds of the magnitude of negative and positive values, UNBOUNDED without codebook
    bases        : address of int32[count], the base levels; zeros without temporal contexts
    histories    : address of uint8[count], 1 where an earlier update was not zero; zeros without history
    """
    most = np.int64(0)
    gtx, gtx_temporal = space + GTX, space + GTX + 2 * MODEL * unary_length
    rem = space + GTX + 4 * MODEL * unary_length
    for k in range(count):
        base = load_i32(bases, k)
        size = abs(base)
        model = space + SIG + MODEL * (3 * state + previous)
        if load_u8(histories, k):
            model = space + SIG_HISTORY + MODEL * state
        elif size > 0:
            model = space + SIG_TEMPORAL + MODEL * (2 * state + (1 if size > 1 else 0))
        level = np.int64(0)
        bin, span, window = decode_bin(space, model, span, window)
        if bin:
            negative = fixed_sign
            if fixed_sign < 0:
                model = space + SIGN + MODEL * (previous if size == 0 else 3 + (1 if base > 0 else 0))
                negative, span, window = decode_even_bin(space, model, span, window)
            previous = 2 - negative
            bound = below if negative else above
            level = np.int64(1)
            j = np.int64(0)
            while bin and j < unary_length and level < bound:
                model = gtx + MODEL * (2 * j + negative)
                if size > 0:
                    model = gtx_temporal + MODEL * (2 * j + (0 if size >= j else 1))
                bin, span, window = decode_bin(space, model, span, window)
                level += bin
                j += 1
            if bin and level < bound:
                level, span, window = rest_of_level(space, rem, bound, level, span, window)
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
    return state, previous, most, span, window
