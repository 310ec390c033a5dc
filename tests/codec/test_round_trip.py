"""What is encoded comes back: exactly where nothing may be lost, within half a step or so where levels stand for
values."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nncjit
from nncjit import dtypes
from nncjit.jit import JIT

EXAMPLES = 60 if JIT else 5

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]
FLOATS = ["float16", "float32", "float64"]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)


@settings(max_examples=EXAMPLES)
@given(st.data(), st.sampled_from(INTEGERS), shapes)
def test_integers_come_back_exactly(data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(hnp.arrays(dtype, shape))
    back = nncjit.decode(nncjit.encode({"i": array}))["i"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)


@settings(max_examples=EXAMPLES)
@given(st.data(), st.sampled_from(FLOATS), shapes)
def test_raw_floats_come_back_bit_for_bit(data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(hnp.arrays(dtype, shape))
    back = nncjit.decode(nncjit.encode({"f": array}, quantizer="raw"))["f"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.filterwarnings("ignore:.*(nothing is left|would not be smaller|levels would not fit):nncjit.NncWarning")
@pytest.mark.filterwarnings("ignore:.* has no effect without:nncjit.NncWarning")
@settings(max_examples=EXAMPLES)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    dtype=st.sampled_from(FLOATS),
    qp=st.integers(-30, 4),
    quantizer=st.sampled_from(["trellis", "uniform", "codebook", "auto"]),
    scan=st.integers(0, 4),
    unary=st.integers(1, 30),
    selection=st.sampled_from(["fast", "exact", "reference", "none"]),
    profile=st.sampled_from([0, 1]),
    rate_weight=st.sampled_from([0.0, 0.5]),
)
def test_values_come_back_near(
    seed: int,
    shape: tuple[int, ...],
    dtype: str,
    qp: int,
    quantizer: str,
    scan: int,
    unary: int,
    selection: str,
    profile: int,
    rate_weight: float,
) -> None:
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    data = nncjit.encode(
        {"f": array},
        qp=qp,
        quantizer=quantizer,
        scan_order=scan,
        unary_length=unary,
        selection=selection,
        profile=profile,
        rate_weight=rate_weight,
    )
    back = nncjit.decode(data, threads=2)["f"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    if array.size:
        step = 2.0 ** (qp / 4 + 0.2)
        allowed = (1.6 if rate_weight == 0 else 6) * step + 1e-3 * float(np.abs(array).max())
        assert float(np.abs(back.astype(np.float64) - array.astype(np.float64)).max()) <= allowed


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_keep_their_type(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.random.default_rng(0).standard_normal((20, 30)).astype(getattr(ml_dtypes, dtype))
    raw = nncjit.decode(nncjit.encode({"f": array}, quantizer="raw"))["f"]
    assert raw.dtype == array.dtype
    assert raw.tobytes() == array.tobytes()
    lossy = nncjit.decode(nncjit.encode({"f": array}, snr=35))["f"]
    assert lossy.dtype == array.dtype
    error = lossy.astype(np.float32) - array.astype(np.float32)
    assert float((error**2).mean()) < 0.02


def test_values_that_are_not_finite_are_kept_and_named() -> None:
    array = np.array([[1.0, np.nan], [-np.inf, 2.0]], np.float32)
    with pytest.warns(nncjit.NncWarning, match="broken"):
        data = nncjit.encode({"broken": array})
    assert nncjit.decode(data)["broken"].tobytes() == array.tobytes()


@pytest.mark.parametrize("value", [2**30 - 1, 2**30, -(2**30), 2**31, 2**53, 2**62, -(2**63)])
def test_integers_at_the_coders_limits(value: int) -> None:
    array = np.array([[value, -5], [7, 0]], np.int64)
    assert np.array_equal(nncjit.decode(nncjit.encode({"i": array}))["i"], array)


@pytest.mark.filterwarnings("ignore:.*step would be outside:nncjit.NncWarning")
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e20, 1e37])
def test_any_magnitude_keeps_its_precision(scale: float) -> None:
    array = (np.random.default_rng(1).standard_normal((64, 64)) * scale).astype(np.float32)
    back = nncjit.decode(nncjit.encode({"f": array}))["f"]
    error = np.square((back - array) / np.float32(scale)).mean()
    assert 10 * math.log10(1 / max(float(error), 1e-30)) > 15


def test_arrays_that_share_memory_are_stored_once_and_come_back_tied() -> None:
    table = np.random.default_rng(2).standard_normal((300, 40)).astype(np.float32)
    tied = nncjit.encode({"a": table, "x": np.zeros(3), "b": table})
    apart = nncjit.encode({"a": table, "x": np.zeros(3), "b": table.copy()})
    assert len(tied) < 0.6 * len(apart)
    back = nncjit.decode(tied)
    assert list(back) == ["a", "x", "b"]
    assert back["a"] is back["b"]
    assert list(nncjit.decode(tied, names=["b"])) == ["b"]


def test_order_names_and_odd_names_survive() -> None:
    names = ["z", "a.b.c", "", "späte Größe", "x" * 500, "_G", "fc_G", "fc_H", "w_scaling"]
    arrays = {name: np.full((2, 3), i, np.float32) for i, name in enumerate(names)}
    assert list(nncjit.decode(nncjit.encode(arrays))) == names


def test_an_empty_model_is_a_stream() -> None:
    assert nncjit.decode(nncjit.encode({})) == {}


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_bytes_and_values_do_not_depend_on_threads(threads: int) -> None:
    rng = np.random.default_rng(3)
    side = 700 if JIT else 70
    arrays = {f"w{i}": rng.standard_normal((side, 400 + i)).astype(np.float32) for i in range(3)}
    data = nncjit.encode(arrays, threads=threads)
    assert data == nncjit.encode(arrays, threads=3)
    one, many = nncjit.decode(data, threads=1), nncjit.decode(data, threads=threads)
    assert all(np.array_equal(one[name], many[name]) for name in arrays)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.zeros(2, np.clongdouble), np.array([None]), np.zeros(2, "M8[s]")]
)
def test_arrays_that_cannot_be_held_are_named(array: np.ndarray) -> None:
    with pytest.raises(nncjit.ModelError, match="wrong"):
        nncjit.encode({"wrong": array})


def test_a_stream_that_asks_for_too_much_is_refused_before_allocating() -> None:
    data = nncjit.encode({"w": np.zeros((1000, 1000), np.float32)})
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(data, max_bytes=1 << 20)


def test_narrow_types_of_other_writers_are_checked() -> None:
    # int8 data format with levels beyond it
    data = bytearray(nncjit.encode({"i": np.array([100, 120], np.int8)}))
    assert dtypes.find("int8").code == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nncjit.decode(bytes(data))["i"].dtype == np.int8


@pytest.mark.parametrize("qp", [-20, -120])
def test_values_beyond_any_step_are_kept_as_they_are(qp: int) -> None:
    array = (np.random.default_rng(0).standard_normal((9, 9)) * 1e30).astype(np.float32)
    with pytest.warns(nncjit.NncWarning, match="^w: its step would be outside"):
        assert np.array_equal(nncjit.decode(nncjit.encode({"w": array}, qp=qp))["w"], array)
