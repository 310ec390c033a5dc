"""Sizes of the zoo's models: coded as they are, calibrated, and fine-tuned, at a loss that a validation split decides.

    python bench/calibrated.py vgg [--finetune STEPS --first QUALITY [--rate RATE] [--kept out.json]] --json out.json

A curve of each kind runs over steps (`quality`), coarser and coarser until two points in a row lose more than one
percent of the main measure on the validation split; then the last step that held is halved twice towards the next. A
point holds the limit if it does so by at least one standard error, of sample after sample beside what the original
makes of it, and with samples that show the same digit in one cluster. The smallest such point is chosen, and is
measured on the test split, which nothing is chosen on.

"as it is": the default steps. "calibrated": batch norms merged, statistics of 1024 samples (`vgg` and `charlm`: 4096).
"vectors anew": after that, `match_norms`, or `match_biases` where there are no norms. "fine-tuned": trained on labels
and bits, so many steps for each point of the curve, on from the point before; a first point that does not hold the
limit is trained on, at half the price, until it does. The file is written after each of these points.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import training
from bench.zoo.calibration import standard_error, to_torch
from nncjit.calibrate import Statistics
from nncjit.torch import finetune, match_biases, match_norms, merge_norms

LOSS = 1.0
"""Percent of the main measure that may be lost."""
STEP = 0.5**0.5
"""From one point of a curve to the next."""
REFINED = 2
"""How often the step is halved at last."""
MOST_FAILED = 2
START = {
    "audio": (0.05, 0.5),
    "autoencoder": (2.0, 9.0),
    "charlm": (0.378, 0.77),
    "digits": (0.03, 0.65),
    "mobilenet": (0.2, 0.6),
    "resnet": (0.2, 0.9),
    "vgg": (0.2, 1.3),
}
"""Where the search begins, to save time: as it is, and calibrated."""
NEXT = 0.75
"""Quality of a fine-tuned point in relation to the one before."""
MOST_TUNED = 6
TUNING_BATCH = 32

Arrays = Mapping[str, np.ndarray]


class Curve:
    """Points of one kind, each chosen or not by the validation split alone."""

    def __init__(self, name: str, kind: str, raw: int, original: np.ndarray) -> None:
        self.name, self.kind, self.raw = name, kind, raw
        sign = 1 if zoo_calibration.HIGHER_IS_BETTER[name] else -1
        self.sign, self.limits = sign, original * (1 - sign * LOSS / 100)
        self._shown = zoo_calibration.split(name, "validation").shown
        self.points: list[dict[str, Any]] = []
        self.streams: list[bytes] = []
        self._tests: dict[int, dict[str, float]] = {}
        """What the best points gave on the test split."""

    def add(self, quality: float, data: bytes) -> bool:
        """Add a point, and say whether it holds the limit."""
        found = zoo_calibration.scores(self.name, nncjit.decode(data))
        room = self.sign * (found - self.limits)
        point = {"kind": self.kind, "quality": quality, "bytes": len(data), "ratio": 100 * len(data) / self.raw}
        point |= {
            "validation": float(found.mean()),
            "room": float(room.mean()),
            "error": standard_error(room, self._shown),
        }
        self.points.append(point)
        self.streams.append(data)
        print(
            f"{self.name} {self.kind} {quality:.4g}: {point['ratio']:.3f} %, {point['validation']:.4f}, "
            f"{point['room']:+.4f} from the limit, standard error {point['error']:.4f}",
            flush=True,
        )
        return self._holds(point)

    def search(self, first: float, encoded: Callable[[float], bytes]) -> None:
        """Points from the first on, to where the limit is: hits are counted, so one point that fails may be chance."""
        quality = first
        while not self.add(quality, encoded(quality)):
            quality /= STEP
        coarsest, quality, failed = quality, STEP * min(first, quality), 0
        if coarsest > first:
            failed = MOST_FAILED
        while failed < MOST_FAILED:
            held = self.add(quality, encoded(quality))
            coarsest, failed = (quality, 0) if held else (coarsest, failed + 1)
            quality *= STEP
        for k in range(1, REFINED + 1):
            quality = coarsest * STEP ** (0.5**k)
            coarsest = quality if self.add(quality, encoded(quality)) else coarsest

    def best(self) -> int | None:
        """The smallest point that holds the limit."""
        good = [k for k, point in enumerate(self.points) if self._holds(point)]
        return min(good, key=lambda k: int(self.points[k]["bytes"])) if good else None

    def chosen(self) -> dict[str, Any] | None:
        """The best point, measured on the test set."""
        best = self.best()
        if best is None:
            return None
        if best not in self._tests:
            self._tests[best] = self._tested(nncjit.decode(self.streams[best]))
        return self.points[best] | {"test": self._tests[best]}

    def keep(self, earlier: Mapping[str, Any]) -> None:
        """Take the points of an earlier run, whose streams are gone, and what the best gave on the test set."""
        self.points = [point for point in earlier["points"] if point["kind"] == self.kind]
        self.streams = [b""] * len(self.points)
        best, found = self.best(), earlier["chosen"].get(self.kind)
        if best is not None:
            self._tests[best] = found["test"]

    def _tested(self, decoded: Arrays) -> dict[str, float]:
        """The measure on the test split, and what is lost there, in percent of the original's, with its error."""
        whole, found = original(self.name, "test"), zoo_calibration.scores(self.name, decoded, "test")
        lost = 100 * self.sign * (whole - found) / whole.mean()
        error = standard_error(lost, zoo_calibration.split(self.name, "test").shown)
        return {"measure": float(found.mean()), "lost": float(lost.mean()), "error": error}

    @staticmethod
    def _holds(point: Mapping[str, float]) -> bool:
        return point["room"] >= point["error"]


