"""Streams decoded bin by bin, by a state machine without branches: two at once in one thread (spec, section 5).

One stream alone is held up by what nobody can predict: which symbol comes. Two streams fill each other's gaps, but only
where the code does not branch on bins. So the binarisation is a table. A *node* is a place in it: which bin comes next,
in which state of the quantiser, with which sign. The table has an *entry* for each node and bin: the next node, its
context, and whether a level ends here and which (`decoder_records.ENTRY`). Exp-Golomb parts, rare at the rates where
this pays, are decoded behind a branch.
"""

from functools import lru_cache

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    CONTEXT_SIZE,
    FAST_DOWN,
    FAST_UP,
    LOW_HALF,
    LPS_RANGES,
    PACKED,
    SLOW_DOWN,
    SLOW_UP,
    SYMBOL,
    V_BIT,
    next_state,
    refill,
    set_context,
)
from nncjit.cabac.decoder_records import CHUNK, ENTRY, STREAM, entry_at, layer_at, stream_at
from nncjit.cabac.level_decoder_kernels import GTX, SIG, SIGN, UNBOUNDED, rest_of_level
from nncjit.cabac.segment_decoder_kernels import LEVELS, deliver
from nncjit.cabac.tables import DQ_NEXT_STATE, ZERO_BIAS
from nncjit.jit import field_offset, helper, inlined, larger, leading_zeros, load_i64, load_u32, smaller, store_32

ENTRIES = field_offset(STREAM, "entries")
"""Where the state machine begins in a stream, in bytes."""
ENTRY_SIZE = ENTRY.itemsize


@lru_cache(maxsize=16)
def state_machine(unary_length: int, dq: int, above: int = UNBOUNDED, below: int = UNBOUNDED) -> np.ndarray:
    """The table of entries, ENTRY[states, nodes of a state, 2].

    The nodes of a state: 3 for significance and 3 for the sign, by sign class of the previous value; then
    2 * j + negative for the bins "greater than j". A bounded codebook ends a level at its bound, `above` or `below`
    zero, and with a bound of 0 there is no sign.
    """
    table = np.zeros((8 if dq else 1, 6 + 2 * unary_length, 2), ENTRY)

    def go(state: int, place: int) -> tuple[int, ...]:
        first, index = (GTX, place - 6) if place >= 6 else (SIGN, place - 3) if place >= 3 else (SIG, 3 * state + place)
        return 2 * (table.shape[1] * state + place), first + CONTEXT_SIZE * index

    def end(state: int, value: int, negative: int) -> tuple[int, ...]:
        level = 2 * value - (state & 1) if dq and value else value
        after = int(DQ_NEXT_STATE[state, value & 1]) if dq else 0
        return *go(after, 2 - negative if value else 0), -level if negative else level, 4, 0

    def reach(state: int, value: int, negative: int) -> tuple[int, ...]:
        if value == (above, below)[negative]:
            return end(state, value, negative)
        if value > unary_length:
            return (2 * state + negative, 0, 0, 0, 1)
        return *go(state, 4 + 2 * value + negative), 0, 0, 0

    for state, nodes in enumerate(table):
        for previous in range(3):
            signed = (*go(state, 3 + previous), 0, 0, 0)
            nodes[previous, 0] = end(state, 0, 0)
            nodes[previous, 1] = signed if above and below else reach(state, 1, int(above == 0))
            nodes[3 + previous, 0], nodes[3 + previous, 1] = reach(state, 1, 0), reach(state, 1, 1)
        for value in range(1, unary_length + 1):
            for negative in range(2):
                place = 4 + 2 * value + negative
                nodes[place, 0], nodes[place, 1] = end(state, value, negative), reach(state, value + 1, negative)
    return table


