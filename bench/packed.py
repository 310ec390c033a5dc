"""Models that are quantised already, without loss: bytes beside zstd at level 19 and the entropy of their levels.

    python bench/packed.py [--json FILE.json]

Normally distributed weights, quantised in the ways of the formats: GPTQ and AWQ pack four bits into words, with a scale
and a zero point for each group of 128; QDQ models of ONNX have int8 with a scale for each row or for the tensor. The
entropy is that of all levels of a tensor, each by itself, with one distribution for them: no coder that adapts takes
much less, as long as levels are independent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import zstandard
from saved_figures import save_or_print

import nncjit

ROWS, COLUMNS, GROUP = 4096, 2048, 128
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of each nibble of a word."""


def four_bits(weights: np.ndarray, *, asymmetric: bool) -> np.ndarray:
    """Levels 0 to 15 of inputs x outputs, with a scale for each group of inputs."""
    groups = weights.reshape(-1, GROUP, weights.shape[1])
    if asymmetric:
        low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
        step = (high - low) / 15
        zero = np.rint(-low / step)
    else:
        step, zero = np.abs(groups).max(1, keepdims=True) / 7.5, 8
    return np.clip(np.rint(groups / step) + zero, 0, 15).astype(np.uint32).reshape(weights.shape)


def gptq(levels: np.ndarray) -> np.ndarray:
    """Eight inputs in a word."""
    words = levels.reshape(-1, 8, levels.shape[1])
    return np.bitwise_or.reduce(words << (4 * np.arange(8, dtype=np.uint32))[:, None], axis=1).view(np.int32)


def awq(levels: np.ndarray) -> np.ndarray:
    """Eight outputs in a word."""
    words = levels.reshape(len(levels), -1, 8)[:, :, AWQ_ORDER]
    return np.bitwise_or.reduce(words << (4 * np.arange(8, dtype=np.uint32)), axis=2).view(np.int32)


def int8(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """Levels -127 to 127."""
    return np.rint(127 * weights / np.abs(weights).max(axis=axis, keepdims=True)).astype(np.int8)


def entropy(levels: np.ndarray) -> float:
    """Bytes of all levels."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / levels.size)).sum()) / 8


def tensors() -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """What is coded, under the name that tells what it is, and its levels."""
    rng = np.random.default_rng(0)
    weights = 0.02 * rng.standard_normal((ROWS, COLUMNS), np.float32)
    weights *= np.exp(rng.normal(0, 0.3, COLUMNS)).astype(np.float32)
    plain, shifted = four_bits(weights, asymmetric=False), four_bits(weights, asymmetric=True)
    rows, whole = int8(weights.T, 1), int8(weights.T, None)
    return {
        "GPTQ, 4 bits, symmetric": ("layer.qweight", gptq(plain), plain),
        "GPTQ, 4 bits, asymmetric": ("layer.qweight", gptq(shifted), shifted),
        "AWQ, 4 bits": ("layer.qweight", awq(shifted), shifted),
        "int8, a scale for each row": ("layer.weight", rows, rows),
        "int8, one scale": ("layer.weight", whole, whole),
    }


def main() -> None:
    """Measure, and save or print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the rows")
    arguments = parser.parse_args()
    rows = []
    for title, (name, stored, levels) in tensors().items():
        stream = nncjit.encode({name: stored}, quantizer="lossless")
        assert np.array_equal(nncjit.decode(stream)[name], stored)
        row = {"title": title, "bytes": stored.nbytes, "nncjit": len(stream)}
        row["zstd"] = len(zstandard.compress(stored.tobytes(), 19))
        rows.append(row | {"entropy": entropy(levels)})
    save_or_print({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
