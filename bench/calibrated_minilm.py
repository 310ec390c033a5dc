"""MiniLM: size against mean cosine, with the default steps and calibrated, what each cosine costs, and how texts of
words that are rare in real texts fare.

    python bench/calibrated_minilm.py [--statistics STATS] [--random STATS] [--rival PYTHON] [--kept earlier.json]
        --json out.json

Without statistics, ``nncjit calibrate`` makes them first, of the passages of ``bench.zoo.passages``. ``--rival`` names
an interpreter that can import NNCodec, which is then measured too. Points that an earlier file has need not be measured
again. Qualities are fixed below and nothing is chosen: sizes at a cosine lie between two points of the curve, on a
straight line in log2(1 - cosine), and so do the cosines of rare words at a size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import layers, minilm, passages
from nncjit.calibrate import Statistics
from nncjit.report.rival import RIVAL, Rival, back_from_rival, fit_for_rival

RIVAL_QPS = (-32, -30, -28, -26, -23)
AS_IT_IS = (1.1, 0.9, 0.7, 0.5, 0.4, 0.3, 0.25)
TRANSFORMED = (1.15, 0.95, 0.75, 0.5, 0.37)
OF_RANDOM = (1.45, *TRANSFORMED)
WITHOUT_TEXTS = 1024
"""Random strings of tokens."""
CALIBRATED = (1.1, 0.9, 0.7, 0.5, 0.42, 0.35, 0.3)
UNREACHED = "zero"
"""No embedding uses the pooler: it is left out where statistics tell so, and coded for comparison."""
COSINES = (0.99, 0.9787, 0.924)
SIZES = (8.0, 6.5, 5.0)
"""Percent of the original."""

Point = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


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
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that can import nncodec")
    parser.add_argument("--kept", type=Path, help="points of an earlier run, of kinds and qualities that are the same")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    curves = Curves([] if args.kept is None else json.loads(args.kept.read_text("utf-8"))["points"])
    with tempfile.TemporaryDirectory() as folder, Rival(args.rival) if args.rival else nullcontext() as rival:
        of_random = args.random or collect_without_texts(Path(folder))
        curves.measure(args.statistics or collect(Path(folder)), of_random, rival)
    found = curves.found()
    print(json.dumps({key: found[key] for key in ("sizes", "rare_cosines")}, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


class Curves:
    """Points of all kinds; those that are kept are not measured again."""

    def __init__(self, kept: Sequence[Point]) -> None:
        self._kept = kept
        self._weights = layers.load(minilm.WEIGHTS)
        self._raw = sum(array.nbytes for array in self._weights.values())
        self._rare = minilm.rare_texts()
        self._known_rare = minilm.embed(self._weights, self._rare)
        self.points: list[Point] = []

    def measure(self, path: Path, of_random: Path, rival: Rival | None) -> None:
        """All curves."""
        if rival is not None:
            for qp in RIVAL_QPS:
                self._add(RIVAL, "qp", qp, partial(self._of_rival, rival, qp))
        with Statistics.open(path) as statistics:
            curves: list[tuple[str, tuple[float, ...], dict[str, Any]]] = [
                ("as it is", AS_IT_IS, {}),
                ("tables transformed", TRANSFORMED, {"transform_tables": True}),
                ("guessed from the weights", TRANSFORMED, {"calibration": "weights"}),
                ("guessed from random tokens", OF_RANDOM, {"calibration": of_random}),
                ("calibrated, and the pooler coded", CALIBRATED, {"calibration": statistics}),
                ("calibrated", CALIBRATED, {"calibration": statistics, "unreached": UNREACHED}),
            ]
            for kind, qualities, options in curves:
                for quality in qualities:
                    self._add(kind, "quality", quality, partial(self._ours, quality=quality, **options))

    def found(self) -> dict[str, Any]:
        """The points, and what they give for `COSINES` and `SIZES`."""
        kinds = dict.fromkeys(point["kind"] for point in self.points)
        curves = {kind: [point for point in self.points if point["kind"] == kind] for kind in kinds}
        sizes = {kind: {str(c): size_at(curve, c) for c in COSINES} for kind, curve in curves.items()}
        rare_cosines = {kind: {str(r): rare_cosine_at(curve, r) for r in SIZES} for kind, curve in curves.items()}
        return {"points": self.points, "sizes": sizes, "rare_cosines": rare_cosines}

    def _add(self, kind: str, option: str, value: float, code: Callable[[], tuple[int, Arrays]]) -> None:
        """A point; `code` gives the bytes of a stream and what it decodes to."""
        there = next((p for p in self._kept if (p["kind"], p.get(option)) == (kind, value)), None)
        if there is not None:
            self.points.append(there)
            return
        size, decoded = code()
        found = minilm.measure(decoded)
        found["rare_cosine"] = float((minilm.embed(decoded, self._rare) * self._known_rare).sum(1).mean())
        self.points.append({"kind": kind, option: value, "bytes": size, "ratio": 100 * size / self._raw, **found})
        print(
            f"{kind}, {option} {value:g}: {self.points[-1]['ratio']:.3f} %, cosine {found['cosine']:.4f}, "
            f"of rare words {found['rare_cosine']:.4f}",
            flush=True,
        )

    def _ours(self, **options: Any) -> tuple[int, Arrays]:
        data = nncjit.encode(self._weights, **options)
        return len(data), nncjit.decode(data)

    def _of_rival(self, rival: Rival, qp: int) -> tuple[int, Arrays]:
        taken, left = fit_for_rival(self._weights)
        data, _ = rival.encode(taken, qp=qp)
        size = len(data) + sum(array.nbytes for array in left.values())
        return size, back_from_rival(rival.decode(data)[0], self._weights)


if __name__ == "__main__":
    main()
