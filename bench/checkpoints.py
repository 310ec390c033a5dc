"""Checkpoints as updates: ``python bench/checkpoints.py [--steps N] [--checkpoints N]``. Needs torch.

The character model of the zoo is trained further, with a small rate as in fine-tuning. Each checkpoint goes out as an
update to what the receiver has of the one before. Fills the table in docs/howto/updates.md.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncjit
from bench.zoo import charlm, layers, training
from nncjit.updates import Receiver, Sender

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "updates.md"
BEGIN, END = "<!-- checkpoints: begin -->", "<!-- checkpoints: end -->"
RATE, SEED = 1e-4, 11
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "`quality=0.5`": {"quality": 0.5},
    "`lossless`": {"lossless": True},
}
Arrays = dict[str, np.ndarray]


def checkpoints(start: Arrays, count: int, steps: int) -> list[Arrays]:
    """The weights after every few steps."""
    torch.manual_seed(SEED)
    weights = {name: torch.from_numpy(array.copy()).requires_grad_(True) for name, array in start.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE)
    found, data = [], charlm.batches(SEED)
    for _ in range(count):
        for _ in range(steps):
            ids, following = (torch.from_numpy(part) for part in next(data))
            outputs = charlm.forward(weights, ids, training)
            loss = training.cross_entropy(outputs, following)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found.append({name: tensor.detach().numpy().copy() for name, tensor in weights.items()})
        print(f"checkpoint {len(found)}: loss {loss.item():.4f}", flush=True)
    return found


def table(base: Arrays, models: list[Arrays]) -> str:
    """What the updates of all checkpoints come to, in each way."""
    size = sum(array.nbytes for array in base.values())
    whole = np.mean([len(nncjit.encode(model)) for model in models])
    measured = charlm.measure(models[-1])["bits_per_character"]
    lines = [
        f"{sum(a.size for a in base.values()):,} weights, {len(models)} checkpoints. The last one has {measured:.4f} "
        f"bits per character; a whole stream of a checkpoint takes {100 * whole / size:.2f} % of float32.",
        "",
        "| update | share of float32 | share of a whole stream | update | apply | bits per character at the end |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for words, options in WAYS.items():
        sender, receiver = Sender(base, **options), Receiver(base)
        sizes, sending, applying = [], 0.0, 0.0
        for model in models:
            start = time.perf_counter()
            data = sender.update(model)
            middle = time.perf_counter()
            found = receiver.apply(data)
            applying += time.perf_counter() - middle
            sending += middle - start
            sizes.append(len(data))
            same = sender.arrays()
            assert all(np.array_equal(found[name], same[name]) for name in found), "both sides hold the same"
            if options.get("lossless"):
                assert all(np.array_equal(found[name], model[name]) for name in found), "nothing is lost"
        quality = charlm.measure({name: np.array(array) for name, array in found.items()})["bits_per_character"]
        mean = np.mean(sizes)
        lines.append(
            f"| {words} | {100 * mean / size:.2f} % | {100 * mean / whole:.1f} % | {sending / len(models):.2f} s "
            f"| {applying / len(models):.2f} s | {quality:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--checkpoints", type=int, default=4)
    args = parser.parse_args()
    base = {name: np.asarray(array) for name, array in layers.load(charlm.WEIGHTS).items()}
    text = table(base, checkpoints(base, args.checkpoints, args.steps))
    print(text)
    page = PAGE.read_text("utf-8")
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text}\n{END}", page, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
