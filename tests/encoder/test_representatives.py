"""Many small tensors: a few of each kind tell what all of them take, and targets are hit or their miss is explained."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import nncjit
from nncjit.encoder.model_samples import take_samples
from nncjit.encoder.options import Options
from nncjit.encoder.plan import Plan
from nncjit.encoder.representatives import KEPT, representatives
from nncjit.model import Model

COUNT = 160


def many(shape):
    """Tensors of very different magnitudes, and some of other kinds."""
    rng = np.random.default_rng(0)
    model = {f"t{k}": rng.normal(0, 2.0 ** (k % 7), shape).astype(np.float32) for k in range(COUNT)}
    return model | {"large": rng.normal(0, 1, (90, 100)).astype(np.float32), "bias": np.ones(16, np.float32)}


@pytest.fixture(scope="module")
def model():
    return many((16, 16))


def test_a_few_stand_for_all_that_are_alike(model):
    source = Model.from_mapping(model)
    plan = Plan.of(source.infos, Options(rules={"t[0-9]": {"snr": 30.0}}))
    plan = replace(plan, own_scales={f"t{k}": 1.0 for k in range(10)})
    samples = take_samples(source, plan, None)
    kept = representatives(samples, source, plan)
    assert len(kept) == KEPT + 10 + 2
    assert sum(sample.count for sample in kept) == COUNT + 2
    assert sum(sample.power for sample in kept) == pytest.approx(sum(sample.power for sample in samples))
    for scale in (0.5, 2.0):
        at = replace(plan, scale=scale)
        told, right = ([sample.cost(at) for sample in some] for some in (kept, samples))
        bits = sum(cost.bits for cost in told) + sum(s.count * (256 - s.header_bits) for s in kept)
        assert bits == pytest.approx(sum(cost.bits for cost in right), rel=0.01)
        assert sum(c.error for c in told) == pytest.approx(sum(c.error for c in right), rel=0.03)


@pytest.mark.parametrize("target", [{"bits": 5.0}, {"snr": 30.0}])
def test_several_streams_of_small_tensors_hit_a_target(model, target, tmp_path):
    np.savez(tmp_path / "m.npz", **model)
    report = nncjit.compress(tmp_path / "m.npz", tmp_path / "m.nnc", shard_bytes="90KB", **target)
    weights = sum(array.size for array in model.values())
    reached = {"bits": 8 * report.compressed_bytes / weights, "snr": report.snr}
    assert all(reached[kind] == pytest.approx(wanted, rel=0.01) for kind, wanted in target.items())


def test_headers_that_leave_no_room_are_named_and_the_weights_keep_their_rate(tmp_path):
    np.savez(tmp_path / "m.npz", **{name: array for name, array in many((4, 4)).items() if name[0] == "t"})
    bits = 0.0
    for options in ({}, {"shard_bytes": "6KB"}):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            report = nncjit.compress(tmp_path / "m.npz", tmp_path / "m.nnc", bits=3, **options)
        (warning,) = [one for one in said if one.category is nncjit.NncWarning]
        assert str(warning.message).startswith("bits is 3, reached ")
        assert "headers, vectors, integers and raw tensors take most of that" in str(warning.message)
        assert report.compressed_bytes == pytest.approx(bits or report.compressed_bytes, rel=0.1)
        bits = report.compressed_bytes
