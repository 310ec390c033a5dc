"""Other metrics: damped, shrunk, of low rank, shared, or of other samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from bench.ideas.idea_curves import Idea, as_it_is, encoded
from bench.ideas.subjects import Subject
from bench.zoo import minilm
from nncjit.calibrate import Statistics
from nncjit.calibrate.statistics_file import Arrays
from nncjit.encoder import input_metrics

Change = Callable[[Arrays], Arrays]


def altered(known: Statistics, change: Change) -> Statistics:
    """Statistics whose weights have other numbers."""
    facts = {"loss": known.loss, "samples": known.samples, "output_power": known.output_power}
    return Statistics.of([change(arrays_of(known, name)) for name in known], facts)


def arrays_of(known: Statistics, name: str) -> Arrays:
    """The numbers of one weight."""
    one = known[name]
    rows = (one.energy().astype(np.float32), one.uses()) if one.record.kind == "table" or one.positions else ()
    return Arrays(one.record, one.metric(), *(rows or (None, None)), one.positions)


def with_metrics(change: Callable[[Arrays], np.ndarray]) -> Idea:
    """The idea that layers have other metrics."""

    def of_layer(arrays: Arrays) -> Arrays:
        is_layer = arrays.record.kind in ("linear", "convolution") and arrays.record.block > 0
        return arrays._replace(metric=change(arrays).astype(np.float32)) if is_layer else arrays

    return lambda subject, known, quality: encoded(subject.weights, altered(known, of_layer), quality)


def of_rank(rank: int) -> Idea:
    """The strongest directions, and the diagonal."""

    def low_rank(arrays: Arrays) -> np.ndarray:
        blocks = []
        for block in arrays.metric.astype(np.float64):
            powers, axes = np.linalg.eigh(block)
            strong = axes[:, len(axes) - rank :]
            kept = (strong * powers[len(axes) - rank :]) @ strong.T
            blocks.append(kept + np.diag(np.maximum(block.diagonal() - kept.diagonal(), 0)))
        return np.stack(blocks)

    return with_metrics(low_rank)


def with_shared_shapes(subject: Subject, known: Statistics, quality: float) -> bytes:
    """MiniLM's queries, keys and values have metrics whose shape is the mean of the three."""
    found = {}
    for layer in range(minilm.LAYERS):
        names = [f"encoder.layer.{layer}.attention.self.{part}.weight" for part in ("query", "key", "value")]
        metrics = [known[name].metric() for name in names]
        traces = [float(np.trace(metric[0])) for metric in metrics]
        shape = sum(metric / np.float32(trace) for metric, trace in zip(metrics, traces, strict=True)) / 3
        found |= {name: shape * trace for name, trace in zip(names, traces, strict=True)}
    return with_metrics(lambda arrays: found.get(arrays.record.name, arrays.metric))(subject, known, quality)


def shrunk(share: float) -> Idea:
    """Inputs are less correlated than the samples say: a damping of each input by its own power."""

    def less_correlated(arrays: Arrays) -> np.ndarray:
        kept = (1 - share) * arrays.metric
        places = np.arange(kept.shape[-1])
        kept[:, places, places] = arrays.metric[:, places, places]
        return kept

    return with_metrics(less_correlated)


def damped(damping: float) -> Idea:
    """Another damping of all metrics."""

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:
        kept = input_metrics.factorise
        input_metrics.factorise = partial(kept, damping=damping)
        try:
            return as_it_is(subject, known, quality)
        finally:
            input_metrics.factorise = kept

    return encode


def coherent(share: float) -> Idea:
    """Another mix of the coherent and the token-wise part."""

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:  # noqa: ARG001 - ideas are called alike
        whole, none = subject.statistics(share=1.0), subject.statistics(share=0.0)

        def mixed(arrays: Arrays) -> Arrays:
            other = none[arrays.record.name].metric()
            return arrays._replace(metric=np.float32(share) * arrays.metric + np.float32(1 - share) * other)

        return encoded(subject.weights, altered(whole, mixed), quality)

    return encode


def of_samples(samples: int | None = None, probes: int | None = None, seed: int = 0) -> Idea:
    """Fewer samples, other numbers of probes of each, or other probes."""

    def encode(subject: Subject, known: Statistics, quality: float) -> bytes:  # noqa: ARG001
        return encoded(subject.weights, subject.statistics(samples, probes, seed=seed), quality)

    return encode
