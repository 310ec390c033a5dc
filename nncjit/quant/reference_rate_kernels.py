"""The reference's quantisers with rate: a level costs what coding it next would (spec, sections 4, 5 and 12).

These give the reference's decisions, with what is particular about them; `rate_kernels` is the faster and mostly
better way. The contexts of one coder are consecutive 32-bit words (see `nncjit.cabac.tables`): 24 significance contexts
(3 * state + sign class of the previous value), 3 signs, 2 * unary_length "greater than", 32 of the Exp-Golomb prefix.
Costs are in units of 2^-15 bit.
"""

import numpy as np

from nncjit.cabac.tables import ZERO_BIAS
from nncjit.jit import helper, kernel, larger, load_f32, load_i32, load_u32, record_view, smaller, store_32
from nncjit.quant.trellis_kernels import cheapest, magnitude, member, way_back, window

SIGN, GREATER = 24, 27
REST_BINS = 32
BYPASS = 1 << 15
FAR = 0.5 * 1.7976931348623157e308

SEARCH = np.dtype(
    [
        ("values", "i8"),  # address of float32[n]
        ("n", "i8"),
        ("levels", "i8"),  # address of int32[n], out; with the trellis, holds decision and zero bits on the way
        ("inverse", "f8"),  # 1 / step
        ("weight", "f8"),  # what one squared step costs, in units of 2^-15 bit
        ("unary_length", "i8"),  # 1..256
        ("bin_costs", "i8"),  # address of BIN_COST, see nncjit.cabac.tables
        ("fast", "i8"),  # address of FAST
        ("slow", "i8"),  # address of SLOW
        ("contexts", "i8"),  # scratch: address of uint32[coders, context_count(unary_length)], initialised
        ("path_costs", "f8", (2, 8)),
        ("path_classes", "i8", (2, 8)),  # sign classes of the paths' last values
    ]
)
"""A tensor and what a search over it needs. `uniform` has one coder; `trellis` has 16, and all of the last two."""

_search_at = record_view(SEARCH)


@helper
def context_count(unary_length):
    """Words of one coder's contexts."""
    return GREATER + 2 * unary_length + REST_BINS


@helper
def bin_cost(word, bit, costs):
    """Cost of a bin with a context's word."""
    return load_i32(costs, 2 * (((word + (word >> 16)) >> 3) & 1023) + bit)


@helper
def adapt(contexts, index, bit, fast, slow):
    """Update context `index` after a bin."""
    word = load_u32(contexts, index)
    biased = word + (0 if bit else ZERO_BIAS)
    half = 256 if bit else 0
    store_32(
        contexts, index, word + load_i32(fast, half + ((biased >> 7) & 255)) + load_i32(slow, half + (biased >> 23))
    )


@helper
def sign_class(value):
    """0, 1 or 2 for a value that is 0, negative, positive."""
    return 0 if value == 0 else 1 if value < 0 else 2


@helper
def value_cost(contexts, value, previous, state, unary_length, costs):
    """Cost of coding `value` after `previous` (its sign class) in a quantiser state."""
    total = bin_cost(load_u32(contexts, 3 * state + previous), 1 if value else 0, costs)
    if value == 0:
        return total
    negative = 1 if value < 0 else 0
    size = -value if negative else value
    total += bin_cost(load_u32(contexts, SIGN + previous), negative, costs)
    for j in range(smaller(size, unary_length)):
        total += bin_cost(load_u32(contexts, GREATER + 2 * j + negative), 1 if size > j + 1 else 0, costs)
    if size > unary_length:
        reached, order = unary_length + 1, 0
        while size >= reached + (1 << order):
            total += bin_cost(load_u32(contexts, GREATER + 2 * unary_length + order), 1, costs)
            reached += 1 << order
            order += 1
        total += bin_cost(load_u32(contexts, GREATER + 2 * unary_length + order), 0, costs) + order * BYPASS
    return total


@helper
def code_value(contexts, value, previous, state, unary_length, fast, slow):
    """Adapt the contexts as coding `value` does."""
    adapt(contexts, 3 * state + previous, 1 if value else 0, fast, slow)
    if value == 0:
        return
    negative = 1 if value < 0 else 0
    size = -value if negative else value
    adapt(contexts, SIGN + previous, negative, fast, slow)
    for j in range(smaller(size, unary_length)):
        adapt(contexts, GREATER + 2 * j + negative, 1 if size > j + 1 else 0, fast, slow)
    if size > unary_length:
        reached, order = unary_length + 1, 0
        while size >= reached + (1 << order):
            adapt(contexts, GREATER + 2 * unary_length + order, 1, fast, slow)
            reached += 1 << order
            order += 1
        adapt(contexts, GREATER + 2 * unary_length + order, 0, fast, slow)


