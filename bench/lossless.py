"""Floats without loss beside ZipNN and zstd: bytes, and the processor's time of compressing and decompressing.

    python bench/lossless.py --json FILE.json

The models are a sentence transformer (float32, and rounded to bfloat16 and float16) and normally distributed weights in
bfloat16. All run on one thread where they can be told to. The time is that of the whole process, since ZipNN starts
threads of its own, and the best of some runs, which alternate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import zstandard
from models import Arrays, minilm
from saved_figures import save_or_print
from zipnn import ZipNN

import nncjit
from nncjit.decoder.stream_decoder import compile_kernels as compile_decoder
from nncjit.encoder.model_encoder import compile_kernels as compile_encoder

RUNS = 3


def models() -> dict[str, Arrays]:
    weights = {name: array for name, array in minilm().items() if array.dtype == np.float32}
    random = 0.02 * np.random.default_rng(0).standard_normal((4096, 2048), np.float32)
    return {
        "MiniLM, float32": weights,
        "MiniLM, bfloat16": {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()},
        "MiniLM, float16": {name: array.astype(np.float16) for name, array in weights.items()},
        "normal, bfloat16": {"w": random.astype(ml_dtypes.bfloat16)},
    }


def _zipnn(arrays: Arrays) -> list[bytes]:
    return [
        bytes(ZipNN(bytearray_dtype=a.dtype.name, threads=1).compress(bytearray(a.tobytes()))) for a in _all(arrays)
    ]


def _zipnn_back(data: list[bytes]) -> object:
    return [ZipNN(threads=1).decompress(piece) for piece in data]


def _zstd(arrays: Arrays) -> list[bytes]:
    return [zstandard.compress(a.tobytes(), 3) for a in _all(arrays)]


def _zstd_back(data: list[bytes]) -> object:
    return [zstandard.decompress(piece) for piece in data]


def _ours(arrays: Arrays) -> list[bytes]:
    return [nncjit.encode(arrays, quantizer="lossless", threads=1)]


def _ours_back(data: list[bytes]) -> object:
    return nncjit.decode(data[0], threads=1)


def _all(arrays: Arrays) -> list[np.ndarray]:
    return list(arrays.values())


CODERS: Mapping[str, tuple[Callable[[Arrays], list[bytes]], Callable[[list[bytes]], object]]] = {
    "nncjit": (_ours, _ours_back),
    "ZipNN": (_zipnn, _zipnn_back),
    "zstd 3": (_zstd, _zstd_back),
}


def measure(arrays: Arrays) -> dict[str, tuple[int, float, float]]:
    """Coder -> (bytes, seconds of compressing, seconds of decompressing)."""
    found = dict.fromkeys(CODERS, (0, float("inf"), float("inf")))
    back = nncjit.decode(_ours(arrays)[0])
    assert all(back[name].tobytes() == array.tobytes() for name, array in arrays.items())
    for _ in range(RUNS):
        for name, (compress, decompress) in CODERS.items():
            started = time.process_time()
            data = compress(arrays)
            middle = time.process_time()
            decompress(data)
            _, best_there, best_back = found[name]
            times = min(best_there, middle - started), min(best_back, time.process_time() - middle)
            found[name] = (sum(map(len, data)), *times)
    return found


def main() -> None:
    """Measure, and save or print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the rows")
    arguments = parser.parse_args()
    compile_encoder()
    compile_decoder()
    rows = []
    for title, arrays in models().items():
        weights, own = sum(a.size for a in _all(arrays)), sum(a.nbytes for a in _all(arrays))
        for name, (size, there, back) in measure(arrays).items():
            row = {"weights": title, "coder": name, "percent": 100 * size / own, "bits_per_weight": 8 * size / weights}
            rows.append(row | {"compress": weights / there, "decompress": weights / back})
    save_or_print({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