@cache
def original(name: str, part: zoo_calibration.Part) -> np.ndarray:
    """What the original scores."""
    return zoo_calibration.scores(name, zoo_calibration.weights(name), part)


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def anew(name: str, weights: Arrays, data: bytes, options: Mapping[str, Any]) -> bytes | None:
    """Norms or biases that make up for what coding did, coded with the same matrices; None where there are neither."""
    encoded = partial(nncjit.encode, **options)
    back, first = tensors(nncjit.decode(data)), tensors(weights)
    inputs = torch.from_numpy(np.concatenate([x for x, _ in zoo_calibration.inputs_of(name, 512)]))
    match = match_norms if merge_norms(tensors(weights)) else match_biases
    with torch.no_grad():
        matched = match(back, first, inputs, forward=lambda w, x: zoo_calibration.run(name, w, x))
    if not matched:
        return None
    merge_norms(back)
    before = nncjit.decode(data)
    changed = {key: t.numpy() for key, t in back.items() if not np.array_equal(t.numpy(), before[key])}
    return encoded({**weights, **changed})


@dataclass(frozen=True)
class Batches:
    """So many of a task's endless batches, made when they are needed."""

    drawn: Iterator[tuple[np.ndarray, np.ndarray]]
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((to_torch(x), torch.from_numpy(y)) for x, y in islice(self.drawn, self.steps))


