"""The reference's series of updates, applied like our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nncjit
from nncjit.syntax import UnitType, read_units
from nncjit.updates import Receiver

MODELS = Path(__file__).parents[1] / "vectors" / "models"
SERIES = sorted({path.stem.rsplit("-", 1)[0] for path in MODELS.glob("e2-incremental-*.nnc")})
assert len(SERIES) == 3


def expected(path):
    with np.load(path.with_suffix(".npz")) as archive:
        return dict(archive)


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_series_adds_up(series, in_folder, tmp_path):
    paths = sorted(MODELS.glob(f"{series}-*.nnc"))
    model = {name: np.full(array.shape, 0.25, np.float32) for name, array in expected(paths[0]).items()}
    base = {name: array.copy() for name, array in model.items()}
    receiver = Receiver(base, folder=tmp_path / "r" if in_folder else None)
    for path in paths:
        for name, change in expected(path).items():
            model[name] = model[name] + change
        found = receiver.apply(path)
        assert all(np.array_equal(found[name], array) for name, array in model.items())
    at_once = nncjit.apply(base, *paths)
    assert all(np.array_equal(at_once[name], array) for name, array in model.items())
    with pytest.raises(
        nncjit.UpdateError, match="builds on parameter 0 at depth 1, the model has parameter 0 at depth 4"
    ):
        receiver.apply(paths[1])


@pytest.mark.parametrize("series", SERIES)
def test_updates_of_a_tensor_in_one_stream_build_on_each_other(series):
    first, *others = (path.read_bytes() for path in sorted(MODELS.glob(f"{series}-*.nnc")))
    apart, together = nncjit.UpdateState(), nncjit.UpdateState()
    one_stream = first
    for data in (first, *others):
        last = nncjit.decode(data, state=apart)
    for data in others:
        one_stream += b"".join(
            data[unit.offset : unit.offset + unit.size] for unit in read_units(data) if unit.type == UnitType.NDU
        )
    found = nncjit.decode(one_stream, state=together)
    assert all(np.array_equal(found[name], array) for name, array in last.items())
    assert all(np.array_equal(together.levels[key], levels) for key, levels in apart.levels.items())
    assert all(np.array_equal(together.touched[key], marks) for key, marks in apart.touched.items())
