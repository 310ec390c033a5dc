"""What is left of a calibration's gain where there are no texts: the character model of the zoo.

    python bench/without_data.py --json out.json

The statistics are of three kinds of texts: some that it was trained on; some that it writes itself; and random
characters, all equally frequent. Qualities are fixed below and nothing is chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nncjit
from bench.zoo import calibration as zoo_calibration
from bench.zoo import charlm
from nncjit.torch import calibrate

SAMPLES, BATCH = 384, 48
TRAINING_BATCHES = 6
ROUNDS = 24
"""In which all characters are drawn anew from what the network expects after those of the round before."""
AS_IT_IS, CALIBRATED = (0.4, 0.25), (0.9, 0.6)

Point = dict[str, Any]


def random_texts() -> Iterator[torch.Tensor]:
    for seed in range(SAMPLES // BATCH):
        drawn = np.random.default_rng(seed).integers(len(charlm.ALPHABET), size=(BATCH, charlm.WINDOW))
        yield torch.from_numpy(drawn)


def training_texts() -> Iterator[torch.Tensor]:
    read = charlm.batches(zoo_calibration.CALIBRATE_ON)
    for _ in range(TRAINING_BATCHES):
        yield torch.from_numpy(np.concatenate([next(read)[0] for _ in range(BATCH // charlm.BATCH)]))


def written_texts(state: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Random texts that the network rewrites: after so many rounds, each character fits to so many before it."""
    generator = torch.Generator().manual_seed(0)
    for start in random_texts():
        ids = start
        for _ in range(ROUNDS):
            with torch.no_grad():
                chances = zoo_calibration.run("charlm", state, ids).softmax(-1)
            drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).reshape(ids.shape)
            ids = torch.cat([ids[:, :1], drawn[:, :-1]], 1)
        yield ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = zoo_calibration.weights("charlm")
    raw = sum(array.nbytes for array in weights.values())
    state = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    texts: dict[str, Iterable[torch.Tensor] | None] = {
        "no statistics": None,
        "random characters": random_texts(),
        "its own texts": written_texts(state),
        "texts of its training": training_texts(),
    }
    points: list[Point] = []
    for kind, batches in texts.items():
        known = None
        if batches is not None:
            found = calibrate(state, batches, forward=lambda w, ids: zoo_calibration.run("charlm", w, ids))
            known = found.statistics()
        for quality in AS_IT_IS if known is None else CALIBRATED:
            data = nncjit.encode(weights, calibration=known, quality=quality)
            measured = zoo_calibration.measure("charlm", nncjit.decode(data))
            points.append({"kind": kind, "quality": quality, "ratio": 100 * len(data) / raw, **measured})
            print(points[-1], flush=True)
    if args.json is not None:
        found = {"original": zoo_calibration.measure("charlm", weights), "points": points}
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