def tune(
    curve: Curve, weights: Arrays, statistics: Statistics, first: float, steps: int, rate: float, price: float
) -> Iterator[None]:
    """Train a network on with the codec in the loop, coarser and coarser, and yield after each point of its curve.

    The price of bits rises with the squared steps, as the encoder's own does. Until a first point holds, it goes on at
    the same quality and half the price; after that, it ends with the first that does not.
    """
    name = curve.name
    state = tensors(weights)
    task = zoo_calibration.TASKS[name]
    drawn = (task.tuned_on or task.draw)(TUNING_BATCH, zoo_calibration.TUNE_ON)
    loss = training.cross_entropy if task.logits else (lambda out, y: 100 * torch.nn.functional.mse_loss(out, y))
    quality = first
    for _ in range(MOST_TUNED):
        finetune(
            state,
            Batches(drawn, steps),
            objective=lambda result, batch: loss(result, batch[1]),
            forward=lambda w, batch: zoo_calibration.run(name, w, batch[0]),
            calibration=statistics,
            quality=quality,
            rate=rate,
            bit_price=price,
        )
        arrays = {key: t.numpy() for key, t in state.items()}
        held = curve.add(quality, nncjit.encode(arrays, calibration=statistics, quality=quality))
        yield
        if held:
            quality, price = NEXT * quality, price / NEXT**2
        elif curve.best() is not None:
            break
        else:
            price /= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(zoo_calibration.TASKS))
    parser.add_argument("--statistics", type=Path, help="made by bench.zoo.calibration; made anew without")
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help="for each point of the curve")
    parser.add_argument("--first", type=float, default=0.5, metavar="QUALITY", help="of the first point of it")
    parser.add_argument("--rate", type=float, default=0.01, help="of fine-tuning, at its peak")
    parser.add_argument("--price", type=float, default=0.1, help="loss that a bit for each weight may cost")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="of a run before: only fine-tuning is measured anew")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    name, weights, merged = args.name, zoo_calibration.weights(args.name), zoo_calibration.merged(args.name)
    made = Statistics.open(args.statistics) if args.statistics else zoo_calibration.collect(name).statistics()
    whole = original(name, "validation")
    raw = sum(a.nbytes for a in weights.values())
    plain, calibrated, norms, finetuned = (
        Curve(name, kind, raw, whole) for kind in ("as it is", "calibrated", "vectors anew", "fine-tuned")
    )
    curves = (plain, calibrated, norms, finetuned)
    if args.kept is None:
        measure(name, curves, weights, merged, made)
    else:
        earlier = json.loads(args.kept.read_text("utf-8"))
        for curve in curves[:3]:
            curve.keep(earlier)
        begin -= earlier["cpu_seconds"]
    facts = {
        "model": name,
        "weights": sum(a.size for a in weights.values()),
        "original": {"validation": float(whole.mean()), "test": float(original(name, "test").mean())},
        "finetune_steps": args.finetune,
        "finetune_price": args.price,
    }
    found = report(facts, curves, begin, args.json)
    if args.finetune:
        for _ in tune(finetuned, merged, made, args.first, args.finetune, args.rate, args.price):
            found = report(facts, curves, begin, args.json)
    for kind, chosen in found["chosen"].items():
        print(f"{name}, {kind}: {chosen and (round(chosen['ratio'], 3), chosen['test'])}", flush=True)


def measure(name: str, curves: tuple[Curve, ...], weights: Arrays, merged: Arrays, made: Statistics) -> None:
    """All curves but that of fine-tuning."""
    plain, calibrated, norms, _ = curves
    plain.search(START[name][0], lambda quality: nncjit.encode(weights, quality=quality))
    calibrated.search(START[name][1], lambda quality: nncjit.encode(merged, calibration=made, quality=quality))
    for point, stream in zip(calibrated.points, calibrated.streams, strict=True):
        options = {"calibration": made, "quality": point["quality"]}
        data = anew(name, merged, stream, options)
        if data is None:
            break
        norms.add(point["quality"], data)


def report(facts: Mapping[str, Any], curves: Iterable[Curve], begin: float, path: Path | None) -> dict[str, Any]:
    """What was found so far, also as a file."""
    drawn = [curve for curve in curves if curve.points]
    found = {
        **facts,
        "points": [point for curve in drawn for point in curve.points],
        "chosen": {curve.kind: curve.chosen() for curve in drawn},
        "cpu_seconds": time.process_time() - begin,
    }
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return found


if __name__ == "__main__":
    main()
