"""The stand-ins as fixtures."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from report import stubs


@pytest.fixture
def rival_python(tmp_path, monkeypatch):
    """An interpreter that has (something like) NNCodec."""
    stubs.write_nncodec(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    return sys.executable


@pytest.fixture
def torchvision(monkeypatch):
    """torch and torchvision, as far as they are needed."""
    pytest.importorskip("PIL.Image")
    monkeypatch.setitem(sys.modules, "torch", stubs.TORCH)
    monkeypatch.setitem(sys.modules, "torchvision.models", stubs.MODELS)


@pytest.fixture
def photographs(tmp_path):
    """Six images in two class folders, two of them in the wrong one, and weights that tell them apart."""
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for label, colour in (("a_red", 0), ("b_blue", 2)):
        folder = tmp_path / "val" / label
        folder.mkdir(parents=True)
        for k in range(3):
            pixels = random.integers(0, 60, (40 + 10 * k, 50, 3), np.uint8)
            pixels[..., colour if k < 2 else 2 - colour] += 150
            image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / "notes.txt").write_text("no image")
    save_file(stubs.TRAINED, tmp_path / "weights.safetensors")
    return tmp_path / "val"
