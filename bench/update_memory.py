"""Peak memory of updates of large files: ``python bench/update_memory.py [--megabytes N] [--tensors N]``.

A model of random matrices and one that differs from it by a little are written to files; then each step runs in a
process of its own: an update from file to file, applied to a file, and the same with sessions in folders, twice, so
that levels and history of the first update are there. Memory maps of files count where they are in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nncjit import formats
from nncjit.model import TensorInfo

WIDTH = 2048
STEP = """
import json, sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from nncodec_once import peak_memory
from nncjit.cli.main import main
start = time.perf_counter()
code = main({line!r}.split())
print(json.dumps([code, peak_memory(), time.perf_counter() - start]))
"""


def write(path: Path, tensors: int, rows: int, moved: float) -> None:
    """A model file, tensor by tensor; of the same base whatever the movement."""
    infos = [TensorInfo(f"layers.{k}.weight", (rows, WIDTH), "float32") for k in range(tensors)]
    with formats.create(path, infos, {}) as writer:
        for k, info in enumerate(infos):
            rng = np.random.default_rng(k)
            values = rng.standard_normal(info.shape, np.float32)
            if moved:
                values += np.float32(moved) * rng.standard_normal(info.shape, np.float32)
            writer.put(info.name, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rows = args.megabytes * 1_000_000 // (4 * WIDTH * args.tensors)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k in range(3):
            write(folder / f"{k}.safetensors", args.tensors, rows, 0.01 * k)
        size = (folder / "0.safetensors").stat().st_size
        print(f"a model of {size / 1e6:.0f} MB in {args.tensors} matrices, {args.threads} threads")
        for line in (
            "update {0}/0.safetensors {0}/1.safetensors -o {0}/u.nnc",
            "apply {0}/0.safetensors {0}/u.nnc -o {0}/back.safetensors",
            "update {0}/0.safetensors {0}/1.safetensors -o {0}/u1.nnc --keep {0}/sender",
            "apply {0}/0.safetensors {0}/u1.nnc --keep {0}/receiver",
            "update {0}/sender {0}/2.safetensors -o {0}/u2.nnc",
            "apply {0}/receiver {0}/u2.nnc",
        ):
            command = f"{line.format(folder)} -q --threads {args.threads}"
            script = STEP.format(path=[str(Path(__file__).parent)], line=command)
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
            code, peak, seconds = told(done.stdout)
            if code:
                raise SystemExit(f"{line}: {done.stderr}")
            (folder / "back.safetensors").unlink(missing_ok=True)
            print(f"{line.replace('{0}/', ''):64}{peak / 1e6:8.0f} MB{seconds:8.1f} s", flush=True)


def told(printed: str) -> tuple[int, int, float]:
    """What a step has printed last."""
    code, peak, seconds = json.loads(printed.splitlines()[-1])
    return code, peak, seconds


if __name__ == "__main__":
    main()
