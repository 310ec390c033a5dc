"""``nncjit profile``: both ways of a model, one way of a stream."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from nncjit.cli import profile as verb


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a small ``model.safetensors``."""
    random = np.random.default_rng(0)
    model = {f"layer{k}.weight": random.standard_normal((30, 20 + k), dtype=np.float32) for k in range(4)}
    save_file(model | {"steps": np.array(3)}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_profiled_both_ways(folder, run):
    pytest.importorskip("matplotlib")
    code, out, _ = run("profile model.safetensors --qp -20 --top 2 --png p.png")
    assert code == 0
    assert "compress: " in out
    assert "decompress: " in out
    stages = {line.split("  ")[0] for line in out.splitlines()}
    assert stages >= {"read", "plan", "quantise", "initialise", "code", "syntax", "write", "parse", "decode", "rest"}
    assert stages >= {"payloads", "headers of units", "the rest", "layer3.weight", "layer2.weight", "3 others"}
    assert "layer1.weight" not in out
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "p.png"]


def test_a_stream_is_profiled_on_its_way_back(folder, run):
    run("compress model.safetensors -o model.nnc -q")
    code, out, err = run("profile model.nnc --json --threads 1")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["compress"] is None
    assert {row["name"] for row in found["decompress"]["stages"]} >= {"parse", "decode"}
    assert len(found["tensors"]) == 5


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("profile none.safetensors", 1, "none.safetensors"),
        ("profile empty.nnc", 1, "empty.nnc"),
        ("profile model.safetensors --top -1", 2, "--top is -1"),
        ("profile model.safetensors --qp 99999", 2, "qp is 99999"),
        ("profile model.safetensors --png p.gif", 2, "must end in .png"),
    ],
)
def test_bad_input_gets_one_line(folder, run, line, code, words):
    (folder / "empty.nnc").touch()
    got, out, err = run(line)
    assert (got, out) == (code, "")
    assert err.splitlines()[-1].startswith("nncjit: error: ")
    assert words in err


def test_short_times_keep_three_digits():
    assert verb._time(0.000123) == "0.12 ms"
    assert verb._time(0.0456) == "45.6 ms"
    assert verb._time(2.344) == "2.34 s"
