"""Probes: random directions of a model's output whose gradients tell what an error of the output costs.

A probe v stands for the whole output y: the mean of v v' is the metric of the output. One backward pass of <v, y> then
gives the gradients that the sums want. Several probes of a sample are scaled so that they add up to one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.calibrate.checked_inputs import PROBES, check_random, floats
from nncjit.errors import ModelError
from nncjit.option_values import Number, checked

Array = NDArray[Any]

FLAT_SHARE = 0.5
"""Of the uniform distribution in the one that classifiers are probed with. The network's own is blind where it is sure:
on the zoo's residual network it took 2 % more bytes at equal accuracy."""


def gaussian_probe(outputs: Array, rng: np.random.Generator, probes: int = 1) -> Array:
    """A probe for outputs whose squared error counts, float32 of the same shape.

    Parameters
    ----------
    outputs : float[..., n]
    rng : numpy.random.Generator
    probes : int
        How many there will be of each sample.
    """
    check_random(rng)
    shape = floats("outputs", outputs).shape
    probe: Array = np.asarray(rng.standard_normal(shape) / math.sqrt(checked("probes", PROBES, probes)), np.float32)
    return probe


def fisher_probe(logits: Array, rng: np.random.Generator, probes: int = 1, flat: float = FLAT_SHARE) -> Array:
    """A probe for logits, float32 of the same shape: its covariance is the Fisher matrix diag(p) - p p'.

    Half the squared change that it measures is, to second order, the Kullback-Leibler divergence in nats.

    Parameters
    ----------
    logits : float[..., classes]
    rng : numpy.random.Generator
    probes : int
        How many there will be of each sample.
    flat : float
        Share of the uniform distribution in p, 0 to 1; the rest is the softmax of the logits.
    """
    check_random(rng)
    probes, flat = checked("probes", PROBES, probes), checked("flat", Number(0, 1), flat)
    exact = floats("logits", logits, np.float64)
    if not exact.ndim or not exact.shape[-1]:
        raise ModelError(f"logits of shape {list(exact.shape)} have no classes")
    exact = np.exp(exact - exact.max(-1, keepdims=True))
    p = (1 - flat) * exact / exact.sum(-1, keepdims=True) + flat / exact.shape[-1]
    root = np.sqrt(p) * rng.standard_normal(p.shape)
    probe: Array = ((root - p * root.sum(-1, keepdims=True)) / math.sqrt(probes)).astype(np.float32)
    return probe
