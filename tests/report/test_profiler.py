"""Where time, bytes and memory go: sums are right, and a stream has one way only."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import nncjit
from nncjit.encoder.options import Options
from nncjit.report.profiler import profile

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "model.safetensors"
    large = RANDOM.standard_normal((300, 200), dtype=np.float32)
    save_file({"small": large[:20, :10].copy(), "large": large, "bias": large[0].copy(), "n": np.arange(5)}, path)
    return path


@pytest.fixture(scope="module")
def found(model):
    return profile(model, Options(qp=-20))


def test_stages_add_up_to_the_whole(found):
    for way in (found.compress, found.decompress):
        assert sum(row.seconds for row in way.stages) == pytest.approx(way.seconds, rel=0.05)
        assert sum(row.cpu_seconds for row in way.stages) == pytest.approx(way.cpu_seconds, rel=0.05, abs=2e-3)
        assert [row.cpu_seconds for row in way.stages] == sorted((r.cpu_seconds for r in way.stages), reverse=True)
        assert way.peak_bytes > way.idle_bytes > 10e6
        assert way.seconds_with_threads > 0
    assert {row.name for row in found.compress.stages} >= {"read", "plan", "quantise", "code", "syntax", "write"}
    assert {row.name for row in found.decompress.stages} >= {"parse", "decode", "write"}
    assert all(row.peak_bytes > 0 for row in found.compress.stages if row.name in ("quantise", "code"))


def test_bytes_add_up_to_the_file(found, model, tmp_path):
    size = nncjit.compress(model, tmp_path / "model.nnc", qp=-20).compressed_bytes
    assert sum(found.bytes_by_kind.values()) == size
    assert 0.9 * size < found.bytes_by_kind["payloads"] < size
    assert sum(row.bytes for row in found.tensors) <= size


def test_tensors_are_sorted_and_each_is_charged(found):
    assert found.tensors[0].name == "large"
    assert {row.name for row in found.tensors} == {"small", "large", "bias", "n"}
    assert all(row.compress_seconds > 0 and row.bytes > 0 for row in found.tensors)
    assert [row.bytes for row in found.tensors] == sorted((row.bytes for row in found.tensors), reverse=True)
    assert sum(row.original_bytes for row in found.tensors) == found.original_bytes


def test_a_stream_has_its_way_back_only(model, tmp_path):
    nncjit.compress(model, tmp_path / "model.nnc")
    found = profile(tmp_path / "model.nnc", threads=1)
    assert found.compress is None
    assert found.decompress.threads == 1
    assert found.decompress.seconds_with_threads == found.decompress.seconds
    assert all(row.compress_seconds == 0 for row in found.tensors)
    json.dumps(found.to_dict(), allow_nan=False)


def test_calibrated_stages_and_factors_are_charged(tmp_path):
    path = tmp_path / "model.safetensors"
    axes = RANDOM.standard_normal((1600, 3), dtype=np.float32) @ RANDOM.standard_normal((3, 32), dtype=np.float32)
    table = axes + 0.1 * RANDOM.standard_normal(axes.shape, dtype=np.float32)
    norm = {"norm.weight": np.geomspace(0.1, 2, 96, dtype=np.float32), "norm.bias": np.zeros(96, np.float32)}
    save_file({"table": table, "fc.weight": RANDOM.standard_normal((64, 96), dtype=np.float32), **norm}, path)
    found = profile(path, calibration="weights", threads=1)
    peaks = {row.name: row.peak_bytes for row in found.compress.stages}
    assert min(peaks[name] for name in ("factorise", "quantise", "transform", "code")) > 0
    rows = {row.name: row for row in found.tensors}
    assert set(rows) == {"table", "fc.weight", *norm}
    assert rows["table"].shape == table.shape
    assert rows["table"].bytes > 0.05 * rows["table"].original_bytes > 10 * rows["norm.bias"].bytes
