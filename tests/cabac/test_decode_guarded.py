"""The decoder touches nothing but its arrays, whatever the bytes say: the pages beside them may not be touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nncjit
from nncjit.jit import JIT


@pytest.mark.skipif(not (JIT and sys.platform.startswith("linux")), reason="compiled code, and mprotect to watch it")
@pytest.mark.parametrize("side", ["before", "behind"])
def test_random_bytes_are_decoded_beside_forbidden_pages(side):
    program = Path(__file__).with_name("guarded_decoder.py")
    command = [sys.executable, program, side, "1", "2000"]
    places = [str(program.parent.parent), str(Path(nncjit.__file__).parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < int(done.stdout.split()[-1]) < 2000
