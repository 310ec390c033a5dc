"""Checkpoints and a fine-tuned model as updates: ``python bench/checkpoints.py [--json PATH]``; two minutes.

The character model of the zoo, which has read program text, is trained further on prose. Each checkpoint goes out as an
update to what the receiver has of the one before; the last one also as one update to the model of the beginning, as a
fine-tuned model beside its base, and as a stream of its own. Needs torch and scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncjit
from bench.federated_tasks import Arrays, Characters
from bench.zoo import charlm, training
from nncjit.updates import Receiver, Sender

RATE, ROWS, SEED = 3e-4, 8, 11
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "quality=0.5": {"quality": 0.5},
    "quality=0.35": {"quality": 0.35},
    "quality=0.25": {"quality": 0.25},
    "lossless": {"lossless": True},
}
WHOLE: dict[str, dict[str, Any]] = {"default": {}, "lossless": {"quantizer": "lossless"}}


def checkpoints(task: Characters, count: int, steps: int) -> list[Arrays]:
    """The weights after every few steps, those of the beginning first."""
    found, text = [task.start()], np.concatenate(task.parts)
    weights = {name: torch.from_numpy(array.copy()).requires_grad_(True) for name, array in found[0].items()}
    optimiser, rng = torch.optim.Adam(weights.values(), lr=RATE), np.random.default_rng(SEED)
    for k in range(count * steps):
        at = rng.integers(len(text) - charlm.WINDOW, size=(ROWS, 1)) + np.arange(charlm.WINDOW + 1)
        ids, following = (torch.from_numpy(text[part]) for part in (at[:, :-1], at[:, 1:]))
        loss = training.cross_entropy(charlm.forward(weights, ids, training), following)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (k + 1) % steps == 0:
            found.append({name: tensor.detach().numpy().copy() for name, tensor in weights.items()})
            print(f"checkpoint {len(found) - 1}: loss {loss.item():.4f}", flush=True)
    return found


def measured(task: Characters, model: Arrays) -> float:
    """Bits per character of prose that training has not seen."""
    return round(task.measure({name: np.array(array) for name, array in model.items()}), 4)


def sent(task: Characters, models: list[Arrays], options: dict[str, Any]) -> dict[str, Any]:
    """What the updates from each model to the next come to; the receiver has the sender's bits after each of them."""
    sender, receiver = Sender(models[0], threads=1, **options), Receiver(models[0], threads=1)
    sizes, sending, applying, found = [], [], [], models[0]
    for model in models[1:]:
        start = time.process_time()
        data = sender.update(model)
        middle = time.process_time()
        found = receiver.apply(data)
        applying.append(time.process_time() - middle)
        sending.append(middle - start)
        sizes.append(len(data))
        wanted = model if options.get("lossless") else sender.arrays()
        if any(found[name].tobytes() != wanted[name].tobytes() for name in wanted):
            raise SystemExit(f"{options}: the receiver has another model")
    times = {"encode_seconds": _median(sending), "decode_seconds": _median(applying)}
    return {"sizes": sizes, **times, "bits_per_character": measured(task, found)}


def whole(task: Characters, model: Arrays, options: dict[str, Any]) -> dict[str, Any]:
    """The same of a model as a stream of its own."""
    start = time.process_time()
    data = nncjit.encode(model, threads=1, **options)
    middle = time.process_time()
    found = nncjit.decode(data, threads=1)
    times = {"encode_seconds": _median([middle - start]), "decode_seconds": _median([time.process_time() - middle])}
    return {"sizes": [len(data)], **times, "bits_per_character": measured(task, found)}


def _median(seconds: list[float]) -> float:
    return round(float(np.median(seconds)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="from one checkpoint to the next")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = Characters()
    models = checkpoints(task, args.checkpoints, args.steps)
    sent(task, models[:2], {})  # compiles what is not there yet
    results = {
        "steps": args.steps,
        "weights": sum(array.size for array in models[0].values()),
        "float32_bytes": sum(array.nbytes for array in models[0].values()),
        "bits_per_character": [measured(task, models[0]), measured(task, models[-1])],
        "neighbours": {way: sent(task, models, options) for way, options in WAYS.items()},
        "fine_tuned": {way: sent(task, [models[0], models[-1]], options) for way, options in WAYS.items()},
        "whole": {way: whole(task, models[-1], options) for way, options in WHOLE.items()},
    }
    for kind in ("neighbours", "fine_tuned", "whole"):
        for way, found in results[kind].items():
            print(f"{kind:12}{way:14}{np.mean(found['sizes']):12,.0f} bytes{found['bits_per_character']:9.4f}")
    if args.json:
        args.json.write_text(json.dumps(results) + "\n", "utf-8")


if __name__ == "__main__":
    main()
