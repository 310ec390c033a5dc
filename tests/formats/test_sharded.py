"""Models in several files: the layout comes back, and the index is not believed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_files import assert_same_bits, every_kind, load, save

from nncjit.errors import ModelError
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def two_files(folder):
    """A model whose names alternate between two files."""
    shards = zip("dabc", [ONE, TWO] * 2, strict=True)
    infos = [TensorInfo(name, (2, 3), "float32", shard=shard) for name, shard in shards]
    return infos, save(folder / INDEX, infos, {"format": "pt"})


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sharded_model_comes_back_sharded(tmp_path):
    infos, written = two_files(tmp_path)
    got, arrays, metadata = load(tmp_path / INDEX)
    assert names_in(tmp_path) == sorted([INDEX, ONE, TWO])
    assert got == infos
    assert metadata == {"format": "pt"}
    assert_same_bits(arrays, {name: written[name] for name in "dabc"})
    again = tmp_path / "again"
    again.mkdir()
    save(again / INDEX, got, metadata, arrays=arrays)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    }


def test_the_index_is_that_of_the_hub(tmp_path):
    two_files(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index == {"metadata": {"total_size": 96}, "weight_map": {"d": ONE, "a": TWO, "b": ONE, "c": TWO}}
    assert list(index["weight_map"]) == list("dabc")


def test_each_file_is_a_model_of_its_own(tmp_path):
    _, written = two_files(tmp_path)
    _, arrays, metadata = load(tmp_path / ONE)
    assert metadata == {"format": "pt"}
    assert_same_bits(arrays, {name: written[name] for name in "db"})


@pytest.mark.parametrize(("size", "files"), [(None, 1), (95, 2), (48, 2), (47, 4), (1, 4), (1000, 1)])
def test_files_hold_up_to_the_size_asked_for(tmp_path, size, files):
    infos = [TensorInfo(name, (2, 3), "float32") for name in "abcd"]
    save(tmp_path / INDEX, infos, shard_size=size)
    shards = [f"model-{i:05d}-of-{files:05d}.safetensors" for i in range(1, files + 1)]
    assert names_in(tmp_path) == [*shards, INDEX]
    assert [info.name for info in load(tmp_path / INDEX)[0]] == list("abcd")


def test_a_size_asked_for_overrides_the_layout(tmp_path):
    infos, _ = two_files(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    save(out / INDEX, infos, shard_size=1000)
    assert names_in(out) == ["model-00001-of-00001.safetensors", INDEX]


def test_one_file_takes_the_tensors_of_many(tmp_path):
    infos, written = two_files(tmp_path)
    save(tmp_path / "whole.safetensors", infos, arrays=written)
    assert_same_bits(load(tmp_path / "whole.safetensors")[1], {name: written[name] for name in "dabc"})


def test_every_dtype_and_a_memory_map(tmp_path):
    written = save(tmp_path / INDEX, every_kind(), shard_size=500)
    infos, arrays, _ = load(tmp_path / INDEX, mmap=True)
    assert len(names_in(tmp_path)) > 3
    assert_same_bits(arrays, {info.name: written[info.name] for info in infos})


def test_ties_reach_across_files(tmp_path):
    infos = [TensorInfo("w", (3,), "float32", shard=ONE), TensorInfo("v", (3,), "float32", "w", shard=TWO)]
    written = save(tmp_path / INDEX, infos)
    assert_same_bits(load(tmp_path / INDEX)[1], written)
    assert_same_bits(load(tmp_path / TWO)[1], {"v": written["w"]})


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_all_old_files(tmp_path, error):
    infos, _ = two_files(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted():
        with create(tmp_path / INDEX, infos) as writer:
            for name in "dab":
                writer.put(name, np.zeros((2, 3), np.float32))
            raise error

    with pytest.raises(error):
        interrupted()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensors_that_only_a_file_knows_come_last(tmp_path):
    two_files(tmp_path)
    edit(tmp_path / INDEX, weight_map={"c": TWO, "d": ONE})
    infos = load(tmp_path / INDEX)[0]
    assert [(info.name, info.shard) for info in infos] == [("c", TWO), ("d", ONE), ("a", TWO), ("b", ONE)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight_map": {"a": ONE}}, f"a is not in {ONE}, where the index has it"),
        ({"weight_map": {"e": ONE}}, f"e is not in {ONE}"),
        ({"weight_map": {"a": ONE, "c": TWO}}, f"a is not in {ONE}"),
        ({"weight_map": {"a": "missing.safetensors"}}, "missing.safetensors: no such file"),
        ({"weight_map": {"a": f"../{ONE}"}}, "is no .safetensors file beside the index"),
        ({"weight_map": {"a": f"/{ONE}"}}, "is no .safetensors file"),
        ({"weight_map": {"a": f"..\\{ONE}"}}, "is no .safetensors file"),
        ({"weight_map": {"a": f"C:{ONE}"}}, "is no .safetensors file"),
        ({"weight_map": {"a": "model.bin"}}, "is no .safetensors file"),
        ({"weight_map": {"a": "\0.safetensors"}}, "is no .safetensors file"),
        ({"weight_map": {"a": 3}}, "is no .safetensors file"),
        ({"weight_map": {"a": None}}, "is no .safetensors file"),
        ({"weight_map": [ONE]}, "weight_map is not a table"),
        ({"weight_map": None}, "weight_map is not a table"),
    ],
)
def test_an_index_that_is_wrong_gets_one_line(tmp_path, changes, reason):
    two_files(tmp_path)
    edit(tmp_path / INDEX, **changes)
    with pytest.raises(ModelError, match=reason) as caught:
        open_model(tmp_path / INDEX)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "has no weight_map"), ("{}", "has no weight_map"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON")],
    ids=["list", "empty", "cut", "deep"],
)
def test_an_index_that_is_none_gets_one_line(tmp_path, text, reason):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ModelError, match=reason):
        open_model(tmp_path / INDEX)


def test_a_damaged_file_is_named(tmp_path):
    two_files(tmp_path)
    (tmp_path / TWO).write_bytes((tmp_path / TWO).read_bytes()[:-1])
    with pytest.raises(ModelError, match=f"{TWO}: ends early"):
        open_model(tmp_path / INDEX)


def test_a_name_in_two_files_is_refused(tmp_path):
    two_files(tmp_path)
    save(tmp_path / TWO, [TensorInfo(name, (2, 3), "float32") for name in "acd"])
    with pytest.raises(ModelError, match=f"d is in {TWO} and in {ONE}"):
        open_model(tmp_path / INDEX)
