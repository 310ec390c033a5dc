"""The layers of `layers.py` on PyTorch's tensors, and one training loop for all models of the zoo.

PyTorch is a tool for making weights: nothing that measures a model imports this file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional

from bench.zoo.layers import NORM_EPSILON, join_heads, split_heads

__all__ = [
    "attend",
    "batch_norm",
    "convolve",
    "cross_entropy",
    "enlarge",
    "fit",
    "gelu",
    "join_heads",
    "layer_norm",
    "linear",
]
__all__ += ["lower_triangle", "max_pool", "mean_pool", "relu", "save", "sigmoid", "split_heads"]

gelu = functional.gelu
linear = functional.linear
sigmoid = torch.sigmoid
Forward = Callable[[Mapping[str, Any], Any, Any], Any]
"""Outputs of a network from its weights, its inputs, and the module of layers to use."""


class State(dict[str, Tensor]):
    """Weights by name; batch norms use the batch's own statistics, and keep them, while `training`."""

    training = True


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None, *, stride: int = 1, groups: int = 1) -> Tensor:
    return functional.conv2d(x, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)


def batch_norm(x: Tensor, weights: State, name: str) -> Tensor:
    mean, spread, weight, bias = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, mean, spread, weight, bias, training=weights.training, eps=NORM_EPSILON)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    return functional.layer_norm(x, weight.shape, weight, bias, epsilon)


def relu(x: Tensor, limit: float | None = None) -> Tensor:
    return x.clamp(0, limit)


def max_pool(x: Tensor, size: tuple[int, int] = (2, 2)) -> Tensor:
    return functional.max_pool2d(x, size)


def mean_pool(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def enlarge(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def lower_triangle(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Of outputs [...,classes] before the softmax."""
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def fit(
    forward: Forward,
    shapes: Mapping[str, tuple[int, ...]],
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    rate: float,
    decay: float,
    seed: int = 15938,
) -> dict[str, np.ndarray]:
    """Weights trained from scratch by AdamW: the rate rises for a twentieth of the steps and then falls along a cosine.

    Only tensors of two dimensions or more decay. The decay is strong, so that the few steps shrink what is not needed
    as much as a long training does: the weights are distributed like those of real models, not like their random start.
    """
    torch.set_num_threads(1)  # the same sums in the same order, whatever else runs
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    state = State({name: start(name, shape) for name, shape in shapes.items()})
    trained = [t.requires_grad_() for name, t in state.items() if "running_" not in name]
    groups = [
        {"params": [t for t in trained if t.ndim > 1], "weight_decay": decay},
        {"params": [t for t in trained if t.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, k - warm) / (steps - warm)))
    )
    begin, mean = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        inputs, targets = (torch.from_numpy(part) for part in next(batches))
        error = loss(forward(state, inputs, _module()), targets)
        optimiser.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(trained, 2.0)
        optimiser.step()
        schedule.step()
        mean += (error.item() - mean) / min(step, 100)
        if step % 100 == 0 or step == steps:
            print(f"step {step:5} of {steps}: loss {mean:.4f}, {time.monotonic() - begin:.0f} s", flush=True)
    return {name: t.detach().numpy().copy() for name, t in state.items()}


def start(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor before training: statistics of no data, norms that change nothing, weights that keep the variance."""
    if name.endswith(("running_var", "weight")) and len(shape) == 1:
        return torch.ones(shape)
    if len(shape) == 1:
        return torch.zeros(shape)
    spread = 0.02 if "embedding" in name else math.sqrt(2.0 / math.prod(shape[1:]))
    return torch.randn(shape) * spread


def save(path: Path, weights: Mapping[str, np.ndarray], forward: Forward, inputs: np.ndarray) -> None:
    """Write the weights, after a look whether NumPy computes from these inputs what PyTorch does."""
    from bench.zoo import layers

    state = State({name: torch.from_numpy(w) for name, w in weights.items()})
    state.training = False
    with torch.no_grad():
        expected = forward(state, torch.from_numpy(inputs), _module()).numpy()
    np.testing.assert_allclose(forward(weights, inputs, layers), expected, rtol=1e-3, atol=1e-3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights), path, metadata={"source": f"bench/zoo/{path.stem}.py", "format": "pt"})
    path.chmod(0o644)
    print(f"{path}: {sum(w.size for w in weights.values())} weights")


def _module() -> Any:
    import sys

    return sys.modules[__name__]
