"""Experts in one tensor: a metric for each of them against one in common, on a small mixture that is trained first.

    python bench/experts.py [--json out.json]

A network of characters: eight of them are looked up, two mixtures of eight experts, of which two are taken for each
sample, transform them, and the ninth is guessed. It is trained for some seconds on the text that the zoo's character
model has for validation, calibrated on it, and measured on that model's test text: the divergence of the outputs from
the original ones, in bits. Qualities are fixed and nothing is chosen; sizes at a divergence lie on straight lines
between points of a curve, in logarithms.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import charlm
from nncjit.calibrate import Statistics
from nncjit.torch import calibrate, calibration_moments

CONTEXT, WIDTH, INNER, EXPERTS, TAKEN = 8, 16, 192, 8, 2
STEPS, BATCH = 600, 256
QUALITIES = (2.0, 1.4, 1.0, 0.7, 0.5)


class Mixture(nn.Module):
    """Experts [experts, out, in], of which the strongest are taken for each row of the input."""

    def __init__(self) -> None:
        super().__init__()
        n = CONTEXT * WIDTH
        self.router = nn.Linear(n, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, INNER, n) / n**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, n, INNER) / INNER**0.5)

    def forward(self, x: Tensor) -> Tensor:
        strength, chosen = self.router(x).softmax(-1).topk(TAKEN)
        y = torch.zeros_like(x)
        for k in range(EXPERTS):
            rows, place = (chosen == k).nonzero(as_tuple=True)
            if len(rows):
                inner = nn.functional.gelu(nn.functional.linear(x[rows], self.up[k]))
                out = nn.functional.linear(inner, self.down[k]) * strength[rows, place, None]
                y = y.index_add(0, rows, out)
        return x + y


class Guesser(nn.Module):
    """Numbers of eight characters to logits of the ninth."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(charlm.ALPHABET), WIDTH)
        self.mixtures = nn.ModuleList([Mixture(), Mixture()])
        self.norms = nn.ModuleList(nn.LayerNorm(CONTEXT * WIDTH) for _ in range(3))
        self.output = nn.Linear(CONTEXT * WIDTH, len(charlm.ALPHABET))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids).flatten(1)
        for norm, mixture in zip(self.norms, self.mixtures, strict=False):
            x = mixture(norm(x))
        return self.output(self.norms[-1](x))


def windows(path: Path) -> Tensor:
    """Nine characters from each place of a text."""
    ids = torch.from_numpy(np.asarray(charlm.numbers(path.read_text("utf-8")), np.int64))
    return ids.unfold(0, CONTEXT + 1, 1)


def batches(rows: Tensor, count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield rows[torch.randint(len(rows), (BATCH,), generator=generator)]


def trained(rows: Tensor) -> Guesser:
    torch.manual_seed(0)
    model = Guesser()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for rows_now in batches(rows, STEPS, 0):
        loss = nn.functional.cross_entropy(model(rows_now[:, :-1]), rows_now[:, -1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def divergence(model: nn.Module, wanted: Tensor, ids: Tensor) -> float:
    with torch.no_grad():
        found = model(ids).log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean() / np.log(2))


def collected(model: nn.Module, rows: Tensor, *, apart: bool) -> Statistics:
    kept = calibration_moments.MOST_APART
    calibration_moments.MOST_APART = kept if apart else 0
    try:
        return calibrate(model, [b[:, :-1] for b in batches(rows, 16, 1)], probes=2).statistics()
    finally:
        calibration_moments.MOST_APART = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = windows(charlm.VALIDATION_TEXT)
    model = trained(rows)
    ids = windows(charlm.TEST_TEXT)[::4, :-1]
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(ids).log_softmax(-1)
    points: list[dict[str, Any]] = []
    for kind in ("in common", "apart"):
        known = collected(model, rows, apart=kind == "apart")
        for quality in QUALITIES:
            data = nncjit.encode(weights, calibration=known, quality=quality)
            coded = Guesser().eval()
            coded.load_state_dict({name: torch.from_numpy(a) for name, a in nncjit.decode(data).items()})
            lost = divergence(coded, wanted, ids)
            points.append({"kind": kind, "quality": quality, "bytes": len(data), "bits": lost})
            print(points[-1], flush=True)
    common, apart = ([p for p in points if p["kind"] == kind] for kind in ("in common", "apart"))
    x, y = np.log([p["bits"] for p in apart]), np.log([p["bytes"] for p in apart])
    for point in common:
        if x.min() <= np.log(point["bits"]) <= x.max():
            size = np.exp(np.interp(np.log(point["bits"]), x, y))
            print(f"at {point['bits']:.4f} bits: {100 * (size / point['bytes'] - 1):+.1f} % of the size in common")
    if args.json is not None:
        args.json.write_text(json.dumps(points, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
