"""A process that is killed at any moment, and two at once: a session is at one update or at the next."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = '''
"""Kill a child before each call that changes the disk; the parent looks at what it has left."""
import os, shutil, signal, sys
from pathlib import Path
import numpy as np
import nncjit
from nncjit.cli.main import main
from nncjit.updates import Receiver, Sender

CALLS = ("fsync", "replace", "unlink", "rename")

os.fsync = lambda file: None  # a killed process loses nothing of what it wrote: no need to wait for the disk

def killed_before(count):
    left = [count]
    for name in CALLS:
        def call(*args, _real=getattr(os, name), **keywords):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **keywords)
        setattr(os, name, call)

def in_child(work, count):
    """Whether the child was killed."""
    child = os.fork()
    if not child:
        killed_before(count)
        os._exit(work())
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def bits(side):
    return {name: array.tobytes() for name, array in side.arrays().items()}

os.chdir(sys.argv[1])
rng = np.random.default_rng(0)
weeks = [{"w": rng.standard_normal((9, 8)).astype(np.float32)}]
for _ in range(3):
    last = weeks[-1]
    weeks.append({"w": last["w"] + np.float32(0.1) * rng.standard_normal((9, 8), np.float32)})
for k, model in enumerate(weeks):
    np.savez(f"week{k}.npz", **model)
run = lambda line: main(f"{line} -q --threads 1".split())
assert run("update week0.npz week1.npz -o u1.nnc --keep sender") == 0
assert run("apply week0.npz u1.nnc --keep receiver") == 0
shutil.copytree("sender", "whole")
assert run("update whole week2.npz -o u2.nnc") == run("update whole week3.npz -o u3.nnc") == 0
moments = [nncjit.apply(weeks[0], *(f"u{k}.nnc" for k in range(1, n))) for n in (2, 3, 4)]
moments = [{name: array.tobytes() for name, array in model.items()} for model in moments]
kinds = {
    "receiver": (Receiver, "apply {} u2.nnc -o back.npz", "apply {} u3.nnc"),
    "sender": (Sender, "update {} week2.npz -o again2.nnc", "update {} week3.npz -o again3.nnc"),
}
for name, (kind, line, following) in kinds.items():
    for count in range(100):
        folder = f"{name}{count}"
        shutil.copytree(name, folder)
        more = in_child(lambda: run(line.format(folder)), count)
        number = kind.open(folder).number
        assert number in (1, 2) if more else number == 2, (folder, number)
        assert bits(kind.open(folder)) == moments[number - 1], folder
        if number == 1:
            assert run(line.format(folder)) == 0, folder
        assert run(following.format(folder)) == 0, folder
        side = kind.open(folder)
        assert (side.number, bits(side)) == (3, moments[2]), folder
        assert len(list(Path(folder).glob("*.array"))) <= 3, folder
        if name == "sender":
            assert Path("again3.nnc").read_bytes() == Path("u3.nnc").read_bytes(), folder
        shutil.rmtree(folder)
        if not more:
            break
    print(name, count)
for count in range(0, 100, 3):
    folder = f"begun{count}"
    more = in_child(lambda: run(f"update week0.npz week1.npz -o first.nnc --keep {folder}"), count)
    if not (Path(folder) / "chain.json").exists():
        assert run(f"update week0.npz week1.npz -o first.nnc --keep {folder}") == 0, folder
    elif Sender.open(folder).number == 0:
        assert run(f"update {folder} week1.npz -o first.nnc") == 0, folder
    assert run(f"update {folder} week2.npz -o second.nnc") == 0, folder
    assert bits(Sender.open(folder)) == moments[1], folder
    if not more:
        break
print("begun", count)
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_a_session_at_one_update_or_the_next(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {name: int(count) for name, count in (line.split() for line in done.stdout.splitlines())}
    assert all(count >= 5 for count in counts.values()), counts
