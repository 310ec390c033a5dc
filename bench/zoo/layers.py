"""Layers of neural networks in NumPy, float32 throughout, as PyTorch defines them.

Images are float32[n, channels, height, width], sequences float32[n, length, features]. `training.py` has the same names
for PyTorch's tensors, so that a network is written once and runs on either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file
from scipy.special import erf

Weights = Mapping[str, np.ndarray]
"""The tensors of a model, by name."""

NORM_EPSILON = 1e-5
BATCH = 50
"""Inputs at once: keeps the unfolded patches of a convolution small."""


def load(path: Path) -> dict[str, np.ndarray]:
    """The weights in a safetensors file."""
    return load_file(path)


def in_batches(forward: Callable[[Weights, Any], Any], weights: Weights, inputs: np.ndarray) -> np.ndarray:
    """The network's outputs of all inputs."""
    return np.concatenate([forward(weights, inputs[at : at + BATCH]) for at in range(0, len(inputs), BATCH)])


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the four vectors of a batch norm."""
    return {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}


def convolve(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None = None, *, stride: int = 1, groups: int = 1
) -> np.ndarray:
    """Convolution of float32[n,c,h,w] with float32[out,c/groups,k,k], zero padded by k // 2."""
    n, channels = x.shape[:2]
    out, depth, size = kernel.shape[:3]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = ((side + 2 * pad - size) // stride + 1 for side in x.shape[2:])
    if depth == 1 and groups == channels == out:
        y = _depthwise(padded, kernel, stride, height, width)
    else:
        windows = sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]  # n c h w k k
        patches = windows.reshape(n, groups, depth, height, width, -1)
        patches = patches.transpose(1, 0, 3, 4, 2, 5).reshape(groups, n * height * width, depth * size * size)
        y = patches @ kernel.reshape(groups, out // groups, -1).transpose(0, 2, 1)  # g, n h w, out / g
        y = y.reshape(groups, n, height, width, -1).transpose(1, 0, 4, 2, 3).reshape(n, out, height, width)
    return y if bias is None else y + bias[:, None, None]


def _depthwise(padded: np.ndarray, kernel: np.ndarray, stride: int, height: int, width: int) -> np.ndarray:
    """Each channel with its own kernel: a sum of k * k shifted images."""
    y = np.zeros((*padded.shape[:2], height, width), np.float32)
    for i, j in np.ndindex(kernel.shape[2:]):
        shifted = padded[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        y += shifted * kernel[:, 0, i, j, None, None]
    return y


def batch_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Batch norm over axis 1, with the statistics of training."""
    scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + np.float32(NORM_EPSILON))
    shift = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float = NORM_EPSILON) -> np.ndarray:
    """Layer norm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(epsilon))
    return centred / spread * weight + bias


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """The product with float32[out,in], over the last axis."""
    y = (x.reshape(-1, x.shape[-1]) @ weight.T).reshape(
        *x.shape[:-1], len(weight)
    )  # one large product, not n small ones
    return y if bias is None else y + bias


def relu(x: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Max(x, 0), and not over `limit`."""
    return np.clip(x, 0, limit)


def gelu(x: np.ndarray) -> np.ndarray:
    """The product of x and the normal distribution function of x."""
    return x * (np.float32(0.5) + np.float32(0.5) * erf(x * np.float32(0.5**0.5)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def max_pool(x: np.ndarray, size: tuple[int, int] = (2, 2)) -> np.ndarray:
    """The largest value of every rectangle of `size`; what is left over at the end of an axis is dropped."""
    n, channels = x.shape[:2]
    height, width = x.shape[2] // size[0], x.shape[3] // size[1]
    whole = x[:, :, : height * size[0], : width * size[1]]
    return whole.reshape(n, channels, height, size[0], width, size[1]).max((3, 5))


def mean_pool(x: np.ndarray) -> np.ndarray:
    """The mean of each channel: [n, channels]."""
    return x.mean((2, 3))


def enlarge(x: np.ndarray) -> np.ndarray:
    """Each pixel as a 2 by 2 square."""
    return x.repeat(2, 2).repeat(2, 3)


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Attention of float32[n,heads,length,features] to what is `visible`, bool of [n,heads,length,length]."""
    scores = query @ key.swapaxes(-1, -2) * np.float32(query.shape[-1] ** -0.5)
    scores = np.where(visible, scores, np.float32(-1e9))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def lower_triangle(n: int) -> np.ndarray:
    """bool[n,n]: what each place of a sequence may look at, itself and those before it."""
    return np.tri(n, dtype=bool)


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[n, length, features] to [n, heads, length, features / heads]."""
    n, length, features = x.shape
    return x.reshape(n, length, heads, features // heads).swapaxes(1, 2)


def join_heads(x: np.ndarray) -> np.ndarray:
    """The way back from `split_heads`."""
    n, heads, length, features = x.shape
    return x.swapaxes(1, 2).reshape(n, length, heads * features)
