"""Samples of matrices: as large as asked for, of all rows, read sparingly, and right about what coding will cost."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit import formats
from nncjit.encoder.model_samples import LEAST_SAMPLE, SPARING, take_samples
from nncjit.encoder.options import Options
from nncjit.encoder.plan import Plan
from nncjit.encoder.sampling import RUN, coded_runs
from nncjit.model import TensorInfo


@pytest.mark.parametrize("block_side", [0, 8, 16, 64, 256])
@pytest.mark.parametrize("shape", [(500, 70), (64, 4000), (3000, 9), (70000, 2)])
def test_runs_are_elements_of_the_matrix_from_all_its_rows(shape, block_side):
    flat = np.arange(shape[0] * shape[1])
    read = []

    def part(start, stop):
        read.append(stop - start)
        assert 0 <= start < stop <= flat.size
        return flat[start:stop]

    row = coded_runs(part, *shape, block_side, 4 * RUN)
    assert 2 * RUN < row.size <= 5 * RUN
    assert set(row.tolist()) <= set(flat.tolist())
    assert row.min() < flat.size // 2 < row.max()
    if block_side:
        assert len(set((row // shape[1]).tolist())) >= min(shape[0] // 2, 4 * RUN // block_side // 2, 64)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A matrix whose rows have spreads of their own, as those of trained models do."""
    rng = np.random.default_rng(1)
    spread = 0.02 * np.exp(rng.normal(0, 0.5, (1024, 1)))
    values = (rng.standard_normal((1024, 256)) * spread).astype(np.float32)
    path = tmp_path_factory.mktemp("uneven") / "m.safetensors"
    with formats.create(path, [TensorInfo("w", values.shape, "float32")]) as writer:
        writer.put("w", values)
    return path


def test_a_sample_reads_few_elements_and_tells_the_size(uneven):
    with formats.open_model(uneven) as model:
        (tensor,) = model
        assert tensor.part is not None
        assert tensor.size >= SPARING * LEAST_SAMPLE
        plan = Plan.of(model.infos, Options(bits=3))
        (sample,) = take_samples(model, plan, None, total=1 << 40)
        assert sum(part.part.values.size for part in sample.parts) < 2 * LEAST_SAMPLE
        (whole,) = take_samples(model, plan, None)
    assert sample.cost(plan).bits == pytest.approx(whole.cost(plan).bits, rel=0.05)
    assert sample.power == pytest.approx(whole.power, rel=0.3)


def test_parts_of_a_tensor_are_those_of_the_whole(uneven):
    with formats.open_model(uneven) as model:
        (tensor,) = model
        assert tensor.part is not None
        np.testing.assert_array_equal(tensor.part(1000, 2345), tensor.read().reshape(-1)[1000:2345])
        assert tensor.part(7, 7).size == 0
    with pytest.raises(nncjit.ModelError, match="is closed"):
        tensor.part(0, 1)


def test_a_size_is_hit_by_samples_alone(uneven, tmp_path):
    report = nncjit.compress(uneven, tmp_path / "m.nnc", bits=3, shard_bytes="1GB")
    assert report.bits_per_weight == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("options", [{"snr": 20.0}, {"bits": 3.0}, {"rules": {"b": {"snr": 30.0}}}], ids=str)
def test_what_a_target_takes_is_told_from_start_to_end(options):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 1, (60, 50)).astype(np.float32) for name in "abc"}
    told = []
    nncjit.encode(arrays, progress=lambda *moved: told.append(moved), **options)
    names = [name for _, _, name in told]
    assert list(dict.fromkeys(names)) == ["samples", "search", "a", "b", "c"]
    for phase in ("samples", "search"):
        moves = [(done, total) for done, total, name in told if name == phase]
        assert moves == sorted(moves)
        assert moves[-1] == (9000, 9000)
        assert names[names.index(phase) : names.index(phase) + len(moves)] == [phase] * len(moves)
