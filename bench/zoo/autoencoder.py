"""An image autoencoder: colour pictures of 32 by 32 pixels through a third of as many numbers.

It is trained on scikit-learn's two sample photographs and on seeded textures; the test crops are from the right third
of the photographs, which training never sees, and from other textures. ``python -m bench.zoo.autoencoder`` needs
scikit-learn and pillow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter

from bench.zoo import Main, layers
from bench.zoo.layers import Weights

TITLE = "Image autoencoder: stands for UC12B"
WEIGHTS = Path(__file__).with_name("weights") / "autoencoder.safetensors"
MAIN = Main("psnr", higher_is_better=True)
TEST_SET = Path(__file__).with_name("data") / "crops-test.safetensors"
"""images uint8[120,3,32,32]."""
CREDIT = "photographs china.jpg (danielbuechele) and flower.jpg (vultilion), CC BY 2.0, as shipped with scikit-learn"

SIDE = 32
TEST_CROPS = 120
TRAINED_ON = 2 / 3
"""Of the photographs' width, from the left."""
TUNED_ON = 1 / 2
"""What statistics and fine-tuning see of it. The rest of what training saw is to choose settings on."""
PLACE = 64
"""Crops with their centres in one square of so many pixels show the same place."""
CONTRAST = (0.4, 1.1)
"""Of varied pictures, in relation to the original's."""
SEED = 15938
SHAPES = {
    "encoder.0": (32, 3, 3, 3),
    "encoder.1": (48, 32, 3, 3),
    "encoder.2": (48, 48, 3, 3),
    "encoder.3": (16, 48, 1, 1),
    "decoder.0": (48, 16, 3, 3),
    "decoder.1": (48, 48, 3, 3),
    "decoder.2": (24, 48, 3, 3),
    "decoder.3": (3, 24, 3, 3),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights."""
    return {f"{k}.weight": s for k, s in SHAPES.items()} | {f"{k}.bias": s[:1] for k, s in SHAPES.items()}


def forward(weights: Weights, x: Any, ops: Any = layers) -> Any:
    """Pictures [n,3,32,32] in 0..1 from pictures."""

    def step(x: Any, name: str, stride: int = 1) -> Any:
        return ops.convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride)

    x = ops.relu(step(x, "encoder.0", 2))
    x = ops.relu(step(x, "encoder.1", 2))
    x = step(ops.relu(step(x, "encoder.2")), "encoder.3")
    x = ops.enlarge(ops.relu(step(x, "decoder.0")))
    x = ops.enlarge(ops.relu(step(x, "decoder.1")))
    return ops.sigmoid(step(ops.relu(step(x, "decoder.2")), "decoder.3"))


def measure(weights: Weights) -> dict[str, float]:
    """PSNR in dB and SSIM (0..1), means over the test crops."""
    crops = load_file(TEST_SET)["images"].astype(np.float32) / np.float32(255)
    found = layers.in_batches(forward, weights, crops)
    error = ((found - crops) ** 2).mean((1, 2, 3))
    return {
        "psnr": float(np.mean(-10 * np.log10(error))),
        "ssim": float(np.mean([similarity(a.mean(0), b.mean(0)) for a, b in zip(found, crops, strict=True)])),
    }


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two grey pictures in 0..1, windows of sigma 1.5 (Wang et al. 2004)."""

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x.astype(np.float64), 1.5, truncate=3.5)

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b, shared = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    return float((top / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))).mean())


def photographs() -> list[np.ndarray]:
    """The two photographs, uint8[3,427,640]."""
    from sklearn.datasets import load_sample_images

    return [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in load_sample_images().images]


