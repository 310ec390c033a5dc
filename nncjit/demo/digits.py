"""The digits network: trained weights and 360 held-out images that ship with the package; its forward pass in NumPy.

The weights were trained by ``bench/zoo/digits.py`` on scikit-learn's digits; the test images were not used for
training. The forward pass follows the framework's definition of every layer, so a decoded model can be tested without a
framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from nncjit.errors import ModelError

TITLE = "digits: a small network that reads handwritten digits"

DATA = Path(__file__).resolve().parent.parent / "data"
MODEL = DATA / "digits.safetensors"
"""The trained weights: four convolutions with batch norm, two linear layers."""
STATISTICS = DATA / "digits-statistics.safetensors"
"""A calibration of the network on its training images, made by ``bench/zoo/calibration.py digits``."""
WEIGHTS = MODEL
FACTORS = True
"""A matrix may come as its two factors."""
MAIN = ("top1", True)
"""The main measure, and that higher is better: what `nncjit eval` requires of a task."""
TEST_SET = DATA / "digits-test.safetensors"
"""images uint8[360,8,8] (0..16), labels uint8[360], logits float32[360,10] as PyTorch computed them."""

CONVOLUTIONS = ("1", "2", "3", "4")
POOL_AFTER = ("2", "4")
WHITE = 16.0
"""Largest pixel of scikit-learn's digits."""
BATCH = 60
"""Images per batch, so that the unfolded patches of the widest layer stay under 10 MB."""
NORM_EPSILON = 1e-5


class HeldOut(NamedTuple):
    """Images that the network has never seen, and what they show."""

    images: np.ndarray
    """uint8[n,8,8], 0..16."""
    labels: np.ndarray
    """uint8[n], 0..9."""
    logits: np.ndarray
    """float32[n,10], the outputs of the uncompressed network in PyTorch."""


def load_held_out() -> HeldOut:
    """The 360 held-out images that ship with the package."""
    return HeldOut(**load_file(TEST_SET))


def forward(weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Outputs of the network before the softmax.

    Parameters
    ----------
    weights : mapping of str to float array
        The model's tensors, under the names of the file `MODEL`.
    images : uint8[n,8,8]
        Pixels 0..16.

    Returns
    -------
    float32[n,10]

    Raises
    ------
    ModelError
        A tensor is missing.
    """
    try:
        parts = [_forward(weights, images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    except KeyError as error:
        raise ModelError(f"the digits network needs a tensor named {error}") from error
    return np.concatenate(parts)


def measure(weights: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Percentage of the test images whose digit is the network's first answer, and one of its first five."""
    held_out = load_held_out()
    scores = forward(weights, held_out.images)
    right = np.take_along_axis(scores, held_out.labels[:, None].astype(np.intp), 1)
    rank = (scores >= right).sum(1)  # a network that gives the same answer to everything scores nothing
    return {f"top{k}": 100.0 * float((rank <= k).mean()) for k in (1, 5)}


def count_correct(weights: Mapping[str, np.ndarray], held_out: HeldOut) -> int:
    """How many of the test images the network reads correctly."""
    return int((forward(weights, held_out.images).argmax(1) == held_out.labels).sum())


def _forward(weights: Mapping[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    x = images[:, None].astype(np.float32) / np.float32(WHITE)
    for k in CONVOLUTIONS:
        x = _convolve(x, _kernel(weights, f"conv{k}.weight"))
        x = np.maximum(_normalise(x, weights, f"norm{k}"), 0)
        if k in POOL_AFTER:
            x = _pool(x)
    x = x.reshape(len(x), -1)
    x = np.maximum(_linear(x, weights, "hidden.weight") + weights["hidden.bias"], 0)
    logits: np.ndarray = _linear(x, weights, "output.weight") + weights["output.bias"]
    return logits


def _linear(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A linear layer; with factors, of less work than with their product."""
    if f"{name}_G" in weights:
        y: np.ndarray = (x @ weights[f"{name}_H"].T) @ weights[f"{name}_G"].T
        return y
    y = x @ weights[name].T
    return y


def _kernel(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The kernels of a convolution; of factors their product."""
    if f"{name}_G" not in weights:
        return weights[name]
    product: np.ndarray = weights[f"{name}_G"] @ weights[f"{name}_H"]
    return product.reshape(len(product), -1, 3, 3)


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolution of float32[n,c,h,w] with kernel float32[o,c,3,3], zero padded to the same size."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = sliding_window_view(padded, kernel.shape[2:], axis=(2, 3))  # n c h w 3 3
    return np.tensordot(patches, kernel, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def _normalise(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Batch norm with the statistics of training."""
    scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + np.float32(NORM_EPSILON))
    shift = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
    y: np.ndarray = x * scale[:, None, None] + shift[:, None, None]
    return y


def _pool(x: np.ndarray) -> np.ndarray:
    """The largest value of every 2 by 2 square."""
    n, channels, height, width = x.shape
    y: np.ndarray = x.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))
    return y
