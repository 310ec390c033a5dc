"""What calibrated encoding takes: matrices of several widths from a file to a stream, by stage, and the peak memory.

    python bench/calibrated_speed.py [--inputs 384 1024 4096 14336] [--threads 1] [--json out.json]

Weights and statistics are synthetic: inputs that are correlated and differ in strength, the size and the fineness that
no target asks for. Each width runs in a process of its own, which compiles what ``nncjit warmup`` does and encodes a
small matrix first, so that neither compiling nor imports count. Reading the statistics, factorising them, quantising,
coding and writing do. Processor time is that of all threads, so weights a second of it are those of a core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import nncjit
from nncjit import formats
from nncjit.calibrate import statistics_file
from nncjit.calibrate.statistics_record import WIDEST_BLOCK, TensorRecord, block_size
from nncjit.encoder.model_encoder import compile_kernels
from nncjit.model import TensorInfo
from nncjit.report.memory import in_child
from nncjit.stages import recording

OUTPUTS = {384: 384, 1024: 1024, 4096: 4096, 14336: 4096}
"""By inputs."""
ENOUGH = 4 << 20
"""Weights of a model: narrow matrices are taken several times."""
SHARED = 64
"""Directions that inputs have in common."""


def metric(rng: np.random.Generator, n: int) -> np.ndarray:
    """float32[n, n]: second moments of inputs that share some directions and differ in strength."""
    strength = np.exp(rng.normal(0, 0.7, n)).astype(np.float32)
    shared = rng.standard_normal((n, SHARED), np.float32) / np.float32(np.sqrt(SHARED))
    shared *= strength[:, None]
    moments: np.ndarray = shared @ shared.T
    moments[np.diag_indices(n)] += np.float32(0.3) * strength**2
    return moments


def write(folder: Path, inputs: int, outputs: int) -> int:
    """A model and its statistics; the number of weights."""
    rng = np.random.default_rng(inputs)
    count = max(1, ENOUGH // (inputs * outputs))
    block = block_size(inputs, 1, WIDEST_BLOCK)
    infos = [TensorInfo(f"layers.{k}.weight", (outputs, inputs), "float32") for k in range(count)]
    arrays = []
    power = 0.0
    with formats.create(folder / "m.safetensors", infos) as writer:
        for info in infos:
            writer.put(info.name, rng.standard_normal(info.shape, np.float32) * np.float32(0.02))
            blocks = np.stack([metric(rng, block) for _ in range(inputs // block)])
            power += outputs * 0.02**2 * float(np.einsum("bii->", blocks, dtype=np.float64))
            record = TensorRecord(name=info.name, kind="linear", shape=info.shape, block=block, samples=1, tokens=1)
            arrays.append(statistics_file.Arrays(record, blocks))
    facts = {"loss": "synthetic", "samples": 1, "output_power": power}
    statistics_file.write(folder / "s.safetensors", arrays, facts, "float16")
    return sum(info.size for info in infos)


def prepare(folder: str, inputs: int, outputs: int) -> int:
    """`write` in a process of its own, whose memory does not count."""
    return write(Path(folder), inputs, outputs)


def once(folder: str, threads: int) -> dict[str, Any]:
    """Encode the model from its file, after a small one."""
    compile_kernels()
    with tempfile.TemporaryDirectory() as small:
        write(Path(small), 128, 128)
        _compress(Path(small), threads)
    begin, cpu = time.perf_counter(), time.process_time()
    with recording() as recorder:
        _compress(Path(folder), threads)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    stages: dict[str, float] = {}
    for (name, _), cost in recorder.costs.items():
        stages[name] = stages.get(name, 0.0) + cost.cpu_seconds
    return {"seconds": seconds, "cpu_seconds": cpu, "stages": stages}


def _compress(folder: Path, threads: int) -> None:
    nncjit.compress(
        folder / "m.safetensors",
        folder / "m.nnc",
        calibration=folder / "s.safetensors",
        threads=threads,
        progress=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, nargs="+", choices=OUTPUTS, default=list(OUTPUTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for inputs in args.inputs:
        outputs = OUTPUTS[inputs]
        with tempfile.TemporaryDirectory() as folder:
            weights = in_child("bench.calibrated_speed:prepare", folder, inputs, outputs).result
            work = in_child("bench.calibrated_speed:once", folder, args.threads)
            n_bytes = (Path(folder) / "m.nnc").stat().st_size
        row = {"inputs": inputs, "outputs": outputs, "weights": weights, "bits": 8 * n_bytes / weights}
        row |= {**work.result, "peak_bytes": work.peak_bytes, "idle_bytes": work.idle_bytes}
        rows.append(row)
        print(
            f"{weights // (inputs * outputs)} x [{inputs}, {outputs}], {row['bits']:.2f} bits: "
            f"{weights / row['cpu_seconds'] / 1e6:.1f} Mweights/s a core, {row['seconds']:.2f} s, "
            f"{row['peak_bytes'] / 1e6:.0f} MB\n    "
            + ", ".join(f"{name} {t:.3f}" for name, t in sorted(row["stages"].items(), key=lambda pair: -pair[1])),
            flush=True,
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
