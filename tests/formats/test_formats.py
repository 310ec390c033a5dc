"""Promises that every format keeps: order, names, values, whole files, threads, and one line for bad input."""

from __future__ import annotations

import importlib.util
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from model_files import OF_NUMPY, WIDTHS, assert_same_bits, every_kind, load, refusal, save, storage_of

from nncjit.errors import ModelError, OptionError
from nncjit.formats import create, is_known, known_suffixes, open_model
from nncjit.model import TensorInfo

HAS_TORCH = importlib.util.find_spec("torch") is not None
SUFFIXES = [".safetensors", ".safetensors.index.json", ".npz", *([".pt"] if HAS_TORCH else [])]

suffixes = pytest.mark.parametrize("suffix", SUFFIXES)


def small():
    return [TensorInfo("b", (3, 2), "float32"), TensorInfo("a", (5,), "int8"), TensorInfo("c", (), "float64")]


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@suffixes
def test_names_order_shapes_and_values_come_back(tmp_path, suffix):
    infos = every_kind()
    if suffix == ".npz":
        infos = [info for info in infos if info.dtype in OF_NUMPY]
    written = save(tmp_path / f"model{suffix}", infos)
    got, arrays, _ = load(tmp_path / f"model{suffix}")
    assert [(i.name, i.shape, i.dtype) for i in got] == [(i.name, i.shape, i.dtype) for i in infos]
    assert_same_bits(arrays, {info.name: written[info.name] for info in infos})


@suffixes
def test_a_model_without_tensors_is_a_model(tmp_path, suffix):
    save(tmp_path / f"model{suffix}", [])
    assert load(tmp_path / f"model{suffix}")[0] == []


@suffixes
@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\\b", "../up", "a.npy", "é\u4e2d\U0001f600", '"quoted"\n', "x" * 5000]
)
def test_any_name_comes_back(tmp_path, suffix, name):
    save(tmp_path / f"model{suffix}", [TensorInfo(name, (2,), "float32")])
    assert [info.name for info in load(tmp_path / f"model{suffix}")[0]] == [name]


@suffixes
def test_tied_tensors_are_written_with_their_twins(tmp_path, suffix):
    infos = [TensorInfo("w", (3,), "float32"), TensorInfo("b", (2,), "int16"), TensorInfo("v", (3,), "float32", "w")]
    written = save(tmp_path / f"model{suffix}", infos)
    got, arrays, _ = load(tmp_path / f"model{suffix}")
    assert_same_bits(arrays, {name: written[name] for name in "wbv"})
    assert got[2].same_as == ("w" if suffix == ".pt" else None)


@suffixes
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_the_old_model(tmp_path, suffix, error):
    path = tmp_path / f"model{suffix}"
    written = save(path, small())
    before = files_in(tmp_path)

    def interrupted():
        with create(path, [TensorInfo("new", (4,), "float32"), *small()]) as writer:
            writer.put("new", np.ones(4, np.float32))
            writer.allocate("b")
            raise error

    with pytest.raises(error):
        interrupted()
    assert files_in(tmp_path) == before
    assert_same_bits(load(path)[1], {name: written[name] for name in "bac"})


@suffixes
def test_a_tensor_that_was_never_written_is_an_error_and_leaves_the_old_model(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save(path, small())
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}

    def incomplete():
        with create(path, small()) as writer:
            writer.put("b", np.zeros((3, 2), np.float32))
            writer.allocate("c")

    assert refusal(incomplete) == "2 tensors were not written, 'a' among them"
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before


@suffixes
def test_an_error_while_a_tensor_is_stored_is_not_taken_for_success(tmp_path, suffix):

    def one_fails():
        with create(tmp_path / f"model{suffix}", small()) as writer:
            for name in "ac":
                writer.allocate(name)[...] = 0
                writer.done(name)
            with pytest.raises(ModelError, match=r"^b: got float64\[3, 2\], announced was float32\[3, 2\]"):
                writer.put("b", np.zeros((3, 2)))

    assert refusal(one_fails) == "1 tensors were not written, 'b' among them"
    assert files_in(tmp_path) == []


@suffixes
def test_each_tensor_is_written_once(tmp_path, suffix):
    infos = [*small(), TensorInfo("tied", (5,), "int8", "a")]
    with create(tmp_path / f"model{suffix}", infos) as writer:
        with pytest.raises(ModelError, match="b: done before it was allocated"):
            writer.done("b")
        for name in "bac":
            writer.allocate(name)[...] = 0
            writer.done(name)
        with pytest.raises(ModelError, match="a: is written already"):
            writer.allocate("a")
        with pytest.raises(ModelError, match="tied: is no tensor to write"):
            writer.allocate("tied")
        with pytest.raises(ModelError, match="d: is no tensor to write"):
            writer.put("d", np.zeros(2))


