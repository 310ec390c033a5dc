"""The reference's quantisers with rate: a level costs what coding it next would (spec, sections 4, 5 and 12).

These give the reference's decisions, with what is particular about them; `rate_kernels` is the faster and mostly
better way. The models of one coder are consecutive 32-bit words (see `nncjit.cabac.tables`): 24 significance models
(3 * state + sign class of the previous value), 3 signs, 2 * unary_length "greater than", 32 of the Exp-Golomb prefix.
Costs are in units of 2^-15 bit.
"""

import numpy as np

from nncjit.cabac.tables import ZERO_BIAS
from nncjit.jit import address, helper, kernel, load_i32, load_u32, store_32
from nncjit.quant.trellis_kernels import cheapest, magnitude, member, window

SIGN, GREATER = 24, 27
REST_BINS = 32
BYPASS = 1 << 15
FAR = 0.5 * 1.7976931348623157e308


@helper
def model_count(unary_length):
    """Words of one coder's models."""
    return GREATER + 2 * unary_length + REST_BINS


@helper
def bin_cost(word, bit, costs):
    """Cost of a bin with a model's word."""
    return load_i32(costs, 2 * (((word + (word >> 16)) >> 3) & 1023) + bit)


@helper
def adapt(models, index, bit, fast, slow):
    """Update model `index` after a bin."""
    word = load_u32(models, index)
    biased = word + (0 if bit else ZERO_BIAS)
    half = 256 if bit else 0
    store_32(models, index, word + load_i32(fast, half + ((biased >> 7) & 255)) + load_i32(slow, half + (biased >> 23)))


@helper
def sign_class(value):
    """0, 1 or 2 for a value that is 0, negative, positive."""
    return 0 if value == 0 else 1 if value < 0 else 2


@helper
def value_cost(models, value, previous, state, unary_length, costs):
    """Cost of coding `value` after `previous` (its sign class) in a quantiser state."""
    total = bin_cost(load_u32(models, 3 * state + previous), 1 if value else 0, costs)
    if value == 0:
        return total
    negative = 1 if value < 0 else 0
    size = -value if negative else value
    total += bin_cost(load_u32(models, SIGN + previous), negative, costs)
    for j in range(min(size, unary_length)):
        total += bin_cost(load_u32(models, GREATER + 2 * j + negative), 1 if size > j + 1 else 0, costs)
    if size > unary_length:
        reached, order = unary_length + 1, 0
        while size >= reached + (1 << order):
            total += bin_cost(load_u32(models, GREATER + 2 * unary_length + order), 1, costs)
            reached += 1 << order
            order += 1
        total += bin_cost(load_u32(models, GREATER + 2 * unary_length + order), 0, costs) + order * BYPASS
    return total


@helper
def code_value(models, value, previous, state, unary_length, fast, slow):
    """Adapt the models as coding `value` does."""
    adapt(models, 3 * state + previous, 1 if value else 0, fast, slow)
    if value == 0:
        return
    negative = 1 if value < 0 else 0
    size = -value if negative else value
    adapt(models, SIGN + previous, negative, fast, slow)
    for j in range(min(size, unary_length)):
        adapt(models, GREATER + 2 * j + negative, 1 if size > j + 1 else 0, fast, slow)
    if size > unary_length:
        reached, order = unary_length + 1, 0
        while size >= reached + (1 << order):
            adapt(models, GREATER + 2 * unary_length + order, 1, fast, slow)
            reached += 1 << order
            order += 1
        adapt(models, GREATER + 2 * unary_length + order, 0, fast, slow)


