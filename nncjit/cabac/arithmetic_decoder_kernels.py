"""The arithmetic decoder as helpers over scalars (spec, sections 3 and 4).

Its state is two int64 that the caller keeps in registers:

range_
    the range R, 256..510.
window
    the offset V in bits 54..62, below it bits that follow, then a marker, a lone 1. So always window < range_ << 54.
    Between two bins the marker never stands above bit 31, so at least 22 bits are there.

Everything else that a decoder needs is at fixed places of its stream (`decoder_records.STREAM`), so that a helper needs
one address: tables, payload, contexts. Words after the payload's end read as zero: nothing outside it is ever touched,
and whoever decodes compares the position with the end from time to time.
"""

import numpy as np

from nncjit.cabac.decoder_records import CONTEXT, STREAM, stream_at
from nncjit.cabac.tables import ZERO_BIAS
from nncjit.jit import (
    byteswap32,
    field_offset,
    helper,
    inlined,
    leading_zeros,
    load_i64,
    load_u32,
    smaller,
    store_32,
    store_64,
)

# Where the tables begin in a stream, in units of their elements; RANGE_LPS begins at 0.
FAST_DOWN, FAST_UP, SLOW_DOWN, SLOW_UP, INITIAL_WORDS = (
    field_offset(STREAM, name) // 4 for name in ("fast_down", "fast_up", "slow_down", "slow_up", "initial_words")
)
NEXT_STATE = field_offset(STREAM, "next_state") // 8
CONTEXTS = field_offset(STREAM, "contexts")
"""Where the contexts begin in a stream, in bytes."""
CONTEXT_SIZE = CONTEXT.itemsize
LPS_RANGES = field_offset(CONTEXT, "lps_ranges") // 8
PACKED, SYMBOL = field_offset(CONTEXT, "word") // 4, field_offset(CONTEXT, "symbol") // 4
"""The fields of a context, in units of their elements."""

V_BIT = 54
"""Bit of the window that is bit 0 of the offset V."""
LOW_HALF = (1 << 32) - 1


@helper
def fetch(space, index):
    """The 32-bit word of the payload with this index, 0 after its end."""
    stream = stream_at(space)
    if index < stream.n_words:
        return byteswap32(load_u32(stream.words, index))
    return stream.last_word if index == stream.n_words else np.int64(0)


@helper
def refill(space, window):
    """32 more bits for a window whose low half is empty."""
    stream = stream_at(space)
    index, marker = stream.next_word, window & -window
    stream.next_word = index + 1
    return window - marker + (2 * fetch(space, index) + 1) * (marker >> 32)


@helper
def enter(space, value, bit):
    """The window where V = value and `bit` bits have been read. 0 <= value < 512, bit >= 0."""
    n_left, index = 32 - (bit & 31), bit >> 5
    stream_at(space).next_word = index + 1
    window = (2 * (value << n_left | fetch(space, index) & ((1 << n_left) - 1)) + 1) << (V_BIT - 1 - n_left)
    return refill(space, window) if window & LOW_HALF == 0 else window


@helper
def bits_read(space, window):
    """The position: how many bits have been read, those of V included."""
    return 32 * stream_at(space).next_word - leading_zeros(window & -window) + (64 - V_BIT)


@inlined
def set_context(space, context, packed):
    """Give the context at this address its packed word."""
    p = ((packed + (packed >> 16)) >> 7) & 63
    store_64(context, LPS_RANGES, load_i64(space, p))
    store_32(context, PACKED, packed)
    store_32(context, SYMBOL, p >> 5)


@inlined
def decode_bin(space, context, range_, window):
    """A regular bin: bin, range_, window. Spec, section 3.

    space   : address of the stream
    context : address of the context in it, the caller's duty; it adapts

    Written for one stream, with two branches: after a bin that was predicted well, the next one need not wait for it.
    """
    packed, symbol = load_u32(context, PACKED), load_u32(context, SYMBOL)
    lps = (load_i64(context, LPS_RANGES) >> ((range_ >> 2) & 0x38)) & 255
    mps = range_ - lps
    split = mps << V_BIT
    if window >= split:
        window -= split
        range_ = lps
        shift = leading_zeros(lps) - 55
        bin = symbol ^ 1
    else:
        range_ = mps
        shift = (mps >> 8) ^ 1
        bin = symbol
    if (
        bin
    ):  # added here, subtracted there: were both the same operation, the compiler would make them one, with selects
        packed += load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    else:
        biased = packed + ZERO_BIAS
        packed -= load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_context(space, context, packed)
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    return bin, range_ << shift, window


@inlined
def decode_even_bin(space, context, range_, window):
    """`decode_bin` without branches, for bins that nobody can predict, like signs."""
    packed, symbol = load_u32(context, PACKED), load_u32(context, SYMBOL)
    lps = (load_i64(context, LPS_RANGES) >> ((range_ >> 2) & 0x38)) & 255
    range_ -= lps
    split = range_ << V_BIT
    less = window >= split
    window = window - split if less else window
    range_ = lps if less else range_
    bin = symbol ^ np.int64(less)
    biased = packed + ZERO_BIAS
    up = load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    down = load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_context(space, context, packed + (up if bin else -down))
    shift = leading_zeros(range_) - 55
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    return bin, range_ << shift, window


@helper
def decode_rare_bin(space, context, range_, window):
    """`decode_bin` for places where the size of the code counts and not its speed."""
    return decode_bin(space, context, range_, window)


@helper
def bypass(space, n, range_, window):
    """0 <= n <= 32 bypass bins as one number, most significant first: number, window."""
    number = np.int64(0)
    while n > 0:
        size = smaller(n, 16)  # a division does what so many comparisons would
        more = (window >> (V_BIT - size)) // range_
        window = (window - ((more * range_) << (V_BIT - size))) << size
        if window & LOW_HALF == 0:
            window = refill(space, window)
        number = number << size | more
        n -= size
    return number, window


@helper
def next_state(space, state, value):
    """The quantiser's state after a coded value. Spec, section 6."""
    return load_i64(space, NEXT_STATE + 2 * state + (value & 1))
