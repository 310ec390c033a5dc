"""What the shapes of metrics that weights give away (``calibration="weights"``) save on the models of the zoo.

    python bench/guessed.py [MODEL ...] --json out.json

Two curves over the same qualities, with the default steps and with guessed statistics. The error is the outputs'
Kullback-Leibler divergence from those of the original weights (`autoencoder`: the squared error), which says more than
a measure that counts hits. In small networks it still jumps from one step to the next by as much as a bit a weight
makes, so there are many points, and a parabola is fitted to each curve: the error's logarithm over that of the size.
The difference in bytes is the mean over all errors that both reach; its standard error follows from how the points
scatter. The inputs are drawn anew, with a seed of their own; texts are those of the test set. What is guessed, and how
much of it, was chosen on other inputs of these models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import charlm

QUALITIES = tuple(1.4 * 2 ** (-k / 4) for k in range(11))
FEWER = {"charlm": slice(0, None, 2)}
"""Of the qualities, where the error hardly jumps."""
DRAWS = 400
KINDS: dict[str, dict[str, Any]] = {"as it is": {}, "guessed": {"calibration": "weights"}}
REPORT_ON = 79
"""Seed of the inputs."""
SAMPLES = 256
MODELS = ("audio", "autoencoder", "charlm", "digits", "mobilenet", "resnet", "vgg")

Arrays = Mapping[str, np.ndarray]


def error_of_outputs(name: str, weights: Arrays, inputs: np.ndarray) -> Callable[[Arrays], float]:
    """How far the outputs of other weights are from those of these."""
    run = partial(_outputs, name, inputs=torch.from_numpy(inputs.copy()))
    return partial(_divergence, run, run(weights), logits=zoo_calibration.TASKS[name].logits)


def _outputs(name: str, weights: Arrays, inputs: torch.Tensor) -> torch.Tensor:
    state = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
    with torch.no_grad():
        found = torch.cat([zoo_calibration.run(name, state, part) for part in inputs.split(zoo_calibration.BATCH)])
    return found.double()


def _divergence(run: Callable[[Arrays], torch.Tensor], known: torch.Tensor, other: Arrays, *, logits: bool) -> float:
    found = run(other)
    if not logits:
        return float((found - known).square().mean())
    exact = known.log_softmax(-1)
    return float((exact.exp() * (exact - found.log_softmax(-1))).sum(-1).mean())


def measure(name: str) -> dict[str, Any]:
    """Both curves of a model, and the difference in percent."""
    weights = zoo_calibration.weights(name)
    raw = sum(array.nbytes for array in weights.values())
    if name == "charlm":
        inputs = charlm.windows(charlm.numbers(charlm.TEST_TEXT.read_text("utf-8")))[0]
    else:
        inputs = np.concatenate([x for x, _ in zoo_calibration.inputs_of(name, SAMPLES, REPORT_ON)])
    error_of = error_of_outputs(name, weights, inputs)
    points: list[dict[str, Any]] = []
    for kind, options in KINDS.items():
        for quality in QUALITIES[FEWER.get(name, slice(None))]:
            data = nncjit.encode(weights, quality=quality, **options)
            error = error_of(nncjit.decode(data))
            points.append({"kind": kind, "quality": quality, "ratio": 100 * len(data) / raw, "error": error})
            print(name, points[-1], flush=True)
    difference, error = compared([[p for p in points if p["kind"] == kind] for kind in KINDS])
    return {"difference": difference, "standard_error": error, "points": points}


def compared(curves: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """How much more bytes the second curve takes, in percent, and the standard error of that.

    The latter is the spread over curves whose points are moved as far from the parabola as they are found, at random.
    """
    rng = np.random.default_rng(0)
    sizes = [np.log([point["ratio"] for point in curve]) for curve in curves]
    goods = [-np.log2([point["error"] for point in curve]) for curve in curves]
    found, expected = _difference(sizes, goods)
    rest = [good - wanted for good, wanted in zip(goods, expected, strict=True)]
    drawn = []
    for _ in range(DRAWS):
        moved = [wanted + rng.choice(left, len(left)) for wanted, left in zip(expected, rest, strict=True)]
        drawn.append(_difference(sizes, moved)[0])
    return found, float(np.std(drawn))


def _difference(sizes: Sequence[np.ndarray], goods: Sequence[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """The mean difference of two curves in percent, and their parabolas at the points. Sizes are logarithms."""
    fits = [np.polyfit(size, good, 2) for size, good in zip(sizes, goods, strict=True)]
    grids = [np.linspace(size.min(), size.max(), 256) for size in sizes]
    risen = [np.maximum.accumulate(np.polyval(fit, grid)) for fit, grid in zip(fits, grids, strict=True)]
    at = np.linspace(max(rise[0] for rise in risen), min(rise[-1] for rise in risen), 64)
    first, second = (np.interp(at, rise, grid) for rise, grid in zip(risen, grids, strict=True))
    expected = [np.polyval(fit, size) for fit, size in zip(fits, sizes, strict=True)]
    return float(100 * np.expm1((second - first).mean())), expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: all of {', '.join(MODELS)}")
    parser.add_argument("--json", type=Path, help="is written, and keeps what it has of other models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    there = args.json is not None and args.json.exists() and args.models
    found = json.loads(args.json.read_text("utf-8")) if there else {}
    for name in args.models or MODELS:
        found[name] = measure(name)
        print(f"{name}: {found[name]['difference']:+.2f} % +- {found[name]['standard_error']:.2f}", flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
