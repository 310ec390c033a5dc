"""Pieces of floats without loss (docs/format.md, "Large float tensors"): symbols by range, then signs and mantissas.

A piece is decoded a chunk at a time, so that they are in the cache when their other bits join them. There are two
ways to decode its symbols, which give the same: with vectors, and one state after another.

Addresses stay inside their arrays whatever the bytes hold. The table has an entry for each of the 4096 remainders of a
state, and is refused unless the frequencies fill it. The symbols of a chunk take at most MOST bytes: where fewer are
left they are moved in front of zeros first, and a chunk that takes more than were there is a fault.
"""

import numpy as np

from nncjit.decoder.float_joining_kernels import PLANES, join_8, join_16, join_32
from nncjit.jit import (
    atomic_add,
    copy_bytes,
    field_offset,
    helper,
    kernel,
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
    count_ones,
    expand_words,
    gather,
    load_halves_as_words,
    load_words,
    mask_bits,
    select,
    store_low_bytes,
    store_vector,
)
from nncjit.stream.float_pieces import CHUNK, EACH_ITS_OWN, LOWEST_STATE, SCALE_BITS, SLOTS, STATES

MOST = 2 * CHUNK + 64
"""Bytes that decoding a chunk's symbols may read: 16 bits each, and what a vector reads beyond them."""
FINE, CUT_OFF, BAD_TABLE, BAD_ZEROS, BAD_END = range(5)

ITEM = np.dtype(
    [
        ("piece", "i8"),  # uint8[n_bytes]
        ("n_bytes", "i8"),
        ("out", "i8"),  # words[n_values]: its values
        ("n_values", "i8"),
        ("word_bytes", "i8"),  # 1, 2 or 4
        ("mantissa_bits", "i8"),
        ("symbol_bits", "i8"),
        ("fault", "i8"),
    ]
)
SPACE = np.dtype(
    [
        ("table", "u4", SLOTS),  # frequency - 1, place in the symbol's range << 12, symbol << 24
        ("states", "u4", STATES),
        ("symbols", "u1", CHUNK),
        ("rest", "u1", MOST),  # the last bytes of a piece, and zeros
        ("planes", PLANES, 1),
    ]
)
WORK = np.dtype(
    [
        ("items", "i8"),  # ITEM[n_items]
        ("n_items", "i8"),
        ("taken", "i8"),
        ("spaces", "i8"),  # SPACE[workers]
    ]
)

ITEM_SIZE, SPACE_SIZE = ITEM.itemsize, SPACE.itemsize
item_at, work_at, planes_at = map(record_view, (ITEM, WORK, PLANES))
TAKEN = field_offset(WORK, "taken")
TABLE, STATES_AT, SYMBOLS, REST, PLANES_AT = (
    field_offset(SPACE, name) for name in ("table", "states", "symbols", "rest", "planes")
)


@helper
def fill_table(space, data, n_symbols):
    """The entries of all remainders. data: address of the symbols, then their frequencies. Returns whether they fit."""
    total = np.int64(0)
    for k in range(n_symbols):
        frequency, symbol = load_u16(data + n_symbols, k), load_u8(data, k)
        if frequency == 0 or total + frequency > SLOTS:
            return False
        for place in range(frequency):
            store_32(space + TABLE, total + place, (frequency - 1) | place << SCALE_BITS | symbol << 2 * SCALE_BITS)
        total += frequency
    return total == SLOTS


@helper
def decode_states(space, data, count):
    """`count` symbols, a multiple of STATES, from the 16-bit numbers at `data`. Returns the address behind them."""
    for k in range(count):
        lane = k & (STATES - 1)
        state = load_u32(space + STATES_AT, lane)
        entry = load_u32(space + TABLE, state & (SLOTS - 1))
        state = ((entry & (SLOTS - 1)) + 1) * (state >> SCALE_BITS) + ((entry >> SCALE_BITS) & (SLOTS - 1))
        store_8(space + SYMBOLS, k, entry >> 2 * SCALE_BITS)
        if state < LOWEST_STATE:
            state = state << 16 | load_u16(data, 0)
            data += 2
        store_32(space + STATES_AT, lane, state)
    return data


@helper
def decode_states_in_vectors(space, data, count):
    """The same."""
    table, symbols = space + TABLE, space + SYMBOLS
    a, b = load_words(space + STATES_AT), load_words(space + STATES_AT + 64)
    for k in range(0, count, STATES):
        of_a, of_b = gather(table, a & (SLOTS - 1)), gather(table, b & (SLOTS - 1))
        a = ((of_a & (SLOTS - 1)) + 1) * (a >> SCALE_BITS) + ((of_a >> SCALE_BITS) & (SLOTS - 1))
        b = ((of_b & (SLOTS - 1)) + 1) * (b >> SCALE_BITS) + ((of_b >> SCALE_BITS) & (SLOTS - 1))
        store_low_bytes(symbols + k, of_a >> 2 * SCALE_BITS)
        store_low_bytes(symbols + k + 16, of_b >> 2 * SCALE_BITS)
        low = a < LOWEST_STATE
        a = select(low, a << 16 | expand_words(load_halves_as_words(data), low), a)
        data += 2 * count_ones(mask_bits(low))
        low = b < LOWEST_STATE
        b = select(low, b << 16 | expand_words(load_halves_as_words(data), low), b)
        data += 2 * count_ones(mask_bits(low))
    store_vector(space + STATES_AT, a)
    store_vector(space + STATES_AT + 64, b)
    return data


