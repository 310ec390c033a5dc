"""Models at URLs: ranges of bytes are read, targets appear when they are complete, errors are ours."""

from __future__ import annotations

import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.cli.main import main
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

fsspec = pytest.importorskip("fsspec")

RNG = np.random.default_rng(0)
ARRAYS = {f"w{k}": (RNG.standard_normal((200, 300)) * 0.1).astype("f4") for k in range(3)} | {
    "flags": RNG.random(9) > 0.5
}


@pytest.fixture
def folder():
    return f"memory://{uuid.uuid4().hex}"


def saved(path):
    with create(path, [TensorInfo(name, a.shape, a.dtype.name) for name, a in ARRAYS.items()]) as writer:
        for name, array in ARRAYS.items():
            writer.put(name, array)


def names_in(folder):
    return sorted(name.rpartition("/")[2] for name in fsspec.filesystem("memory").ls(folder, detail=False))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_models_go_from_url_to_url(folder, suffix):
    source, stream, back = (f"{folder}/{name}" for name in (f"a.{suffix}", "m.nnc", f"b.{suffix}"))
    saved(source)
    report = nncjit.compress(source, stream, quantizer="raw")
    assert (report.source, report.target) == (source, stream)
    nncjit.decompress(stream, back)
    with open_model(back) as model:
        assert all(np.array_equal(tensor.read(), ARRAYS[tensor.name]) for tensor in model)
    assert names_in(folder) == sorted([f"a.{suffix}", "m.nnc", f"b.{suffix}"])
    assert nncjit.verify(stream).checksum
    assert [t.name for t in nncjit.inspect(source).tensors] == list(ARRAYS)


def test_only_the_ranges_that_are_needed_are_read(folder, monkeypatch):
    saved(f"{folder}/a.safetensors")
    nncjit.compress(f"{folder}/a.safetensors", f"{folder}/m.nnc", quantizer="raw")
    system = fsspec.filesystem("memory")
    read = []
    whole = type(system).cat_file

    def counted(self, path, start=None, end=None, **options):
        read.append(end - start)
        return whole(self, path, start=start, end=end, **options)

    monkeypatch.setattr(type(system), "cat_file", counted)
    with nncjit.open(f"{folder}/m.nnc") as f:
        assert np.array_equal(f["w1"], ARRAYS["w1"])
    assert sum(read) < 0.9 * system.size(f"{folder}/m.nnc")
    assert len(read) < 9


def test_an_index_at_a_url_becomes_several_streams_here(folder, tmp_path):
    source = tmp_path / "a.safetensors.index.json"
    infos = [TensorInfo(name, a.shape, a.dtype.name) for name, a in ARRAYS.items()]
    with create(source, infos, shard_size=500_000) as writer:
        for name, array in ARRAYS.items():
            writer.put(name, array)
    nncjit.compress(source, tmp_path / "here.nnc", shard_bytes=300_000)
    system = fsspec.filesystem("memory")
    for path in tmp_path.glob("a*"):
        system.pipe_file(f"{folder}/{path.name}", path.read_bytes())
    url = f"{folder}/{source.name}"
    with open_model(url) as model:
        assert {tensor.shard for tensor in model} == {path.name for path in tmp_path.glob("a*.safetensors")}
    with ThreadPoolExecutor(2) as executor:
        for _ in range(2):  # the second time, all is done
            nncjit.compress(url, tmp_path / "there.nnc", shard_bytes=300_000, executor=executor)
    for path in tmp_path.glob("here-*.nnc"):
        assert (tmp_path / path.name.replace("here", "there")).read_bytes() == path.read_bytes()
    first = min(path.name for path in tmp_path.glob("a-*.safetensors"))
    system.pipe_file(f"{folder}/{first}", (tmp_path / first).read_bytes())
    plan = tmp_path / "plan.json"
    nncjit.compress(url, tmp_path / "there.nnc", plan=plan, dry_run=True)
    system.rm_file(f"{folder}/{first}")
    assert "there is no such file" in refusal(lambda: nncjit.compress(url, tmp_path / "there.nnc", plan=plan))
    assert "of safetensors are read" in refusal(lambda: open_model(f"{folder}/a.bin.index.json"))


