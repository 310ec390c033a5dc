"""What other statistics, and other targets of the same quantiser, would make of MiniLM: ideas that were tried.

    python bench/calibration_ideas.py --statistics minilm.stats.safetensors [--ideas IDEA ...] [--json out.json]

Each idea is compared with what the library does, by size at equal mean cosine, on the texts that settings are chosen on
(``bench.zoo.passages``); nothing is reported on the test's texts. Sizes lie on a straight line in log2(1 - cosine)
between two points of a curve, or beyond its end. Statistics come from ``nncjit calibrate`` or from
``bench/calibrated_minilm.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import layers, minilm, passages
from nncjit.calibrate import Statistics
from nncjit.calibrate.statistics_file import Arrays
from nncjit.encoder import input_metrics
from nncjit.errors import NncWarning

QUALITIES = (1.0, 0.7, 0.42)
TOKENS, PASSAGES = 32, 512
"""Of the texts by which errors are compensated: all of one length, so that none is padded."""

Weights = Mapping[str, np.ndarray]
Change = Callable[[Arrays], Arrays]


def altered(known: Statistics, change: Change) -> Statistics:
    """Statistics whose matrices have other metrics."""
    found = []
    for name in known:
        one = known[name]
        rows = (one.energy().astype(np.float32), one.uses()) if one.record.kind == "table" or one.positions else ()
        arrays = Arrays(one.record, one.metric(), *(rows or (None, None)), one.positions)
        found.append(change(arrays) if one.record.kind == "linear" and one.record.block else arrays)
    facts = {"loss": known.loss, "samples": known.samples, "output_power": known.output_power}
    return Statistics.of(found, facts)


def low_rank(rank: int, arrays: Arrays) -> Arrays:
    """The strongest directions, and the diagonal."""
    blocks = []
    for block in arrays.metric.astype(np.float64):
        powers, axes = np.linalg.eigh(block)
        strong = axes[:, len(axes) - rank :]
        kept = (strong * powers[len(axes) - rank :]) @ strong.T
        blocks.append(kept + np.diag(np.maximum(block.diagonal() - kept.diagonal(), 0)))
    return arrays._replace(metric=np.stack(blocks).astype(np.float32))


@cache
def shared_shapes(known: Statistics) -> dict[str, np.ndarray]:
    """Metrics of queries, keys and values whose shape is the mean of the three."""
    found = {}
    for layer in range(minilm.LAYERS):
        names = [f"encoder.layer.{layer}.attention.self.{part}.weight" for part in ("query", "key", "value")]
        metrics = [known[name].metric() for name in names]
        traces = [float(np.trace(metric[0])) for metric in metrics]
        shape = sum(metric / np.float32(trace) for metric, trace in zip(metrics, traces, strict=True)) / 3
        found |= {name: (shape * trace).astype(np.float32) for name, trace in zip(names, traces, strict=True)}
    return found


def with_shared_shape(known: Statistics, arrays: Arrays) -> Arrays:
    return arrays._replace(metric=shared_shapes(known).get(arrays.record.name, arrays.metric))


@contextmanager
def damped(damping: float) -> Iterator[None]:
    """Another damping of all metrics."""
    kept = input_metrics.factorise
    input_metrics.factorise = partial(kept, damping=damping)
    try:
        yield
    finally:
        input_metrics.factorise = kept


def compensated(weights: Weights, known: Statistics, quality: float) -> Weights:
    """Weights that make up for errors of earlier layers."""
    import torch
    from transformers import AutoModel

    from nncjit.torch import compensate

    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(minilm.WEIGHTS.parent).eval()
    texts = map(minilm.tokenise, passages.collect()[0])
    ids = torch.tensor([text[:TOKENS] for text in texts if len(text) >= TOKENS][:PASSAGES])
    compensate(
        model,
        {"input_ids": ids},
        calibration=known,
        quality=quality,
        unreached="zero",
        forward=lambda network, batch: network(**batch).last_hidden_state,
    )
    found = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    return {name: found.get(name, array) for name, array in weights.items()}


IDEAS = ("damping-0.003", "damping-0.03", "rank-16", "rank-64", "rank-128", "diagonals", "shared-shape", "compensated")


def curve(idea: str, known: Statistics) -> list[tuple[float, float]]:
    """Sizes in percent, and log2(1 - cosine)."""
    weights = layers.load(minilm.WEIGHTS)
    raw = sum(array.nbytes for array in weights.values())
    texts = zoo_calibration.chosen_texts()
    wanted = minilm.embed(weights, texts)
    kind, _, number = idea.partition("-")
    statistics = known
    if kind in ("rank", "diagonals"):
        statistics = altered(known, partial(low_rank, int(number or 0)))
    elif idea == "shared-shape":
        statistics = altered(known, partial(with_shared_shape, known))
    points = []
    for quality in QUALITIES:
        with damped(float(number) if kind == "damping" else 0.01), warnings.catch_warnings():
            warnings.simplefilter("ignore", NncWarning)
            coded = compensated(weights, known, quality) if idea == "compensated" else weights
            data = nncjit.encode(coded, quality=quality, calibration=statistics, unreached="zero")
        found = minilm.embed(nncjit.decode(data), texts)
        points.append((100 * len(data) / raw, math.log2(1 - float((found * wanted).sum(1).mean()))))
        print(f"{idea} {quality:g}: {points[-1][0]:.3f} %, log2(1 - cosine) {points[-1][1]:.3f}", flush=True)
    return points


def size_at(points: list[tuple[float, float]], wanted: float) -> float:
    """Percent of the original at log2(1 - cosine)."""
    pairs = list(pairwise(sorted(points)))
    near = next((pair for pair in pairs if pair[0][1] >= wanted >= pair[1][1]), None)
    (small, worse), (large, better) = near or (pairs[0] if wanted > pairs[0][0][1] else pairs[-1])
    return small + (large - small) * (worse - wanted) / (worse - better)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=IDEAS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with Statistics.open(args.statistics) as known:
        base = curve("as it is", known)
        for idea in args.ideas:
            points = curve(idea, known)
            changes = [100 * (size_at(points, wanted) / size - 1) for size, wanted in base]
            found[idea] = {"points": points, "changes": changes}
            print(f"{idea}: " + ", ".join(f"{change:+.1f} %" for change in changes), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"as it is": base, **found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
