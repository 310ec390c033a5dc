"""Each verb on real files: what it writes, what it prints, and what bad input gets."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nncjit.cli.main import main
from nncjit.demo import digits


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one, with a small ``model.safetensors``."""
    random = np.random.default_rng(0)
    save_file(
        {
            "layer.weight": random.standard_normal((40, 30), dtype=np.float32),
            "layer.bias": random.standard_normal(40, dtype=np.float32),
            "steps": np.array(12345),
        },
        tmp_path / "model.safetensors",
        metadata={"made by": "a test"},
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stream(folder, run):
    assert run("compress model.safetensors -o model.nnc -q") == (0, "", "")
    return folder / "model.nnc"


def test_a_model_goes_there_and_back(folder, run):
    code, out, err = run("compress model.safetensors --snr 40")
    assert (code, err) == (0, "")
    assert out.startswith("model.safetensors -> model.nnc\n")
    assert "1,241 weights" in out
    code, out, err = run("decompress model.nnc -o back.safetensors")
    assert (code, err) == (0, "")
    before, after = load_file("model.safetensors"), load_file("back.safetensors")
    assert list(before) == list(after)
    assert after["steps"] == 12345
    noise = np.square(before["layer.weight"] - after["layer.weight"]).sum()
    assert 10 * np.log10(np.square(before["layer.weight"]).sum() / noise) > 35


def test_a_target_with_another_suffix_is_another_format(stream, run):
    assert run("decompress model.nnc -o back.npz -q") == (0, "", "")
    assert sorted(np.load("back.npz")) == ["layer.bias", "layer.weight", "steps"]


def test_compress_can_list_what_became_of_each_tensor(folder, run):
    _, out, _ = run("compress model.safetensors -o model.nnc --tensors --rule .*bias=raw")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "raw" in rows["layer.bias"]
    assert "40 x 30" in rows["layer.weight"]
    assert "scalar" in rows["steps"]


def test_a_dry_run_writes_nothing_and_is_near_the_truth(folder, run):
    code, out, _ = run("compress model.safetensors -o model.nnc --dry-run --json")
    assert code == 0
    assert not (folder / "model.nnc").exists()
    expected = json.loads(out)
    assert expected["estimated"]
    run("compress model.safetensors -o model.nnc -q")
    assert expected["compressed_bytes"] == pytest.approx((folder / "model.nnc").stat().st_size, rel=0.35)


def test_inspect_shows_every_tensor(stream, run):
    code, out, err = run("inspect model.nnc")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("layer.weight", "layer.bias", "steps", "40 x 30", "int64"))
    assert "NDU" in run("inspect model.nnc --units")[1]


def test_verify_says_ok(stream, run):
    code, out, err = run("verify model.nnc --threads 1")
    assert (code, err) == (0, "")
    assert out.startswith("OK: model.nnc\n")
    assert "1,241 weights" in out


@pytest.mark.parametrize(
    "line",
    [
        "compress model.safetensors -o again.nnc --json",
        "decompress model.nnc -o back.safetensors --json",
        "inspect model.nnc --json",
        "verify model.nnc --json",
    ],
)
def test_json_is_one_object_with_a_row_for_each_tensor(stream, run, line):
    code, out, err = run(line)
    assert (code, err) == (0, "")
    assert {row["name"] for row in json.loads(out)["tensors"]} == {"layer.weight", "layer.bias", "steps"}


@pytest.mark.parametrize("verb", ["verify", "decompress -o x.npz"])
@pytest.mark.parametrize(("option", "code"), [("--threads 0", 2), ("--max-bytes 100", 1)])
def test_a_decoder_without_means_says_so(stream, run, verb, option, code):
    verb, *rest = verb.split()
    got, out, err = run(f"{verb} model.nnc {' '.join(rest)} {option}")
    assert (got, out, err.count("\n")) == (code, "", 1)


def test_an_unknown_target_is_refused_before_the_work(stream, run):
    code, out, err = run("decompress model.nnc -o model.xyz")
    assert (code, out) == (2, "")
    assert "model.xyz" in err
    assert ".safetensors" in err


