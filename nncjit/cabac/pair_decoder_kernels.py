"""Streams decoded bin by bin, by a state machine without branches: two at once in one thread (spec, section 5).

One stream alone is held up by what nobody can predict: which symbol comes. Two streams fill each other's gaps, but only
where the code does not branch on bins. So the binarisation is a table. A *node* is a place in it: which bin comes next,
in which state of the quantiser, with which sign. The table has an *entry* for each node and bin: the next node, its
model, and whether a level ends here and which. Exp-Golomb parts, rare at the rates where this pays, are decoded behind
a branch.
"""

from functools import lru_cache

import numpy as np

from nncjit.cabac.arithmetic_decoder_kernels import (
    FAST_DOWN,
    FAST_UP,
    LOW_HALF,
    MODEL,
    SLOW_DOWN,
    SLOW_UP,
    V_BIT,
    next_state,
    refill,
    set_model,
)
from nncjit.cabac.level_decoder_kernels import GTX, SIG, SIGN, UNBOUNDED, rest_of_level
from nncjit.cabac.segment_decoder_kernels import (
    CHUNK,
    COUNT,
    DONE,
    DQ,
    LEVELS,
    MOST,
    NODE,
    PREVIOUS,
    RECORD,
    SPAN,
    STATE,
    STREAM_SIZE,
    UNARY,
    WINDOW,
    deliver,
)
from nncjit.cabac.tables import DQ_NEXT_STATE, ZERO_BIAS
from nncjit.jit import (
    helper,
    inlined,
    leading_zeros,
    load_i16,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    store_32,
    store_64,
)

LONGEST_UNARY = 32
"""Layers with a greater unary length have no state machine."""

ENTRY = np.dtype([("node", "<u2"), ("model", "<u2"), ("level", "<i2"), ("ends", "u1"), ("escapes", "u1")])
"""An entry. `node` is the index of the next node's entry for bin 0, that for bin 1 follows it; `model` the place of its
model in a workspace, in bytes; `ends` is 4 where a level ends, the bytes that it takes; `escapes` is 1 where an
Exp-Golomb part follows, and `node` is then 2 * state + negative."""

# More places in a workspace: the model of the next bin (NODE is its node, -1 between two levels, where STATE and
# PREVIOUS hold), the address from where the table of entries was copied, and the table.
NODE_MODEL, ORIGINAL = range(STREAM_SIZE, STREAM_SIZE + 2)
ENTRIES = STREAM_SIZE + 2
SPACE_SIZE = ENTRIES + 2 * 8 * (6 + 2 * LONGEST_UNARY)
"""64-bit words of a whole workspace."""


@lru_cache(maxsize=16)
def state_machine(unary_length: int, dq: int) -> np.ndarray:
    """The table of entries, ENTRY[states, nodes of a state, 2].

    The nodes of a state: 3 for significance and 3 for the sign, by sign class of the previous value; then
    2 * j + negative for the bins "greater than j".
    """
    table = np.zeros((8 if dq else 1, 6 + 2 * unary_length, 2), ENTRY)

    def go(state: int, place: int) -> tuple[int, ...]:
        first, index = (GTX, place - 6) if place >= 6 else (SIGN, place - 3) if place >= 3 else (SIG, 3 * state + place)
        return 2 * (table.shape[1] * state + place), first + MODEL * index

    def end(state: int, value: int, negative: int) -> tuple[int, ...]:
        level = 2 * value - (state & 1) if dq and value else value
        after = int(DQ_NEXT_STATE[state, value & 1]) if dq else 0
        return *go(after, 2 - negative if value else 0), -level if negative else level, 4, 0

    for state, nodes in enumerate(table):
        for previous in range(3):
            nodes[previous, 0], nodes[previous, 1] = end(state, 0, 0), (*go(state, 3 + previous), 0, 0, 0)
            nodes[3 + previous, 0], nodes[3 + previous, 1] = (*go(state, 6), 0, 0, 0), (*go(state, 7), 0, 0, 0)
        for j in range(unary_length):
            for negative in range(2):
                place, last = 6 + 2 * j + negative, j == unary_length - 1
                more = (2 * state + negative, 0, 0, 0, 1) if last else (*go(state, place + 2), 0, 0, 0)
                nodes[place, 0], nodes[place, 1] = end(state, j + 1, negative), more
    return table


