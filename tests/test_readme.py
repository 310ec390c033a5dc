"""Every example in the README runs as it is shown."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nncjit.demo import digits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    return [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that holds ``model.safetensors``, a real model, and is the current one."""
    shutil.copy(digits.MODEL, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_examples_run(folder, capsys):
    names = {}
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert sorted(names["back"]) == ["n", "w"]
    assert names["back"]["w"].shape == (256, 256)
    assert "% of the original" in capsys.readouterr().out


def test_shell_examples_run(folder):
    lines = [line for line in commands() if line.startswith("nncjit ")]
    assert lines
    for line in lines:
        words = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (folder / "back.safetensors").stat().st_size == (folder / "model.safetensors").stat().st_size
    assert (folder / "small.nnc").stat().st_size <= 0.0808 * digits.MODEL.stat().st_size


@pytest.mark.skipif(not (ROOT / ".ci" / "run").exists(), reason="no checkout")
def test_ci_runs_the_two_commands_as_they_stand_here():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    setup = [line for line in commands() if line.startswith("pip ")]
    assert len(setup) == 2
    assert all(line in script for line in setup)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
