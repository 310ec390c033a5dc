"""A MobileNetV2-style network: inverted residuals (widening, depthwise and narrowing convolutions) and batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.zoo import Main, layers, pictures
from bench.zoo.layers import Weights

TITLE = "MobileNetV2 style, image classification: stands for MobileNetV2"
WEIGHTS = Path(__file__).with_name("weights") / "mobilenet.safetensors"
MAIN = Main("top1", higher_is_better=True)

STEM, LAST = 16, 256
WIDEN = 4
"""How many times more channels a block has inside than at its ends."""
STAGES = ((24, 2, 2), (32, 3, 2), (56, 3, 2), (80, 1, 1))
"""Channels, blocks and stride of the first block of each stage."""
CAP = 6.0
"""Limit of the rectifier."""


class Block(NamedTuple):
    """One inverted residual."""

    name: str
    depth: int
    outer: int
    stride: int


def blocks() -> Iterator[Block]:
    depth, at = STEM, 1
    for outer, count, stride in STAGES:
        for k in range(count):
            yield Block(f"features.{at}.conv", depth, outer, stride if k == 0 else 1)
            depth, at = outer, at + 1


def shapes() -> dict[str, tuple[int, ...]]:
    """Names, in torchvision's way, and shapes of all weights."""
    found = {"features.0.0.weight": (STEM, 1, 3, 3)} | layers.norm_shapes("features.0.1", STEM)
    outer = STEM
    for name, depth, outer, _ in blocks():
        inner = WIDEN * depth
        found[f"{name}.0.0.weight"] = (inner, depth, 1, 1)
        found |= layers.norm_shapes(f"{name}.0.1", inner)
        found[f"{name}.1.0.weight"] = (inner, 1, 3, 3)
        found |= layers.norm_shapes(f"{name}.1.1", inner)
        found[f"{name}.2.weight"] = (outer, inner, 1, 1)
        found |= layers.norm_shapes(f"{name}.3", outer)
    found |= {"features.last.0.weight": (LAST, outer, 1, 1)} | layers.norm_shapes("features.last.1", LAST)
    return found | {"classifier.1.weight": (pictures.CLASSES, LAST), "classifier.1.bias": (pictures.CLASSES,)}


def forward(weights: Weights, x: Any, ops: Any = layers) -> Any:
    """Outputs before the softmax, of inputs [n,1,32,32]."""

    def step(x: Any, convolution: str, norm: str, **options: int) -> Any:
        return ops.batch_norm(ops.convolve(x, weights[f"{convolution}.weight"], **options), weights, norm)

    x = ops.relu(step(x, "features.0.0", "features.0.1"), CAP)
    for name, depth, outer, stride in blocks():
        y = ops.relu(step(x, f"{name}.0.0", f"{name}.0.1"), CAP)
        y = ops.relu(step(y, f"{name}.1.0", f"{name}.1.1", stride=stride, groups=WIDEN * depth), CAP)
        y = step(y, f"{name}.2", f"{name}.3")
        x = x + y if depth == outer and stride == 1 else y
    x = ops.relu(step(x, "features.last.0", "features.last.1"), CAP)
    return ops.linear(ops.mean_pool(x), weights["classifier.1.weight"], weights["classifier.1.bias"])


def measure(weights: Weights) -> dict[str, float]:
    """Top-1 and top-5 accuracy on the test pictures, in percent."""
    images, labels = pictures.test_set()
    return pictures.top(layers.in_batches(forward, weights, images), labels)


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about twenty minutes on one core."""
    from bench.zoo import training

    batches = pictures.batches(64, 3, easy=600)
    weights = training.fit(forward, shapes(), batches, training.cross_entropy, steps=2000, rate=0.004, decay=0.6)
    training.save(path, weights, forward, pictures.test_set()[0][:32])


if __name__ == "__main__":
    train()
    print(measure(layers.load(WEIGHTS)))
