"""What `compensate` is worth: size against the divergence of the outputs, calibrated and compensated.

    python bench/compensated.py [MODEL ...] [--statistics FOLDER] --json out.json

The divergence is that of `bench/guessed.py`, on 512 samples of the validation split. A compensated
point is set beside the calibrated one of the same `quality`, and beside the size that a calibrated file takes for the
same divergence, on a straight line in log2 between two points of that curve.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.calibrated import Repair
from bench.guessed import error_of_outputs
from bench.zoo import calibration as zoo_calibration
from nncjit.calibrate import Statistics

MODELS = ("resnet",)
COMPENSATED = (1.0, 0.7, 0.5)
CALIBRATED = (2.0, 1.4, *COMPENSATED)
SAMPLES = 512

Point = dict[str, Any]


def size_at(points: list[Point], error: float) -> float | None:
    """Percent of the original at an error; None outside the curve."""
    curve = sorted((point["ratio"], math.log2(point["error"])) for point in points)
    wanted = math.log2(error)
    for (small, worse), (large, better) in pairwise(curve):
        if better <= wanted <= worse and better < worse:
            return small + (large - small) * (worse - wanted) / (worse - better)
    return None


def measure(name: str, statistics: Statistics) -> dict[str, Any]:
    """Both curves of a model."""
    weights = zoo_calibration.merged(name)
    raw = sum(array.nbytes for array in zoo_calibration.weights(name).values())
    inputs = np.concatenate([x for x, _ in zoo_calibration.split(name, "validation").batches])[:SAMPLES]
    error_of = error_of_outputs(name, weights, inputs)
    repair = Repair(name, weights, statistics)
    curves: dict[str, list[Point]] = {"calibrated": [], "compensated": []}
    for kind, qualities in (("calibrated", CALIBRATED), ("compensated", COMPENSATED)):
        for quality in qualities:
            moved = weights
            if kind == "compensated":
                moved = {key: tensor.numpy() for key, tensor in repair.compensated(quality).items()}
            data = nncjit.encode(moved, calibration=statistics, quality=quality)
            point = {"quality": quality, "ratio": 100 * len(data) / raw, "error": error_of(nncjit.decode(data))}
            curves[kind].append(point)
            print(name, kind, point, flush=True)
    for point in curves["compensated"]:
        point["calibrated_ratio"] = size_at(curves["calibrated"], point["error"])
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--statistics", type=Path, help="of one model; made anew without")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in args.models or MODELS:
        made = Statistics.open(args.statistics) if args.statistics else zoo_calibration.collect(name).statistics()
        found[name] = measure(name, made)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
