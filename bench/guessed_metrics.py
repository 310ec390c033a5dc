"""How near guesses of the metrics of inputs come to true ones, told without coding.

    python bench/guessed_metrics.py [--statistics FOLDER] --json out.json

With feedback by a metric M, errors of n inputs have the covariance M^-1 at the same bits. So a guess M of the true
metric A gains, in bits a weight beside no metric at all,

    log2(trace A / n) / 2 - log2(trace(A M^-1) / n) / 2 - log2(det M) / (2 n)

True metrics are those of calibrations, with the encoder's damping. Figures are means over the weights of all linear
layers and convolutions. Without a folder that has `MODEL.stats.safetensors`, and `random.stats.safetensors` of MiniLM's
random tokens, statistics are made first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy import linalg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import calibrated_minilm
from bench.zoo import calibration as zoo_calibration
from bench.zoo import layers, minilm
from nncjit.calibrate import Statistics, TensorStatistics
from nncjit.encoder.weight_statistics import DAMPING, guessed_statistics
from nncjit.model import Model
from nncjit.quant.input_metric import DAMPING as OF_METRICS

MODELS = ("minilm", "charlm", "digits", "vgg")
MORE_DAMPING = 0.1
SUFFIX = ".stats.safetensors"
RANDOM = "calibrated on random tokens"

Matrix = np.ndarray
Guesses = Iterator[tuple[str, Matrix]]


def gain(true: Matrix, guess: Matrix) -> float:
    """Of a guess, in bits a weight."""
    n = len(true)
    factor = linalg.cholesky(guess, lower=True)
    left = np.trace(linalg.cho_solve((factor, True), true)) / n
    geometric = 2 * np.log2(factor.diagonal()).mean()
    return float(np.log2(np.trace(true) / n) - np.log2(left) - geometric) / 2


def damped(metric: Matrix, damping: float = OF_METRICS) -> Matrix:
    return metric + damping * metric.diagonal().mean() * np.eye(len(metric))


def raised(correlation: Matrix, power: float) -> Matrix:
    """(C + damping)^power."""
    strengths, axes = linalg.eigh(correlation)
    return (axes * (np.maximum(strengths, 0) + DAMPING) ** power) @ axes.T


def moments_of_norms(weights: Mapping[str, np.ndarray], inputs: int) -> list[np.ndarray]:
    """gain^2 + bias^2 of all norms of so many channels, beside the mean of each."""
    vectors = {name: w for name, w in weights.items() if w.shape == (inputs,)}
    gains = {n: b for n in vectors if n.endswith("weight") and (b := n.removesuffix("weight") + "bias") in vectors}
    moments = [np.square(vectors[n].astype(float)) + np.square(vectors[b].astype(float)) for n, b in gains.items()]
    return [moment / moment.mean() for moment in moments]


def guesses(weights: Mapping[str, np.ndarray], known: TensorStatistics, nearest: np.ndarray) -> Guesses:
    """Of one weight; `nearest` is the moment of the norm whose name is nearest."""
    record = known.record
    metric = known.metric()[0].astype(np.float64)
    yield "the true metric", damped(metric)
    yield "its diagonal", np.diag(damped(metric).diagonal())
    yield "S of the nearest norm", np.diag(nearest)
    moments = moments_of_norms(weights, record.inputs) if record.kind == "linear" else []
    yield "S of the mean of all norms", np.diag(np.mean(moments, axis=0) if moments else np.ones(record.inputs))
    weight = weights[record.name].astype(np.float64)
    columns = weight.T if record.axis == 0 else weight.reshape(record.outputs, record.inputs)
    strengths = np.maximum(np.square(columns).sum(0), 1e-30)
    roots = np.sqrt(strengths)
    correlation = columns.T @ columns / roots / roots[:, None]
    for power, word in ((0.25, "1/4"), (0.5, "1/2"), (-0.5, "-1/2")):
        found = raised(correlation, power)
        yield f"C, to the power {word}", found
        if power == 0.25:
            scales = np.sqrt(nearest / found.diagonal())
            yield "S of the nearest norm and C to the power 1/4, as used", found * scales * scales[:, None]
    yield "inverse strength of columns", np.diag(1 / strengths)


def measure(name: str, statistics: Statistics, random: Statistics | None) -> dict[str, float]:
    """Gains of all guesses of a model."""
    weights = layers.load(minilm.WEIGHTS) if name == "minilm" else zoo_calibration.merged(name)
    guessed = guessed_statistics(Model.from_mapping(weights))
    sums: dict[str, float] = defaultdict(float)
    counted = 0
    for key, known in statistics.items():
        record = known.record
        whole = record.kind in ("linear", "convolution") and len(known.metric().shape) == 3 and record.groups == 1
        if not whole or known.positions or record.blocks > 1 or record.inputs < 2 or key not in guessed:
            continue
        true = damped(known.metric()[0].astype(np.float64))
        found = list(guesses(weights, known, guessed[key].diagonal().astype(np.float64)))
        if random is not None and key in random:
            other = random[key].metric()[0].astype(np.float64)
            found += [(RANDOM, damped(other)), (f"the same, damped by {MORE_DAMPING}", damped(other, MORE_DAMPING))]
        for kind, guess in found:
            sums[kind] += gain(true, guess) * weights[key].size
        counted += weights[key].size
    return {kind: total / counted for kind, total in sums.items()}


def _statistics(name: str, folder: Path) -> Path:
    """Those of a model, made if they are not there."""
    path = folder / f"{name}{SUFFIX}"
    if not path.exists():
        if name == "random":
            return calibrated_minilm.collect_without_texts(folder)
        if name == "minilm":
            return calibrated_minilm.collect(folder)
        zoo_calibration.collect(name).save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--statistics", type=Path, metavar="FOLDER", help="that has statistics, or keeps them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = args.statistics or Path(name)
        for model in MODELS:
            random = Statistics.open(_statistics("random", folder)) if model == "minilm" else None
            found[model] = measure(model, Statistics.open(_statistics(model, folder)), random)
            print(model, {kind: round(value, 3) for kind, value in found[model].items()}, flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
