"""Sizes of the zoo's models: coded as they are, calibrated, and fine-tuned, at a loss that a validation split decides.

    python bench/calibrated.py vgg --json out.json [--finetune STEPS]

A curve of each kind runs over steps (`quality`). The smallest point that loses at most one percent of the main measure
on the validation split is chosen, and is measured on the test set, which nothing is chosen on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import training
from nncjit.calibrate import Statistics
from nncjit.torch import finetune, match_norms

LOSS = 1.0
"""Percent of the main measure that may be lost."""
AS_IT_IS = (1.4, 1.0, 0.7, 0.5, 0.25, 0.12, 0.06, 0.045, 0.03, 0.022)
CALIBRATED = (8.0, 5.6, 4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
FINETUNED = (0.84, 0.7, 0.6, 0.5)
RATE = 1e-3

Arrays = Mapping[str, np.ndarray]


class Curve:
    """Points of one kind, each chosen or not by the validation split alone."""

    def __init__(self, name: str, kind: str, whole: Arrays) -> None:
        self.name, self.kind = name, kind
        self.raw = sum(a.nbytes for a in whole.values())
        self.points: list[dict[str, Any]] = []
        self.streams: list[bytes] = []

    def add(self, quality: float, data: bytes, limit: float) -> bool:
        """Add a point, and say whether it holds the limit."""
        found = zoo_calibration.validate(self.name, nncjit.decode(data))
        point = {"kind": self.kind, "quality": quality, "bytes": len(data), "ratio": 100 * len(data) / self.raw}
        self.points.append(point | {"validation": found})
        self.streams.append(data)
        size = f"{point['ratio']:.3f} %"
        print(f"{self.name} {self.kind} {quality:g}: {size}, {found:.4f} (limit {limit:.4f})", flush=True)
        return holds(self.name, found, limit)

    def chosen(self, limit: float, *, test: bool = True) -> dict[str, Any] | None:
        """The smallest point that holds the limit on the validation split, measured on the test set."""
        good = [k for k, p in enumerate(self.points) if holds(self.name, p["validation"], limit)]
        if not good:
            return None
        best = min(good, key=lambda k: int(self.points[k]["bytes"]))
        if not test:
            return self.points[best]
        return self.points[best] | {"test": zoo_calibration.measure(self.name, nncjit.decode(self.streams[best]))}


def holds(name: str, found: float, limit: float) -> bool:
    return found >= limit if zoo_calibration.HIGHER_IS_BETTER[name] else found <= limit


def anew(name: str, weights: Arrays, quality: float, statistics: Any) -> bytes:
    """Calibrated, with the norms' statistics measured anew after coding."""
    data = nncjit.encode(weights, calibration=statistics, quality=quality)
    back = {key: torch.from_numpy(np.array(array)) for key, array in nncjit.decode(data).items()}
    first = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
    inputs = torch.from_numpy(np.concatenate([x for x, _ in zoo_calibration.inputs_of(name, 512)]))
    with torch.no_grad():
        if not match_norms(back, first, inputs, forward=lambda w, x: zoo_calibration.run(name, w, x)):
            return data
    norms = {key: t.numpy() for key, t in back.items() if key.endswith(("running_mean", "running_var"))}
    return nncjit.encode({**weights, **norms}, calibration=statistics, quality=quality)


def tuned(name: str, weights: Arrays, quality: float, statistics: Any, steps: int) -> bytes:
    """Trained with the codec in the loop, on labels."""
    state = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
    batches = zoo_calibration.inputs_of(name, steps * zoo_calibration.BATCH, zoo_calibration.CALIBRATE_ON + 2)
    moved = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches]
    logits = zoo_calibration.TASKS[name].logits
    loss = training.cross_entropy if logits else (lambda out, y: 100 * torch.nn.functional.mse_loss(out, y))
    finetune(
        state,
        moved,
        objective=lambda result, batch: loss(result, batch[1]),
        forward=lambda w, batch: zoo_calibration.run(name, w, batch[0]),
        calibration=statistics,
        quality=quality,
        rate=RATE,
        refresh=10,
    )
    return nncjit.encode({key: t.numpy() for key, t in state.items()}, calibration=statistics, quality=quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(zoo_calibration.TASKS))
    parser.add_argument("--statistics", type=Path, help="made by bench.zoo.calibration; made anew without")
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    name, weights = args.name, zoo_calibration.weights(args.name)
    made = Statistics.open(args.statistics) if args.statistics else zoo_calibration.collect(name).statistics()
    whole = zoo_calibration.validate(name, weights)
    higher = zoo_calibration.HIGHER_IS_BETTER[name]
    limit = whole * (1 - LOSS / 100 if higher else 1 + LOSS / 100)
    begin = time.process_time()
    curves = [Curve(name, kind, weights) for kind in ("as it is", "calibrated", "norms anew", "fine-tuned")]
    for quality in AS_IT_IS:
        if not curves[0].add(quality, nncjit.encode(weights, quality=quality), limit):
            break
    for quality in CALIBRATED:
        plain = curves[1].add(quality, nncjit.encode(weights, calibration=made, quality=quality), limit)
        data = anew(name, weights, quality, made)
        again = any(key.endswith("running_var") for key in weights) and curves[2].add(quality, data, limit)
        if not plain and not again:
            break
    best = [point for curve in curves[1:3] if (point := curve.chosen(limit, test=False)) is not None]
    start = min((point["quality"] for point in best), default=CALIBRATED[0])
    for quality in (start * share for share in FINETUNED) if args.finetune else ():
        if not curves[3].add(quality, tuned(name, weights, quality, made, args.finetune), limit):
            break
    found = {
        "model": name,
        "weights": sum(a.size for a in weights.values()),
        "original": {"validation": whole, "test": zoo_calibration.measure(name, weights)},
        "finetune_steps": args.finetune,
        "points": [point for curve in curves for point in curve.points],
        "chosen": {curve.kind: curve.chosen(limit) for curve in curves if curve.points},
        "cpu_seconds": time.process_time() - begin,
    }
    for kind, point in found["chosen"].items():
        print(f"{name}, {kind}: {point and (round(point['ratio'], 3), point['test'])}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
