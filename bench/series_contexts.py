"""What temporal contexts cost who applies a series of updates: ``python bench/series_contexts.py [--millions N]``.

A model of MiniLM's sizes moves twice, 30 % of its weights by 1 % of their tensor's spread. The second update is coded
without contexts of the first and with them; both are applied in turns, on one thread, in processor time. Plain layers
are decoded in lanes where the machine has them, layers with contexts one segment after the other.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from update_speed import model

import nncjit
from nncjit.decoder.stream_decoder import compile_kernels

ROUNDS = 3


def moved(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The model a little later."""
    return {
        name: (a + 0.01 * a.std() * rng.standard_normal(a.shape) * (rng.random(a.shape) < 0.3)).astype(a.dtype)
        for name, a in arrays.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=6.0, help="millions of weights, about")
    args = parser.parse_args()
    compile_kernels()
    base = {name: a for name, a in model(args.millions).items() if a.dtype.kind == "f"}
    best = dict.fromkeys((False, True), float("inf"))
    sizes = {}
    for _ in range(ROUNDS):
        for temporal in (False, True):
            rng = np.random.default_rng(1)
            first = moved(base, rng)
            sender = nncjit.updates.Sender(base, threads=1, temporal=temporal)
            receiver = nncjit.updates.Receiver(base, threads=1)
            receiver.apply(sender.update(first))
            second = sender.update(moved(first, rng))
            started = time.thread_time()
            receiver.apply(second)
            best[temporal], sizes[temporal] = min(best[temporal], time.thread_time() - started), len(second)
    for temporal, seconds in best.items():
        said = "with temporal contexts" if temporal else "without"
        print(f"{said}: {sizes[temporal]:,} bytes, applied in {seconds:.3f} s, {seconds / best[False]:.2f} times")


if __name__ == "__main__":
    main()