@helper
def put_chunk(space, item_address, first, count):
    """The values of a chunk whose symbols are decoded, from value `first` of the piece on."""
    item = item_at(item_address)
    symbols, shift, planes = space + SYMBOLS, item.mantissa_bits, space + PLANES_AT
    words = item.out + item.word_bytes * first
    if item.word_bytes == 1:
        for k in range(count):
            store_8(words, k, load_u8(symbols, k) << shift)
        join_8(words, 0, count, planes)
    elif item.word_bytes == 2:
        for k in range(count):
            store_16(words, k, load_u8(symbols, k) << shift)
        join_16(words, 0, count, planes)
    else:
        for k in range(count):
            store_32(words, k, load_u8(symbols, k) << shift)
        join_32(words, 0, count, planes)


@helper
def bytes_of_planes(rest_bits, zeros, count):
    """What the planes of a chunk take; -1 where more bits are left out than there are."""
    left = rest_bits - zeros
    return (left >> 3) * count + (left & 7) * ((count + 7) >> 3) if left >= 0 else np.int64(-1)


@helper
def bytes_of_all_planes(item_address, zeros, step):
    """The same for a piece. zeros: address of the first chunk's; step: from one chunk to the next, 0 or 1."""
    item, total = item_at(item_address), np.int64(0)
    rest_bits, size = item.mantissa_bits + 1, item.n_values
    for k in range((size + CHUNK - 1) // CHUNK):
        n_bytes = bytes_of_planes(rest_bits, load_u8(zeros, step * k), smaller(CHUNK, size - CHUNK * k))
        if n_bytes < 0:
            return np.int64(-1)
        total += n_bytes
    return total


def _make_worker(decode_symbols):
    """The worker that decodes the symbols of chunks in this way."""

    @helper
    def decode_piece(space, item_address):
        """A piece: a fault, or FINE."""
        item, run = item_at(item_address), planes_at(space + PLANES_AT)
        size, end = item.n_values, item.piece + item.n_bytes
        zeros, step, data = item.piece, 0, item.piece + 1
        if load_u8(zeros, 0) == EACH_ITS_OWN:
            zeros, step, data = data, 1, data + (size + CHUNK - 1) // CHUNK
        if data + 1 > end:
            return CUT_OFF
        n_symbols = load_u8(data, 0) + 1
        frequencies = data + 1
        data = frequencies + 3 * n_symbols
        n_bytes = bytes_of_all_planes(item_address, zeros, step)
        if n_bytes < 0:
            return BAD_ZEROS
        planes = end - n_bytes
        if data + 4 * STATES > planes:
            return CUT_OFF
        if not fill_table(space, frequencies, n_symbols):
            return BAD_TABLE
        copy_bytes(space + STATES_AT, data, 4 * STATES)
        data += 4 * STATES
        run.mantissa_bits, run.exponent_bits = item.mantissa_bits, item.symbol_bits
        first, stop = np.int64(0), planes
        while first < size:
            count = smaller(CHUNK, size - first)
            if stop - data < MOST:  # few bytes are left: move them to where zeros can follow them
                rest = stop - data
                for k in range(rest):
                    store_8(space + REST, k, load_u8(data, k))
                zero_bytes(space + REST + rest, MOST - rest)
                data, stop = space + REST, space + REST + rest
            data = decode_symbols(space, data, (count + STATES - 1) & -STATES)
            if data > stop:
                return CUT_OFF
            run.planes, run.n_values, run.zeros = planes, count, load_u8(zeros, 0)
            left = run.mantissa_bits + 1 - run.zeros
            run.n_bytes, run.n_bits = left >> 3, left & 7
            put_chunk(space, item_address, first, count)
            planes += bytes_of_planes(run.mantissa_bits + 1, run.zeros, count)
            zeros += step
            first += count
        if data != stop:
            return BAD_END
        for k in range(STATES):
            if load_u32(space + STATES_AT, k) != LOWEST_STATE:
                return BAD_END
        return FINE

    @helper
    def take_pieces(work_address, worker):
        """Take pieces and decode them until none is left."""
        work = work_at(work_address)
        space = work.spaces + SPACE_SIZE * worker
        while True:
            k = atomic_add(work_address + TAKEN, 1)
            if k >= work.n_items:
                break
            item_address = work.items + ITEM_SIZE * k
            item_at(item_address).fault = decode_piece(space, item_address)

    return take_pieces


_take_pieces, _take_pieces_in_vectors = _make_worker(decode_states), _make_worker(decode_states_in_vectors)


@kernel
def decode_pieces(work_address, worker):
    """Decode pieces, together with the other workers.

    work_address : address of WORK[1]
    worker       : which one this is
    """
    _take_pieces(work_address, worker)


@kernel
def decode_pieces_in_vectors(work_address, worker):
    """The same on machines with AVX-512."""
    _take_pieces_in_vectors(work_address, worker)
