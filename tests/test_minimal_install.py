"""A machine that only encodes and decodes needs NumPy, Numba and safetensors, and nothing else."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
for module in ("scipy", "tqdm", "ml_dtypes", "torch", "matplotlib"):
    sys.modules[module] = None
import numpy as np
import nncjit
stream = nncjit.encode({"w": np.ones((40, 30), np.float32), "n": np.arange(3)})
assert list(nncjit.decode(stream)) == ["w", "n"]
assert nncjit.verify(stream).checksum
assert len(nncjit.inspect(stream).tensors) == 2
with nncjit.open(stream) as opened:
    assert opened["n"].tolist() == [0, 1, 2]
nncjit.decompress(stream, "m.safetensors")
nncjit.compress("m.safetensors", "m.nnc")
import nncjit.torch
for name in nncjit.torch.__all__:
    try:
        getattr(nncjit.torch, name)
    except nncjit.ModelError as error:
        assert "pip install torch" in str(error)
    else:
        raise AssertionError(name)
"""


def test_encoding_and_decoding_need_no_scipy_and_no_tqdm(tmp_path):
    subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, check=True)
