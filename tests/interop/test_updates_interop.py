"""Updates that use only what NNCodec 2.1.3 knows decode there exactly as here, where NNCodec is installed."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import nncjit

SCRIPT = pathlib.Path(__file__).parents[2] / "bench" / "updates_interop.py"
RIVAL = os.environ.get("NNCJIT_RIVAL", sys.executable)


def run(rival):
    package = pathlib.Path(nncjit.__file__).parents[1]
    command = [sys.executable, SCRIPT, "--rival", rival]
    environment = os.environ | {"PYTHONPATH": str(package)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="bench/ is not here")
def test_nncodec_decodes_our_updates():
    done = run(RIVAL)
    if "no NNCodec" in done.stdout:
        pytest.skip("NNCodec is not installed (pip install --no-deps nncodec, or set NNCJIT_RIVAL)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "decode to the same differences on both sides" in done.stdout
