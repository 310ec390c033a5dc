"""Loads, stores and bit tricks do what they say, compiled or not; and helpers stay inside kernels."""

import numba
import numpy as np
import pytest

from nncjit import jit
from nncjit.jit import JIT, address, float_bits, float_of_bits, helper, kernel, larger, smaller, store_f64

pytestmark = pytest.mark.kernel


@kernel
def loads(p, out):
    """Every load of the element at index 1, then the bit tricks. p, out : addresses, out of int64[10]"""
    jit.store_64(out, 0, jit.load_u8(p, 1))
    jit.store_64(out, 1, jit.load_i8(p, 1))
    jit.store_64(out, 2, jit.load_u16(p, 1))
    jit.store_64(out, 3, jit.load_i16(p, 1))
    jit.store_64(out, 4, jit.load_u32(p, 1))
    jit.store_64(out, 5, jit.load_i32(p, 1))
    jit.store_64(out, 6, jit.load_i64(p, 1))
    jit.store_64(out, 7, jit.byteswap32(jit.load_u32(p, 0)))
    jit.store_64(out, 8, jit.leading_zeros(jit.load_u8(p, 1)))
    jit.store_64(out, 9, jit.leading_zeros(0))


@kernel
def stores(p):
    """Each store at index 1 of 16 bytes of its own. p : address of uint8[64]"""
    jit.store_8(p, 1, -2)
    jit.store_16(p + 16, 1, -2)
    jit.store_32(p + 32, 1, -2)
    jit.store_64(p + 48, 1, -2)


@kernel
def floats(p, out):
    """out[1] = p[1] + 1. p, out : addresses of float32[]"""
    jit.store_f32(out, 1, jit.load_f32(p, 1) + np.float32(1))


@kernel
def blocks(to, source, n):
    """Zero n bytes at `to`, then copy n - 2 bytes there, one place further."""
    jit.zero_bytes(to, n)
    jit.copy_bytes(to + 1, source, n - 2)


@kernel
def count_up(p):
    """The cell's value before 5 was added. p : address of int64[1]"""
    return jit.atomic_add(p, 5)


def test_loads_extend_by_sign_or_by_zeros_also_at_odd_addresses():
    data = np.arange(200, 225, dtype=np.uint8)
    for shift in (0, 1):
        raw, out = data[shift:], np.zeros(10, np.int64)
        loads(address(raw), address(out, writes=True))
        part = raw[: raw.size // 8 * 8].tobytes()
        want = [int(np.frombuffer(part, t)[1]) for t in ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8")]
        assert out[:7].tolist() == want
        assert out[7:].tolist() == [int.from_bytes(part[:4], "big"), 56, 64]


def test_stores_keep_the_low_bits_and_touch_nothing_else():
    data = np.full(64, 7, np.uint8)
    stores(address(data, writes=True))
    for place, size in enumerate((1, 2, 4, 8)):
        want = bytes([7] * size) + (-2).to_bytes(size, "little", signed=True) + bytes([7] * (16 - 2 * size))
        assert data[16 * place : 16 * place + 16].tobytes() == want


def test_floats_blocks_and_counters():
    values, out = np.array([1.5, 2.5, 3.5], np.float32), np.zeros(3, np.float32)
    floats(address(values), address(out, writes=True))
    assert out.tolist() == [0, 3.5, 0]
    to, source = np.full(9, 1, np.uint8), np.arange(10, 19, dtype=np.uint8)
    blocks(address(to, writes=True), address(source), 8)
    assert to.tolist() == [0, 10, 11, 12, 13, 14, 15, 0, 1]
    cell = np.array([37])
    counter = address(cell, writes=True)
    assert [count_up(counter), count_up(counter), int(cell[0])] == [37, 42, 47]


@kernel
def compare_integers(x, y):
    return smaller(x, y), larger(x, y)


@kernel
def compare_doubles(x, y, out):
    store_f64(out, 1, smaller(x, y))
    return smaller(x, y), larger(x, y)


@kernel
def bits_and_back(bits):
    return float_bits(float_of_bits(bits))


def test_two_numbers_compare_as_in_python():
    for x, y in ((3, 5), (5, 3), (-(1 << 62), 7), (4, 4)):
        assert compare_integers(x, y) == (min(x, y), max(x, y))
    out = np.zeros(3)
    for x, y in ((3.0, -5.0), (1.5, float("inf")), (0.0, 1e-300), (float("nan"), 1.0), (1.0, float("nan"))):
        found = compare_doubles(x, y, address(out, writes=True))
        np.testing.assert_array_equal((*found, out[1]), (min(x, y), max(x, y), min(x, y)))
    assert out[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("bits", [0, 1, 0x3F800000, 0x7F800000, 0x80000000, 0xC2F00001])
def test_the_bits_of_a_float_make_it_again(bits):
    assert bits_and_back(bits) == bits


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_numbers_of_two_types_are_not_compared():
    with pytest.raises(numba.TypingError, match="two numbers of one type"):
        compare_doubles(1, 2.0, 0)


@pytest.mark.skipif(not JIT, reason="a helper is a plain function then")
def test_a_helper_refuses_calls_from_python_before_and_after_it_is_compiled():
    @helper
    def double(x):
        return 2 * x

    @kernel
    def call(x):
        return double(x)

    for _ in range(2):
        with pytest.raises(TypeError, match="double is a helper"):
            double(3)
        assert call(3) == 6
