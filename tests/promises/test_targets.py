"""A target is hit within 1 %, or what was reached is said."""

from __future__ import annotations

import re

import numpy as np
import pytest

import nncjit
from nncjit.cli.main import main

RNG = np.random.default_rng(1)
MISSES = {
    "tiny": ({"w": RNG.normal(0, 1, (8, 8)).astype(np.float32)}, {"bits": 4}),
    "integers": ({"n": np.arange(1000)}, {"ratio": 1}),
    "too small": ({"w": RNG.normal(0, 1, (64, 64)).astype(np.float32)}, {"bits": 0.01}),
    "vectors": ({"b": RNG.normal(0, 1, 3000).astype(np.float32)}, {"bits": 2}),
    "exact already": ({"w": RNG.normal(0, 1, (64, 64)).astype(np.float16)}, {"bits": 30}),
    "raw by rule": ({"w": RNG.normal(0, 1, (64, 64)).astype(np.float32)}, {"bits": 4, "rules": {"w": "raw"}}),
    "no dB": ({"n": np.arange(10)}, {"snr": 20}),
    "empty": ({"e": np.zeros((0, 3), np.float32)}, {"ratio": 10}),
}


@pytest.mark.parametrize("case", MISSES)
@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_a_miss_is_said(case: str) -> None:
    arrays, options = MISSES[case]
    with pytest.warns(nncjit.NncWarning, match=r"is [\d.]+, (reached [\d.]+|nothing is lost): "):
        nncjit.encode(arrays, **options)


def test_a_miss_is_said_on_the_command_line(tmp_path, capsys) -> None:
    np.savez(tmp_path / "m.npz", w=RNG.normal(0, 1, (8, 8)).astype(np.float32))
    assert main(["compress", str(tmp_path / "m.npz"), "-o", str(tmp_path / "m.nnc"), "--bits", "4", "-q"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    said = re.fullmatch(r"nncjit: warning: bits is 4, reached ([\d.]+): .+", line)
    assert said
    assert float(said[1]) == pytest.approx(8 * (tmp_path / "m.nnc").stat().st_size / 64, rel=0.01)


@pytest.mark.parametrize("case", ["tiny", "integers", "exact already"])
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_a_target_out_of_reach_ruins_nothing(case: str) -> None:
    arrays, options = MISSES[case]
    back = nncjit.decode(nncjit.encode(arrays, **options))
    for name, array in arrays.items():
        error = np.square(back[name].astype(np.float64) - array).sum()
        assert error < 0.25 * np.square(array.astype(np.float64)).sum()


@pytest.mark.parametrize("target", ["bits:3", "snr:20", "bits:0.6", "snr:45"])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_target_of_one_tensor_is_hit(target: str, name: str) -> None:
    arrays = {"w": RNG.normal(0, 1, (300, 300)).astype(np.float32), "b": RNG.laplace(0, 1, 20000).astype(np.float32)}
    data = nncjit.encode(arrays, rules={name: target})
    kind, wanted = target.split(":")
    if kind == "snr":
        error = np.square(nncjit.decode(data)[name].astype(np.float64) - arrays[name]).sum()
        reached = 10 * np.log10(np.square(arrays[name].astype(np.float64)).sum() / error)
    else:
        (tensor,) = (t for t in nncjit.inspect(data).tensors if t.name == name)
        reached = tensor.bits_per_weight
    assert reached == pytest.approx(float(wanted), rel=0.011)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (RNG.normal(0, 1, (100, 100)).astype(np.float16), {"bits": 16}),
        (RNG.normal(0, 1, (100, 100)).astype(np.float32), {"bits": 32}),
        (RNG.normal(0, 1, (100, 100)).astype(np.float16), {"ratio": 100}),
        (RNG.normal(0, 1, (100, 100)).astype(np.float16), {"qp": -60}),
        (RNG.normal(0, 1e-30, (100, 100)).astype(np.float32), {}),
        (RNG.integers(-(2**31), 2**31, 5000).astype(np.int32), {}),
        (RNG.integers(0, 256, 5000).astype(np.uint8), {"ratio": 50}),
    ],
)
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_what_is_not_smaller_than_its_own_bytes_is_stored_exactly(array: np.ndarray, options: dict) -> None:
    data = nncjit.encode({"w": array}, **options)
    assert len(data) < array.nbytes + 300
    if len(data) >= 0.99 * array.nbytes:
        np.testing.assert_array_equal(nncjit.decode(data)["w"], array)


