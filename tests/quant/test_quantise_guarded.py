"""The quantisers' kernels stay inside their arrays, write to no input and use no array whose owner is gone."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("side", ["before", "behind"])
@pytest.mark.parametrize("scalar", ["0", "1"], ids=["vectors", "scalars"])
def test_random_tensors_are_quantised_beside_forbidden_pages(side, scalar):
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "NNCJIT_SCALAR": scalar}
    command = [sys.executable, str(HERE / "guarded_quantisers.py"), side, "1", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
