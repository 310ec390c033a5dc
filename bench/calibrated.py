"""Sizes of the zoo's models: coded as they are, calibrated, compensated and fine-tuned, at a loss that a validation
split decides.

    python bench/calibrated.py vgg [--finetune STEPS --first QUALITY ...] [--kept out.json] --json out.json

A curve of each kind runs over steps (`quality`), coarser and coarser until two points in a row lose more than one
percent of the main measure on the validation split; then three more are measured between the coarsest that held and
the next. A point holds the limit if it does so by at least two standard errors, of sample after sample beside what the
original makes of it, and with samples that show the same digit in one cluster. The smallest such point is chosen, and
is measured on the test split, which nothing is chosen on.

"as it is": the default steps. "calibrated": batch norms merged, statistics of 1024 samples (`vgg` and `charlm`: 4096).
"compensated": with these statistics, weights that `compensate` moved, and after that `match_norms`, or `match_biases`
where there are no norms, both on 512 of the samples. "fine-tuned": trained on labels (with ``--distil`` on the
original's outputs) and bits, so many steps for each point of the curve, on from the point before; a first point that
does not hold the limit is trained on, at half the price, until it does. The file is written after each of these points.
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
from nncjit.torch import compensate, finetune, match_biases, match_norms, merge_norms

LOSS = 1.0
"""Percent of the main measure that may be lost."""
STEP = 0.5**0.5
"""From one point of a curve to the next."""
BETWEEN = 4
"""Parts of a step at last."""
CERTAIN = 2.0
"""Standard errors by which a point must hold the limit."""
REPAIRED_ON = 512
"""Samples of calibration that weights are compensated with."""
MOST_FAILED = 2
START = {
    "audio": (0.05, 0.5, 0.7),
    "autoencoder": (2.0, 9.0, 9.0),
    "charlm": (0.378, 0.77, 0.77),
    "digits": (0.03, 0.65, 0.65),
    "mobilenet": (0.2, 0.6, 0.42),
    "resnet": (0.2, 0.9, 0.64),
    "vgg": (0.2, 1.3, 0.65),
}
"""Where the search begins, to save time: as it is, calibrated, and compensated."""
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
        for k in range(1, BETWEEN):
            quality = coarsest * STEP ** (k / BETWEEN)
            self.add(quality, encoded(quality))

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
        return point["room"] >= CERTAIN * point["error"]


@cache
def original(name: str, part: zoo_calibration.Part) -> np.ndarray:
    """What the original scores."""
    return zoo_calibration.scores(name, zoo_calibration.weights(name), part)


def tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


@dataclass(frozen=True)
class Repair:
    """Weights that make up for what coding does to them."""

    name: str
    weights: Arrays
    statistics: Statistics

    def compensated(self, quality: float) -> dict[str, torch.Tensor]:
        """The weights, moved for steps of this quality."""
        moved = tensors(self.weights)
        compensate(moved, self._inputs(), calibration=self.statistics, quality=quality, forward=self._run)
        return moved

    def encoded(self, quality: float) -> bytes:
        """Compensated weights, coded, and with vectors that are matched to the original's outputs."""
        encoded = partial(nncjit.encode, calibration=self.statistics, quality=quality)
        moved = {key: t.numpy() for key, t in self.compensated(quality).items()}
        decoded = nncjit.decode(encoded(moved))
        back, first = tensors(decoded), tensors(self.weights)
        match = match_norms if merge_norms(tensors(self.weights)) else match_biases
        with torch.no_grad():
            match(back, first, self._inputs(), forward=self._run)
        merge_norms(back)
        changed = {key: t.numpy() for key, t in back.items() if not np.array_equal(t.numpy(), decoded[key])}
        return encoded({**moved, **changed})

    def _inputs(self) -> torch.Tensor:
        return to_torch(np.concatenate([x for x, _ in zoo_calibration.inputs_of(self.name, REPAIRED_ON)]))

    def _run(self, weights: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        return zoo_calibration.run(self.name, weights, inputs)


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
    curve: Curve,
    state: Mapping[str, torch.Tensor],
    statistics: Statistics,
    first: float,
    steps: int,
    rate: float,
    price: float,
    original: Mapping[str, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Train a network on with the codec in the loop, coarser and coarser, and yield after each point of its curve.

    It learns the labels, or the outputs of the original network where that is given.

    The price of bits rises with the squared steps, as the encoder's own does. Until a first point holds, it goes on at
    the same quality and half the price; after that, it ends with the first that does not.
    """
    name = curve.name
    task = zoo_calibration.TASKS[name]
    drawn = (task.tuned_on or task.draw)(TUNING_BATCH, zoo_calibration.TUNE_ON)
    loss = training.cross_entropy if task.logits else (lambda out, y: squares(out, y).log().mean())

    def objective(result: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if original is None:
            return loss(result, batch[1])
        with torch.no_grad():
            wanted = zoo_calibration.run(name, original, batch[0])
        if task.logits:
            return divergence(result, wanted)
        # what PSNR loses where what coding changes has nothing to do with the original's error
        return (1 + squares(result, wanted) / squares(wanted, batch[1])).log().mean()

    quality = first
    for _ in range(MOST_TUNED):
        finetune(
            state,
            Batches(drawn, steps),
            objective=objective,
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


def squares(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Each sample's mean squared error. PSNR counts its logarithm, so what is smooth must stay smooth, too."""
    return (outputs - wanted).square().flatten(1).mean(1)


def divergence(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the distributions."""
    ours, theirs = (logits.flatten(0, -2).log_softmax(-1) for logits in (outputs, wanted))
    return torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(zoo_calibration.TASKS))
    parser.add_argument("--statistics", type=Path, help="made by bench.zoo.calibration; made anew without")
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help="for each point of the curve")
    parser.add_argument("--first", type=float, default=0.5, metavar="QUALITY", help="of the first point of it")
    parser.add_argument("--rate", type=float, default=0.01, help="of fine-tuning, at its peak")
    parser.add_argument("--price", type=float, default=0.1, help="loss that a bit for each weight may cost")
    parser.add_argument("--distil", action="store_true", help="fine-tuning learns the original's outputs, not labels")
    parser.add_argument("--compensated", action="store_true", help="fine-tuning begins with compensated weights")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="of a run before: only fine-tuning is measured anew")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    name, weights, merged = args.name, zoo_calibration.weights(args.name), zoo_calibration.merged(args.name)
    made = Statistics.open(args.statistics) if args.statistics else zoo_calibration.collect(name).statistics()
    whole = original(name, "validation")
    raw = sum(a.nbytes for a in weights.values())
    plain, calibrated, compensated, finetuned = (
        Curve(name, kind, raw, whole) for kind in ("as it is", "calibrated", "compensated", "fine-tuned")
    )
    curves = (plain, calibrated, compensated, finetuned)
    repair = Repair(name, merged, made)
    if args.kept is None:
        plain.search(START[name][0], lambda quality: nncjit.encode(weights, quality=quality))
        calibrated.search(START[name][1], lambda quality: nncjit.encode(merged, calibration=made, quality=quality))
        compensated.search(START[name][2], repair.encoded)
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
        "finetune_compensated": args.compensated,
        "finetune_distil": args.distil,
    }
    found = report(facts, curves, begin, args.json)
    if args.finetune:
        state = repair.compensated(args.first) if args.compensated else tensors(merged)
        learnt = tensors(merged) if args.distil else None
        for _ in tune(finetuned, state, made, args.first, args.finetune, args.rate, args.price, learnt):
            found = report(facts, curves, begin, args.json)
    for kind, chosen in found["chosen"].items():
        print(f"{name}, {kind}: {chosen and (round(chosen['ratio'], 3), chosen['test'])}", flush=True)


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
