"""A trained network that others published as several ONNX files (silero-vad, MIT): it computes the same afterwards.

``pip install --no-deps silero-vad``. Its weights are initialisers in some files, constants in branches in others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import nncjit

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
SPEC = importlib.util.find_spec("silero_vad")
FILES = sorted((Path(SPEC.origin).parent / "data").glob("*.onnx")) if SPEC and SPEC.origin else []


def outputs(path):
    rng = np.random.default_rng(0)
    session = runtime.InferenceSession(path)
    given = {}
    for item in session.get_inputs():
        if item.type == "tensor(int64)":
            given[item.name] = np.array(16_000)
            continue
        shape = [side if isinstance(side, int) else 1 for side in item.shape[:-1]]
        last = item.shape[-1] if isinstance(item.shape[-1], int) else 576
        shape = [2, 1, 128] if item.name == "state" else [*shape, last]
        given[item.name] = rng.normal(0, 0.1, shape).astype(np.float32)
    return session.run(None, given)


@pytest.mark.skipif(not FILES, reason="silero-vad is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_network_computes_the_same(tmp_path, path):
    ways = [({"quantizer": "raw"}, 0.0), ({"snr": 60}, 0.02)]
    for options, tolerance in ways if path.stem == "silero_vad" else ways[:1]:
        report = nncjit.compress(path, tmp_path / "m.nnc", **options)
        assert sum(row.weights for row in report.tensors) > 300_000
        nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.onnx")
        onnx.checker.check_model(str(tmp_path / "m.onnx"))
        for got, want in zip(outputs(tmp_path / "m.onnx"), outputs(path), strict=True):
            assert np.allclose(got, want, rtol=0, atol=tolerance)
