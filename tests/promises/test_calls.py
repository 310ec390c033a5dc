"""Calls that are nearly right: what is meant is done, or refused without harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nncjit

VECTORS = Path(__file__).parent.parent / "vectors" / "models"
ARRAYS = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.arange(3, dtype=np.int32)}


@pytest.mark.parametrize(
    "names", ["weight", ["weight"], {"weight"}, (n for n in ["weight"]), iter(["weight", "weight"]), {"weight": 1}]
)
def test_names_may_be_any_iterable_or_one_name(names: object) -> None:
    back = nncjit.decode(nncjit.encode(ARRAYS), names=names)
    assert list(back) == ["weight"]


def test_no_names_are_none_and_wrong_ones_are_refused() -> None:
    data = nncjit.encode(ARRAYS)
    assert nncjit.decode(data, names=[]) == {}
    assert nncjit.decode(data, names=(n for n in [])) == {}
    with pytest.raises(nncjit.ModelError, match="weigth"):
        nncjit.decode(data, names="weigth")
    with pytest.raises(nncjit.OptionError, match="names holds 3"):
        nncjit.decode(data, names=[3])


def test_a_refused_update_leaves_the_state_as_it_was() -> None:
    base, *updates = sorted(VECTORS.glob("e2-incremental-hdsp-*.nnc"))
    state, untouched = nncjit.UpdateState(), nncjit.UpdateState()
    nncjit.decode(base.read_bytes(), state=state)
    nncjit.decode(base.read_bytes(), state=untouched)
    data = updates[0].read_bytes()
    for cut in range(len(data) // 2, len(data), max(len(data) // 60, 1)):
        damaged = bytearray(data[:cut])
        with pytest.raises(nncjit.BitstreamError):
            nncjit.decode(bytes(damaged), state=state)
    wanted, found = (nncjit.decode(data, state=s) for s in (untouched, state))
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def sharded(folder: Path) -> Path:
    """A model in two files, with its index."""
    folder.mkdir()
    shards = {"model-1.safetensors": {"a": np.ones((4, 5), np.float32)}, "model-2.safetensors": {"b": np.zeros(3)}}
    for name, arrays in shards.items():
        save_file(arrays, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    return index


def test_shards_never_replace_files_of_another_model(tmp_path: Path) -> None:
    nncjit.compress(sharded(tmp_path / "source"), tmp_path / "m.nnc")
    folder = tmp_path / "other"
    other = sharded(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(nncjit.ModelError, match=r"model-1\.safetensors exists and is no part of"):
        nncjit.decompress(tmp_path / "m.nnc", folder / "mine.safetensors.index.json")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    nncjit.decompress(tmp_path / "m.nnc", other)  # its own files may be replaced
    nncjit.decompress(tmp_path / "m.nnc", other)
    np.testing.assert_allclose(load_file(folder / "model-1.safetensors")["a"], 1, rtol=0.01)
    assert len(list(folder.iterdir())) == 3
