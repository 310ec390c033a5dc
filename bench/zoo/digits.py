"""Train the digits network that ships with nncjit, and write its weights and test images into the package.

    pip install torch scikit-learn && python bench/zoo/digits.py

A small VGG-style network (about 250 thousand weights) on scikit-learn's digits: 1437 images to train on, varied by a
seeded augmentation, 360 held out and used once, at the end. One thread and fixed seeds, so that the same machine makes
the same weights.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from nncjit.demo import digits

SEED = 15938
DATA_CREDIT = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0, "
    "as shipped with scikit-learn"
)
TEST_IMAGES = 360
BATCH = 64
CHANNELS = (1, 32, 64, 96, 128)


class DigitsNet(nn.Module):
    """Four convolutions with batch norm, a pooling after every second, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        for k, (n_in, n_out) in enumerate(pairwise(CHANNELS), 1):
            self.add_module(f"conv{k}", nn.Conv2d(n_in, n_out, 3, padding=1, bias=False))
            self.add_module(f"norm{k}", nn.BatchNorm2d(n_out))
        self.hidden = nn.Linear(CHANNELS[-1] * 4, 128)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for k in digits.CONVOLUTIONS:
            x = functional.relu(self.get_submodule(f"norm{k}")(self.get_submodule(f"conv{k}")(x)))
            if k in digits.POOL_AFTER:
                x = functional.max_pool2d(x, 2)
        return self.output(self.dropout(functional.relu(self.hidden(x.flatten(1)))))


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 10 % and moved by up to one pixel."""
    n = len(images)
    angle, scale, dx, dy = (2 * torch.rand(4, n, generator=generator) - 1) * torch.tensor(
        [[12 * np.pi / 180], [0.1], [0.25], [0.25]]
    )
    cos, sin = (1 + scale) * torch.cos(angle), (1 + scale) * torch.sin(angle)
    affine = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = functional.affine_grid(affine.float(), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(images: Tensor, labels: Tensor, epochs: int) -> DigitsNet:
    """The network after `epochs` rounds over the varied images, in evaluation mode."""
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    net = DigitsNet()
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for at in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[at : at + BATCH]
            output = net(vary(images[chosen], generator))
            loss = functional.cross_entropy(output, labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1:3} of {epochs}: loss {loss.item():.4f}", flush=True)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--output", type=Path, default=digits.DATA, help="folder for the two files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    data = load_digits()
    rows = train_test_split(np.arange(len(data.target)), test_size=TEST_IMAGES, stratify=data.target, random_state=SEED)
    train_rows, test_rows = (np.sort(part) for part in rows)
    images = torch.from_numpy(data.images[:, None].astype(np.float32) / np.float32(digits.WHITE))
    net = train(images[train_rows], torch.from_numpy(data.target[train_rows]), args.epochs)

    with torch.no_grad():
        logits = net(images[test_rows]).numpy()
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    held_out = digits.HeldOut(
        images=data.images[test_rows].astype(np.uint8), labels=data.target[test_rows].astype(np.uint8), logits=logits
    )
    np.testing.assert_allclose(digits.forward(weights, held_out.images), logits, rtol=1e-4, atol=1e-4)

    args.output.mkdir(parents=True, exist_ok=True)
    about = {"source": "bench/zoo/digits.py", "data": DATA_CREDIT}
    for name, tensors in ((digits.MODEL.name, weights), (digits.TEST_SET.name, held_out._asdict())):
        save_file(tensors, args.output / name, metadata=about)
        (args.output / name).chmod(0o644)
    correct = digits.count_correct(weights, held_out)
    print(f"{sum(w.size for w in weights.values())} weights, {correct} of {TEST_IMAGES} test images correct")


if __name__ == "__main__":
    main()
