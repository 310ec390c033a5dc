"""The arithmetic decoder as helpers over scalars (spec, sections 3 and 4).

The engine is two int64 that the caller keeps in registers:

span
    the range R, 256..510.
window
    the offset V in bits 54..62, below it bits that follow, then a marker, a lone 1. So always window < span << 54.
    Between two bins the marker never stands above bit 31, so at least 22 bits are there.

Everything else that a stream needs stands at fixed places of its *workspace*, one block of memory, so that a helper
needs one address: tables, payload, models, and what `stream_kernels.py` adds. Words behind the payload's end read as
zero: nothing outside it is ever touched, and whoever decodes compares the position with the end from time to time.
"""

import numpy as np

from nncjit.cabac.layer import Contexts
from nncjit.cabac.tables import DQ_NEXT_STATE, FAST, INITIAL_WORDS, RANGE_LPS, SLOW, ZERO_BIAS
from nncjit.jit import byteswap32, helper, inlined, leading_zeros, load_i64, load_u32, store_32, store_64

_STARTS = np.append(INITIAL_WORDS, np.uint32(0))
TABLES = np.concatenate(
    [
        np.ascontiguousarray(table).ravel().view(np.int64)
        for table in (RANGE_LPS, abs(FAST), abs(SLOW), DQ_NEXT_STATE, _STARTS)
    ]
)
"""What stands at the start of a workspace. Changes of models are positive: added for a bin 1, subtracted for a 0."""

# Places in a workspace, in 32-bit words: changes of models for a bin 0 and for a bin 1, and the starts of models.
FAST_DOWN = 2 * RANGE_LPS.size
FAST_UP = FAST_DOWN + FAST.size // 2
SLOW_DOWN = FAST_DOWN + FAST.size
SLOW_UP = SLOW_DOWN + SLOW.size // 2
STARTS = 2 * TABLES.size - _STARTS.size
# In 64-bit words: the quantiser's transitions; the payload as its address, its number of whole 32-bit words, what is
# left of it as one more word with zeros behind, and its length in bits; and the index of the word that is read next.
NEXT_STATE = SLOW_DOWN // 2 + SLOW.size // 2
DATA, WHOLE, LAST, BITS, WORD = range(TABLES.size, TABLES.size + 5)
# In bytes: the models. A model is the widths of its less probable symbol (a word of RANGE_LPS), its packed word
# (cabac/tables.py), and its more probable symbol. The first alone decides the next bin, so it is ready beforehand.
MODELS = 8 * (WORD + 1)
MODEL = 16
ENGINE_SIZE = WORD + 1 + Contexts.for_unary_length(256).total * MODEL // 8
"""64-bit words of a workspace that the engine uses."""

V_BIT = 54
"""Bit of the window that is bit 0 of the offset V."""
LOW_HALF = (1 << 32) - 1


@helper
def fetch(space, word):
    """The 32-bit word of the payload with this index, 0 behind its end."""
    whole = load_i64(space, WHOLE)
    if word < whole:
        return byteswap32(load_u32(load_i64(space, DATA), word))
    return load_i64(space, LAST) if word == whole else np.int64(0)


@helper
def refill(space, window):
    """32 more bits for a window whose low half is empty."""
    word, marker = load_i64(space, WORD), window & -window
    store_64(space, WORD, word + 1)
    return window - marker + (2 * fetch(space, word) + 1) * (marker >> 32)


@helper
def enter(space, value, bit):
    """The window where V = value and `bit` bits have been read. 0 <= value < 512, bit >= 0."""
    n_left, word = 32 - (bit & 31), bit >> 5
    store_64(space, WORD, word + 1)
    window = (2 * (value << n_left | fetch(space, word) & ((1 << n_left) - 1)) + 1) << (V_BIT - 1 - n_left)
    return refill(space, window) if window & LOW_HALF == 0 else window


@helper
def bits_read(space, window):
    """The position: how many bits have been read, those of V included."""
    return 32 * load_i64(space, WORD) - leading_zeros(window & -window) + (64 - V_BIT)


@inlined
def set_model(space, model, packed):
    """Give a model its packed word; `model` is the address of the model."""
    p = ((packed + (packed >> 16)) >> 7) & 63
    store_64(model, 0, load_i64(space, p))
    store_32(model, 2, packed)
    store_32(model, 3, p >> 5)


@inlined
def decode_bin(space, model, span, window):
    """A regular bin: bin, span, window. Spec, section 3.

    space : address of the workspace
    model : address of the model in it, the caller's duty; it adapts

    Written for one stream, with two branches: after a bin that was predicted well, the next one need not wait for it.
    """
    packed, symbol = load_u32(model, 2), load_u32(model, 3)
    lps = (load_i64(model, 0) >> ((span >> 2) & 0x38)) & 255
    mps = span - lps
    split = mps << V_BIT
    if window >= split:
        window -= split
        span = lps
        shift = leading_zeros(lps) - 55
        bin = symbol ^ 1
    else:
        span = mps
        shift = (mps >> 8) ^ 1
        bin = symbol
    if (
        bin
    ):  # added here, subtracted there: were both the same operation, the compiler would make them one, with selects
        packed += load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    else:
        biased = packed + ZERO_BIAS
        packed -= load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_model(space, model, packed)
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    return bin, span << shift, window


@inlined
def decode_even_bin(space, model, span, window):
    """`decode_bin` without branches, for bins that nobody can predict, like signs."""
    packed, symbol = load_u32(model, 2), load_u32(model, 3)
    lps = (load_i64(model, 0) >> ((span >> 2) & 0x38)) & 255
    span -= lps
    split = span << V_BIT
    less = window >= split
    window = window - split if less else window
    span = lps if less else span
    bin = symbol ^ np.int64(less)
    biased = packed + ZERO_BIAS
    up = load_u32(space, FAST_UP + ((packed >> 7) & 255)) + load_u32(space, SLOW_UP + (packed >> 23))
    down = load_u32(space, FAST_DOWN + ((biased >> 7) & 255)) + load_u32(space, SLOW_DOWN + (biased >> 23))
    set_model(space, model, packed + (up if bin else -down))
    shift = leading_zeros(span) - 55
    window <<= shift
    if window & LOW_HALF == 0:
        window = refill(space, window)
    return bin, span << shift, window


@helper
def decode_rare_bin(space, model, span, window):
    """`decode_bin` for places where the size of the code counts and not its speed."""
    return decode_bin(space, model, span, window)


@helper
def bypass(space, n, span, window):
    """0 <= n <= 32 bypass bins as one number, most significant first: number, window."""
    number = np.int64(0)
    while n > 0:
        size = min(n, 16)  # a division does what so many comparisons would
        more = (window >> (V_BIT - size)) // span
        window = (window - ((more * span) << (V_BIT - size))) << size
        if window & LOW_HALF == 0:
            window = refill(space, window)
        number = number << size | more
        n -= size
    return number, window


@helper
def next_state(space, state, value):
    """The quantiser's state after a coded value. Spec, section 6."""
    return load_i64(space, NEXT_STATE + 2 * state + (value & 1))
