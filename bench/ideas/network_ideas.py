"""Ideas that run the coded network: errors of earlier layers, statistics of a second round, and measured losses."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

import nncjit
from bench.ideas.idea_curves import Idea, as_it_is, encoded
from bench.ideas.metric_ideas import altered, arrays_of
from bench.ideas.subjects import Subject
from nncjit.calibrate import Statistics
from nncjit.calibrate.statistics_file import Arrays

MOST_APART = 4.0
"""Of a measured loss beside what the metric expects, and the median of that."""


SECOND_ROUND_ON = 1024
"""Samples."""


class _Same(NamedTuple):
    """Statistics that are the same where they are the same object."""

    known: Statistics

    def __hash__(self) -> int:
        return id(self.known)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.known is self.known


def compensated(subject: Subject, known: Statistics, quality: float) -> bytes:
    """Weights make up for errors of earlier layers."""
    return encoded(subject.compensated(known, quality), known, quality)


@cache
def _of_coded(subject: Subject, same: _Same, quality: float) -> Statistics:
    """Statistics of the network that other statistics gave."""
    return subject.collect(nncjit.decode(as_it_is(subject, same.known, quality)), SECOND_ROUND_ON, None, 0)


def second_round(share: float) -> Idea:
    """Statistics are collected again with the network that they gave; this share of each metric is the new one."""

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:
        again = _of_coded(subject, _Same(known), quality)

        def mixed(arrays: Arrays) -> Arrays:
            new = arrays_of(again, arrays.record.name)
            energy = None if new.energy is None else share * new.energy + (1 - share) * arrays.energy
            return arrays._replace(metric=share * new.metric + (1 - share) * arrays.metric, energy=energy)

        return encoded(subject.weights, altered(known, mixed), quality)

    return encode


@cache
def _beside_expected(subject: Subject, same: _Same, quality: float) -> dict[str, float]:
    """What the network loses by the errors of each weight, by what its metric expects, by the median of these ratios.

    Measured is the loss that is made good where a weight alone is the original one, on calibration samples.
    """
    known, weights = same.known, subject.weights
    coded = nncjit.decode(as_it_is(subject, known, quality))
    lost = subject.loss(coded, "calibration")
    names = [name for name in known if known[name].record.kind != "rows" and known[name].record.samples]
    ratios = {
        name: (lost - subject.loss({**coded, name: weights[name]}, "calibration"))
        / expected_loss(known, name, coded[name] - weights[name])
        for name in names
    }
    typical = float(np.median(list(ratios.values())))
    found = {name: float(np.clip(ratio / typical, 1 / MOST_APART, MOST_APART)) for name, ratio in ratios.items()}
    told = ", ".join(f"{name.removeprefix('encoder.layer.')} {ratio:.2f}" for name, ratio in found.items())
    print(f"{quality:g}: measured by expected losses {typical:.2f}; beside it {told}", flush=True)
    return found


def by_measured_losses(strength: float) -> Idea:
    """Each metric is scaled to what the network loses: a bit then saves as much in all weights, as it is measured."""

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:
        ratios = _beside_expected(subject, _Same(known), subject.qualities[1])

        def scaled(arrays: Arrays) -> Arrays:
            factor = np.float32(ratios.get(arrays.record.name, 1.0) ** strength)
            return arrays._replace(metric=arrays.metric * factor)

        return encoded(subject.weights, altered(known, scaled), quality)

    return encode


def expected_loss(known: Statistics, name: str, error: np.ndarray) -> float:
    """What the metric says of an error."""
    one = known[name]
    record = one.record
    shares: Any = 1.0
    if record.kind == "table":
        energy = one.energy()
        shares = (energy / energy.sum())[:, None]
    matrix = (error if record.axis else np.swapaxes(error, 0, 1)).reshape(-1, record.inputs).astype(np.float64)
    rows = len(matrix) // record.groups
    total = 0.0
    for k, block in enumerate(one.metric().astype(np.float64)):
        group, place = divmod(k, record.blocks)
        part = matrix[group * rows : (group + 1) * rows, place * record.block : (place + 1) * record.block]
        n = part.shape[1]
        total += float((shares * (part @ block[:n, :n]) * part).sum())
    return 0.5 * total
