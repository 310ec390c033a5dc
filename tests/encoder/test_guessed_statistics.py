"""calibration="weights": metrics that are guessed from the weights, of any weights, and what they are good for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration, Statistics
from nncjit.encoder.weight_statistics import DAMPING, POWER, guessed_statistics, raised_correlation, statistics_of
from nncjit.errors import NncWarning, OptionError
from nncjit.model import Model, Role, Tensor

Arrays = dict[str, np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def behind_a_norm() -> tuple[Arrays, np.ndarray]:
    """A layer behind a norm whose gains differ, and what it reads."""
    gain = np.geomspace(0.1, 4, 96, dtype=np.float32)
    weights = {"a.norm.weight": gain, "a.norm.bias": np.zeros(96, np.float32), "a.fc.weight": normal(64, 96)}
    return weights, normal(2000, 96, seed=1) * gain


def decayed() -> tuple[Arrays, np.ndarray]:
    """A layer whose weights are what training made of inputs that go together, and such inputs."""
    mixed = normal(96, 96) * np.geomspace(3, 0.03, 96, dtype=np.float32) @ normal(96, 96, seed=1)
    mixed /= np.sqrt(np.square(mixed).mean())
    return {"fc.weight": normal(128, 96, seed=2) @ mixed}, normal(2000, 96, seed=3) @ mixed


@pytest.mark.parametrize("made", [behind_a_norm, decayed])
def test_outputs_are_better_at_equal_size(made: Any) -> None:
    weights, x = made()
    name = next(name for name in weights if name.endswith("fc.weight"))
    errors = []
    for calibration in (None, "weights"):
        decoded = nncjit.decode(nncjit.encode(weights, bits=3, calibration=calibration))[name]
        errors.append(np.square(x @ (decoded - weights[name]).T).mean())
    assert errors[1] < 0.8 * errors[0]


def test_steps_are_the_default_ones() -> None:
    weights = {"a": normal(64, 32), "b": normal(256, 128)}
    for quality in (0.5, 2.0):
        errors = []
        for calibration in (None, "weights"):
            decoded = nncjit.decode(nncjit.encode(weights, quality=quality, calibration=calibration))
            errors.append([np.square(decoded[name] - weights[name]).mean() for name in weights])
        np.testing.assert_allclose(errors[1], errors[0], rtol=0.25)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (1, 7), (7, 1)])
def test_both_ways_to_raise_correlations_agree(shape: tuple[int, int]) -> None:
    columns = normal(*shape)
    columns[:, 0] = 0
    unit = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
    strengths, axes = np.linalg.eigh((unit.T @ unit).astype(np.float64))
    wanted = axes * (np.maximum(strengths, 0) + DAMPING) ** POWER @ axes.T
    wanted /= np.sqrt(np.outer(wanted.diagonal(), wanted.diagonal()))
    np.testing.assert_allclose(raised_correlation(columns), wanted, atol=2e-5)


ODD = {
    "empty": np.zeros((0, 8), np.float32),
    "0-d": np.float32(3),
    "vector": normal(33),
    "zeros": np.zeros((16, 12), np.float32),
    "constant": np.full((16, 12), 0.5, np.float32),
    "offset": 3 + normal(16, 12) / 9,
    "not finite": np.where(normal(16, 12) > 2, np.float32(np.inf), normal(16, 12)),
    "huge values": normal(16, 12) * np.float32(1e30),
    "tiny values": normal(16, 12) * np.float32(1e-30),
    "outlier": np.where(np.arange(768).reshape(32, 24) == 5, np.float32(1e6), normal(32, 24)),
    "half": normal(16, 12).astype(np.float16),
    "double": normal(16, 12).astype(np.float64),
    "turned": normal(12, 16).T,
    "integers": np.arange(64, dtype=np.int32).reshape(8, 8),
    "row": normal(1, 64),
    "column": normal(64, 1),
    "kernel": normal(8, 4, 3, 3),
    "one channel": normal(8, 1, 3, 3),
    "one-dimensional kernel": normal(8, 4, 5),
    "volume": normal(4, 3, 2, 2, 2),
    "stack": normal(3, 16, 200),
    "wide": normal(4, 1500),
    "table": normal(200, 12),
    "low.weight": normal(5),
    "low.bias": normal(6),
    "norm.weight": np.full(12, np.nan, np.float32),
    "norm.bias": normal(12),
}


def test_any_weights_can_be_coded() -> None:
    weights = ODD | {"tied": ODD["kernel"]}
    with pytest.warns(NncWarning) as told:
        data = nncjit.encode(weights, calibration="weights")
    said = [str(warning.message) for warning in told]
    assert said == [
        "2 tensors are stored as they are, not finite among them: 3 values are not finite in float32",
        "2 tensors are stored as they are, huge values among them: its step would be outside 2^-32 to 2^31",
    ]
    decoded = nncjit.decode(data)
    assert list(decoded) == list(weights)
    for name, array in weights.items():
        wanted = np.asarray(array)
        assert decoded[name].shape == wanted.shape
        assert decoded[name].dtype == wanted.dtype
        finite = np.where(np.isfinite(wanted), wanted, 0).astype(np.float64)
        error = np.where(np.isfinite(wanted), decoded[name].astype(np.float64) - finite, 0)
        assert np.square(error / max(np.abs(finite).max(initial=0), 1e-300)).sum() <= 0.01 * max(wanted.size, 1), name


def test_a_model_without_matrices_is_coded_as_without() -> None:
    weights = {"v": normal(9), "n": np.arange(4)}
    assert nncjit.encode(weights, calibration="weights") == nncjit.encode(weights)


def test_metrics_follow_the_nearest_norm_and_leave_tables_alone() -> None:
    weights = {
        "word.weight": normal(200, 12),
        "0.norm.weight": np.full(12, 2, np.float32),
        "0.fc.weight": normal(24, 12),
        "1.norm.gamma": np.arange(12, dtype=np.float32),
        "1.norm.beta": np.ones(12, np.float32),
        "1.attention.query.weight": normal(12, 12),
        "1.conv.weight": normal(5, 4, 3, 1),
    }
    found = guessed_statistics(Model.from_mapping(weights))
    assert found.is_guess
    assert sorted(found) == ["0.fc.weight", "1.attention.query.weight", "1.conv.weight"]
    np.testing.assert_allclose(found["0.fc.weight"].diagonal(), 1)
    moment = np.arange(12.0) ** 2 + 1
    np.testing.assert_allclose(found["1.attention.query.weight"].diagonal(), moment / moment.mean(), rtol=1e-6)
    assert found["1.conv.weight"].metric().shape == (1, 12, 12)


def test_a_model_of_a_table_alone_gets_it_turned() -> None:
    table = normal(400, 16) @ (normal(16, 16, seed=1) * np.geomspace(1, 0.02, 16, dtype=np.float32)[:, None])
    data = nncjit.encode({"t": table}, calibration="weights")
    assert data.report.tensors[0].tool.endswith("DC")


def test_roles_tell_the_inputs() -> None:
    values = normal(24, 12)
    roles = {"in first": Role("weight", axis=1), "kernel": Role("weight", axis=3), "plain": None}
    shapes = {"in first": values, "kernel": values.reshape(2, 3, 4, 12), "plain": values}
    tensors = [
        Tensor(name, shapes[name].shape, "float32", lambda name=name: shapes[name], role=role)
        for name, role in roles.items()
    ]
    found = guessed_statistics(Model(tensors))
    assert {name: (t.record.axis, t.record.inputs) for name, t in found.items()} == {
        "in first": (0, 24),
        "plain": (1, 12),
    }


@pytest.mark.parametrize("options", [{"compatible": "nncodec"}, {"profile": 0}])
def test_streams_for_other_readers_hold_matrices_as_they_lie(options: Any) -> None:
    weights = {"w": normal(64, 32), "t": normal(300, 8)}
    with pytest.warns(NncWarning, match="^calibration has no effect on w: .* move dimensions"):
        data = nncjit.encode(weights, calibration="weights", **options)
    rows = {row.name: row for row in data.report.tensors}
    assert rows["w"].tool == "trellis"
    assert rows["w"].note.startswith("data-free: ")
    assert options == {"profile": 0} or rows["t"].tool == "trellis"
    assert np.array_equal(nncjit.decode(data)["w"], nncjit.decode(nncjit.encode(weights, **options))["w"])


@pytest.mark.parametrize("target", [{"bits": 3.0}, {"snr": 20.0}, {"ratio": 12.0}, {"rate_weight": 1.0}])
def test_targets_and_rates_work(tmp_path: Path, target: dict[str, float]) -> None:
    report = nncjit.compress(decayed()[0], tmp_path / "m.nnc", calibration="weights", **target)
    reached = {"bits": report.bits_per_weight, "snr": report.snr, "ratio": report.ratio}
    for kind in set(target) & set(reached):
        assert reached[kind] == pytest.approx(target[kind], rel=0.02)
    assert report.loss is None


@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_samples_unlike_those_in_use_give_shapes_beside_the_default_steps(tmp_path: Path) -> None:
    weights, x = behind_a_norm()
    weights |= {"b.fc.weight": normal(96, 64, seed=7), "t": normal(200, 16)}
    errors = {}
    for is_guess in (False, True):
        calibration = Calibration()
        calibration.is_guess = is_guess
        for k in range(20):
            calibration.linear("a.fc.weight", (64, 96)).add(x[8 * k : 8 * k + 8], 1e-3 * normal(8, 64, seed=k))
            calibration.linear("b.fc.weight", (96, 64)).add(normal(8, 64, seed=k), 1e3 * normal(8, 96, seed=k))
            calibration.table("t", (200, 16)).add(np.arange(9), normal(9, 16, seed=k))
            calibration.end_samples(1, output_power=1e8)
        calibration.save(tmp_path / "s.safetensors")
        again = Calibration()
        with Statistics.open(tmp_path / "s.safetensors") as found:
            again.merge(found)
        assert again.is_guess == found.is_guess == is_guess
        data = nncjit.encode(weights, calibration=tmp_path / "s.safetensors")
        assert (data.report.loss is None) == is_guess
        decoded = nncjit.decode(data)
        errors[is_guess] = {name: np.square(decoded[name] - weights[name]).mean() for name in weights}
    decoded = nncjit.decode(nncjit.encode(weights))
    plain = {name: np.square(decoded[name] - weights[name]).mean() for name in weights}
    assert errors[False]["a.fc.weight"] > 100 * errors[False]["b.fc.weight"]
    assert 0.5 < errors[True]["b.fc.weight"] / plain["b.fc.weight"] < 2
    assert errors[True]["t"] == pytest.approx(plain["t"], rel=0.3)
    with pytest.raises(OptionError, match="power of the output"):
        nncjit.encode(weights, calibration=tmp_path / "s.safetensors", loss=0.02)


def test_a_target_of_the_loss_needs_samples() -> None:
    with pytest.raises(OptionError, match="power of the output"):
        nncjit.encode(decayed()[0], calibration="weights", loss=0.02)


def test_one_file_and_several_give_the_same(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights = behind_a_norm()[0] | {"b.fc.weight": normal(80, 96, seed=5)}
    source, index = tmp_path / "m.safetensors", tmp_path / "m.nnc.index.json"
    save_file(weights, source)
    wanted = nncjit.decode(nncjit.encode(weights, calibration="weights"))
    nncjit.compress(source, tmp_path / "m.nnc", calibration="weights")
    nncjit.compress(source, index, calibration="weights", shard_bytes=20_000)
    nncjit.decompress(index, tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        for found in (nncjit.decode(tmp_path / "m.nnc"), back):
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)
    report = nncjit.compress(source, index, calibration="weights", shard_bytes=20_000, bits=3.0)
    assert report.bits_per_weight == pytest.approx(3, rel=0.02)


def test_nothing_is_read_before_it_is_needed() -> None:
    def refuse() -> np.ndarray:
        raise AssertionError

    model = Model([Tensor("w", (64, 32), "float32", refuse)])
    with statistics_of("weights", model) as found:
        assert found is not None
        assert found["w"].record.inputs == 32
    with statistics_of(None, model) as found:
        assert found is None