def test_small_floats_of_ml_dtypes_are_exact_where_they_would_not_shrink() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype, options in ((ml_dtypes.bfloat16, {"bits": 16}), (ml_dtypes.float8_e4m3fn, {"bits": 8})):
        array = RNG.normal(0, 1, (100, 100)).astype(dtype)
        data = nncjit.encode({"w": array}, **options)
        assert len(data) < array.nbytes + 200
        assert nncjit.decode(data)["w"].tobytes() == array.tobytes()


def packed_nibbles(n: int) -> np.ndarray:
    nibbles = np.clip(np.rint(RNG.normal(8, 2, (n, 8))), 0, 15).astype(np.uint32)
    return (nibbles << 4 * np.arange(8, dtype=np.uint32)).sum(axis=1, dtype=np.uint32).view(np.int32)


@pytest.mark.parametrize(
    ("array", "most"),
    [
        (np.full(4096, 100, np.int8), 120),
        (np.full((64, 64), -(2**30) + 5, np.int32), 120),
        (np.full(1024, -(2**31), np.int32), 200),
        (np.full(100, 2**64 - 1, np.uint64), 250),
        (np.zeros(10**6, np.int64), 120),
        (np.ones(10**5, bool), 200),
        (RNG.choice([1000, 50000, -7], 10000), 3000),
        (packed_nibbles(40000), 0.9 * 160000),
        (packed_nibbles(40000).astype(np.int64) << 32, 0.5 * 320000),
    ],
    ids=lambda x: str(getattr(x, "dtype", x)),
)
def test_integers_are_coded_as_what_they_are(array: np.ndarray, most: float) -> None:
    data = nncjit.encode({"n": array})
    assert len(data) < most
    back = nncjit.decode(data)["n"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("kept", [{"w": "raw"}, {"w": "rank:3"}, {"w": "group:g"}, {"w": "first_dimension:1"}])
def test_streams_for_nncodec_refuse_by_name_what_it_cannot_read(kept: dict) -> None:
    arrays = {"w": RNG.normal(0, 1, (20, 30)).astype(np.float32)}
    with pytest.raises(nncjit.OptionError, match=r"^w: .*nncodec"):
        nncjit.encode(arrays, rules=kept, compatible="nncodec")


@pytest.mark.parametrize("options", [{"profile": 0}, {"references": "index"}, {"max_unit_bytes": 500}])
def test_streams_for_nncodec_are_of_one_form(options: dict) -> None:
    with pytest.raises(nncjit.OptionError, match=next(iter(options))):
        nncjit.encode({"w": np.ones((3, 4), np.float32)}, compatible="nncodec", **options)


def test_streams_for_nncodec_have_no_raw_units() -> None:
    arrays = {"s": np.float32(3.3), "w": RNG.normal(0, 1, (20, 30)).astype(np.float32), "f": np.float64(1e-3)}
    tools = {t.name: t.tools for t in nncjit.inspect(nncjit.encode(arrays, compatible="nncodec")).tensors}
    assert all("raw" not in used for used in tools.values())
    broken = {"bad.weight": np.array([[np.nan, 1]], np.float32)}
    with pytest.raises(nncjit.OptionError, match=r"bad\.weight.*nncodec"):
        nncjit.encode(broken, compatible="nncodec")
