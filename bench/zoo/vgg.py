"""A VGG-style network: plain 3 by 3 convolutions, pooling between them, most weights in its large linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.zoo import Main, layers, pictures
from bench.zoo.layers import Weights

TITLE = "VGG style, image classification: stands for VGG16"
WEIGHTS = Path(__file__).with_name("weights") / "vgg.safetensors"
MAIN = Main("top1", higher_is_better=True)

STAGES = ((24,), (32, 32), (64, 64), (112, 112))
"""Channels of the convolutions between one pooling and the next."""
HIDDEN = (1024, 384)


def shapes() -> dict[str, tuple[int, ...]]:
    """Names, in torchvision's way, and shapes of all weights."""
    found: dict[str, tuple[int, ...]] = {}
    depth = 1
    for at, channels in enumerate(c for stage in STAGES for c in stage):
        found[f"features.{at}.conv.weight"] = (channels, depth, 3, 3)
        found[f"features.{at}.conv.bias"] = (channels,)
        depth = channels
    features = depth * (pictures.SIDE >> len(STAGES)) ** 2
    for at, size in enumerate((*HIDDEN, pictures.CLASSES)):
        found[f"classifier.{at}.weight"] = (size, features)
        found[f"classifier.{at}.bias"] = (size,)
        features = size
    return found


def forward(weights: Weights, x: Any, ops: Any = layers) -> Any:
    """Outputs before the softmax, of inputs [n,1,32,32]."""
    at = 0
    for stage in STAGES:
        for _ in stage:
            x = ops.relu(ops.convolve(x, weights[f"features.{at}.conv.weight"], weights[f"features.{at}.conv.bias"]))
            at += 1
        x = ops.max_pool(x)
    x = x.reshape(len(x), -1)
    for at in range(len(HIDDEN) + 1):
        x = ops.linear(x, weights[f"classifier.{at}.weight"], weights[f"classifier.{at}.bias"])
        x = ops.relu(x) if at < len(HIDDEN) else x
    return x


def measure(weights: Weights) -> dict[str, float]:
    """Top-1 and top-5 accuracy on the test pictures, in percent."""
    images, labels = pictures.test_set()
    return pictures.top(layers.in_batches(forward, weights, images), labels)


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about ten minutes on one core."""
    from bench.zoo import training

    batches = pictures.batches(64, 1, easy=800)
    weights = training.fit(forward, shapes(), batches, training.cross_entropy, steps=2200, rate=1.2e-3, decay=1.0)
    training.save(path, weights, forward, pictures.test_set()[0][:32])


if __name__ == "__main__":
    train()
    print(measure(layers.load(WEIGHTS)))
