"""The state of the dependent quantiser along a layer's levels (spec, section 6).

States are kept times 8, as the position of a byte: `transitions` is the address of int64[4], whose byte s of word
|level| & 3 is 8 * the state after such a level in state s; all zero without dependent quantisation.
"""

from nncjit.cabac.encoder_records import GROUP
from nncjit.jit import helper, kernel, leading_zeros, load_i32, load_i64


@helper
def all_zero(levels):
    """Whether the GROUP levels from this address on are all zero."""
    some = 0
    for k in range(GROUP // 2):
        some |= load_i64(levels, k)
    return some == 0


@helper
def zero_steps(transitions, state, count):
    """The state after `count` zero-steps; four of them lead back. Spec, section 6."""
    for _ in range(count & 3):
        state = (load_i64(transitions, 0) >> state) & 56
    return state


@kernel
def state_after(levels, transitions, start, stop, state):
    """The state after the levels start..stop-1. levels : address of int32[at least stop]"""
    for i in range(start, stop):
        state = (load_i64(transitions, abs(load_i32(levels, i)) & 3) >> state) & 56
    return state


@kernel
def find_state(levels, transitions, start, stop):
    """The state before level `start`, as the levels start..stop-1 show it; -1 where they leave it open.

    levels : address of int32[at least stop]
    A level that is not 0 shows whether the state is odd, and no two states stay alike in that for more than a few
    levels. So each of the eight is followed until one is left that fits.
    """
    now, first = 0x0706050403020100, 255
    i = start
    while i < stop and first & (first - 1):
        if i + GROUP <= stop and all_zero(levels + 4 * i):
            i += GROUP
            continue
        magnitude = abs(load_i32(levels, i))
        i += 1
        step = load_i64(transitions, magnitude & 3)
        after = 0
        for k in range(8):
            state = (now >> (8 * k)) & 7
            if magnitude and (magnitude ^ state) & 1:
                first &= ~(1 << k)
            after |= ((step >> (8 * state)) & 56) >> 3 << (8 * k)
        now = after
    if first == 0 or first & (first - 1):
        return -1
    return 8 * (63 - leading_zeros(first))
