"""Update and apply beside encoding and decoding the whole model: ``python bench/update_speed.py [--millions N]``.

The model is MiniLM where its package is installed, else random matrices of the same sizes; the new model differs by 1 %
of each tensor's spread. Old and new alternate in one process on one thread, in CPU time. The target is 0.7: an update
may take 1 / 0.7 times as long as coding the whole model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from models import minilm, minilm_file

import nncjit
from nncjit.decoder.stream_decoder import compile_kernels

TARGET = 0.7
REPEATS = 5


def model(millions: float) -> dict[str, np.ndarray]:
    """MiniLM's tensors, as many as make so many weights, or what is like them."""
    arrays = minilm() if minilm_file() is not None else like_minilm()
    kept, total = {}, 0
    for name, array in arrays.items():
        if total < millions * 1e6:
            kept[name] = np.asarray(array)
            total += array.size
    return kept


def like_minilm() -> dict[str, np.ndarray]:
    """Random matrices of MiniLM's shapes."""
    rng = np.random.default_rng(0)
    shapes = (("in", (1536, 384)), ("out", (384, 1536)), ("qkv", (1152, 384)), ("bias", (384,)))
    return {
        f"layer{k}.{name}": (0.05 * rng.standard_normal(shape)).astype(np.float32)
        for k in range(12)
        for name, shape in shapes
    }


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.thread_time()
    result = work()
    return time.thread_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=float, default=1e9, help="millions of weights at the most")
    args = parser.parse_args()
    compile_kernels()
    base = model(args.millions)
    rng = np.random.default_rng(1)
    new = {
        name: (a + 0.01 * a.std() * rng.standard_normal(a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a
        for name, a in base.items()
    }
    whole, data = nncjit.encode(new, threads=1), nncjit.update(base, new, threads=1)
    works: dict[str, Callable[[], Any]] = {
        "encode": lambda: nncjit.encode(new, threads=1),
        "update": lambda: nncjit.update(base, new, threads=1),
        "decode": lambda: nncjit.decode(whole, threads=1),
        "apply": lambda: nncjit.apply(base, data, threads=1),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work)[0])
    weights = sum(a.size for a in base.values())
    print(f"{weights / 1e6:.1f} million weights, whole {len(whole) / 1e6:.2f} MB, update {len(data) / 1e6:.2f} MB")
    for one, other in (("update", "encode"), ("apply", "decode")):
        ratio = best[other] / best[one]
        verdict = "reached" if ratio >= TARGET else f"below {TARGET}"
        print(f"{one}: {best[one]:.2f} s, {other}: {best[other]:.2f} s, {ratio:.2f}x ({verdict})")


if __name__ == "__main__":
    main()
