"""Measures of weights and of a model's outputs. Each is a function from arrays to one number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage, stats

from nncjit.errors import ModelError

Array = np.ndarray[Any, Any]

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
"""The window of Wang et al. (2004): a Gaussian over 11 x 11 pixels."""


def ratio(compressed_bytes: float, original_bytes: float) -> float:
    """Compressed size in percent of the original."""
    return 100.0 * compressed_bytes / max(original_bytes, 1)


def bits_per_weight(n_bytes: float, weights: int) -> float:
    """Bits that each weight takes on average."""
    return 8.0 * n_bytes / max(weights, 1)


def snr(original: Array, other: Array) -> float:
    """Signal-to-noise ratio in dB, 10 log10(sum x^2 / sum (x - y)^2); infinite where nothing differs."""
    x, y = _pair(original, other)
    return decibels(float(np.square(x).sum()), float(np.square(x - y).sum()))


def tensor_snr(original: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, float]:
    """The SNR of each float tensor of a model."""
    return {name: snr(array, other[name]) for name, array in original.items() if array.dtype.kind == "f"}


def model_snr(original: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """The SNR of all float tensors of a model together."""
    power = error = 0.0
    for name, array in original.items():
        if array.dtype.kind == "f":
            x, y = _pair(array, other[name])
            power += float(np.square(x).sum())
            error += float(np.square(x - y).sum())
    return decibels(power, error)


def decibels(power: float, error: float) -> float:
    """10 log10(power / error); infinite without error."""
    if error == 0.0:
        return math.inf
    return 10.0 * math.log10(power / error) if power > 0.0 else -math.inf


def psnr(original: Array, other: Array, peak: float) -> float:
    """Peak signal-to-noise ratio in dB of images whose largest possible value is `peak`."""
    x, y = _pair(original, other)
    return decibels(peak * peak, float(np.square(x - y).mean()))


def ssim(original: Array, other: Array, peak: float) -> float:
    """Mean structural similarity of two images, -1..1. Wang et al. 2004, with its Gaussian window.

    Parameters
    ----------
    original, other : [height, width] or [height, width, channels]
        At least 11 x 11 pixels. Channels are compared separately, and the mean is returned.
    peak : float
        Largest possible value.

    Raises
    ------
    ModelError
        The images are of different shapes, or smaller than the window.
    """
    x, y = _pair(original, other)
    if x.ndim == 3:
        return float(np.mean([ssim(x[..., k], y[..., k], peak) for k in range(x.shape[2])]))
    side = 2 * SSIM_RADIUS + 1
    if x.ndim != 2 or min(x.shape) < side:
        raise ModelError(f"SSIM needs images of at least {side} x {side} pixels, not {' x '.join(map(str, x.shape))}")

    def blurred(image: Array) -> Array:
        whole: Array = ndimage.gaussian_filter(image, SSIM_SIGMA, radius=SSIM_RADIUS)
        return whole[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    small, less_small = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    likeness *= (2 * covariance + less_small) / (var_x + var_y + less_small)
    return float(likeness.mean())


def top_k(scores: Array, labels: Array, k: int = 1) -> float:
    """Percentage of rows of `scores` [n, classes] whose label is among the k highest; a tie with another class is lost.

    So a network that gives the same answer to everything scores nothing.
    """
    if scores.ndim != 2 or len(scores) != len(labels) or not len(labels):
        raise ModelError(f"scores {list(scores.shape)} do not belong to {len(labels)} labels")
    right = scores[np.arange(len(labels)), labels.astype(np.intp)]
    better = (scores >= right[:, None]).sum(1) - 1
    return 100.0 * float(((better < k) & np.isfinite(right)).mean())


def bits_per_character(log_probabilities: Array) -> float:
    """Mean of -log2 p over the characters of a text, from natural logarithms of what a model gave each."""
    return float(-log_probabilities.mean() / math.log(2.0))


def cosine(original: Array, other: Array) -> float:
    """Mean cosine of the angles between the rows of two arrays [n, features]; rows of zeros count as 0."""
    x, y = _pair(original, other)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return float(np.divide((x * y).sum(-1), lengths, out=np.zeros_like(lengths), where=lengths > 0).mean())


def spearman(original: Array, other: Array) -> float:
    """Correlation of the ranks of two sequences of numbers, -1..1; 0 where either is constant."""
    ranks = [stats.rankdata(values.ravel()) for values in _pair(original, other)]
    centred = [r - r.mean() for r in ranks]
    spread = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / spread if spread else 0.0


def entropy(levels: Array) -> float:
    """Entropy of integers in bits: what each needs at least in a code that uses only their frequencies."""
    counts = np.unique(levels, return_counts=True)[1]
    shares = counts / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum())


def _pair(original: Array, other: Array) -> tuple[Array, Array]:
    """Both as float64."""
    if original.shape != other.shape:
        raise ModelError(f"shapes {list(original.shape)} and {list(other.shape)} differ")
    return original.astype(np.float64), other.astype(np.float64)
