"""Sums over samples of which a metric over a weight's inputs is made.

The loss of a change dW of a weight is, to second order, half the mean over samples of the squared change of the output.
A probe v of the output (v drawn so that E v v' is the output's own metric) makes it one number per sample, <dW, D> with
D = sum_t g_t x_t' the gradient of v.y, t over the tokens (or places) of the sample. With outputs taken to be
independent and alike this is half sum_o dW_o R dW_o', where

    coherent    R = mean D' D / outputs            all of a sample's tokens together
    token-wise  T = mean sum_t |g_t|^2 x_t x_t' / outputs       each token for itself

R is right and noisy, T wrong in scale (gradients of tokens add up) but smooth. `mixed` is where they meet.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.calibrate.checked_inputs import WIDEST, floats, weight
from nncjit.calibrate.statistics_record import WIDEST_BLOCK, Kind, TensorRecord, block_size
from nncjit.errors import ModelError
from nncjit.option_values import Whole, checked

Array = NDArray[Any]

COHERENT_SHARE = 0.5
"""Of the metric's trace; chosen on MiniLM, where .3 to 1 differ by less than 2 % of the size."""

GUESS_DAMPING = 0.1
"""Of the mean of a metric's diagonal. MiniLM's metrics by random tokens then fit those by texts best."""


def mixed(coherent: Array, tokenwise: Array | None) -> Array:
    """The metric: both parts, the token-wise one scaled to the coherent one's trace."""
    if tokenwise is None:
        return coherent
    scale = trace_ratio(coherent, tokenwise)
    if not scale:
        return coherent
    return np.float32(COHERENT_SHARE) * coherent + np.float32((1 - COHERENT_SHARE) * scale) * tokenwise


def trace(blocks: Array) -> float:
    """Of blocks [b, n, n], or of a diagonal [n]."""
    diagonal = blocks if blocks.ndim == 1 else np.einsum("bii->bi", blocks)
    return float(diagonal.sum(dtype=np.float64))


def damped(metric: Array, record: TensorRecord) -> Array:
    """A metric of samples unlike those in use, of which less is to be believed: a share of its mean on the diagonal."""
    if metric.ndim == 1:
        return np.asarray(metric + np.float32(GUESS_DAMPING * metric.mean(dtype=np.float64)))
    sizes = [min(record.block, record.inputs - k % record.blocks * record.block) for k in range(len(metric))]
    more = np.float32(GUESS_DAMPING * trace(metric) / sum(sizes))
    found = metric.copy()
    for block, n in zip(found, sizes, strict=True):
        block[np.arange(n), np.arange(n)] += more
    return found


def trace_ratio(coherent: Array, tokenwise: Array) -> float:
    """Trace of the coherent part divided by that of the token-wise one; 0 where that is 0."""
    below = trace(tokenwise)
    return trace(coherent) / below if below > 0 else 0.0


