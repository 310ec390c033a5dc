"""Checkpoints and fine-tuned models as updates: ``python bench/checkpoints.py [--steps N] [--checkpoints N]``.

The character model of the zoo is trained further, with a small rate. Each checkpoint goes out as an update to what the
receiver has of the one before; the last one also as an update to the model of the beginning, as a fine-tuned model
beside its base. Needs torch; writes docs/measurements/checkpoints.json and fills docs/howto/checkpoints.md.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncjit
from bench.zoo import charlm, layers, training
from nncjit.updates import Receiver, Sender

RESULTS = Path(__file__).parents[1] / "docs" / "measurements" / "checkpoints.json"
PAGE = RESULTS.parents[1] / "howto" / "checkpoints.md"
BEGIN, END = "<!-- checkpoints: begin -->", "<!-- checkpoints: end -->"
RATE, SEED = 1e-4, 11
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "`quality=0.5`": {"quality": 0.5},
    "`quality=0.25`": {"quality": 0.25},
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
            loss = training.cross_entropy(charlm.forward(weights, ids, training), following)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found.append({name: tensor.detach().numpy().copy() for name, tensor in weights.items()})
        print(f"checkpoint {len(found)}: loss {loss.item():.4f}", flush=True)
    return found


def quality_of(model: Arrays) -> float:
    """Bits per character of the test text."""
    return round(charlm.measure({name: np.array(array) for name, array in model.items()})["bits_per_character"], 4)


def sent(base: Arrays, models: list[Arrays], options: dict[str, Any]) -> dict[str, Any]:
    """What the updates from each model to the next come to; the receiver has the sender's bits after each of them."""
    sender, receiver = Sender(base, **options), Receiver(base)
    sizes, sending, applying, found = [], [], [], base
    for model in models:
        start = time.perf_counter()
        data = sender.update(model)
        middle = time.perf_counter()
        found = receiver.apply(data)
        applying.append(time.perf_counter() - middle)
        sending.append(middle - start)
        sizes.append(len(data))
        wanted = model if options.get("lossless") else sender.arrays()
        if any(found[name].tobytes() != wanted[name].tobytes() for name in found):
            raise SystemExit(f"{options}: the receiver has another model")
    return {
        "sizes": sizes,
        "update_seconds": round(float(np.median(sending)), 3),
        "apply_seconds": round(float(np.median(applying)), 3),
        "bits_per_character": quality_of(found),
    }


def table(results: dict[str, Any], kind: str) -> str:
    """One row for each way."""
    size, whole = results["float32_bytes"], results["whole_bytes"]
    lines = [
        "| | share of float32 | share of a whole stream | update | apply | bits per character |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for words, found in results[kind].items():
        mean = np.mean(found["sizes"])
        lines.append(
            f"| {words} | {100 * mean / size:.2f} % | {100 * mean / whole:.1f} % | {found['update_seconds']:.2f} s "
            f"| {found['apply_seconds']:.2f} s | {found['bits_per_character']:.4f} |"
        )
    return "\n".join(lines)


def text(results: dict[str, Any]) -> str:
    """Both tables, for the page."""
    count, measured = results["checkpoints"], results["bits_per_character"]
    share = 100 * results["whole_bytes"] / results["float32_bytes"]
    return "\n".join(
        [
            f"{results['weights']:,} weights, {count} checkpoints, {results['steps']} steps from one to the next. The "
            f"model has {measured[0]:.4f} bits per character before and {measured[1]:.4f} after it. A whole stream of "
            f"a checkpoint takes {share:.2f} % of float32.",
            "",
            "Each checkpoint as an update to the one before (means):",
            "",
            table(results, "neighbours"),
            "",
            "The last one as one update to the model of the beginning:",
            "",
            table(results, "fine_tuned"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--checkpoints", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = {name: np.array(array) for name, array in layers.load(charlm.WEIGHTS).items()}
    models = checkpoints(base, args.checkpoints, args.steps)
    results = {
        "steps": args.steps,
        "checkpoints": args.checkpoints,
        "weights": sum(array.size for array in base.values()),
        "float32_bytes": sum(array.nbytes for array in base.values()),
        "whole_bytes": len(nncjit.encode(models[-1])),
        "bits_per_character": [quality_of(base), quality_of(models[-1])],
        "neighbours": {words: sent(base, models, options) for words, options in WAYS.items()},
        "fine_tuned": {words: sent(base, models[-1:], options) for words, options in WAYS.items()},
    }
    RESULTS.write_text(json.dumps(results) + "\n", "utf-8")
    page = PAGE.read_text("utf-8")
    filled = re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{text(results)}\n{END}", page, flags=re.DOTALL)
    PAGE.write_text(filled, "utf-8")


if __name__ == "__main__":
    main()
