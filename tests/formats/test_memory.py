"""Memory holds the tensors in hand, not the file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

N_TENSORS, ELEMENTS = 60, 1_000_000
TENSOR, FILE = 4 * ELEMENTS, 4 * ELEMENTS * N_TENSORS

SCRIPT = """
import importlib, sys
import numpy as np
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

path, n_tensors, elements = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def write(n_tensors, elements):
    infos = [TensorInfo(f"t{i}", (elements,), "float32") for i in range(n_tensors)]
    with create(path, infos) as writer:
        for i, info in enumerate(infos):
            writer.allocate(info.name)[:] = i
            writer.done(info.name)

def read():
    with open_model(path) as model:
        for i, tensor in enumerate(model):
            array = tensor.read()
            assert array[0] == array[-1] == i

write(2, 10)
read()
start = peak()
write(n_tensors, elements)
after_writing = peak()
read()
print(after_writing - start, peak() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".safetensors.index.json", ".npz", ".pt"])
def test_peak_memory_is_a_few_tensors(tmp_path, suffix):
    if suffix == ".pt" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    arguments = [str(tmp_path / f"model{suffix}"), str(N_TENSORS), str(ELEMENTS)]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    writing, both = map(int, done.stdout.split())
    room = 3 * TENSOR + (32 << 20 if suffix == ".pt" else 4 << 20)
    assert room < FILE / 4
    assert writing < room
    assert both < room