@kernel
def uniform(search):
    """Choose for each value in turn among 0, round - 1 and round.

    search : address of SEARCH
    """
    at = _search_at(search)
    values, levels, coder, table, unary_length = at.values, at.levels, at.contexts, at.bin_costs, at.unary_length
    inverse, weight, fast, slow = at.inverse, at.weight, at.fast, at.slow
    previous = 0
    for i in range(at.n):
        x = load_f32(values, i)
        rounded = magnitude(np.float64(x * np.float32(inverse)))
        nearest = np.int64(rounded)
        nearest += 1 if rounded - nearest >= 0.5 else 0
        size = magnitude(np.float64(x) * inverse)
        best, best_cost = 0, size * size * weight + value_cost(coder, 0, previous, 0, unary_length, table)
        for candidate in range(larger(nearest - 1, 1), nearest + 1):
            # the reference rates a negative level as if it were positive
            rate = value_cost(coder, candidate, previous, 0, unary_length, table)
            cost = (size - candidate) * (size - candidate) * weight + rate
            if cost < best_cost:
                best, best_cost = -candidate if x < 0.0 else candidate, cost
        code_value(coder, best, previous, 0, unary_length, fast, slow)
        previous = sign_class(best)
        store_32(levels, i, best)


@kernel
def trellis(search):
    """The 8-state trellis in which each state carries the contexts of the path that leads to it.

    search : address of SEARCH
    """
    at = _search_at(search)
    values, levels, contexts, table, unary_length = at.values, at.levels, at.contexts, at.bin_costs, at.unary_length
    inverse, weight, fast, slow = at.inverse, at.weight, at.fast, at.slow
    costs, classes = at.path_costs, at.path_classes
    coder_size = 4 * context_count(unary_length)
    here = 0
    for state in range(8):
        costs[0, state] = 0.0 if state == 0 else FAR
        classes[0, state] = classes[1, state] = 0
    for i in range(at.n):
        x = np.float64(load_f32(values, i)) * inverse
        size = magnitude(x)
        first = window(size)
        there = 1 - here
        word = 0
        for state in range(8):
            best, best_cost, best_bit, best_value = 0, np.inf, 0, 0
            for bit in range(2):
                back = way_back(state, bit)
                before, quantiser, parity = back >> 1, (back >> 1) & 1, back & 1
                coder = contexts + coder_size * (8 * here + before)
                previous = classes[here, before]
                level = member(first, (parity ^ quantiser) << 1 | quantiser)
                distance = size - level
                value = (level + quantiser) >> 1
                value = -value if x < 0.0 else value
                cost = costs[here, before] + (
                    distance * distance * weight + value_cost(coder, value, previous, before, unary_length, table)
                )
                if cost < best_cost:
                    best, best_cost, best_bit, best_value = before, cost, bit, value
                if parity == 0:
                    cost = costs[here, before] + (
                        size * size * weight + value_cost(coder, 0, previous, before, unary_length, table)
                    )
                    if cost < best_cost:
                        best, best_cost, best_bit, best_value = before, cost, bit, 0
            word |= best_bit << state | (1 if best_value == 0 else 0) << (8 + state)
            costs[there, state] = best_cost
            coder = contexts + coder_size * (8 * there + state)
            source = contexts + coder_size * (8 * here + best)
            for k in range(context_count(unary_length)):
                store_32(coder, k, load_u32(source, k))
            # the reference adapts for the new state instead of the old one, with a sign class that is two values old
            code_value(coder, best_value, classes[there, state], state, unary_length, fast, slow)
            classes[there, state] = sign_class(best_value)
        store_32(levels, i, word)
        here = there
    last = costs[here]
    state = cheapest(last[0], last[1], last[2], last[3], last[4], last[5], last[6], last[7])
    for i in range(at.n - 1, -1, -1):
        x = np.float64(load_f32(values, i)) * inverse
        word = load_i32(levels, i)
        back = way_back(state, (word >> state) & 1)
        parity, quantiser = back & 1, (back >> 1) & 1
        level = member(window(magnitude(x)), (parity ^ quantiser) << 1 | quantiser)
        level = 0 if (word >> (8 + state)) & 1 else level
        store_32(levels, i, -level if x < 0.0 else level)
        state = back >> 1
