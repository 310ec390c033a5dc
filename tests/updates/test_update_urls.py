"""Updates from URLs and to URLs; what cannot be at one is refused in one line."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pytest

import nncjit
from nncjit.cli.main import main
from nncjit.formats import open_model
from nncjit.model import Model
from nncjit.updates import Sender
from nncjit.updates.model_files import apply_files

fsspec = pytest.importorskip("fsspec")

BASE = {"w": np.random.default_rng(0).normal(0, 0.05, (40, 30)).astype("f4")}
NEW = {"w": BASE["w"] + np.random.default_rng(1).normal(0, 0.001, (40, 30)).astype("f4")}


def saved(path, arrays):
    from nncjit.formats import create

    model = Model.from_mapping(arrays)
    with create(path, [tensor.info for tensor in model]) as writer:
        for tensor in model:
            writer.put(tensor.name, tensor.read())


@pytest.fixture
def folder():
    at = f"memory://{uuid.uuid4().hex}"
    saved(f"{at}/a.safetensors", BASE)
    saved(f"{at}/b.safetensors", NEW)
    return at


def held(path):
    with open_model(path) as model:
        return {tensor.name: tensor.read() for tensor in model}


def test_updates_go_from_url_to_url(folder, capsys):
    base, new, update, back = (f"{folder}/{name}" for name in ("a.safetensors", "b.safetensors", "u.nnc", "c.npz"))
    assert main(["update", base, new, "-o", update, "--lossless", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["source"], said["target"]) == (new, update)
    assert main(["apply", base, update, "-o", back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compressed_bytes"] == said["compressed_bytes"]
    assert np.array_equal(held(back)["w"], NEW["w"])
    names = {name.rpartition("/")[2] for name in fsspec.filesystem("memory").ls(folder, detail=False)}
    assert names == {"a.safetensors", "b.safetensors", "u.nnc", "c.npz"}


def test_a_session_goes_on_when_its_update_is_at_the_url(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, new, update = (f"{folder}/{name}" for name in ("a.safetensors", "b.safetensors", "u.nnc"))
    assert main(["update", base, base, "-o", update, "--keep", "sender", "-q"]) == 0

    def refused(*_):
        raise OSError("no space in the store")

    with monkeypatch.context() as broken:
        broken.setattr(type(fsspec.filesystem("memory")), "put_file", refused)
        assert main(["update", "sender", new, "-o", f"{folder}/v.nnc", "-q"]) == 1
    assert Sender.open("sender").number == 1
    assert main(["update", "sender", new, "-o", f"{folder}/v.nnc", "-q"]) == 0
    apply_files(base, [update, f"{folder}/v.nnc"], f"{folder}/c.safetensors")
    assert np.array_equal(held(f"{folder}/c.safetensors")["w"], Sender.open("sender").arrays()["w"])


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("update {0}/a.safetensors {0}/b.safetensors -o {0}/a.safetensors", 2, "/a.safetensors: the target is "),
        ("update {0}/x.safetensors {0}/b.safetensors -o u.nnc", 1, "/x.safetensors: there is no such file"),
        ("update {0}/a.safetensors {0}/b.safetensors -o u.nnc --keep {0}/s", 2, "/s: must be a path of this machine"),
        ("apply {0}/a.safetensors {0}/u.nnc -o {0}/c.safetensors", 1, "/u.nnc: there is no such file"),
        ("apply {0}/a.safetensors {0}/u.nnc -o {0}/u.nnc", 2, "/u.nnc: the target is one of the files to read"),
        ("eval {0}/x.safetensors --rival none -q", 1, "/x.safetensors: there is no such file"),
        ("eval {0}/m.safetensors.index.json --rival none -q", 2, "a model in several files is read from this machine"),
        ("calibrate {0}/model", 2, "/model: must be a path of this machine, not a URL"),
    ],
)
def test_what_cannot_be_at_a_url_is_refused_in_one_line(folder, tmp_path, monkeypatch, capsys, line, code, said):
    monkeypatch.chdir(tmp_path)
    try:
        found = main(line.format(folder).split())
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err
    assert found == code, error
    assert folder in error
    assert said in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_session_is_not_at_a_url(folder):
    with pytest.raises(nncjit.OptionError, match="a session is a folder of this machine"):
        Sender(BASE, folder=f"{folder}/s")


def test_a_model_at_a_url_is_evaluated(folder, capsys):
    source = f"{folder}/a.safetensors"
    assert main(["eval", source, "--grid", "bits=4", "--rival", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == source
