"""A wrong word on the command line is one line that names the right one; closed streams and flags in front are fine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import nncjit


@pytest.fixture
def folder(tmp_path, monkeypatch):
    np.savez(tmp_path / "m.npz", w=np.ones((30, 40), np.float32), n=np.arange(4))
    nncjit.compress(tmp_path / "m.npz", tmp_path / "m.nnc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compres m.npz", "no verb 'compres' (did you mean 'compress'?)"),
        ("compress m.npz --bist 4", "no option --bist (did you mean '--bits'?)"),
        ("compress m.npz --bist=4", "no option --bist=4 (did you mean '--bits'?)"),
        ("compress m.npz --qzr", "no option --qzr"),
        ("verify m.nnc more", "no argument more"),
        ("verify", "required: FILE"),
        ("compress m.npz --threads x", "invalid int value: 'x'"),
        ("-q", "required: VERB"),
    ],
)
def test_wrong_words_are_one_line_that_helps(folder, run, line, words):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("nncjit: error: ")
    assert err.count("\n") == 1


def test_without_words_the_verbs_are_listed(run):
    code, out, err = run("")
    assert (code, out) == (2, "")
    assert "compress" in err


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_may_come_first(folder, run, flag):
    assert run(f"{flag} compress m.npz -o a.nnc") == (0, "", "")


def test_json_may_come_first(folder, run):
    code, out, _ = run("--json verify m.nnc")
    assert (code, json.loads(out)["weights"]) == (0, 1204)


def test_inspect_shows_a_model_file_as_such(folder, run):
    code, out, err = run("inspect m.npz")
    assert (code, err) == (0, "")
    assert "a model file, not compressed" in out
    assert "30 x 40" in out
    assert json.loads(run("inspect m.npz --json")[1])["profile"] is None


def test_max_bytes_takes_units(folder, run):
    assert run("verify m.nnc --max-bytes 1GB -q")[0] == 0
    assert run("verify m.nnc --max-bytes 1KB -q")[0] == 1
    code, _, err = run("verify m.nnc --max-bytes much")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.skipif(os.name != "posix", reason="streams are closed as on POSIX")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    ("words", "code"), [("verify m.nnc", 0), ("compress m.npz -o b.nnc", 0), ("verify none.nnc", 1)]
)
def test_closed_streams_are_no_failure(folder, words, code, closed):
    line = f"{sys.executable} -m nncjit {words} {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_nohup_keeps_a_run_alive(folder):
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); import nncjit\n"
    code += "nncjit.verify = lambda *a, **k: os.kill(os.getpid(), signal.SIGHUP)\n"
    code += "sys.argv = ['nncjit', '-q', 'verify', 'm.nnc']; from nncjit.cli.main import console; console()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reports_are_short_in_a_terminal_and_tables_in_a_notebook(folder):
    weights = {f"layer.{k}.weight": np.ones((8, 8), np.float32) for k in range(100)} | {"<b>": np.ones(3)}
    stream = nncjit.encode(weights, metadata={"k": "v" * 10_000})
    for found in (nncjit.inspect(stream), stream.report, nncjit.verify(stream)):
        assert "\n" not in str(found)
        assert len(str(found)) < 200
        assert len(repr(found)) < 400
        page = found._repr_html_()
        assert "81 more tensors" in page
        assert "<td><b>" not in page
    assert nncjit.inspect(stream).metadata == {"k": "v" * 10_000}
    with nncjit.open(folder / "m.nnc") as opened:
        assert "m.nnc': 2 tensors in" in repr(opened)


def test_an_open_file_is_read_like_a_mapping(folder):
    with nncjit.open("m.nnc") as opened:
        assert list(opened) == ["w", "n"] == opened.keys()
        assert opened["n"].tolist() == [0, 1, 2, 3]
        assert {name: opened[name].shape for name in opened} == {"w": (30, 40), "n": (4,)}