class InputSums:
    """Sums of one linear layer or convolution.

    Parameters
    ----------
    record : TensorRecord
        Of kind "linear" or "convolution", nothing counted yet.

    Attributes
    ----------
    coherent, tokenwise : float32[blocks, n, n], or [inputs] where only the diagonal is kept
        The sums; an adapter with a faster way to them adds to these itself, and calls `count`. A convolution has no
        token-wise part (None): its places share what the gradients have in common.
    tokens_by_layer : int64[layers]
        Of stacked layers that have a metric each; else of none.
    """

    def __init__(self, record: TensorRecord) -> None:
        self.record = record
        shape = record.metric_shape if record.block else (record.sets * record.inputs,)
        self.coherent: Array = np.zeros(shape, np.float32)
        self.tokenwise: Array | None = np.zeros(shape, np.float32) if record.kind == "linear" else None
        self.samples = self.tokens = self.dropped = 0
        self.tokens_by_layer: Array = np.zeros(record.layers if record.apart else 0, np.int64)

    @classmethod
    def of(
        cls,
        name: str,
        kind: Kind,
        shape: tuple[int, ...],
        *,
        axis: int = 1,
        groups: int = 1,
        apart: bool = False,
        widest: int = WIDEST_BLOCK,
    ) -> InputSums:
        """Empty sums of a weight. `widest`: most inputs of a block; 0 keeps only the diagonal."""
        name, shape = weight(name, shape)
        widest = checked("widest", WIDEST, widest)
        record = TensorRecord(name=name, kind=kind, shape=shape, axis=axis, groups=groups, apart=apart)
        block = block_size(record.inputs, record.taps, widest) if widest else 0
        return cls(replace(record, block=block))

    def add(self, x: Array, g: Array, *, layer: int = 0) -> None:
        """Add one sample; one whose numbers are not finite is left out and counted in `dropped`. Of stacked layers,
        what one of them saw of it.

        Parameters
        ----------
        x : float[T, groups * inputs]
            What the layer multiplied, one row for each token or place (`nncjit.calibrate.unfold` for convolutions).
        g : float[T, groups * outputs] or [probes, T, groups * outputs]
            Gradients of the probes at the layer's output.
        layer : int
            Of stacked layers that have a metric each, which one this is.

        Raises
        ------
        ModelError
            The shapes do not fit the weight.
        """
        record = self.record
        x, g = floats(f"{record.name}: inputs", x), floats(f"{record.name}: gradients", g)
        g = g[None] if g.ndim == 2 else g
        tokens = len(x) if x.ndim else 0
        wanted = (tokens, record.groups * record.inputs), (tokens, record.groups * record.outputs)
        if x.ndim != 2 or g.ndim != 3 or (x.shape, g.shape[1:]) != wanted:
            raise ModelError(
                f"{record.name}: a sample has inputs {list(x.shape)} and gradients {list(g.shape)}, "
                f"wanted are {list(wanted[0])} and {list(wanted[1])}"
            )
        layer = checked("layer", Whole(0, record.layers - 1), layer)
        if not (np.isfinite(x).all() and np.isfinite(g).all()):
            self.dropped += 1
            return
        for probe in g:
            self._add_probe(x, probe, layer if record.apart else 0)
        self.tokens_by_layer[layer : layer + 1] += len(x)
        self.count(1, len(x))

    def count(self, samples: int, tokens: int) -> None:
        """Say that so many samples, of so many tokens in all, were added to the sums."""
        self.samples += samples
        self.tokens += tokens

    @np.errstate(over="ignore", invalid="ignore")  # told when the sums are asked for
    def _add_probe(self, x: Array, g: Array, layer: int) -> None:
        record = self.record
        for group in range(record.groups):
            gradients = g[:, group * record.outputs : (group + 1) * record.outputs]
            energies = np.square(gradients).sum(1, keepdims=True) / np.float32(record.outputs)
            inputs = x[:, group * record.inputs : (group + 1) * record.inputs]
            if not record.block:
                here = slice((layer + group) * record.inputs, (layer + group + 1) * record.inputs)
                self.coherent[here] += np.square(gradients.T @ inputs).sum(0) / np.float32(record.outputs)
                if self.tokenwise is not None:
                    self.tokenwise[here] += (np.square(inputs) * energies).sum(0)
                continue
            for k in range(record.blocks):
                part = inputs[:, k * record.block : (k + 1) * record.block]
                place = (layer + group) * record.blocks + k
                n = part.shape[1]
                self.coherent[place, :n, :n] += _coherent(part, gradients) / np.float32(record.outputs)
                if self.tokenwise is not None:
                    self.tokenwise[place, :n, :n] += part.T @ (energies * part)

    def finish(self, all_samples: int) -> tuple[TensorRecord, Array]:
        """The record, and the metric as the mean over all samples, whether they reached the weight or not.

        Raises
        ------
        ModelError
            The sums are not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            ratio = trace_ratio(self.coherent, self.tokenwise) if self.tokenwise is not None else 1.0
        if not math.isfinite(ratio):
            raise ModelError(f"{self.record.name}: the sums are not finite")
        metric = mixed(self.coherent, self.tokenwise) / np.float32(self._shares(max(all_samples, 1)))
        return counted(self.record, self.samples, self.tokens, ratio), metric

    def _shares(self, all_samples: int) -> int:
        """What the sums are divided by: layers that share a metric share the mean of theirs."""
        return all_samples * (1 if self.record.apart else self.record.layers)

    def resume(self, record: TensorRecord, metric: Array, all_samples: int) -> None:
        """Start from a metric that `finish` gave: its trace and counts go on, its two parts are no more told apart."""
        total = metric * np.float32(self._shares(all_samples))
        self.coherent += total
        if self.tokenwise is not None and record.ratio:
            self.tokenwise += total / np.float32(record.ratio)
        self.tokens_by_layer += record.tokens // record.layers
        self.count(record.samples, record.tokens)


def _coherent(x: Array, g: Array) -> Array:
    """(g' x)' (g' x), by whichever order of products is cheaper."""
    tokens, inputs, outputs = len(x), x.shape[1], g.shape[1]
    if tokens * (tokens * (inputs + outputs) + inputs * inputs) < inputs * outputs * (tokens + inputs):
        product: Array = x.T @ ((g @ g.T) @ x)
        return product
    gradient = g.T @ x
    return np.asarray(gradient.T @ gradient)


def counted(record: TensorRecord, samples: int, tokens: int, ratio: float = 1.0) -> TensorRecord:
    """The record of a weight that so many samples reached."""
    return replace(record, samples=samples, tokens=tokens, ratio=ratio)
