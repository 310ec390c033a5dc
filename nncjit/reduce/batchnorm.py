"""Batch-norm folding: four vectors become the two that a block codes anyway, LS and BI. Spec, section 9.

A layer gives ``x = LS * (W u) + BI`` and batch norm makes of it ``(x - mean) / sqrt(var + eps) * gamma + beta``. With
``g = gamma / sqrt(var + eps)`` that is one layer with ``LS' = LS * g`` and ``BI' = (BI - mean) * g + beta``.

The way back, for a framework whose batch-norm layer wants its four vectors: mean = 0, beta = BI. The layer still
divides by sqrt(var + eps), so var = 1 and gamma = 1, as the standard suggests, leave a relative error of eps / 2:
5e-6 for eps = 1e-5, but 5e-4 for the 1e-3 of Keras. Right to a rounding are gamma = sqrt(1 + eps) with var = 1 (the
default), or var = 1 - eps with gamma = 1 (needs eps < 1). LS goes into gamma, or into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Number, Word, checked
from nncjit.reduce.views import array_of

FORMS = ("gamma", "variance", "standard")
EPS = Number(0, 1e300)


@dataclass(frozen=True, slots=True)
class Folded:
    """What a layer and its batch norm come down to: ``LS * (W u) + BI``."""

    scale: np.ndarray
    """float32[n], LS."""
    bias: np.ndarray
    """float32[n], BI."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """The vectors of a batch-norm layer, float32[n] each."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray


def fold_batchnorm(
    mean: np.ndarray,
    var: np.ndarray,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    *,
    eps: float = 1e-5,
    scale: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    name: str = "batch norm",
) -> Folded:
    """Fold batch norm into the local scaling and the bias of the layer before it. Spec, section 9.

    Parameters
    ----------
    mean, var : float[n]
        Running statistics.
    gamma, beta : float[n]
        1 and 0 where the layer has none.
    eps : float
        What the layer adds to var: 1e-5 in PyTorch, 1e-3 in Keras, if not chosen otherwise. It is in no checkpoint.
    scale, bias : float[n]
        LS and bias the layer before has already; 1 and 0 where it has none.

    Raises
    ------
    ModelError
        Not all are vectors of the same length, or one is not finite, or var + eps is not positive somewhere.
    """
    eps = float(checked(f"{name}: eps", EPS, eps))
    n = array_of(mean, f"{name}, mean").shape
    given = {"mean": mean, "var": var, "gamma": gamma, "beta": beta, "scale": scale, "bias": bias}
    m, v, g, b, ls, bi = (_vector(x, n, _DEFAULTS.get(key), f"{name}, {key}") for key, x in given.items())
    if not (v + eps > 0).all():
        raise ModelError(f"{name}: var + eps is not positive everywhere (eps {eps:g})")
    factor = g / np.sqrt(v + eps)
    return Folded((ls * factor).astype(np.float32), ((bi - m) * factor + b).astype(np.float32))


def unfold_batchnorm(
    bias: np.ndarray, scale: np.ndarray | None = None, *, eps: float = 1e-5, form: str = "gamma", name: str = "block"
) -> BatchNorm:
    """Vectors with which a framework's batch-norm layer computes ``scale * x + bias``.

    The layer before must then have no bias (or zeros), and the bare weights W. Where the decoder has multiplied LS
    into the weights, leave `scale` out.

    Parameters
    ----------
    bias, scale : float[n]
        BI and LS; scale is 1 where left out.
    eps : float
        That of the framework's layer.
    form : {"gamma", "variance", "standard"}
        How its eps is made up for: gamma = sqrt(1 + eps), or var = 1 - eps, or (as the standard has it) not at all.

    Raises
    ------
    OptionError
        Unknown form, or "variance" with eps not below 1, or a negative eps.
    ModelError
        Not vectors of the same length.
    """
    checked(f"{name}: form", Word(*FORMS), form)
    eps = float(checked(f"{name}: eps", EPS, eps))
    if form == "variance" and eps >= 1:
        raise OptionError(f"{name}: eps is {eps}, must be below 1 for the form 'variance'")
    bi = _vector(bias, array_of(bias, f"{name}, bias").shape, None, f"{name}, bias")
    ls = _vector(scale, bi.shape, 1.0, f"{name}, scale")
    var = 1 - eps if form == "variance" else 1.0
    gamma = ls * np.sqrt(1 + eps) if form == "gamma" else ls
    n, f32 = bi.shape, np.float32
    return BatchNorm(gamma.astype(f32), bi.astype(f32), np.zeros(n, f32), np.full(n, var, f32))


_DEFAULTS = {"gamma": 1.0, "beta": 0.0, "scale": 1.0, "bias": 0.0}
"""Of the vectors that a layer need not have."""


def _vector(values: np.ndarray | None, shape: tuple[int, ...], default: float | None, what: str) -> np.ndarray:
    """The vector as float64[n]: these are short, and the folding should cost no accuracy."""
    if values is None and default is not None:
        return np.full(shape, default)
    array = array_of(values, what)
    if array.dtype.kind != "f" or array.ndim != 1 or array.shape != shape:
        raise ModelError(f"{what}: is {array.dtype}{list(array.shape)}, must be a float vector of shape {list(shape)}")
    if not np.isfinite(array).all():
        raise ModelError(f"{what}: holds NaN or infinity")
    return array.astype(np.float64)
