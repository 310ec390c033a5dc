"""The functions of `nncjit.jit.vectors` on NumPy arrays: what runs with ``NUMBA_DISABLE_JIT=1``, and what tests compare
compiled vectors with. Every access to memory is checked.
"""

import ctypes

import numpy as np

from nncjit.jit.addresses import check

LANES = 16


def _memory(p, dtype, count, *, writes=False):
    """The array of `count` elements at an address."""
    size = count * np.dtype(dtype).itemsize
    check(int(p), size, writes=writes)
    return np.frombuffer((ctypes.c_char * size).from_address(int(p)), dtype)


def _chosen(mask, x, y):
    dtype = next(side.dtype for side in (x, y) if isinstance(side, np.ndarray))
    return np.where(mask, x, y).astype(dtype)


def load_words(p):
    return _memory(p, np.uint32, LANES).copy()


def load_bytes(p):
    return _memory(p, np.uint8, 64).copy()


def load_bytes_as_words(p):
    return _memory(p, np.uint8, LANES).astype(np.uint32)


def load_floats_as_doubles(p):
    return _memory(p, np.float32, 8).astype(np.float64)


def load_ints_as_doubles(p):
    return _memory(p, np.int32, 8).astype(np.float64)


def load_halves_as_words(p):
    return _memory(p, np.uint16, LANES).astype(np.uint32)


def store_vector(p, x):
    _memory(p, x.dtype, x.size, writes=True)[:] = x


def store_words_where(p, x, mask):
    for k in np.flatnonzero(mask):
        _memory(p + 4 * int(k), x.dtype, 1, writes=True)[0] = x[k]


def store_low_bytes(p, x):
    store_vector(p, (x & 255).astype(np.uint8))


def store_low_halves(p, x):
    store_vector(p, (x & 0xFFFF).astype(np.uint16))


def gather(p, index):
    return np.array([_memory(p + 4 * int(k), np.uint32, 1)[0] for k in index], np.uint32)


def gather_unaligned(p, index):
    return np.array([_memory(p + int(k), np.uint32, 1)[0] for k in index], np.uint32)


def scatter(p, index, x):
    scatter_where(p, index, x, np.ones(LANES, np.bool_))


def scatter_where(p, index, x, mask):
    for k in np.flatnonzero(mask):
        _memory(p + 4 * int(index[k]), x.dtype, 1, writes=True)[0] = x[k]


def load_expanded(p, mask, x):
    x = x.copy()
    count = int(np.count_nonzero(mask))
    x[mask] = _memory(p, x.dtype, count)
    return x


def repeat(number):
    return np.full(LANES, int(number) & 0xFFFFFFFF, np.uint32)


def repeat_float(number):
    return np.full(LANES, number, np.float32)


def repeat_double(number):
    return np.full(8, number, np.float64)


def lane_numbers():
    return np.arange(LANES, dtype=np.uint32)


def select(mask, x, y):
    return _chosen(mask, x, y)


def signed(x):
    return x.view(np.int32)


def words(x):
    return x.view(np.uint32)


def halves(x):
    return x.view(np.uint16)


def to_float(x):
    return x.astype(np.float32)


def unsigned_to_float(x):
    return x.astype(np.float32)


def to_int(x):
    return x.astype(np.int32)


def absolute(x):
    return np.abs(x)


def minimum(x, y):
    return np.minimum(x, y).astype(x.dtype)


def shift_left(x, by):
    return np.where(by < 32, x << (by & 31), 0).astype(np.uint32)


def leading_zero_bits(x):
    return np.array([32 - int(word).bit_length() for word in x], np.uint32)


def swap_bytes(x):
    return x.byteswap()


def high_product(x, y):
    return (x.astype(np.uint32) * y >> np.uint32(16)).astype(np.uint16)


def pick(index, low, high):
    return np.concatenate([low, high])[index & 31]


def pick_halves(index, table):
    return table[index & 31]


def least(x):
    return int(x.min())


def element(x, i):
    return x[i]


def lowest_one(bits):
    return 64 if bits == 0 else (int(bits) & -int(bits)).bit_length() - 1


def any_lane(mask):
    return bool(mask.any())


def mask_bits(mask):
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes().ljust(8, b"\0"), "little", signed=True)


def mask_of(bits):
    return np.array([int(bits) >> k & 1 for k in range(LANES)], np.bool_)


def count_ones(bits):
    return (int(bits) & ((1 << 64) - 1)).bit_count()


def compress_words(x, mask):
    return np.concatenate([x[mask], np.zeros(np.count_nonzero(~mask), x.dtype)])


def expand_words(x, mask):
    apart = np.zeros_like(x)
    apart[mask] = x[: np.count_nonzero(mask)]
    return apart


def store_packed_bytes(p, x, mask):
    packed = np.concatenate([x[mask], np.zeros(np.count_nonzero(~mask), x.dtype)])
    store_vector(p, packed)


def turn_bytes(p):
    rows = _memory(p, np.uint8, 64 * LANES, writes=True)
    rows[:] = rows.reshape(64, LANES).T.copy().reshape(-1)
