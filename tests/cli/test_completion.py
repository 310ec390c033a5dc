"""Scripts that complete words in shells name every verb and its options, and do so in a shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from nncjit.cli.main import VERBS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_its_options_are_named(run, shell):
    code, out, err = run(f"completion {shell}")
    assert (code, err) == (0, "")
    assert all(verb in out for verb in VERBS)
    assert "bits" in out
    assert "shard-size" in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [("nncjit comp", "compress completion"), ("nncjit compress --bi", "--bits"), ("nncjit verify --thr", "--threads")],
)
def test_bash_completes(run, words, wanted):
    script = run("completion bash")[1]
    *before, last = words.split()
    listed = " ".join(f"'{word}'" for word in (*before, last))
    script += f"\nCOMP_WORDS=({listed}); COMP_CWORD={len(before)}; _nncjit; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted


def test_an_unknown_shell_is_one_line(run):
    code, _, err = run("completion tcsh")
    assert (code, err.count("\n")) == (2, 1)
