"""Large float tensors without loss, piece by piece (docs/format.md, "Large float tensors").

The states are run from the last symbol to the first, so that the decoder runs them forwards. A symbol of frequency f
that begins at c turns a state x into ``x // f << 12 | c + x % f``; the quotient comes from a float64 product, which is
exact: x is below 2^32, and x + 1/2 is further from each multiple of f than the product's error.

Addresses stay inside their arrays: a value takes at most 12 bits of the coded ones, for which `coded` has 16 each, and
`out` has room for as many bytes as are counted before they are written.
"""

import numpy as np

from nncjit.jit import (
    copy_bytes,
    field_offset,
    helper,
    kernel,
    load_u8,
    load_u16,
    load_u32,
    record_view,
    store_8,
    store_16,
    store_32,
    zero_bytes,
)
from nncjit.stream.float_pieces import CHUNK, EACH_ITS_OWN, LOWEST_STATE, PIECE, SCALE_BITS, SLOTS, STATES

WORK = np.dtype(
    [
        ("words", "i8"),  # words[n_values]
        ("n_values", "i8"),
        ("word_bytes", "i8"),  # 1, 2 or 4
        ("mantissa_bits", "i8"),
        ("symbol_bits", "i8"),
        ("out", "i8"),  # uint8[n_values of the piece * 2 + bytes of their planes + 1024]
    ]
)
SPACE = np.dtype(
    [
        ("counts", "u4", (4, 256)),
        ("frequencies", "i8", 256),
        ("starts", "i8", 256),
        ("inverses", "f8", 256),
        ("states", "u4", STATES),
        ("zeros", "u1", PIECE // CHUNK),
        ("symbols", "u1", PIECE + STATES),
        ("coded", "u2", PIECE + STATES),
    ]
)
work_at, space_at = map(record_view, (WORK, SPACE))
COUNTS, ZEROS, SYMBOLS, CODED, STATES_AT = (
    field_offset(SPACE, name) for name in ("counts", "zeros", "symbols", "coded", "states")
)


def _make_piece(load):
    """What reads words of one size, which this loads."""

    @helper
    def take_apart(words, first, count, mantissa_bits, symbol_bits, space):
        """The symbols of words and how many there are of each. Returns how many of the lowest bits below and above the
        symbols are zero in all of them.
        """
        shift, mask, together = mantissa_bits, (1 << symbol_bits) - 1, np.int64(0)
        for k in range(first, first + count):
            word = load(words, k)
            symbol = (word >> shift) & mask
            store_8(space + SYMBOLS, k, symbol)
            at = space + COUNTS + 1024 * (k & 3)
            store_32(at, symbol, load_u32(at, symbol) + 1)
            together |= word
        rest = together & ((1 << mantissa_bits) - 1)
        rest |= (together >> (mantissa_bits + symbol_bits)) << mantissa_bits
        zeros = np.int64(0)
        while zeros <= mantissa_bits and not (rest >> zeros) & 1:
            zeros += 1
        return zeros

    @helper
    def put_planes(words, first, count, mantissa_bits, symbol_bits, zeros, out):
        """The planes of signs and mantissas. Returns the address behind them."""
        low, left = (1 << mantissa_bits) - 1, mantissa_bits + 1 - zeros
        above = mantissa_bits + symbol_bits
        for plane in range(left >> 3):
            shift = zeros + 8 * plane
            for k in range(count):
                word = load(words, first + k)
                store_8(out, k, ((word & low) | (word >> above) << mantissa_bits) >> shift)
            out += count
        for bit in range(mantissa_bits + 1 - (left & 7), mantissa_bits + 1):
            shift = bit if bit < mantissa_bits else above
            for at in range(0, count, 8):
                byte = np.int64(0)
                for k in range(min(8, count - at)):
                    byte |= ((load(words, first + at + k) >> shift) & 1) << k
                store_8(out, at >> 3, byte)
            out += (count + 7) >> 3
        return out

    return take_apart, put_planes


_take_apart_8, _put_planes_8 = _make_piece(load_u8)
_take_apart_16, _put_planes_16 = _make_piece(load_u16)
_take_apart_32, _put_planes_32 = _make_piece(load_u32)


@helper
def choose_frequencies(space_address, count):
    """Frequencies that add up to SLOTS, at least 1 for each symbol that occurs. Returns the most frequent symbol."""
    space = space_at(space_address)
    most, total = np.int64(0), np.int64(0)
    for symbol in range(256):
        n = np.int64(0)
        for k in range(4):
            n += np.int64(space.counts[k, symbol])
        frequency = np.int64(0) if n == 0 else max(1, (n * SLOTS + (count >> 1)) // count)
        space.frequencies[symbol] = frequency
        total += frequency
        if frequency > space.frequencies[most]:
            most = np.int64(symbol)
    while total > SLOTS:  # rare symbols took more than they have
        largest = np.int64(0)
        for symbol in range(256):
            if space.frequencies[symbol] > space.frequencies[largest]:
                largest = np.int64(symbol)
        less = min(total - SLOTS, max(1, space.frequencies[largest] >> 4))
        space.frequencies[largest] -= less
        total -= less
    space.frequencies[most] += SLOTS - total
    start = np.int64(0)
    for symbol in range(256):
        space.starts[symbol] = start
        start += space.frequencies[symbol]
        if space.frequencies[symbol]:
            space.inverses[symbol] = 1.0 / space.frequencies[symbol]
    return most


@helper
def run_states(space_address, count):
    """Code `count` symbols, a multiple of STATES, from the last to the first. Returns the index in `coded` of the first
    16 bits.
    """
    space, at = space_at(space_address), np.int64(PIECE + STATES)
    coded, symbols, states = space_address + CODED, space_address + SYMBOLS, space_address + STATES_AT
    for lane in range(STATES):
        store_32(states, lane, LOWEST_STATE)
    for k in range(count - 1, -1, -1):
        lane, symbol = k & (STATES - 1), load_u8(symbols, k)
        frequency, state = space.frequencies[symbol], load_u32(states, lane)
        if state >= frequency << (32 - SCALE_BITS):
            at -= 1
            store_16(coded, at, state)
            state >>= 16
        quotient = np.int64((state + 0.5) * space.inverses[symbol])
        state += quotient * (SLOTS - frequency) + space.starts[symbol]
        store_32(states, lane, state)
    return at


@helper
def put_header(space_address, n_chunks, out):
    """What a piece begins with, up to its states. Returns the address behind it."""
    space, n, alike = space_at(space_address), np.int64(0), True
    for k in range(1, n_chunks):
        alike &= space.zeros[k] == space.zeros[0]
    store_8(out, 0, np.int64(space.zeros[0]) if alike else EACH_ITS_OWN)
    out += 1
    if not alike:
        copy_bytes(out, space_address + ZEROS, n_chunks)
        out += n_chunks
    for symbol in range(256):
        if space.frequencies[symbol]:
            store_8(out + 1, n, symbol)
            n += 1
    store_8(out, 0, n - 1)
    for k in range(n):
        store_16(out + 1 + n, k, space.frequencies[load_u8(out + 1, k)])
    out += 1 + 3 * n
    copy_bytes(out, space_address + STATES_AT, 4 * STATES)
    return out + 4 * STATES


def _make_encoder(take_apart, put_planes):
    """The encoder of pieces of words of one size."""

    @helper
    def encode(work_address, space_address):
        """`encode_piece` for such words."""
        work, space = work_at(work_address), space_at(space_address)
        words, size, mantissa_bits, symbol_bits = work.words, work.n_values, work.mantissa_bits, work.symbol_bits
        zero_bytes(space_address + COUNTS, 4 * 4 * 256)
        for first in range(0, size, CHUNK):
            count = min(CHUNK, size - first)
            zeros = take_apart(words, first, count, mantissa_bits, symbol_bits, space_address)
            space.zeros[first // CHUNK] = zeros
        most = choose_frequencies(space_address, size)
        whole = (size + STATES - 1) & -STATES
        for k in range(size, whole):
            store_8(space_address + SYMBOLS, k, most)
        coded = run_states(space_address, whole)
        out = put_header(space_address, (size + CHUNK - 1) // CHUNK, work.out)
        n_bytes = 2 * (PIECE + STATES - coded)
        copy_bytes(out, space_address + CODED + 2 * coded, n_bytes)
        out += n_bytes
        for first in range(0, size, CHUNK):
            zeros, count = np.int64(space.zeros[first // CHUNK]), min(CHUNK, size - first)
            out = put_planes(words, first, count, mantissa_bits, symbol_bits, zeros, out)
        return out - work.out

    return encode


_encode_8 = _make_encoder(_take_apart_8, _put_planes_8)
_encode_16 = _make_encoder(_take_apart_16, _put_planes_16)
_encode_32 = _make_encoder(_take_apart_32, _put_planes_32)


@kernel
def encode_piece(work_address, space_address):
    """Code the values of a piece. Returns how many bytes were written.

    work_address  : address of WORK[1]
    space_address : address of SPACE[1]
    """
    word_bytes = work_at(work_address).word_bytes
    if word_bytes == 1:
        return _encode_8(work_address, space_address)
    if word_bytes == 2:
        return _encode_16(work_address, space_address)
    return _encode_32(work_address, space_address)
