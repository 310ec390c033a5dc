"""Whether queries and keys of attention may have coarser steps than other matrices: the character model of the zoo.

    python bench/queries_and_keys.py

Its fused projections are taken apart, so that a rule can reach queries and keys alone. Sizes are those at which so many
bits per character are lost on the validation text, between two points of a curve over `quality`. Nothing is reported
on the test text: this is where the factor is chosen.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration

QUALITIES = (0.5, 0.378, 0.27, 0.2)
FACTORS = (1.0, 0.7, 0.5, 0.35)
"""Quality of queries and keys beside that of the rest."""
LOSSES = (0.03, 0.04, 0.06)
PARTS = ("query", "key", "value")
FUSED = "qkv.weight"

Arrays = Mapping[str, np.ndarray]


def apart(weights: Arrays) -> dict[str, np.ndarray]:
    """Queries, keys and values as tensors of their own."""
    found = {}
    for name, array in weights.items():
        pieces = np.split(array, len(PARTS)) if name.endswith(FUSED) else [array]
        names = [name.replace("qkv", part) for part in PARTS] if name.endswith(FUSED) else [name]
        found |= dict(zip(names, map(np.ascontiguousarray, pieces), strict=True))
    return found


def together(weights: Arrays, names: Arrays) -> dict[str, np.ndarray]:
    """As the network has them."""
    fused = {n: np.concatenate([weights[n.replace("qkv", part)] for part in PARTS]) for n in names if n.endswith(FUSED)}
    return {n: fused[n] if n in fused else weights[n] for n in names}


def main() -> None:
    torch.set_num_threads(1)
    weights = zoo_calibration.weights("charlm")
    raw = sum(array.nbytes for array in weights.values())
    whole = zoo_calibration.scores("charlm", weights).mean()
    for factor in FACTORS:
        sizes, losses = [], []
        for quality in QUALITIES:
            rules = {r".*\.(query|key)\.weight": {"quality": quality * factor}}
            data = nncjit.encode(apart(weights), quality=quality, rules=rules)
            back = together(nncjit.decode(data), weights)
            sizes.append(100 * len(data) / raw)
            losses.append(math.log(zoo_calibration.scores("charlm", back).mean() - whole))
        at = np.interp(np.log(LOSSES), losses, sizes)
        shown = ", ".join(f"{size:.2f} % at {loss} bits" for size, loss in zip(at, LOSSES, strict=True))
        print(f"queries and keys at {factor} of the quality: {shown}", flush=True)


if __name__ == "__main__":
    main()
