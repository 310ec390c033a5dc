"""``nncjit eval``: what a newcomer sees, what programs get, and what bad input gets."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

TASK = """
MAIN = ("error", False)
TITLE = "sum of w"
def measure(weights):
    return {"error": 100 + abs(float(weights["w"].sum()) - 3000)}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a model, a task for it, and weights that do not fit the task."""
    random = np.random.default_rng(0)
    save_file({"w": 1 + random.standard_normal((60, 50), dtype=np.float32)}, tmp_path / "model.safetensors")
    save_file({"v": np.ones((3, 3), np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "task_of_eval.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_demo_answers_how_small_and_at_what_cost(folder, run):
    code, out, err = run("eval --demo --grid quality=0.25,1 --rival none")
    assert code == 0
    assert "digits: a small network that reads handwritten digits" in out
    assert "top-1 accuracy (%)" in out
    assert "bits per weight (logarithmic)" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("original ", "nncjit  "))]
    assert [row[0] for row in rows] == ["original", "nncjit", "nncjit"]
    assert "Smallest that loses no more than 1 % of the original's top-1 accuracy:" in out
    assert "--rival PYTHON names an interpreter" in err


def test_without_a_task_the_exactness_is_drawn(folder, run):
    code, out, _ = run("eval model.safetensors --grid quantizer=trellis,uniform --grid bits=2,4 --rival none -q")
    assert (code, out) == (0, "")
    code, out, _ = run("eval model.safetensors --grid quantizer=trellis,uniform --grid bits=2,4 --rival none")
    assert code == 0
    assert "SNR of the weights (dB)" in out
    assert "At equal quality, nncjit, quantizer=uniform needs" in out


def test_json_and_png_are_written(folder, run):
    pytest.importorskip("matplotlib")
    line = (
        "eval model.safetensors --task task_of_eval.py --grid bits=1,3 --rival none --json found.json --png curve.png"
    )
    code, out, _ = run(line)
    assert code == 0
    assert "sum of w" in out
    found = json.loads((folder / "found.json").read_text())
    assert (found["task"], found["main"], found["higher_is_better"]) == ("task_of_eval", "error", False)
    assert [point["options"] for point in found["points"]] == [{"bits": 1}, {"bits": 3}]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_json_alone_is_printed_and_nothing_else(folder, run):
    code, out, err = run("eval model.safetensors --grid bits=3 --rival none --json")
    assert (code, err) == (0, "")
    assert json.loads(out)["points"][0]["bits_per_weight"] == pytest.approx(3, rel=0.1)


def test_options_that_are_given_alone_hold_at_all_points(folder, run):
    chosen = "--quantizer uniform --pattern 2:5 --rule .*=exact:true"
    out = run(f"eval model.safetensors --grid bits=2,4 {chosen} --rival none --json")[1]
    for bits, point in zip((2, 4), json.loads(out)["points"], strict=True):
        report = json.loads(run(f"compress model.safetensors -o {bits}.nnc --bits {bits} {chosen} --json")[1])
        assert point["bytes"] == report["compressed_bytes"]
        assert [row["tool"] for row in report["tensors"]] == ["uniform"]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("eval model.safetensors --grid quality=1 --rank 3.5", 2, "rank is 3.5"),
        ("eval model.safetensors --grid qualty=1", 2, "did you mean 'quality'"),
        ("eval", 2, "which MODEL?"),
        ("eval none.safetensors", 1, "none.safetensors"),
        ("eval task_of_eval.py", 2, "suffix"),
        ("eval model.safetensors --grid bits", 2, "must be OPTION=VALUE"),
        ("eval model.safetensors --grid bits=2 --grid quality=1", 2, "contradict"),
        ("eval model.safetensors --grid beauty=1,2", 2, "no option beauty"),
        ("eval other.safetensors --task task_of_eval.py", 1, "cannot use these weights: KeyError"),
        ("eval --task task_of_eval.py", 2, "which MODEL?"),
        ("eval model.safetensors --task none.py", 2, "there is no such file"),
        ("eval model.safetensors --loss 101", 2, "--loss is 101"),
        ("eval model.safetensors --json model.safetensors", 2, "must end in .json"),
        ("eval model.safetensors --json none/x.json", 2, "there is no folder"),
        ("eval model.safetensors --png curve.jpg", 2, "must end in .png"),
        ("eval model.safetensors --png none/curve.png", 2, "there is no folder"),
        ("eval model.safetensors --rival none/python", 2, "cannot be started"),
        ("eval model.safetensors --rival-qp x", 2, "--rival-qp x"),
        ("eval model.safetensors --images 5", 2, "--images needs --data"),
        ("eval resnet50 --data .", 2, "--data needs a network's name and --weights"),
        ("eval resnet50 --weights model.safetensors", 2, "--data needs a network's name and --weights"),
        ("eval resnet50 --weights model.safetensors --data . --demo", 2, "contradict each other"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_file(folder, run, line, code, words):
    before = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    got, out, err = run(line)
    assert (got, out) == (code, "")
    line = err.splitlines()[-1]
    assert line.startswith("nncjit: error: ")
    assert words.replace("'", "") in line.replace("'", "")
    assert all(row.startswith("nncjit: ") for row in err.splitlines())
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("matplotlib.figure", "--png x.png", "pip install matplotlib"),
        ("torchvision.models", "--weights model.safetensors --data .", "pip install torch torchvision pillow"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_do(folder, run, monkeypatch, module, line, words):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run(f"eval model.safetensors {line}")
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
