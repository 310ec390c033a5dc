"""A ResNet-style network: bottlenecks of 1 by 1, 3 by 3 and 1 by 1 convolutions with batch norms, and shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.zoo import Main, layers, pictures
from bench.zoo.layers import Weights

TITLE = "ResNet style, image classification: stands for ResNet50"
WEIGHTS = Path(__file__).with_name("weights") / "resnet.safetensors"
MAIN = Main("top1", higher_is_better=True)

STEM = 28
STAGES = ((28, 80, 1), (52, 144, 2), (104, 320, 2))
"""Inner channels, outer channels and stride of the first block of each stage."""
BLOCKS = 3
"""Blocks of each stage."""


class Block(NamedTuple):
    """One bottleneck block."""

    name: str
    depth: int
    inner: int
    outer: int
    stride: int


def blocks() -> Iterator[Block]:
    depth = STEM
    for stage, (inner, outer, stride) in enumerate(STAGES, 1):
        for at in range(BLOCKS):
            yield Block(f"layer{stage}.{at}", depth, inner, outer, stride if at == 0 else 1)
            depth = outer


def shapes() -> dict[str, tuple[int, ...]]:
    """Names, in torchvision's way, and shapes of all weights."""
    found = layers.norm_shapes("bn1", STEM) | {"conv1.weight": (STEM, 1, 3, 3)}
    for name, depth, inner, outer, stride in blocks():
        found[f"{name}.conv1.weight"] = (inner, depth, 1, 1)
        found[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
        found[f"{name}.conv3.weight"] = (outer, inner, 1, 1)
        for k, channels in enumerate((inner, inner, outer), 1):
            found |= layers.norm_shapes(f"{name}.bn{k}", channels)
        if depth != outer or stride > 1:
            found[f"{name}.downsample.0.weight"] = (outer, depth, 1, 1)
            found |= layers.norm_shapes(f"{name}.downsample.1", outer)
    return found | {"fc.weight": (pictures.CLASSES, STAGES[-1][1]), "fc.bias": (pictures.CLASSES,)}


def forward(weights: Weights, x: Any, ops: Any = layers) -> Any:
    """Outputs before the softmax, of inputs [n,1,32,32]."""
    x = ops.relu(ops.batch_norm(ops.convolve(x, weights["conv1.weight"]), weights, "bn1"))
    x = ops.max_pool(x)
    for name, _, _, _, stride in blocks():
        y = ops.relu(ops.batch_norm(ops.convolve(x, weights[f"{name}.conv1.weight"]), weights, f"{name}.bn1"))
        y = ops.convolve(y, weights[f"{name}.conv2.weight"], stride=stride)
        y = ops.relu(ops.batch_norm(y, weights, f"{name}.bn2"))
        y = ops.batch_norm(ops.convolve(y, weights[f"{name}.conv3.weight"]), weights, f"{name}.bn3")
        if f"{name}.downsample.0.weight" in weights:
            x = ops.convolve(x, weights[f"{name}.downsample.0.weight"], stride=stride)
            x = ops.batch_norm(x, weights, f"{name}.downsample.1")
        x = ops.relu(x + y)
    return ops.linear(ops.mean_pool(x), weights["fc.weight"], weights["fc.bias"])


def measure(weights: Weights) -> dict[str, float]:
    """Top-1 and top-5 accuracy on the test pictures, in percent."""
    images, labels = pictures.test_set()
    return pictures.top(layers.in_batches(forward, weights, images), labels)


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about ten minutes on one core."""
    from bench.zoo import training

    batches = pictures.batches(64, 2, easy=600)
    weights = training.fit(forward, shapes(), batches, training.cross_entropy, steps=1300, rate=0.003, decay=1.0)
    training.save(path, weights, forward, pictures.test_set()[0][:32])


if __name__ == "__main__":
    train()
    print(measure(layers.load(WEIGHTS)))
