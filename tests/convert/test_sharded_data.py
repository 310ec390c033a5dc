"""What several streams are given beside the options: metadata, and the statistics of the model at work."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from convert.models import write_model

import nncjit
from nncjit.calibrate import Calibration, Statistics

SHAPES = {f"layers.{k}.weight": (48, 64) for k in range(4)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(0)
    model = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return write_model(tmp_path_factory.mktemp("source") / "m.safetensors", model)


@pytest.fixture(scope="module")
def statistics(source):
    rng, path = np.random.default_rng(1), source.with_name("m.stats.safetensors")
    calibration = Calibration()
    for _ in range(4):
        for name, (rows, columns) in SHAPES.items():
            x = rng.normal(0, 1, (200, columns)) * np.exp(rng.normal(0, 1, columns))
            calibration.linear(name, (rows, columns)).add(x, rng.normal(0, 1, (200, rows)))
        calibration.end_samples(200, output_power=200.0 * 64)
    calibration.save(path)
    return path


def test_metadata_is_added_to_every_stream_and_is_part_of_what_is_wanted(source, tmp_path):
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", metadata={"licence": "mine"})
    streams = sorted(tmp_path.glob("m-*.nnc"))
    assert len(streams) > 1
    assert {nncjit.inspect(path).metadata["licence"] for path in streams} == {"mine"}
    before = [path.stat().st_ino for path in streams]
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", metadata={"licence": "mine"})
    assert [path.stat().st_ino for path in streams] == before
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", metadata={"licence": "theirs"})
    assert {nncjit.inspect(path).metadata["licence"] for path in streams} == {"theirs"}
    with pytest.raises(nncjit.OptionError, match=r"metadata is .* must be texts by name"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", metadata={"licence": 5})


def test_a_plan_keeps_metadata(source, tmp_path):
    plan = tmp_path / "plan.json"
    nncjit.compress(source, tmp_path / "m.nnc", plan=plan, metadata={"licence": "mine"}, dry_run=True)
    assert json.loads(plan.read_text())["metadata"] == {"licence": "mine"}
    nncjit.compress(source, tmp_path / "m.nnc", plan=plan)
    assert nncjit.inspect(tmp_path / "m.nnc.index.json").metadata["licence"] == "mine"
    with pytest.raises(nncjit.OptionError, match="other metadata"):
        nncjit.compress(source, tmp_path / "m.nnc", plan=plan, metadata={"licence": "theirs"})


def test_statistics_decide_in_several_streams_as_in_one(source, statistics, tmp_path):
    one = nncjit.compress(source, tmp_path / "one.nnc", calibration=statistics)
    with ThreadPoolExecutor(2) as pool:
        several = nncjit.compress(source, tmp_path / "m.nnc", calibration=statistics, shard_bytes="20KB", executor=pool)
    assert several.loss == pytest.approx(one.loss)
    assert {row.tool for row in several.tensors} == {"feedback + LS"}
    together = nncjit.decode(tmp_path / "m.nnc.index.json")
    for name, array in nncjit.decode(tmp_path / "one.nnc").items():
        np.testing.assert_array_equal(together[name], array)
    with Statistics.open(statistics) as opened, pytest.raises(nncjit.OptionError, match="give its path"):
        nncjit.compress(source, tmp_path / "m.nnc", calibration=opened, shard_bytes="20KB")


@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_sensitivity_decides_in_several_streams_as_in_one(scope, source, tmp_path):
    rng = np.random.default_rng(2)
    values = {name: np.exp(rng.normal(0, 2, shape)).astype(np.float32) for name, shape in SHAPES.items()}
    path = write_model(tmp_path / "importance.safetensors", values)
    options = {"zeros": 0.5, "zeros_scope": scope}
    nncjit.compress(source, tmp_path / "one.nnc", sensitivity=values, **options)
    nncjit.compress(source, tmp_path / "same.nnc", sensitivity=path, **options)
    assert (tmp_path / "same.nnc").read_bytes() == (tmp_path / "one.nnc").read_bytes()
    nncjit.compress(source, tmp_path / "m.nnc", sensitivity=path, shard_bytes="20KB", **options)
    together = nncjit.decode(tmp_path / "m.nnc.index.json")
    for name, array in nncjit.decode(tmp_path / "one.nnc").items():
        np.testing.assert_array_equal(together[name], array)
    streams = sorted(tmp_path.glob("m-*.nnc"))
    before = [stream.read_bytes() for stream in streams]
    write_model(path, {name: 1 / array for name, array in values.items()})
    nncjit.compress(source, tmp_path / "m.nnc", sensitivity=path, shard_bytes="20KB", **options)
    assert not set(before) & {stream.read_bytes() for stream in streams}


@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")  # samples of so few weights tell it within some percent
@pytest.mark.parametrize("target", [{"bits": 3.0}, {"loss": 0.02}])
def test_targets_are_hit_with_statistics(target, source, statistics, tmp_path):
    report = nncjit.compress(source, tmp_path / "m.nnc", calibration=statistics, shard_bytes="20KB", **target)
    kind, wanted = next(iter(target.items()))
    reached = {"bits": report.bits_per_weight, "loss": report.loss}[kind]
    assert reached == pytest.approx(wanted, rel=0.05)


def test_other_statistics_make_other_streams(source, statistics, tmp_path):
    copy = tmp_path / "s.safetensors"
    copy.write_bytes(statistics.read_bytes())
    plan = tmp_path / "plan.json"
    nncjit.compress(source, tmp_path / "m.nnc", calibration=copy, plan=plan, dry_run=True)
    with pytest.raises(nncjit.ModelError, match="statistics, are not what was planned for"):
        nncjit.compress(source, tmp_path / "m.nnc", plan=plan)
    with pytest.raises(nncjit.OptionError, match="pruning cannot be given"):
        nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", pruning=object())


def test_sampling_and_encoding_both_tell_how_far_they_are(source, tmp_path):
    told = []
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes="20KB", snr=25, progress=lambda *moved: told.append(moved))
    samples = [(done, total) for done, total, name in told if name == "samples"]
    files = [(done, total) for done, total, name in told if name != "samples"]
    for moves in (samples, files):
        assert moves == sorted(moves)
        assert moves[-1][0] == moves[-1][1] == 4 * 48 * 64
