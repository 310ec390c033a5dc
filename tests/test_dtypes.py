"""Element types: every code of the narrow floats both ways, against ml_dtypes, and the rules for what does not fit."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nncjit.dtypes import DTYPES, as_array, as_storage, by_code, find, from_float32, name_of, to_float32
from nncjit.errors import ModelError

NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
LARGEST = {"bfloat16": 3.3895314e38, "float8_e4m3fn": 448, "float8_e5m2": 57344, "float16": 65504}
OPAQUE = ("complex64", "complex128", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
CODES_OF_THE_STANDARD = ("int32", "float32", "int2", "int3", "int4", "int8", "int16", "int64", "float16", "float64")


def all_codes(name):
    """Every storage bit pattern of a float type, as unsigned integers."""
    itemsize = DTYPES[name].itemsize
    return np.arange(1 << 8 * itemsize).astype(f"u{itemsize}")


def theirs(name):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name))


def random_floats(n=200_000):
    """float32 of every kind: all exponents, NaNs with all payloads, subnormal numbers, numbers near ties."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    near_ties = bits & 0xFFF00000 | rng.integers(-2, 3, n).astype(np.uint32) << 15 | rng.integers(0, 2, n, np.uint32)
    usual = np.concatenate([rng.normal(0, scale, n // 8) for scale in (1e-8, 1e-3, 0.1, 1, 300)]).astype(np.float32)
    edges = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 464, 448, 465, 57344, 61440, 65519, 65520, 3.4e38, -3.4e38])
    return np.concatenate([bits.view(np.float32), near_ties.view(np.float32), usual, edges])


@pytest.mark.parametrize("name", NARROW)
def test_every_code_has_the_value_that_ml_dtypes_gives(name):
    codes = all_codes(name)
    with np.errstate(invalid="ignore"):
        want = codes.view(theirs(name)).astype(np.float32)
    got = to_float32(codes, name)
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(want)[numbers])


@pytest.mark.parametrize("name", NARROW)
def test_every_code_comes_back(name):
    codes = all_codes(name)
    np.testing.assert_array_equal(from_float32(to_float32(codes, name), name), codes)


def test_every_float16_comes_back():
    codes = all_codes("float16").view(np.float16)
    back = from_float32(to_float32(codes, "float16"), "float16")
    np.testing.assert_array_equal(back, codes)  # NaN is NaN: some processors set the quiet bit
    np.testing.assert_array_equal(np.signbit(back), np.signbit(codes))


@pytest.mark.parametrize("name", NARROW)
def test_rounding_is_that_of_ml_dtypes_except_beyond_the_largest_number(name):
    values = random_floats()
    with np.errstate(invalid="ignore", over="ignore"):
        want = values.astype(theirs(name)).astype(np.float32)
    got = to_float32(from_float32(values, name), name)
    over = np.isfinite(values) & ~np.isfinite(want)
    assert over.any()
    np.testing.assert_array_equal(got[~over], want[~over])
    np.testing.assert_array_equal(got[over], np.copysign(np.float32(LARGEST[name]), values[over]))


@pytest.mark.parametrize("name", LARGEST)
def test_no_finite_number_becomes_infinite_or_nan(name):
    values = random_floats()
    got = to_float32(from_float32(values, name), name)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(values))
    if name != "float8_e4m3fn":
        np.testing.assert_array_equal(np.isnan(got), np.isnan(values))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([*NARROW, "float16"]))
def test_no_other_code_is_nearer(value, name):
    table = to_float32(all_codes(name).view(DTYPES[name].storage), name)
    table = table[np.isfinite(table)].astype(np.float64)
    got = float(to_float32(from_float32(np.float32(value), name), name))
    assert abs(got - value) == np.abs(table - value).min()


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7FFF8000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_a_nan_stays_one_whatever_its_payload(name, bits):
    assert np.isnan(to_float32(from_float32(np.array(bits, np.uint32).view(np.float32), name), name))


def test_float16_rounds_as_numpy_does():
    values = random_floats()
    with np.errstate(over="ignore", under="ignore"):
        want = values.astype(np.float16)
    fits = np.isfinite(want) | ~np.isfinite(values)
    np.testing.assert_array_equal(from_float32(values, "float16")[fits], want[fits])


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.kind in "iu"])
def test_integers_round_to_even_and_saturate(name):
    dtype = DTYPES[name]
    top = 2 ** (dtype.bits - (dtype.kind == "i")) - 1
    bottom = -top - 1 if dtype.kind == "i" else 0
    values = np.float32([0.5, 0.75, 1.5, -0.25, 1e30, -1e30, np.inf, -np.inf, np.nan, top + 1, bottom - 1.0])
    want = [0, 1, min(2, top), 0, top, bottom, top, bottom, 0, top, bottom]
    got = from_float32(values, name)
    assert got.dtype == dtype.storage
    assert got.tolist() == want


