"""MiniLM: size against mean cosine, with the default steps and calibrated, what each cosine costs, and how texts of
words that are rare in real texts fare.

    python bench/calibrated_minilm.py [--statistics STATS] [--random STATS] [--kept earlier.json] --json out.json

Without statistics, ``nncjit calibrate`` makes them first, of the passages of ``bench.zoo.passages``. Points that an
earlier file has need not be measured again. Qualities are
fixed below and nothing is chosen: sizes at a cosine lie between two points of the curve, on a straight line in
log2(1 - cosine), and so do the cosines of rare words at a size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import layers, minilm, passages
from nncjit.calibrate import Statistics

AS_IT_IS = (1.1, 0.9, 0.7, 0.5, 0.4, 0.3, 0.25)
TRANSFORMED = (1.15, 0.95, 0.75, 0.5, 0.37)
OF_RANDOM = (1.45, *TRANSFORMED)
WITHOUT_TEXTS = 1024
"""Random strings of tokens."""
CALIBRATED = (1.1, 0.9, 0.7, 0.5, 0.42, 0.35, 0.3)
UNREACHED = "zero"
"""No embedding uses the pooler: it is left out where statistics tell so."""
COSINES = (0.99, 0.9787, 0.924)
SIZES = (8.0, 6.5, 5.0)
"""Percent of the original."""

Point = dict[str, Any]


def size_at(points: list[Point], cosine: float) -> float | None:
    """Percent of the original at a cosine; None outside the curve."""
    wanted = math.log2(1 - cosine)
    curve = sorted((p["ratio"], math.log2(1 - p["cosine"])) for p in points)
    for (small, worse), (large, better) in pairwise(curve):
        if better <= wanted <= worse and better < worse:
            return float(small + (large - small) * (worse - wanted) / (worse - better))
    return None


def rare_cosine_at(points: list[Point], ratio: float) -> float | None:
    """Mean cosine of texts of rare words at a size in percent; None outside the curve."""
    curve = sorted((p["ratio"], math.log2(1 - p["rare_cosine"])) for p in points)
    for (small, worse), (large, better) in pairwise(curve):
        if small <= ratio <= large and small < large:
            return float(1 - 2 ** (worse + (better - worse) * (ratio - small) / (large - small)))
    return None


def collect(folder: Path) -> Path:
    """Statistics of the passages, made in a folder."""
    texts, statistics = folder / "passages.txt", folder / "minilm.stats.safetensors"
    texts.write_text("\n".join(passages.collect()[0]) + "\n", "utf-8")
    _calibrate(statistics, "--texts", texts)
    return statistics


def collect_without_texts(folder: Path) -> Path:
    """Statistics of random tokens."""
    statistics = folder / "random.stats.safetensors"
    _calibrate(statistics, "--samples", WITHOUT_TEXTS)
    return statistics


def _calibrate(statistics: Path, *more: Any) -> None:
    words = ["calibrate", minilm.WEIGHTS.parent, "-o", statistics, "--length", minilm.MAX_TOKENS, *more]
    subprocess.run([sys.executable, "-m", "nncjit", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--statistics", type=Path)
    parser.add_argument("--random", type=Path, help="statistics of random tokens")
    parser.add_argument("--kept", type=Path, help="points of an earlier run, of kinds and qualities that are the same")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    kept = [] if args.kept is None else json.loads(args.kept.read_text("utf-8"))["points"]
    with tempfile.TemporaryDirectory() as folder:
        of_random = args.random or collect_without_texts(Path(folder))
        found = measure(args.statistics or collect(Path(folder)), of_random, kept)
    print(json.dumps({key: found[key] for key in ("sizes", "rare_cosines")}, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measure(path: Path, of_random: Path, kept: Sequence[Point] = ()) -> dict[str, Any]:
    """All curves, and what they give for `COSINES`; `kept` are points that are not measured again."""
    weights = layers.load(minilm.WEIGHTS)
    raw = sum(array.nbytes for array in weights.values())
    rare = minilm.rare_texts()
    known_rare = minilm.embed(weights, rare)
    points: list[Point] = []
    with Statistics.open(path) as statistics:
        curves: list[tuple[str, float, dict[str, Any]]] = [("as it is", quality, {}) for quality in AS_IT_IS]
        curves += [("tables transformed", quality, {"transform_tables": True}) for quality in TRANSFORMED]
        curves += [("guessed from the weights", quality, {"calibration": "weights"}) for quality in TRANSFORMED]
        curves += [("guessed from random tokens", quality, {"calibration": of_random}) for quality in OF_RANDOM]
        known = {"calibration": statistics, "unreached": UNREACHED}
        curves += [("calibrated", quality, known) for quality in CALIBRATED]
        for kind, quality, options in curves:
            there = next((p for p in kept if (p["kind"], p["quality"]) == (kind, quality)), None)
            if there is not None:
                points.append(there)
                continue
            begin, cpu = time.perf_counter(), time.process_time()
            data = nncjit.encode(weights, quality=quality, **options)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            decoded = nncjit.decode(data)
            found = minilm.measure(decoded)
            found["rare_cosine"] = float((minilm.embed(decoded, rare) * known_rare).sum(1).mean())
            point = {"kind": kind, "quality": quality, "bytes": len(data), "ratio": 100 * len(data) / raw, **found}
            points.append(point | {"encode_seconds": seconds, "encode_cpu_seconds": cpu})
            print(
                f"{kind} {quality:g}: {point['ratio']:.3f} %, cosine {found['cosine']:.4f}, "
                f"of rare words {found['rare_cosine']:.4f}, {seconds:.1f} s",
                flush=True,
            )
    by_kind = {kind: [p for p in points if p["kind"] == kind] for kind in dict.fromkeys(p["kind"] for p in points)}
    sizes = {kind: {str(c): size_at(curve, c) for c in COSINES} for kind, curve in by_kind.items()}
    rare_cosines = {kind: {str(r): rare_cosine_at(curve, r) for r in SIZES} for kind, curve in by_kind.items()}
    return {"points": points, "sizes": sizes, "rare_cosines": rare_cosines}


if __name__ == "__main__":
    main()