def cuts(
    photos: list[np.ndarray], left: float, right: float, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crops uint8[n,3,32,32] from between two parts of the photographs' width, half of them shrunk, half mirrored, and
    the numbers int64[n] of the places that they show.
    """
    crops, places = np.empty((n, 3, SIDE, SIDE), np.uint8), np.empty(n, np.int64)
    grid = [len(photos), *(side // PLACE + 1 for side in photos[0].shape[1:])]
    for k in range(n):
        which = int(rng.integers(len(photos)))
        photo, scale = photos[which], 1 + int(rng.integers(2))
        span = SIDE * scale
        y = rng.integers(photo.shape[1] - span + 1)
        x = rng.integers(int(left * photo.shape[2]), int(right * photo.shape[2]) - span + 1)
        part = photo[:, y : y + span, x : x + span].reshape(3, SIDE, scale, SIDE, scale).mean((2, 4))
        crops[k] = part[:, :, ::-1] if rng.integers(2) else part
        places[k] = np.ravel_multi_index((which, (y + span // 2) // PLACE, (x + span // 2) // PLACE), grid)
    return crops, places


def textures(n: int, rng: np.random.Generator) -> np.ndarray:
    """Textures uint8[n,3,32,32]: waves and smooth noise in random colours."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle, frequency = rng.uniform(0, np.pi, n), rng.uniform(0.5, 7, n)
    phase = 2 * np.pi * frequency[:, None, None] * (
        np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    ) + rng.uniform(0, 7, (n, 1, 1))
    noise = np.stack([gaussian_filter(rng.standard_normal((SIDE, SIDE)), s) * s * 2 for s in rng.uniform(0.8, 4, n)])
    pattern = np.sin(phase + rng.uniform(0, 2, (n, 1, 1)) * noise) * rng.uniform(0.2, 1, (n, 1, 1)) + 0.4 * noise
    colours = rng.uniform(0, 1, (2, n, 3, 1, 1))
    pictures = colours[0] + (colours[1] - colours[0]) * (0.5 + 0.4 * pattern[:, None])
    return (255 * pictures.clip(0, 1)).astype(np.uint8)


def placed_batches(
    size: int, seed: int, left: float = 0, right: float = TRAINED_ON
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Endless crops from between two parts of the photographs' width, and textures: inputs, targets, and numbers
    int64[size,1] of what they show. No two textures show the same.
    """
    photos, rng = photographs(), np.random.default_rng(seed)
    shown = sum(photo[0].size for photo in photos)
    while True:
        crops, places = cuts(photos, left, right, size - size // 4, rng)
        pictures = np.concatenate([crops, textures(size // 4, rng)]).astype(np.float32) / np.float32(255)
        yield pictures, pictures, np.concatenate([places, shown + np.arange(size // 4)])[:, None]
        shown += size // 4


def batches(
    size: int, seed: int, left: float = 0, right: float = TRAINED_ON
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless crops from between two parts of the photographs' width, and textures, as inputs and targets."""
    return ((inputs, targets) for inputs, targets, _ in placed_batches(size, seed, left, right))


def varied_batches(size: int, seed: int, left: float = 0, right: float = TRAINED_ON) -> Iterator[tuple[Any, Any]]:
    """`batches` in other orientations, colours, contrasts and brightnesses. A network that learns what another makes
    of its inputs sees more of them so than photographs show.
    """
    rng = np.random.default_rng(seed)
    for pictures, _ in batches(size, seed, left, right):
        varied = np.stack([_varied(picture, rng) for picture in pictures])
        yield varied, varied


def _varied(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.integers(2):
        picture = picture.transpose(0, 2, 1)
    if rng.integers(2):
        picture = picture[:, ::-1]
    if rng.integers(2):
        picture = 1 - picture
    picture = picture[rng.permutation(len(picture))] * np.float32(rng.uniform(*CONTRAST))
    least, most = float(picture.min()), float(picture.max())
    brighter = np.float32(rng.uniform(-least, max(1 - most, -least)))
    return (picture + brighter).clip(0, 1)


def train(path: Path = WEIGHTS) -> None:
    """Make the weights anew: about ten minutes on one core."""
    from torch.nn.functional import mse_loss

    from bench.zoo import training

    weights = training.fit(forward, shapes(), batches(32, 5), mse_loss, steps=2500, rate=3e-3, decay=0.1)
    training.save(path, weights, forward, load_file(TEST_SET)["images"].astype(np.float32) / np.float32(255))


def main() -> None:
    rng = np.random.default_rng(SEED)
    crops, _ = cuts(photographs(), TRAINED_ON, 1, 3 * TEST_CROPS // 4, rng)
    images = np.concatenate([crops, textures(TEST_CROPS // 4, rng)])
    save_file({"images": images}, TEST_SET, metadata={"source": "bench/zoo/autoencoder.py", "data": CREDIT})
    TEST_SET.chmod(0o644)
    train()
    print(measure(layers.load(WEIGHTS)))


if __name__ == "__main__":
    main()
