"""Vectors: what is compiled gives what NumPy gives, and plain mode checks addresses."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit, types

from nncjit.jit import JIT, StrayAddressError, address, kernel, plain_vectors, processor, vectors
from nncjit.jit import vectors as v

pytestmark = pytest.mark.kernel
wide = pytest.mark.skipif(JIT and not processor.has_wide_vectors(), reason="needs AVX-512")


@kernel
def operators(source, out):
    x, y = v.load_words(source), v.load_words(source + 64)
    s, t = v.signed(x), v.signed(y)
    v.store_vector(out, (x + y - 7) * (y | 0x80000000) ^ (x & 0xFFFF))
    v.store_vector(out + 64, (x >> (y & 31)) + (y << (x & 31)))
    v.store_vector(out + 128, (s >> 3) + t * -5)
    v.store_vector(out + 192, v.select((x < y) | (s < t) & ~(x <= 77) ^ (x != y), x, 3))
    v.store_vector(out + 256, v.select((s >= -3) & (x > 5) | (x == 0), 0xFFFFFFFF, y))
    f = v.to_float(s >> 8)
    v.store_vector(out + 320, v.to_int(f / v.repeat_float(np.float32(1.5)) * 2 + f - 1))
    v.store_vector(out + 384, v.select(f < 4, f + v.unsigned_to_float(y), v.repeat_float(np.float32(0.1))))
    v.store_vector(out + 448, (v.halves(x) >> (v.halves(y) & 15)) + 3)


@kernel
def functions(source, out):
    x, y = v.load_words(source), v.load_words(source + 64)
    v.store_vector(out, v.minimum(x, y) + v.lane_numbers())
    v.store_vector(out + 64, v.shift_left(x, y >> 26))
    v.store_vector(out + 128, v.leading_zero_bits(x >> (y & 31)))
    v.store_vector(out + 192, v.swap_bytes(x) + v.repeat(-2))
    v.store_vector(out + 256, v.high_product(v.halves(x), v.halves(y)))
    v.store_vector(out + 320, v.pick(y, x, y))
    v.store_vector(out + 384, v.words(v.pick_halves(v.halves(y), v.halves(x))))
    v.store_vector(out + 448, v.absolute(v.signed(x)))


@kernel
def masks(source, out):
    x, y = v.load_words(source), v.load_words(source + 64)
    some = x < y
    v.store_vector(out, v.compress_words(x, some) ^ v.expand_words(v.load_halves_as_words(source + 7), some))
    v.store_vector(out + 64, v.repeat(v.mask_bits(some)))
    v.store_vector(out + 128, v.repeat(v.count_ones(v.mask_bits(v.load_bytes(source) > 99))))
    v.store_vector(out + 192, v.select(v.mask_of(0x1234), x, y))
    n = 0
    if v.any_lane(some):
        n += 1
    if v.any_lane(x < 0):
        n += 2
    first, none = v.lowest_one(v.mask_bits(some)), v.lowest_one(0)
    v.store_vector(out + 256, v.repeat(n ^ v.least(x) << 2 ^ first << 8 ^ none << 16))
    v.store_words_where(out + 320, x, some)
    v.store_vector(out + 384, v.load_expanded(source + 16, some, y))


@kernel
def memory(source, out):
    x, y = v.load_words(source), v.load_words(source + 64)
    v.store_vector(out, v.gather(source, x & 31))
    v.store_vector(out + 64, v.gather_unaligned(source, y & 63))
    v.scatter(out + 128, (v.lane_numbers() + 5) & 15, x)
    v.scatter_where(out + 192, (v.lane_numbers() + 5) & 15, y, x < y)
    v.store_low_bytes(out + 256, x)
    v.store_vector(out + 272, v.load_bytes_as_words(source + 3))
    v.store_low_halves(out + 400, x)
    bytes_ = v.load_bytes(source)
    v.store_vector(out + 448, bytes_)
    v.store_packed_bytes(out + 448, bytes_, bytes_ > 127)


@kernel
def doubles(source, out):
    x, y = v.load_ints_as_doubles(source), v.load_ints_as_doubles(source + 36)
    v.store_vector(out, x * y - 1)
    v.store_vector(out + 64, v.load_floats_as_doubles(source + 4))
    v.store_vector(out + 128, v.repeat_double(v.element(x, 0)) + v.repeat_double(v.element(y, 7)))


def outcome(kernel, seed, function=None):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 1 << 32, 32, dtype=np.uint32)
    source[rng.integers(0, 32, 6)] = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, source[0]], 6)
    out = np.zeros(512, np.uint8)
    (function or kernel)(address(source), address(out, writes=True))
    if kernel is memory:
        out[448 + np.count_nonzero(source[:16].view(np.uint8) > 127) :] = 0  # what follows means nothing
    return out.tobytes()


def plain(kernel, seed, monkeypatch):
    """The same kernel as plain Python on the functions of `plain_vectors`."""
    monkeypatch.setitem(globals(), "v", plain_vectors)
    return outcome(kernel, seed, getattr(kernel, "py_func", kernel))


@pytest.mark.skipif(not (JIT and processor.has_wide_vectors()), reason="compiles vectors of 512 bits")
@pytest.mark.parametrize("slow", [False, True])
def test_a_gather_gives_the_same_by_single_loads(slow, monkeypatch):
    monkeypatch.setattr(v, "has_slow_gathers", lambda: slow)

    @njit(types.void(types.int64, types.int64, types.int64))
    def gathered(source, indices, out):
        v.store_vector(out, v.gather(source, v.load_words(indices)))

    (code,) = gathered.inspect_asm().values()
    assert ("gatherd" in code) == (not slow)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, 1000, dtype=np.uint32)
    for indices in (rng.integers(0, 1000, 16), np.full(16, 999), np.arange(16)[::-1]):
        found, words = np.zeros(16, np.uint32), indices.astype(np.uint32)
        gathered(values.ctypes.data, words.ctypes.data, found.ctypes.data)
        assert np.array_equal(found, values[indices])


@wide
@pytest.mark.parametrize("kernel", [operators, functions, masks, memory], ids=lambda k: k.__name__)
@pytest.mark.parametrize("seed", range(20))
def test_compiled_vectors_are_those_of_numpy(kernel, seed, monkeypatch):
    assert outcome(kernel, seed) == plain(kernel, seed, monkeypatch)


@pytest.mark.parametrize("seed", range(5))
def test_compiled_doubles_are_those_of_numpy_on_every_machine(seed, monkeypatch):
    assert outcome(doubles, seed) == plain(doubles, seed, monkeypatch)


@wide
def test_bytes_are_packed_without_an_instruction_for_it(monkeypatch):
    without = processor.features() - {"avx512vbmi2"}
    monkeypatch.setattr(vectors, "features", lambda: without)

    @kernel
    def pack(source, out):
        x = vectors.load_bytes(source)
        vectors.store_packed_bytes(out, x, x > 60)

    for seed in range(9):
        source = np.random.default_rng(seed).integers(0, 256, 64, dtype=np.uint8)
        out = np.zeros(80, np.uint8)
        pack(address(source), address(out, writes=True))
        wanted = source[source > 60]
        assert (out[: wanted.size] == wanted).all()
        assert not out[64:].any()


@wide
def test_rows_of_bytes_are_turned():
    @kernel
    def turn(rows):
        vectors.turn_bytes(rows)

    rows = np.random.default_rng(0).integers(0, 256, (64, 16), dtype=np.uint8)
    turned = rows.T.copy()
    turn(address(rows, writes=True))
    assert (rows.reshape(16, 64) == turned).all()


@wide
def test_numbers_beside_a_vector():
    @kernel
    def run(number, out):
        x = vectors.lane_numbers()
        vectors.store_vector(out, x * vectors.repeat(number) + 1)
        vectors.store_vector(out + 64, 1 - x)

    out = np.zeros(32, np.uint32)
    run(1 << 33 | 3, address(out, writes=True))
    assert out.tolist() == [3 * k + 1 for k in range(16)] + [(1 - k) % 2**32 for k in range(16)]


@pytest.mark.skipif(JIT, reason="compiled code checks no addresses")
def test_plain_mode_checks_every_address():
    source, out = np.zeros(31, np.uint32), np.zeros(15, np.uint32)
    p, q = address(source), address(out, writes=True)
    index, all_lanes = plain_vectors.repeat(31), np.ones(16, np.bool_)
    for stray in (
        lambda: vectors.load_words(p + 64),
        lambda: vectors.load_bytes(p + 64),
        lambda: vectors.gather(p, index),
        lambda: vectors.gather_unaligned(p, index * 4 - 3),
        lambda: vectors.scatter(q, index, index),
        lambda: vectors.store_vector(q, index),
        lambda: vectors.store_vector(p, index),
        lambda: vectors.load_expanded(p + 64, all_lanes, index),
    ):
        with pytest.raises(StrayAddressError):
            stray()
    vectors.store_words_where(q, index, np.arange(16) < 15)
    assert (out == 31).all()


@pytest.mark.skipif(not JIT, reason="plain Python has no types")
@wide
def test_a_wrong_type_does_not_compile():
    @kernel
    def run(out):
        vectors.store_vector(out, vectors.select(vectors.lane_numbers(), 1, 2))

    with pytest.raises(Exception, match=r"16 x|vector"):
        run(0)


def test_features_follow_the_settings_of_numba(monkeypatch):
    features = processor.features.__wrapped__
    monkeypatch.setattr(processor.config, "CPU_FEATURES", "+avx512f,-avx512bw, +sse2")
    assert features() == {"avx512f", "sse2"}
    monkeypatch.setattr(processor.config, "CPU_FEATURES", None)
    monkeypatch.setattr(processor.config, "ENABLE_AVX", 0)
    assert not [name for name in features() if name.startswith("avx")]
