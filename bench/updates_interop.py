"""Does NNCodec decode our updates exactly? ``python bench/updates_interop.py [--rival PYTHON]``.

Chains that use only what NNCodec 2.1.3 knows (node ids, parents by ids, temporal contexts, row skipping) are decoded by
it and by `nncjit.decode`; every bit of every difference must agree. Exit code 0: all agree, or there is no NNCodec.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from interop import Rival

import nncjit
from nncjit.updates import Sender

SERIES = Path(__file__).with_name("nncodec_series.py")
UPDATES = 4
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"temporal": True},
    {"temporal": False},
    {"quantizer": "uniform", "temporal": True},
    {"qp": -40, "temporal": True},
    {"zeros": 0.95, "temporal": True},
    {"zero_rows": 0.8},
    {"scan_order": 1, "temporal": True},
    {"base_model_id": "net-1"},
    {"unary_length": 4, "temporal": True},
)


def models() -> Iterator[dict[str, np.ndarray]]:
    """A small network, and what training makes of it: a few weights move often."""
    rng = np.random.default_rng(0)
    model = {
        "conv.weight": rng.standard_normal((16, 8, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(16).astype(np.float32),
        "fc.weight": rng.standard_normal((100, 144)).astype(np.float32),
    }
    busy = {name: rng.random(array.shape) < 0.2 for name, array in model.items()}
    for _ in range(UPDATES + 1):
        yield model
        model = {
            name: (a + 0.02 * busy[name] * rng.standard_normal(a.shape)).astype(np.float32) for name, a in model.items()
        }


def fault(python: str, options: dict[str, Any], folder: Path) -> tuple[int, str]:
    """The bytes of a chain, and what differs between the two decoders."""
    base, *weeks = models()
    sender, state = Sender(base, compatible="nncodec", history=False, **options), nncjit.UpdateState()
    paths, ours = [], {}
    for index, new in enumerate(weeks):
        paths.append(folder / f"{index}.nnc")
        paths[-1].write_bytes(sender.update(new))
        ours |= {f"{index}/{name}": array for name, array in nncjit.decode(paths[-1], state=state).items()}
    command = [python, str(SERIES), str(folder / "out.npz"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    size = sum(path.stat().st_size for path in paths)
    if done.returncode:
        return size, (done.stderr.strip().splitlines() or ["died"])[-1]
    with np.load(folder / "out.npz") as archive:
        theirs = dict(archive)
    if sorted(ours) != sorted(theirs):
        return size, f"names differ: {sorted(set(ours) ^ set(theirs))[:3]}"
    different = [name for name, array in ours.items() if array.tobytes() != theirs[name].astype(array.dtype).tobytes()]
    return size, f"{different[0]} differs" if different else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that has NNCodec")
    args = parser.parse_args()
    python = Rival.find(args.rival)
    if python is None:
        print(f"updates_interop: no NNCodec in {args.rival or 'this interpreter'}, nothing compared")
        return 0
    bad = 0
    for options in CASES:
        with tempfile.TemporaryDirectory() as folder:
            size, said = fault(python, options, Path(folder))
        words = " ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
        print(f"{words:40}{size:>8}  {said or 'equal'}", flush=True)
        bad += bool(said)
    print(
        f"{len(CASES) - bad} of {len(CASES)} chains of {UPDATES} updates decode to the same differences on both sides"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