@inlined
def step(space, node, model, target, span, window):
    """One bin, from node to node: what it takes, as it is afterwards.

    target : address where a level goes if the bin ends one; it is always written
    """
    packed, symbol = load_u32(space + model, 2), load_u32(space + model, 3)
    lps = (load_i64(space + model, 0) >> ((span >> 2) & 0x38)) & 255
    span -= lps
    split = span << V_BIT
    less = window >= split
    window = window - split if less else window
    span = lps if less else span
    bin = symbol ^ np.int64(less)
    biased = packed + ZERO_BIAS
    up = load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    down = load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_model(space, space + model, packed + (up if bin else -down))
    shift = leading_zeros(span) - 55
    span <<= shift
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    entry = space + 8 * ENTRIES + 8 * (node + bin)
    store_32(target, 0, load_i16(entry, 2))
    target += load_u8(entry, 6)
    node, model = load_u16(entry, 0), load_u16(entry, 1)
    if load_u8(entry, 7):
        node, model, span, window = escape(space, target, node, span, window)
        target += 4
    return node, model, target, span, window


@helper
def escape(space, target, node, span, window):
    """The Exp-Golomb part of a level, which goes to `target`: next node, its model, and the engine."""
    state, negative = node >> 1, node & 1
    layer = load_i64(space, RECORD)
    unary_length = load_i64(layer, UNARY)
    rem = space + GTX + 4 * MODEL * unary_length
    level, span, window = rest_of_level(space, rem, UNBOUNDED, unary_length + 1, span, window)
    store_64(space, MOST, max(level, load_i64(space, MOST)))
    if load_i64(layer, DQ):
        after = next_state(space, state, level)
        level = 2 * level - (state & 1)
        state = after
    store_32(target, 0, (level ^ -negative) + negative)
    previous = 2 - negative
    return 2 * ((6 + 2 * unary_length) * state + previous), SIG + MODEL * (3 * state + previous), span, window


@helper
def start_chunk(space, layer):
    """From STATE and PREVIOUS to a node, if need be."""
    if load_i64(space, NODE) < 0:
        state, previous = load_i64(space, STATE), load_i64(space, PREVIOUS)
        store_64(space, NODE, 2 * ((6 + 2 * load_i64(layer, UNARY)) * state + previous))
        store_64(space, NODE_MODEL, SIG + MODEL * (3 * state + previous))


@helper
def finish_chunk(space, layer, node, model, target, span, window):
    """After some bins: save the stream, also as STATE and PREVIOUS where a level has ended, and deliver the levels."""
    store_64(space, SPAN, span)
    store_64(space, WINDOW, window)
    store_64(space, NODE, node)
    store_64(space, NODE_MODEL, model)
    n_nodes = 6 + 2 * load_i64(layer, UNARY)
    state = (node >> 1) // n_nodes
    place = (node >> 1) - n_nodes * state
    if place < 3:
        store_64(space, NODE, -1)
        store_64(space, STATE, state)
        store_64(space, PREVIOUS, place)
    deliver(space, layer, (target - space - 8 * LEVELS) >> 2)


@helper
def pair_chunk(a, b):
    """Decode and deliver a chunk of two streams."""
    layer_a, layer_b = load_i64(a, RECORD), load_i64(b, RECORD)
    start_chunk(a, layer_a)
    start_chunk(b, layer_b)
    node_a, model_a, target_a = load_i64(a, NODE), load_i64(a, NODE_MODEL), a + 8 * LEVELS
    node_b, model_b, target_b = load_i64(b, NODE), load_i64(b, NODE_MODEL), b + 8 * LEVELS
    span_a, window_a = load_i64(a, SPAN), load_i64(a, WINDOW)
    span_b, window_b = load_i64(b, SPAN), load_i64(b, WINDOW)
    left = min(load_i64(a, COUNT) - load_i64(a, DONE), load_i64(b, COUNT) - load_i64(b, DONE))
    for _ in range(min(CHUNK, left)):  # a bin ends one level at most: neither stream can pass its end
        node_a, model_a, target_a, span_a, window_a = step(a, node_a, model_a, target_a, span_a, window_a)
        node_b, model_b, target_b, span_b, window_b = step(b, node_b, model_b, target_b, span_b, window_b)
    finish_chunk(a, layer_a, node_a, model_a, target_a, span_a, window_a)
    finish_chunk(b, layer_b, node_b, model_b, target_b, span_b, window_b)


@helper
def lone_chunk(space, most_bins):
    """Decode and deliver what `most_bins` more bins of one stream hold, at most a chunk."""
    layer = load_i64(space, RECORD)
    start_chunk(space, layer)
    node, model, target = load_i64(space, NODE), load_i64(space, NODE_MODEL), space + 8 * LEVELS
    span, window = load_i64(space, SPAN), load_i64(space, WINDOW)
    for _ in range(min(most_bins, load_i64(space, COUNT) - load_i64(space, DONE))):
        node, model, target, span, window = step(space, node, model, target, span, window)
    finish_chunk(space, layer, node, model, target, span, window)