def test_names_and_ties_are_checked_before_a_file_is_made(tmp_path):
    with pytest.raises(ModelError, match="two tensors are named 'a'"):
        create(tmp_path / "model.npz", [TensorInfo("a", (), "int8")] * 2)
    with pytest.raises(ModelError, match="tied"):
        create(tmp_path / "model.npz", [TensorInfo("a", (), "int8", "b")])
    assert files_in(tmp_path) == []


@suffixes
def test_threads_write_and_read_at_once(tmp_path, suffix):
    infos = [TensorInfo(f"t{i}", (i * 37 % 400, 3), WIDTHS[i % 2]) for i in range(60)]
    arrays = {info.name: storage_of(info) for info in infos}
    path = tmp_path / f"model{suffix}"
    with create(path, infos) as writer, ThreadPoolExecutor(8) as pool:

        def write(name):
            writer.allocate(name)[...] = arrays[name]
            writer.done(name)

        list(pool.map(write, arrays))
    barrier = threading.Barrier(8)
    with open_model(path) as model, ThreadPoolExecutor(8) as pool:

        def read_all(_):
            barrier.wait()
            return {tensor.name: tensor.read() for tensor in model}

        for got in pool.map(read_all, range(8)):
            assert_same_bits(got, arrays)


@suffixes
def test_what_was_read_is_free_to_change(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save(path, small())
    with open_model(path) as model:
        first = model["b"].read()
        want = first.copy()
        first[...] = 7
        assert model["b"].read().tobytes() == want.tobytes()


@pytest.mark.parametrize("name", ["model.xyz", "model", "model.nnc", "safetensors", "model.safetensors.json"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    assert not is_known(name)
    with pytest.raises(ModelError, match="no such file"):  # what is not there is told first
        open_model(tmp_path / name)
    (tmp_path / name).write_bytes(b"words")
    for use in (lambda: open_model(tmp_path / name), lambda: create(tmp_path / name, [])):
        with pytest.raises(OptionError, match=r"the suffix is not one of \.safetensors, .*\.npz, \.pt, ") as caught:
            use()
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("suffix", known_suffixes())
def test_suffixes_are_known_in_any_case(suffix):
    assert is_known(f"folder/MODEL{suffix.upper()}")


@pytest.mark.parametrize("suffix", known_suffixes())
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file or directory"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"<!doctype html>", "web page"),
        (b"\x00", ""),
        (b"NNC says nothing of the kind, and this is no model of any format either" * 9, ""),
        (b"PK\x03\x04 and what follows is no archive", ""),
        (b"PK\x05\x06" + bytes(18), ""),
        (b"\x80\x02}q\x00.", ""),
        (b"\xff" * 100, ""),
    ],
    ids=["missing", "empty", "lfs", "html", "zero", "text", "zip?", "empty zip", "empty pickle", "ones"],
)
def test_bad_input_gets_one_line_with_the_file(tmp_path, suffix, content, reason):
    path = tmp_path / f"model{suffix}"
    if content is not None:
        path.write_bytes(content)
    message = refusal(lambda: open_model(path).close())
    if message:
        assert message.startswith(str(path))
        assert reason in message
    else:  # an archive or a table with nothing in it
        assert content in (b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00.")


@pytest.mark.parametrize("suffix", known_suffixes())
def test_a_folder_is_no_model(tmp_path, suffix):
    (tmp_path / f"model{suffix}").mkdir()
    with pytest.raises(ModelError, match="is a folder"):
        open_model(tmp_path / f"model{suffix}")


@suffixes
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, suffix):
    path = tmp_path / "missing" / f"model{suffix}"
    with pytest.raises(ModelError, match="there is no folder") as caught, create(path, small()):
        pytest.fail("was opened for writing")
    assert "\n" not in str(caught.value)


@suffixes
def test_every_damaged_byte_gives_a_model_or_our_error(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    save(path, small())
    target = next(p for p in tmp_path.iterdir() if p.suffix != ".json")
    whole = target.read_bytes()
    if suffix == ".pt" and not zipfile.is_zipfile(target):
        pytest.fail("not the format that torch maps")
    rng = np.random.default_rng(0)
    places = range(len(whole)) if len(whole) < 600 else sorted(rng.choice(len(whole), 300, replace=False))
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        for content in (bytes(damaged), whole[:place]):
            target.write_bytes(content)
            message = refusal(lambda: load(path))
            assert not message or str(tmp_path) in message


@pytest.mark.parametrize(
    ("name", "words"),
    [("m.tflite", "TensorFlow Lite"), ("m.mlmodel", "Core ML"), ("m.pkl", "may run code"), ("m.npy", "single array")],
)
def test_formats_that_are_known_and_not_read_say_what_to_do(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"something")
    assert words in refusal(lambda: open_model(tmp_path / name))