@inlined
def step(space, node, context, target, range_, window):
    """One bin, from node to node: what it takes, as it is afterwards.

    context : offset in the stream of the node's context
    target  : address where a level goes if the bin ends one; it is always written
    """
    packed, symbol = load_u32(space + context, PACKED), load_u32(space + context, SYMBOL)
    lps = (load_i64(space + context, LPS_RANGES) >> ((range_ >> 2) & 0x38)) & 255
    range_ -= lps
    split = range_ << V_BIT
    less = window >= split
    window = window - split if less else window
    range_ = lps if less else range_
    bin = symbol ^ np.int64(less)
    biased = packed + ZERO_BIAS
    up = load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    down = load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_context(space, space + context, packed + (up if bin else -down))
    shift = leading_zeros(range_) - 55
    range_ <<= shift
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    entry = entry_at(space + ENTRIES + ENTRY_SIZE * (node + bin))
    store_32(target, 0, np.int64(entry.level))
    target += np.int64(entry.ends)
    node, context = np.int64(entry.node), np.int64(entry.context)
    if entry.escapes:
        node, context, range_, window = escape(space, target, node, range_, window)
        target += 4
    return node, context, target, range_, window


@helper
def escape(space, target, node, range_, window):
    """The Exp-Golomb part of a level, which goes to `target`: next node, its context, range_ and window."""
    stream = stream_at(space)
    layer = layer_at(stream.layer)
    state, negative, unary_length = node >> 1, node & 1, layer.unary_length
    rem = space + GTX + 4 * CONTEXT_SIZE * unary_length
    bound = layer.below if negative else layer.above
    level, range_, window = rest_of_level(space, rem, bound, unary_length + 1, range_, window)
    stream.greatest = larger(level, stream.greatest)
    if layer.dq:
        after = next_state(space, state, level)
        level = 2 * level - (state & 1)
        state = after
    store_32(target, 0, (level ^ -negative) + negative)
    previous = 2 - negative
    node = 2 * ((6 + 2 * unary_length) * state + previous)
    return node, SIG + CONTEXT_SIZE * (3 * state + previous), range_, window


@helper
def enter_machine(stream):
    """From the quantiser's state and the previous value to a node, if the stream is between two levels."""
    if stream.node < 0:
        n_nodes = 6 + 2 * layer_at(stream.layer).unary_length
        stream.node = 2 * (n_nodes * stream.state + stream.previous)
        stream.node_context = SIG + CONTEXT_SIZE * (3 * stream.state + stream.previous)


@helper
def finish_chunk(space, node, context, target, range_, window):
    """After some bins: save the stream, also as state and previous value where a level has ended, and deliver."""
    stream = stream_at(space)
    stream.range_ = range_
    stream.window = window
    stream.node = node
    stream.node_context = context
    n_nodes = 6 + 2 * layer_at(stream.layer).unary_length
    state = (node >> 1) // n_nodes
    place = (node >> 1) - n_nodes * state
    if place < 3:
        stream.node = -1
        stream.state = state
        stream.previous = place
    deliver(space, (target - space - LEVELS) >> 2)


@helper
def pair_chunk(a, b):
    """Decode and deliver a chunk of two streams."""
    first, second = stream_at(a), stream_at(b)
    enter_machine(first)
    enter_machine(second)
    node_a, context_a, target_a = first.node, first.node_context, a + LEVELS
    node_b, context_b, target_b = second.node, second.node_context, b + LEVELS
    range_a, window_a = first.range_, first.window
    range_b, window_b = second.range_, second.window
    left = smaller(first.count - first.done, second.count - second.done)
    for _ in range(smaller(CHUNK, left)):  # a bin ends one level at most: neither stream can pass its end
        node_a, context_a, target_a, range_a, window_a = step(a, node_a, context_a, target_a, range_a, window_a)
        node_b, context_b, target_b, range_b, window_b = step(b, node_b, context_b, target_b, range_b, window_b)
    finish_chunk(a, node_a, context_a, target_a, range_a, window_a)
    finish_chunk(b, node_b, context_b, target_b, range_b, window_b)


@helper
def lone_chunk(space, most_bins):
    """Decode and deliver what `most_bins` more bins of one stream hold, at most a chunk."""
    stream = stream_at(space)
    enter_machine(stream)
    node, context, target = stream.node, stream.node_context, space + LEVELS
    range_, window = stream.range_, stream.window
    for _ in range(smaller(most_bins, stream.count - stream.done)):
        node, context, target, range_, window = step(space, node, context, target, range_, window)
    finish_chunk(space, node, context, target, range_, window)