def test_bool_is_anything_but_zero():
    assert from_float32(np.float32([0, 0.1, -2, np.nan]), "bool").tolist() == [False, True, True, True]


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.kind != "o"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5, 7)])
def test_conversions_keep_the_shape(name, shape):
    storage = from_float32(np.ones(shape, np.float32), name)
    values = to_float32(storage, name)
    assert (storage.shape, storage.dtype) == (shape, DTYPES[name].storage)
    assert (values.shape, values.dtype) == (shape, np.float32)
    assert (values == 1).all()


def test_pieces_and_strides_do_not_show():
    values = np.random.default_rng(1).normal(size=(3, 70_001)).astype(np.float32)
    for name in NARROW:
        whole = from_float32(values, name)
        np.testing.assert_array_equal(from_float32(values.T, name), whole.T)
        np.testing.assert_array_equal(to_float32(whole.T, name), to_float32(whole, name).T)
        np.testing.assert_array_equal(whole[1, -9:], from_float32(values[1, -9:], name))


def test_float32_is_not_copied():
    values = np.ones(3, np.float32)
    assert from_float32(values, "float32") is values
    assert to_float32(values, "float32") is values


def test_float64_beyond_float32_becomes_infinite_without_a_warning():
    assert to_float32(np.array([1e300, -1e300, 0.1]), "float64").tolist() == [np.inf, -np.inf, np.float32(0.1)]


def test_codes_are_those_of_the_standard_then_our_own():
    assert [by_code(code).name for code in range(10)] == list(CODES_OF_THE_STANDARD)
    assert [by_code(code).name for code in range(64, 72)] == [
        *("bfloat16", "uint8", "uint16", "uint32", "uint64", "bool", "float8_e4m3fn", "float8_e5m2")
    ]
    assert [by_code(code).name for code in range(80, 85)] == list(OPAQUE)
    assert len({dtype.code for dtype in DTYPES.values()}) == len(DTYPES)


def test_unknown_codes_and_names_are_refused():
    with pytest.raises(ModelError, match="data format 11 "):
        by_code(11)
    with pytest.raises(ModelError, match="dtype complex256 "):
        find("complex256")


@pytest.mark.parametrize("name", NARROW)
def test_arrays_of_ml_dtypes_are_stored_as_bits(name):
    array = np.ones((2, 3), theirs(name))
    assert name_of(array) == name
    storage = as_storage(array[:, ::2])
    assert storage.dtype == DTYPES[name].storage
    assert storage.flags.c_contiguous
    np.testing.assert_array_equal(to_float32(storage, name), np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(as_array(storage, name), array[:, ::2])


@pytest.mark.parametrize("name", OPAQUE[2:])
def test_opaque_arrays_of_ml_dtypes_are_their_bits(name, monkeypatch):
    array = np.arange(256, dtype=np.uint8).reshape(2, 128).view(theirs(name))
    storage = as_storage(array[:, ::2])
    assert (name_of(array), storage.dtype) == (name, np.uint8)
    assert as_array(storage, name).dtype == array.dtype
    assert as_array(storage, name).tobytes() == array[:, ::2].tobytes()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert as_array(storage, name) is storage


def test_complex_arrays_are_themselves():
    array = np.array([[1 + 2j, np.nan], [0, -1j]], ">c8").T
    storage = as_storage(array)
    assert (name_of(array), storage.dtype, storage.flags.c_contiguous) == ("complex64", np.complex64, True)
    np.testing.assert_array_equal(as_array(storage, "complex64"), array)


@pytest.mark.parametrize("name", OPAQUE)
def test_nobody_computes_with_opaque_types(name):
    for convert in (to_float32, from_float32):
        with pytest.raises(ModelError, match=f"^{name} is kept as it is"):
            convert(np.zeros(2, DTYPES[name].storage), name)


@pytest.mark.parametrize("name", ["int2", "int4"])
def test_small_integers_of_ml_dtypes_are_stored_as_int8(name):
    array = np.array([-2, -1, 0, 1]).astype(theirs(name))
    assert name_of(array) == name
    assert as_storage(array).tolist() == [-2, -1, 0, 1]
    assert as_storage(array).dtype == np.int8


@pytest.mark.parametrize("name", NARROW)
def test_without_ml_dtypes_users_get_exact_float32(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    codes = all_codes(name)
    got = as_array(codes, name)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, to_float32(codes, name))


def test_other_byte_orders_and_fortran_order_become_plain():
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    storage = as_storage(array)
    assert storage.dtype == np.int32
    assert storage.flags.c_contiguous
    assert storage.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_plain_arrays_are_not_copied():
    array = np.arange(6.0)
    assert as_storage(array) is array


@pytest.mark.parametrize(
    "array",
    [
        np.array([None]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, [("a", "f4")]),
        *([np.ones(2, np.longdouble)] if np.dtype(np.longdouble).itemsize > 8 else []),
    ],
    ids=lambda array: array.dtype.name,
)
def test_what_is_no_number_is_refused_by_name(array):
    with pytest.raises(ModelError, match=r"^encoder\.bias: dtype .* is not one"):
        as_storage(array, "encoder.bias")