@kernel
def uniform(values, inverse, fine_inverse, weight, unary_length, bin_costs, fast, slow, models, levels):
    """Choose for each value in turn among 0, round - 1 and round.

    values       : float32[n]
    inverse      : float32        1 / step: what is rounded
    fine_inverse : float64        1 / step: what distances are taken from
    weight       : float64        what one squared step costs, in the units of `bin_costs`
    unary_length : int            1..256
    bin_costs    : int32[1024, 2]
    fast, slow   : int32[512]     see nncjit.cabac.tables
    models       : uint32[model_count(unary_length)]  in their starting state; updated in place
    levels       : int32[n]       out
    """
    table, coder = address(bin_costs), address(models)
    up_fast, up_slow = address(fast), address(slow)
    previous = 0
    for i in range(values.size):
        x = values[np.uint64(i)]
        rounded = magnitude(np.float64(x * inverse))
        nearest = np.int64(rounded)
        nearest += 1 if rounded - nearest >= 0.5 else 0
        size = magnitude(np.float64(x) * fine_inverse)
        best, best_cost = 0, size * size * weight + value_cost(coder, 0, previous, 0, unary_length, table)
        for candidate in range(max(nearest - 1, 1), nearest + 1):
            # the reference rates a negative level as if it were positive
            rate = value_cost(coder, candidate, previous, 0, unary_length, table)
            cost = (size - candidate) * (size - candidate) * weight + rate
            if cost < best_cost:
                best, best_cost = -candidate if x < 0.0 else candidate, cost
        code_value(coder, best, previous, 0, unary_length, up_fast, up_slow)
        previous = sign_class(best)
        levels[np.uint64(i)] = best


@kernel
def trellis(values, inverse, weight, unary_length, bin_costs, fast, slow, steps_back, models, paths, classes, levels):
    """The 8-state trellis in which each state carries the models of the path that leads to it.

    values       : float32[n]
    inverse      : float64        1 / step
    weight       : float64        what one squared step costs, in the units of `bin_costs`
    unary_length : int            1..256
    bin_costs    : int32[1024, 2]
    fast, slow   : int32[512]     see nncjit.cabac.tables
    steps_back   : int64[16]      see nncjit.quant.trellis_kernels
    models       : uint32[2, 8, model_count(unary_length)]  in their starting state; scratch
    paths        : float64[2, 8]  scratch: path costs
    classes      : int64[2, 8]    scratch: sign classes of the paths' last values
    levels       : int32[n]       out; holds decision and zero bits between the passes
    """
    count = model_count(unary_length)
    table, up_fast, up_slow = address(bin_costs), address(fast), address(slow)
    here = 0
    for state in range(8):
        paths[0, state] = 0.0 if state == 0 else FAR
        classes[0, state] = classes[1, state] = 0
    for i in range(values.size):
        x = np.float64(values[np.uint64(i)]) * inverse
        size = magnitude(x)
        first = window(size)
        there = 1 - here
        word = 0
        for state in range(8):
            best, best_cost, best_bit, best_value = 0, np.inf, 0, 0
            for bit in range(2):
                back = steps_back[2 * state + bit]
                before, quantiser, parity = back >> 2, (back >> 1) & 1, back & 1
                coder = address(models) + 4 * count * (8 * here + before)
                previous = classes[here, before]
                level = member(first, (parity ^ quantiser) << 1 | quantiser)
                distance = size - level
                value = (level + quantiser) >> 1
                value = -value if x < 0.0 else value
                cost = paths[here, before] + (
                    distance * distance * weight + value_cost(coder, value, previous, before, unary_length, table)
                )
                if cost < best_cost:
                    best, best_cost, best_bit, best_value = before, cost, bit, value
                if parity == 0:
                    cost = paths[here, before] + (
                        size * size * weight + value_cost(coder, 0, previous, before, unary_length, table)
                    )
                    if cost < best_cost:
                        best, best_cost, best_bit, best_value = before, cost, bit, 0
            word |= best_bit << state | (1 if best_value == 0 else 0) << (8 + state)
            paths[there, state] = best_cost
            source = address(models) + 4 * count * (8 * here + best)
            target = address(models) + 4 * count * (8 * there + state)
            for k in range(count):
                store_32(target, k, load_u32(source, k))
            # the reference adapts for the new state instead of the old one, with a sign class that is two values old
            code_value(target, best_value, classes[there, state], state, unary_length, up_fast, up_slow)
            classes[there, state] = sign_class(best_value)
        levels[np.uint64(i)] = word
        here = 1 - here
    last = paths[here]
    state = cheapest(last[0], last[1], last[2], last[3], last[4], last[5], last[6], last[7])
    for i in range(values.size - 1, -1, -1):
        x = np.float64(values[np.uint64(i)]) * inverse
        word = np.int64(levels[np.uint64(i)])
        back = steps_back[2 * state + ((word >> state) & 1)]
        parity, quantiser = back & 1, (back >> 1) & 1
        level = member(window(magnitude(x)), (parity ^ quantiser) << 1 | quantiser)
        level = 0 if (word >> (8 + state)) & 1 else level
        levels[np.uint64(i)] = -level if x < 0.0 else level
        state = back >> 2
