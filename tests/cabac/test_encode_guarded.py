"""The encoder's kernels stay inside their arrays, write to no input and use no array whose owner is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nncjit.jit import JIT

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect"),
    pytest.mark.skipif(not JIT, reason="in plain mode every access is checked"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.parametrize("side", ["before", "behind"])
def test_random_layers_are_encoded_beside_forbidden_pages(side):
    done = run(str(HERE / "guarded_encoder.py"), side, "1", "500")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("side", "access"),
    [
        ("before", "load_u8(pages.address(array), -1)"),
        ("behind", "load_u8(pages.address(array), 7)"),
        ("before", "store_8(pages.copy(array).ctypes.data, -1, 1)"),
        ("behind", "store_8(pages.copy(array).ctypes.data, 7, 1)"),
        ("before", "store_8(pages.address(array), 0, 1)"),
        ("behind", "store_8(pages.address(array), 0, 1)"),
        ("behind", "load_u8(pages.address(array.copy()), 0)"),
    ],
)
def test_the_pages_end_a_process_that_strays(side, access):
    program = f"""
import numpy as np
from cabac.guard_pages import GuardPages
from nncjit.jit import kernel, load_u8, store_8

@kernel
def load(at, i):
    return load_u8(at, i)

@kernel
def store(at, i, value):
    store_8(at, i, value)

pages, array = GuardPages({side!r}), np.zeros(7, np.uint8)
{access.replace("load_u8", "load").replace("store_8", "store")}
"""
    assert run("-c", program).returncode == -signal.SIGSEGV
