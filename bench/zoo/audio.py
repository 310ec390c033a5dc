"""An audio scene classifier on spectrograms: two convolutions of 7 by 7 with batch norms, two linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.zoo import Main, layers, scenes
from bench.zoo.layers import Weights

TITLE = "Audio scene classification on spectrograms: stands for DCase"
WEIGHTS = Path(__file__).with_name("weights") / "audio.safetensors"
MAIN = Main("accuracy", higher_is_better=True)

CHANNELS = (32, 64)
POOLS = ((5, 5), (4, 6))
HIDDEN = 100
FEATURES = CHANNELS[-1] * 2 * 2
"""What the two poolings leave of 40 bands and 60 frames."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights."""
    found: dict[str, tuple[int, ...]] = {}
    depth = 1
    for at, channels in enumerate(CHANNELS):
        found |= {f"conv.{at}.weight": (channels, depth, 7, 7)} | layers.norm_shapes(f"norm.{at}", channels)
        depth = channels
    found |= {"hidden.weight": (HIDDEN, FEATURES), "hidden.bias": (HIDDEN,)}
    return found | {"output.weight": (len(scenes.SCENES), HIDDEN), "output.bias": (len(scenes.SCENES),)}


def forward(weights: Weights, x: Any, ops: Any = layers) -> Any:
    """Outputs before the softmax, of inputs [n,1,40,60]."""
    for at, pool in enumerate(POOLS):
        x = ops.relu(ops.batch_norm(ops.convolve(x, weights[f"conv.{at}.weight"]), weights, f"norm.{at}"))
        x = ops.max_pool(x, pool)
    x = ops.relu(ops.linear(x.reshape(len(x), -1), weights["hidden.weight"], weights["hidden.bias"]))
    return ops.linear(x, weights["output.weight"], weights["output.bias"])


def measure(weights: Weights) -> dict[str, float]:
    """Accuracy on the test scenes, in percent."""
    spectrograms, labels = scenes.test_set()
    logits = layers.in_batches(forward, weights, spectrograms)
    return {"accuracy": float(100 * (logits.argmax(1) == labels).mean())}


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about four minutes on one core."""
    from bench.zoo import training

    weights = training.fit(
        forward, shapes(), scenes.batches(4), training.cross_entropy, steps=1000, rate=2e-3, decay=1.0
    )
    training.save(path, weights, forward, scenes.test_set()[0][:32])


if __name__ == "__main__":
    train()
    print(measure(layers.load(WEIGHTS)))
