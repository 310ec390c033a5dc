"""Two models of any formats, tensor by tensor."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import nncjit

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((30, 20), dtype=np.float32)


def row(a, b):
    (found,) = nncjit.diff({"w": a}, {"w": b}).tensors
    return found


def test_equal_is_bit_for_bit():
    assert nncjit.diff({"w": WEIGHTS}, {"w": WEIGHTS.copy()}).equal
    assert row(np.array([np.nan]), np.array([np.nan])).equal
    zero = row(np.array([0.0]), np.array([-0.0]))
    assert not zero.equal
    assert zero.snr == math.inf


def test_ratio_and_largest_difference():
    other = WEIGHTS.copy()
    other[3, 4] += 0.5
    found = row(WEIGHTS, other)
    assert found.largest == pytest.approx(0.5)
    assert found.snr == pytest.approx(10 * np.log10((WEIGHTS.astype(float) ** 2).sum() / 0.25), abs=1e-3)
    assert found.says == "values"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn])
def test_types_are_compared_by_value(dtype):
    found = row(WEIGHTS, WEIGHTS.astype(dtype))
    assert found.says == f"type float32 -> {np.dtype(dtype).name}"
    assert found.snr == math.inf if dtype == np.float64 else 20 < found.snr < 90


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_finite_in_one_only_is_infinitely_far(value):
    other = WEIGHTS.copy()
    other[0, 0] = value
    found = row(WEIGHTS, other)
    assert (found.largest, found.snr) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3), np.float32), np.float32(2), np.zeros(5, bool), np.arange(4, dtype=np.uint64)]
)
def test_odd_arrays(array):
    assert row(array, array).equal


def test_missing_tensors_and_other_shapes():
    found = nncjit.diff({"a": WEIGHTS, "b": WEIGHTS}, {"b": WEIGHTS[:5], "c": WEIGHTS})
    assert [t.says for t in found.tensors] == ["only in the first", "shape 30 x 20 -> 5 x 20", "only in the second"]
    assert found.snr is None
    assert "2 in one only" in str(found)


def test_any_two_formats_on_the_command_line(tmp_path, monkeypatch, capsys):
    from nncjit.cli.main import main

    monkeypatch.chdir(tmp_path)
    save_file({"w": WEIGHTS, "n": np.arange(3)}, "m.safetensors")
    np.savez("m.npz", w=WEIGHTS, n=np.arange(3))
    nncjit.compress("m.npz", "m.nnc", snr=30)
    assert main(["diff", "m.safetensors", "m.npz"]) == 0
    assert "2 tensors equal, 0 differ" in capsys.readouterr().out
    assert main(["diff", "m.npz", "m.nnc", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["snr"] == pytest.approx(30, abs=0.4)
    assert main(["-q", "diff", "m.npz", "none.nnc"]) == 1
    assert main(["report", "m.nnc", "--against", "m.npz", "-o", "m.html"]) == 0
    assert "m.nnc -> m.html" in capsys.readouterr().out


def test_tied_tensors_and_streams_in_memory():
    stream = nncjit.encode({"a": WEIGHTS, "b": WEIGHTS}, preset="lossless")
    assert nncjit.diff({"a": WEIGHTS, "b": WEIGHTS}, stream).equal


def test_wrong_sources_are_our_errors():
    for source in (5, "none.nnc", b"", {"a": object()}, None):
        with pytest.raises(nncjit.NncError):
            nncjit.diff(source, {"a": WEIGHTS})
