"""Ideas compared with what the library does, by size at equal loss of a network.

Sizes lie on a straight line in log2(loss) between two points of a curve, or beyond its end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import nncjit
from bench.ideas.subjects import Subject, Weights
from nncjit.calibrate import Statistics
from nncjit.errors import NncWarning

Idea = Callable[[Subject, Statistics, float], bytes]
"""Makes a stream of a subject's weights, by statistics, at a quality."""
Points = list[tuple[float, float]]
"""Sizes in percent, and log2(loss)."""


def encoded(weights: Weights, known: Statistics, quality: float) -> bytes:
    """What the library does with weights and statistics."""
    return nncjit.encode(weights, quality=quality, calibration=known, unreached="zero")


def as_it_is(subject: Subject, known: Statistics, quality: float) -> bytes:
    """What the library does."""
    return encoded(subject.weights, known, quality)


def compare(
    ideas: Mapping[str, Idea], subject: Subject, known: Statistics, kept: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Points of each idea, and by how many percent its sizes differ from those of what the library does.

    What is known so far, after each idea. `kept` is what an earlier run found: its base is the base, and its ideas come
    along.
    """
    found = dict(kept or {"as it is": curve("as it is", as_it_is, subject, known)})
    base = found["as it is"]
    yield found
    for name, idea in ideas.items():
        points = curve(name, idea, subject, known)
        changes = [100 * (size_at(points, wanted) / size - 1) for size, wanted in base]
        found = {**found, name: {"points": points, "changes": changes}}
        print(f"{name}: " + ", ".join(f"{change:+.1f} %" for change in changes), flush=True)
        yield found


def curve(name: str, idea: Idea, subject: Subject, known: Statistics) -> Points:
    """What an idea makes of a network."""
    points = []
    for quality in subject.qualities:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NncWarning)
            data = idea(subject, known, quality)
        points.append((100 * len(data) / subject.size, math.log2(subject.loss(nncjit.decode(data)))))
        print(f"{name} {quality:g}: {points[-1][0]:.3f} %, log2(loss) {points[-1][1]:.3f}", flush=True)
    return points


def size_at(points: Points, wanted: float) -> float:
    """Percent of the original at log2(loss)."""
    pairs = list(pairwise(sorted(points)))
    near = next((pair for pair in pairs if pair[0][1] >= wanted >= pair[1][1]), None)
    (small, worse), (large, better) = near or (pairs[0] if wanted > pairs[0][0][1] else pairs[-1])
    return small + (large - small) * (worse - wanted) / (worse - better)
