"""Layers that are alike, as the experts of one mixture: one that few tokens reached borrows from the others.

With fewer tokens than inputs, a metric knows nothing of most directions. Those of the other layers then say more than
none: what they all see comes from the same place. So a layer's metric is mixed with the mean of all, as if it had seen
as many more tokens as it has inputs; its trace, how much its errors cost in all, is its own and that of one more token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.calibrate.input_sums import trace
from nncjit.calibrate.statistics_record import TensorRecord

Array = NDArray[Any]


def mean_of_a_token(layers: Iterable[tuple[TensorRecord, Array]]) -> Array | None:
    """What a token adds to the metric of a layer, on average over all tokens of all layers; None without tokens."""
    total, tokens = None, 0
    for record, metric in layers:
        total = metric if total is None else total + metric
        tokens += record.tokens
    return None if total is None or not tokens else total / np.float32(tokens)


def leaning_on_each_other(record: TensorRecord, metric: Array, tokens: Array) -> Array:
    """The metrics of stacked layers, each mixed with that of a mean token. One that no token reached has the mean.

    Parameters
    ----------
    record : TensorRecord
    metric : float32[layers * blocks, n, n] or [layers * inputs]
    tokens : int64[layers]
    """
    own = metric.reshape(record.layers, -1, *metric.shape[1:])
    if not tokens.any():
        return metric
    token, mean = own.sum(0) / np.float32(tokens.sum()), own.mean(0)
    counted = replace(record, samples=1)
    leant = [leaning(counted, one, token) if n else mean for one, n in zip(own, tokens, strict=True)]
    return np.stack(leant).reshape(metric.shape)


def leaning(record: TensorRecord, metric: Array, token: Array | None) -> Array:
    """The metric of a layer, mixed with that of a mean token."""
    if token is None or not record.samples:
        return metric
    mixed = metric + np.float32(record.inputs) * token
    whole = trace(mixed)
    return mixed * np.float32((trace(metric) + trace(token)) / whole) if whole > 0 else metric