def test_the_command_line_takes_urls(tmp_path, capsys):
    saved(tmp_path / "a.safetensors")
    url = f"file://{tmp_path}"
    assert main(["compress", f"{url}/a.safetensors", "-o", f"{url}/m.nnc", "-q"]) == 0
    assert main(["inspect", f"{url}/m.nnc"]) == 0
    assert main(["decompress", f"{url}/m.nnc", "-o", f"{url}/b.npz", "-q"]) == 0
    assert main(["verify", f"{url}/m.nnc", "-q"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "m.nnc", "b.npz"}
    assert main(["compress", f"{url}/a.safetensors", "-q"]) != 0
    assert "name the target" in capsys.readouterr().err


def test_a_target_appears_only_when_it_is_complete(folder, tmp_path):
    saved(f"{folder}/a.safetensors")
    good = nncjit.encode(ARRAYS, quantizer="raw")
    for url in (folder, f"file://{tmp_path}"):
        for damaged in (good[:-500], good[:40]):
            assert refusal(lambda at=url, data=damaged: nncjit.decompress(data, f"{at}/b.safetensors"))
        assert refusal(lambda at=url: nncjit.compress(f"{at}/none.safetensors", f"{at}/m.nnc"))
    assert names_in(folder) == ["a.safetensors"]
    assert list(tmp_path.iterdir()) == []


def test_errors_of_file_systems_become_ours(folder, monkeypatch):
    assert "no such file" in refusal(lambda: nncjit.open(f"{folder}/none.nnc"))
    assert refusal(lambda: nncjit.inspect("nosuch://x/m.nnc")).startswith("nosuch://x/m.nnc: ")
    saved(f"{folder}/a.safetensors")
    assert "is a folder" in refusal(lambda: nncjit.open(folder))
    assert "on this machine" in refusal(
        lambda: nncjit.compress(f"{folder}/a.safetensors", f"{folder}/m.nnc.index.json", shard_bytes=9999)
    )
    assert "on this machine" in refusal(lambda: nncjit.decompress(f"{folder}/a.nnc.onnx", f"{folder}/a.onnx"))
    system = type(fsspec.filesystem("memory"))

    def broken(*_, **__):
        raise RuntimeError("the store is\non fire")

    monkeypatch.setattr(system, "put_file", broken)
    assert refusal(lambda: nncjit.compress(ARRAYS, f"{folder}/m.nnc")) == f"{folder}/m.nnc: the store is"
    monkeypatch.setattr(system, "cat_file", lambda *_, **__: b"too little")
    assert "gave 10 bytes" in refusal(lambda: nncjit.inspect(f"{folder}/a.safetensors"))


def test_what_shows_models_takes_urls(tmp_path, capsys):
    saved(tmp_path / "a.safetensors")
    url = f"file://{tmp_path}"
    assert main(["diff", f"{url}/a.safetensors", f"{url}/a.safetensors", "-q"]) == 0
    page = ["report", f"{url}/a.safetensors", "--against", f"{url}/a.safetensors", "-q"]
    assert main([*page, "-o", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").stat().st_size
    assert main(page) != 0
    assert "name the target" in capsys.readouterr().err


def test_a_server_without_ranges_is_asked_once(folder, monkeypatch):
    nncjit.compress(ARRAYS, f"{folder}/m.nnc", quantizer="raw")
    system = fsspec.filesystem("memory")
    whole, asked = type(system).cat_file, []

    def all_of_it(self, path, start=None, end=None, **options):
        asked.append((start, end))
        return whole(self, path, **options)

    monkeypatch.setattr(type(system), "cat_file", all_of_it)
    with nncjit.open(f"{folder}/m.nnc") as f:
        assert all(np.array_equal(f[name], array) for name, array in ARRAYS.items())
    assert len(asked) == 1


def test_a_server_that_cannot_be_reached_is_no_missing_file(folder, monkeypatch):
    def unreachable(self, path, **options):
        raise FileNotFoundError(path) from OSError("cannot connect to host")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", unreachable)
    assert "cannot connect to host" in refusal(lambda: nncjit.inspect(f"{folder}/m.nnc"))


def test_a_model_in_an_archive_is_named_by_its_link(tmp_path):
    np.savez(tmp_path / "m.npz", **ARRAYS)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "m.npz", "m.npz")
    url = f"zip://m.npz::file://{tmp_path}/a.zip"
    nncjit.compress(url, tmp_path / "m.nnc", quantizer="raw")
    assert all(np.array_equal(array, ARRAYS[name]) for name, array in nncjit.decode(tmp_path / "m.nnc").items())
    assert [t.name for t in nncjit.inspect(url).tensors] == list(ARRAYS)
