"""What calibrated encoding takes: matrices of several widths from a file to a stream, by stage, and the peak memory.

    python bench/calibrated_speed.py [--inputs 384 1024 4096 14336] [--threads 1] [--minilm] [--json out.json]

Weights and statistics are synthetic: inputs that are correlated and differ in strength, the size and the fineness that
no target asks for. Each width runs in a process of its own, which compiles what ``nncjit warmup`` does and encodes a
small matrix first, so that neither compiling nor imports count. Reading the statistics, factorising them, quantising,
coding and writing do. Processor time is that of all threads, so weights a second of it are those of a core. Where other
processes share the cores, only that says something; seconds are those of a clock.

With ``--minilm``, the statistics of 2,048 passages are collected too, as ``nncjit calibrate`` does, and MiniLM is
compressed with them from file to file, both with two threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import nncjit
from bench.zoo import minilm, passages
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
CORES = 2
"""Of MiniLM's rows."""


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
    model, statistics = Path(folder) / "m.safetensors", Path(folder) / "s.safetensors"
    return compressed(str(model), str(statistics), str(Path(folder) / "m.nnc"), threads)


def compressed(model: str, statistics: str, stream: str, threads: int) -> dict[str, Any]:
    """What it takes to encode a model from file to file, after a small one."""
    compile_kernels()
    with tempfile.TemporaryDirectory() as small:
        write(Path(small), 128, 128)
        _compress(Path(small) / "m.safetensors", Path(small) / "s.safetensors", Path(small) / "m.nnc", threads)
    begin, cpu = time.perf_counter(), time.process_time()
    with recording() as recorder:
        _compress(Path(model), Path(statistics), Path(stream), threads)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    stages: dict[str, float] = {}
    for (name, _), cost in recorder.costs.items():
        stages[name] = stages.get(name, 0.0) + cost.cpu_seconds
    return {"seconds": seconds, "cpu_seconds": cpu, "stages": stages}


def _compress(model: Path, statistics: Path, stream: Path, threads: int) -> None:
    nncjit.compress(model, stream, calibration=statistics, threads=threads, progress=False, unreached="zero")


def collected(statistics: str, texts: list[str]) -> dict[str, Any]:
    """What it takes to collect MiniLM's statistics and to write them, without loading its network's library."""
    import torch

    from nncjit.torch.calibration_folders import calibrate_folder

    torch.set_num_threads(CORES)
    folder = minilm.WEIGHTS.parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nncjit.NncWarning)  # its pooler is not reached
        calibrate_folder(folder, texts[:CORES])
        begin, cpu = time.perf_counter(), time.process_time()
        calibrate_folder(folder, texts, samples=len(texts)).save(statistics)
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}


def measure_minilm() -> list[dict[str, Any]]:
    """Rows of MiniLM: its statistics, and its encoding."""
    rows = []
    with tempfile.TemporaryDirectory() as made:
        statistics, stream = str(Path(made) / "s.safetensors"), Path(made) / "m.nnc"
        texts = passages.collect()[0]
        work = in_child("bench.calibrated_speed:collected", statistics, texts)
        rows.append({"work": "statistics", "samples": len(texts), **work.result, "peak_bytes": work.peak_bytes})
        work = in_child("bench.calibrated_speed:compressed", str(minilm.WEIGHTS), statistics, str(stream), CORES)
        rows.append({"work": "encoding", **work.result, "peak_bytes": work.peak_bytes})
        rows[-1]["ratio"] = stream.stat().st_size / minilm.WEIGHTS.stat().st_size
    for row in rows:
        row["model"] = "minilm"
        print(
            f"MiniLM, {row['work']}: {row['seconds']:.2f} s, {row['cpu_seconds']:.2f} s of the processor, "
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, nargs="*", choices=OUTPUTS, default=list(OUTPUTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minilm", action="store_true", help="MiniLM too")
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
    if args.minilm:
        rows += measure_minilm()
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
