"""Large float tensors without loss, piece by piece (docs/format.md, "Large float tensors").

The states are run from the last symbol to the first, so that the decoder runs them forwards. A symbol of frequency f
that begins at c turns a state x into ``x // f << 12 | c + x % f``. There are two ways to run them, which give the same.
One state after another, the quotient comes from a float64 product, which is exact: x is below 2^32, and x + 1/2 is
further from each multiple of f than the product's error. With vectors, it comes from a float32 product that is at most
one too small (`step_of_states`).

Addresses stay inside their arrays: a value takes at most 12 bits of the coded ones, for which `coded` has 16 each, and
`out` has room for as many bytes as are counted before they are written. Vectors take whole chunks of a multiple of 16
values; what they write in front of the coded bits is written again by later ones, or is in front of them in `coded`.
"""

import numpy as np

from nncjit.jit import (
    copy_bytes,
    field_offset,
    helper,
    kernel,
    larger,
    load_u8,
    load_u16,
    load_u32,
    record_view,
    smaller,
    store_8,
    store_16,
    store_32,
    zero_bytes,
)
from nncjit.jit.vectors import (
    compress_words,
    count_ones,
    expand_words,
    gather,
    load_bytes_as_words,
    load_halves_as_words,
    load_words,
    mask_bits,
    mask_of,
    repeat,
    repeat_float,
    select,
    store_low_bytes,
    store_low_halves,
    store_vector,
    to_int,
    unsigned_to_float,
    words,
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
        ("entries", "u4", 256),  # frequency - 1, start << 12
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
COUNTS, ENTRIES, ZEROS, SYMBOLS, CODED, STATES_AT = (
    field_offset(SPACE, name) for name in ("counts", "entries", "zeros", "symbols", "coded", "states")
)


@helper
def count_symbols(space, first, count):
    """Add symbols to the counts: in four tables, so that equal ones in a row do not wait for each other."""
    for k in range(first, first + count):
        at, symbol = space + COUNTS + 1024 * (k & 3), load_u8(space + SYMBOLS, k)
        store_32(at, symbol, load_u32(at, symbol) + 1)


@helper
def count_zeros(together, mantissa_bits, symbol_bits):
    """How many of the lowest bits below and above the symbol are zero in all words whose union this is."""
    rest = together & ((1 << mantissa_bits) - 1)
    rest |= (together >> (mantissa_bits + symbol_bits)) << mantissa_bits
    zeros = np.int64(0)
    while zeros <= mantissa_bits and not (rest >> zeros) & 1:
        zeros += 1
    return zeros


def _make_piece(load):
    """What reads words of one size, which this loads one by one."""

    @helper
    def take_apart(words_at, first, count, mantissa_bits, symbol_bits, space):
        """The symbols of words, counted. Returns how many of the lowest bits below and above them are zero in all."""
        mask, together = (1 << symbol_bits) - 1, np.int64(0)
        for k in range(first, first + count):
            word = load(words_at, k)
            store_8(space + SYMBOLS, k, (word >> mantissa_bits) & mask)
            together |= word
        count_symbols(space, first, count)
        return count_zeros(together, mantissa_bits, symbol_bits)

    @helper
    def put_planes(words_at, first, count, mantissa_bits, symbol_bits, zeros, out):
        """The planes of signs and mantissas. Returns the address behind them."""
        low, left = (1 << mantissa_bits) - 1, mantissa_bits + 1 - zeros
        above = mantissa_bits + symbol_bits
        for plane in range(left >> 3):
            shift = zeros + 8 * plane
            for k in range(count):
                word = load(words_at, first + k)
                store_8(out, k, ((word & low) | (word >> above) << mantissa_bits) >> shift)
            out += count
        for bit in range(mantissa_bits + 1 - (left & 7), mantissa_bits + 1):
            shift = bit if bit < mantissa_bits else above
            for at in range(0, count, 8):
                byte = np.int64(0)
                for k in range(smaller(8, count - at)):
                    byte |= ((load(words_at, first + at + k) >> shift) & 1) << k
                store_8(out, at >> 3, byte)
            out += (count + 7) >> 3
        return out

    return take_apart, put_planes


def _make_piece_in_vectors(load, word_bytes, ways):
    """The same with vectors, which this loads; `ways` without them take what is no multiple of 16 values."""
    one_by_one, planes_one_by_one = ways

    @helper
    def take_apart(words_at, first, count, mantissa_bits, symbol_bits, space):
        """As without vectors."""
        if count & 15:
            return one_by_one(words_at, first, count, mantissa_bits, symbol_bits, space)
        shift, mask, together = repeat(mantissa_bits), repeat((1 << symbol_bits) - 1), repeat(0)
        for k in range(first, first + count, 16):
            word = load(words_at + word_bytes * k)
            store_low_bytes(space + SYMBOLS + k, (word >> shift) & mask)
            together = together | word
        count_symbols(space, first, count)
        store_vector(space + STATES_AT, together)  # where no states are yet
        found = np.int64(0)
        for k in range(16):
            found |= load_u32(space + STATES_AT, k)
        return count_zeros(found, mantissa_bits, symbol_bits)

    @helper
    def put_planes(words_at, first, count, mantissa_bits, symbol_bits, zeros, out):
        """As without vectors."""
        if count & 15:
            return planes_one_by_one(words_at, first, count, mantissa_bits, symbol_bits, zeros, out)
        left, words_at = mantissa_bits + 1 - zeros, words_at + word_bytes * first
        low, sign, above = repeat((1 << mantissa_bits) - 1), repeat(mantissa_bits), repeat(mantissa_bits + symbol_bits)
        for plane in range(left >> 3):
            shift = repeat(zeros + 8 * plane)
            for k in range(0, count, 16):
                word = load(words_at + word_bytes * k)
                store_low_bytes(out + k, ((word & low) | (word >> above) << sign) >> shift)
            out += count
        for bit in range(mantissa_bits + 1 - (left & 7), mantissa_bits + 1):
            shift = repeat(bit if bit < mantissa_bits else mantissa_bits + symbol_bits)
            for k in range(0, count, 16):
                store_16(out, k >> 4, mask_bits(((load(words_at + word_bytes * k) >> shift) & 1) == 1))
            out += count >> 3
        return out

    return take_apart, put_planes


_PIECE_8, _PIECE_16, _PIECE_32 = map(_make_piece, (load_u8, load_u16, load_u32))
_VECTORS_8 = _make_piece_in_vectors(load_bytes_as_words, 1, _PIECE_8)
_VECTORS_16 = _make_piece_in_vectors(load_halves_as_words, 2, _PIECE_16)
_VECTORS_32 = _make_piece_in_vectors(load_words, 4, _PIECE_32)


@helper
def choose_frequencies(space_address, count):
    """Frequencies that add up to SLOTS, at least 1 for each symbol that occurs. Returns the most frequent symbol."""
    space = space_at(space_address)
    most, total = np.int64(0), np.int64(0)
    for symbol in range(256):
        n = np.int64(0)
        for k in range(4):
            n += np.int64(space.counts[k, symbol])
        frequency = np.int64(0) if n == 0 else larger(1, (n * SLOTS + (count >> 1)) // count)
        space.frequencies[symbol] = frequency
        total += frequency
        if frequency > space.frequencies[most]:
            most = np.int64(symbol)
    while total > SLOTS:  # rare symbols took more than they have
        largest = np.int64(0)
        for symbol in range(256):
            if space.frequencies[symbol] > space.frequencies[largest]:
                largest = np.int64(symbol)
        less = smaller(total - SLOTS, larger(1, space.frequencies[largest] >> 4))
        space.frequencies[largest] -= less
        total -= less
    space.frequencies[most] += SLOTS - total
    start = np.int64(0)
    for symbol in range(256):
        space.starts[symbol] = start
        start += space.frequencies[symbol]
        if space.frequencies[symbol]:
            space.inverses[symbol] = 1.0 / space.frequencies[symbol]
            space.entries[symbol] = (space.frequencies[symbol] - 1) | space.starts[symbol] << SCALE_BITS
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
def step_of_states(state, entry):
    """Code a symbol of each of 16 states that have room for it.

    The factor is below 1 / frequency by 5 to 11 units of 2^-24, roundings of it, the state and the product included;
    a quotient is below 2^20, so it comes out as it is or one less, never more.
    """
    frequency = (entry & (SLOTS - 1)) + 1
    factor = repeat_float(np.float32(1 - 2**-21)) / unsigned_to_float(frequency)
    quotient = words(to_int(unsigned_to_float(state) * factor))
    moved = state + quotient * (SLOTS - frequency) + (entry >> SCALE_BITS)
    return select(state - quotient * frequency >= frequency, moved + (SLOTS - frequency), moved)


@helper
def put_low_halves(coded, state, full):
    """The low halves of states that are too full, in front of the address `coded`. Returns the address of the first."""
    n = count_ones(mask_bits(full))
    store_low_halves(coded - 32, expand_words(compress_words(state, full), mask_of(0xFFFF << (16 - n))))
    return coded - 2 * n


@helper
def run_states_in_vectors(space_address, count):
    """The same with vectors."""
    symbols, entries = space_address + SYMBOLS, space_address + ENTRIES
    coded = space_address + CODED + 2 * (PIECE + STATES)
    a, b = repeat(LOWEST_STATE), repeat(LOWEST_STATE)
    for k in range(count - STATES, -1, -STATES):
        of_a = gather(entries, load_bytes_as_words(symbols + k))
        of_b = gather(entries, load_bytes_as_words(symbols + k + 16))
        full = b >> (32 - SCALE_BITS) > (of_b & (SLOTS - 1))
        coded = put_low_halves(coded, b, full)
        b = step_of_states(select(full, b >> 16, b), of_b)
        full = a >> (32 - SCALE_BITS) > (of_a & (SLOTS - 1))
        coded = put_low_halves(coded, a, full)
        a = step_of_states(select(full, a >> 16, a), of_a)
    store_vector(space_address + STATES_AT, a)
    store_vector(space_address + STATES_AT + 64, b)
    return (coded - space_address - CODED) >> 1


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


def _make_encoder(piece, run_states):
    """The encoder of pieces of words of one size, with this way to run the states."""
    take_apart, put_planes = piece

    @helper
    def encode(work_address, space_address):
        """`encode_piece` for such words."""
        work, space = work_at(work_address), space_at(space_address)
        words, size, mantissa_bits, symbol_bits = work.words, work.n_values, work.mantissa_bits, work.symbol_bits
        zero_bytes(space_address + COUNTS, 4 * 4 * 256)
        for first in range(0, size, CHUNK):
            count = smaller(CHUNK, size - first)
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
            zeros, count = np.int64(space.zeros[first // CHUNK]), smaller(CHUNK, size - first)
            out = put_planes(words, first, count, mantissa_bits, symbol_bits, zeros, out)
        return out - work.out

    return encode


_encode_8, _encode_16, _encode_32 = (_make_encoder(piece, run_states) for piece in (_PIECE_8, _PIECE_16, _PIECE_32))
_encode_8_in_vectors, _encode_16_in_vectors, _encode_32_in_vectors = (
    _make_encoder(piece, run_states_in_vectors) for piece in (_VECTORS_8, _VECTORS_16, _VECTORS_32)
)


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


@kernel
def encode_piece_in_vectors(work_address, space_address):
    """The same on machines with AVX-512."""
    word_bytes = work_at(work_address).word_bytes
    if word_bytes == 1:
        return _encode_8_in_vectors(work_address, space_address)
    if word_bytes == 2:
        return _encode_16_in_vectors(work_address, space_address)
    return _encode_32_in_vectors(work_address, space_address)
