"""The task of the three image networks: which two digits, of 100 pairs, stand on a cluttered picture, 32 by 32 pixels.

The digits are scikit-learn's, each turned, scaled, sheared and moved by a seeded generator; strokes, uneven light and
noise lie over them. Training pictures are made as they are needed; the test pictures, of digits that are never trained
on, are kept in a file. ``python -m bench.zoo.pictures`` makes that file anew (scikit-learn).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

TEST_SET = Path(__file__).with_name("data") / "pictures-test.safetensors"
"""images uint8[1000,32,32], labels uint8[1000]."""
CREDIT = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0, "
    "as shipped with scikit-learn"
)
SIDE = 32
CLASSES = 100
TEST_PICTURES = 1000
HELD_OUT = 360
SEED = 15938
NOISE = 0.09
STROKES = 2


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """The network's inputs float32[1000,1,32,32], and the labels."""
    kept = load_file(TEST_SET)
    return inputs(kept["images"]), kept["labels"]


def inputs(images: np.ndarray) -> np.ndarray:
    """What the networks see of uint8[n,32,32]: float32[n,1,32,32] in -1..1."""
    return images[:, None].astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def top(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How often, in percent, the right label is the first, or one of the first five."""
    first = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]
    return {"top1": float(100 * first[:, 0].mean()), "top5": float(100 * first.any(1).mean())}


def batches(size: int, seed: int, easy: int, part: slice = slice(None)) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless training pictures, as inputs and labels int64; the first `easy` batches grow from plain to hard. They
    are of all digits that may be trained on, or of a part.
    """
    digits, targets, _ = _split()
    rng = np.random.default_rng(seed)
    for k in itertools.count():
        pictures, labels, _ = draw(digits[part], targets[part], size, rng, min(1.0, k / easy))
        yield inputs(pictures), labels.astype(np.int64)


def hard_batches(
    size: int, seed: int, part: slice = slice(None), *, held_out: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Endless hard pictures, of digits that may be trained on or of those that may not: inputs, labels int64, and the
    numbers of both digits, int64[size,2].
    """
    digits, targets = held_out_digits() if held_out else _split()[:2]
    rng = np.random.default_rng(seed)
    while True:
        pictures, labels, chosen = draw(digits[part], targets[part], size, rng)
        yield inputs(pictures), labels.astype(np.int64), chosen


def draw(
    digits: np.ndarray, targets: np.ndarray, n: int, rng: np.random.Generator, hard: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8[n,32,32] of pairs of these digits (float32[m,8,8] in 0..1), their labels, and which digits."""
    chosen = rng.integers(len(digits), size=(n, 2))
    canvas = np.zeros((n, SIDE, SIDE), np.float32)
    for place in range(2):
        centre = np.array([15.5, 8.0 + 15.0 * place]) + hard * rng.normal(0, 1.4, (n, 2))
        ink = rng.uniform(0.6, 1.0, (n, 1, 1)).astype(np.float32)
        canvas = np.maximum(canvas, ink * _placed(digits[chosen[:, place]], centre, rng, hard))
    for _ in range(STROKES):
        canvas = np.maximum(canvas, np.float32(hard) * _strokes(n, rng))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j].astype(np.float32)
    slope = rng.normal(0, 0.08, (2, n, 1, 1)).astype(np.float32)
    light = slope[0] * y + slope[1] * x + rng.uniform(-0.05, 0.15, (n, 1, 1)).astype(np.float32)
    noise = (
        rng.normal(0, 1, canvas.shape).astype(np.float32) * rng.uniform(0.3, 1.0, (n, 1, 1)).astype(np.float32) * NOISE
    )
    picture = 0.2 + 0.6 * canvas + np.float32(hard) * (light + noise)
    labels = 10 * targets[chosen[:, 0]] + targets[chosen[:, 1]]
    return (picture.clip(0, 1) * 255).round().astype(np.uint8), labels.astype(np.uint8), chosen


def _placed(digits: np.ndarray, centre: np.ndarray, rng: np.random.Generator, hard: float) -> np.ndarray:
    """Each digit on a canvas of its own, under a random affine map: float32[n,32,32]."""
    n = len(digits)
    angle, shear = hard * rng.normal(0, 0.18, (2, n))
    height, width = 2.0 + hard * rng.uniform(-0.5, 0.5, n), 1.7 + hard * rng.uniform(-0.4, 0.4, n)
    y, x = np.mgrid[:SIDE, :SIDE]
    y, x = y - centre[:, 0, None, None], x - centre[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    row = (cos * y + sin * x) / height[:, None, None] + 3.5
    column = (cos * x - sin * y) / width[:, None, None] + shear[:, None, None] * (row - 3.5) + 3.5
    framed = np.pad(digits, ((0, 0), (1, 1), (1, 1)))  # a border of paper, for places outside the digit
    row, column = np.clip(row + 1, 0, 8.999), np.clip(column + 1, 0, 8.999)
    i, j = row.astype(np.int64), column.astype(np.int64)
    u, v = (row - i).astype(np.float32), (column - j).astype(np.float32)
    k = np.arange(n)[:, None, None]
    upper = framed[k, i, j] * (1 - v) + framed[k, i, j + 1] * v
    lower = framed[k, i + 1, j] * (1 - v) + framed[k, i + 1, j + 1] * v
    return upper * (1 - u) + lower * u


def _strokes(n: int, rng: np.random.Generator) -> np.ndarray:
    """One short stroke a picture, about as bright as the digits."""
    middle, angle = rng.uniform(0, SIDE, (2, n, 1, 1)), rng.uniform(0, np.pi, (n, 1, 1))
    length, ink = rng.uniform(2, 6, (n, 1, 1)), rng.uniform(0, 0.8, (n, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    along = (y - middle[0]) * np.sin(angle) + (x - middle[1]) * np.cos(angle)
    across = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    distance = np.hypot(across, np.maximum(np.abs(along) - length, 0))
    return (ink * np.clip(1.6 - distance, 0, 1)).astype(np.float32)


def _split() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits to train on, float32[1437,8,8] in 0..1, their labels, and scikit-learn's numbers of those held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    images, targets = data.images[order].astype(np.float32) / np.float32(16.0), data.target[order]
    return images[HELD_OUT:], targets[HELD_OUT:], order[:HELD_OUT]


def held_out_digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits that are never trained on, float32[360,8,8] in 0..1, and their labels."""
    from sklearn.datasets import load_digits

    data, (_, _, held_out) = load_digits(), _split()
    return data.images[held_out].astype(np.float32) / np.float32(16.0), data.target[held_out]


def main() -> None:
    images, labels, _ = draw(*held_out_digits(), TEST_PICTURES, np.random.default_rng(SEED))
    save_file(
        {"images": images, "labels": labels}, TEST_SET, metadata={"source": "bench/zoo/pictures.py", "data": CREDIT}
    )
    TEST_SET.chmod(0o644)


if __name__ == "__main__":
    main()
