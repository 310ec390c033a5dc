"""Our default streams decode in NNCodec exactly as here, and the other way round, where NNCodec is installed.

It may be in this interpreter, or in the one that the environment variable NNCJIT_RIVAL names.
"""

import os
import pathlib
import subprocess
import sys

import pytest

import nncjit

SCRIPT = pathlib.Path(__file__).parent.parent.parent / "bench" / "interop.py"
RIVAL = os.environ.get("NNCJIT_RIVAL", sys.executable)


def interop(rival):
    """The script in a process of its own, with the package that is under test."""
    package = pathlib.Path(nncjit.__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(package)}
    command = [sys.executable, SCRIPT, "--rival", rival]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def has_nncodec():
    if not pathlib.Path(RIVAL).exists():
        return False
    done = subprocess.run([RIVAL, "-c", "import nncodec.nnc_core"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="bench/ is not here")
def test_both_codecs_read_each_others_streams():
    if not has_nncodec():
        pytest.skip(
            "NNCodec is not installed (pip install --no-deps nncodec, or set NNCJIT_RIVAL to a Python that has it)"
        )
    done = interop(RIVAL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "decode to the same tensors on both sides" in done.stdout


def test_without_nncodec_the_script_says_so_in_one_line(tmp_path):
    if not SCRIPT.exists():
        pytest.skip("bench/ is not here")
    done = interop(tmp_path / "no-python")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "no NNCodec" in done.stdout