def test_a_flipped_bit_is_found_and_said_in_one_line(stream, run):
    data = bytearray(stream.read_bytes())
    data[len(data) // 2] ^= 1
    stream.write_bytes(data)
    code, out, err = run("verify model.nnc")
    assert (code, out) == (1, "")
    assert err.startswith("nncjit: error: model.nnc: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("compress none.safetensors", 1, "none.safetensors"),
        ("compress model.txt", 2, "model.txt"),
        ("compress model.safetensors --qp 99999", 2, "qp"),
        ("compress model.safetensors --bits 3 --snr 20", 2, "bits and snr"),
        ("compress model.safetensors --rule nothing.*=raw", 2, "nothing.* matches no tensor"),
        ("compress model.safetensors --rule ((=raw", 2, "regular expression"),
        ("compress model.safetensors --threads 0", 2, "threads"),
        ("compress empty.safetensors", 1, "empty.safetensors"),
        ("compress model.safetensors -o none/model.nnc", 1, "none"),
        ("decompress model.safetensors -o x.npz", 1, "model.safetensors"),
        ("decompress empty.safetensors -o x.npz", 1, "empty.safetensors"),
        ("verify .", 1, "."),
        ("verify none.nnc", 1, "none.nnc"),
        ("compress model.safetensors -o model.npz", 2, "model.npz"),
        ("decompress model.nnc -o model.xyz", 1, "model.nnc"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_file(folder, run, line, code, words):
    (folder / "empty.safetensors").touch()
    (folder / "model.txt").write_text("no model")
    before = sorted(folder.iterdir())
    got, out, err = run(line)
    assert (got, out) == (code, "")
    assert err.startswith("nncjit: error: ")
    assert words.replace("'", "") in err.replace("'", "")
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_file_that_nobody_named_is_not_replaced(stream, run):
    before = stream.read_bytes()
    code, _, err = run("compress model.safetensors --qp -10")
    assert code == 2
    assert "model.nnc exists" in err
    assert stream.read_bytes() == before
    assert run("compress model.safetensors --qp -10 -o model.nnc -q") == (0, "", "")
    assert stream.read_bytes() != before


def test_an_interrupted_run_leaves_the_old_file(stream, run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    before = stream.read_bytes()
    monkeypatch.setattr("nncjit.encoder.model_encoder.quantised_units", interrupt)
    assert run("compress model.safetensors -o model.nnc") == (130, "", "nncjit: interrupted\n")
    assert stream.read_bytes() == before
    assert sorted(path.name for path in stream.parent.iterdir()) == ["model.nnc", "model.safetensors"]


def test_the_progress_bar_is_for_terminals_only(folder, run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["compress", "model.safetensors", "-o", "model.nnc"]) == 0
    assert "compress" in terminal.getvalue()
    terminal.truncate(0)
    assert main(["compress", "model.safetensors", "-o", "model.nnc", "--quiet"]) == 0
    assert not terminal.getvalue().strip("\0")


def test_demo_tells_a_newcomer_what_is_gained(folder, run):
    code, out, _ = run("demo --json")
    assert code == 0
    report = json.loads(out)
    assert report["weights"] == sum(w.size for w in load_file(digits.MODEL).values())
    assert report["compressed_bytes"] < 0.2 * report["original_bytes"]
    assert report["correct_after"] >= report["correct_before"] - 2
    assert report["calibrated_bytes"] < 0.035 * report["original_bytes"]
    assert report["calibrated_correct"] >= report["correct_before"] - 4
    code, out, _ = run("demo --bits 2")
    assert code == 0
    assert "digits read correctly" in out
    assert "of 360" in out
    assert "Next: nncjit compress" in out
    assert list(folder.iterdir()) == [folder / "model.safetensors"]


def test_demo_shows_damage_where_there_is_damage(folder, run):
    report = json.loads(run("demo --bits 0.2 --json")[1])
    assert report["correct_after"] < report["correct_before"] - 10


@pytest.mark.slow
def test_warmup_says_how_long_it_took(folder, run):
    code, out, err = run("warmup")
    assert (code, err) == (0, "")
    assert out.startswith("ready in ")
    assert "kernels compiled" in out


def test_inspect_loads_no_compiler(stream, tmp_path):
    code = "import sys, nncjit; nncjit.inspect('model.nnc'); nncjit.inspect('.'); "
    code += "print({'numba', 'llvmlite', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
