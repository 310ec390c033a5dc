"""What a large model takes: time, memory and disk of a synthetic bfloat16 model with the shapes of an LLM.

    python bench/large_model.py [--gigabytes 20] [--folder FOLDER] [--workers N] [--json FILE.json]

The weights have the tails of a Laplacian or of a normal distribution, and a spread of each tensor's, each row's and
each column's own, some columns far wider than the others. Sizes of a real model differ, while times hardly do. They
come from two pools, at random places of them: no coder here looks back as far as the next use.
Every figure comes from a process of its own that goes from file to file: nncjit at 4 bits a weight and without loss,
and ZipNN and zstd, which lose nothing either. The last stage says whether disk and cores are busy together: it encodes
and decodes a part of the model from disk to disk, from memory to memory, and copies the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from nncodec_once import peak_memory
from saved_figures import save_or_print

import nncjit
from nncjit import formats
from nncjit.model import TensorInfo

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 5632, 32000
SEVEN_BILLION = 7e9
PIECE = 1 << 26
POOL = 1 << 26
WIDE = 0.002
"""Share of columns that are far wider than others."""
MODULES = {"ZipNN": "zipnn", "zstd 3": "zstandard"}
"""What coders need."""
ROUNDS = 3
SHARE_OF_MEMORY = 0.2
"""Of the model, that the last stage holds in memory."""


def layer_shapes(number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of one layer, as Llama has them."""
    stem = f"model.layers.{number}"
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield f"{stem}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
    for name in ("gate_proj", "up_proj"):
        yield f"{stem}.mlp.{name}.weight", (INTERMEDIATE, HIDDEN)
    yield f"{stem}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield f"{stem}.input_layernorm.weight", (HIDDEN,)


def write_model(path: Path, n_bytes: float) -> int:
    """A model of about so many bytes; its number of weights."""
    shapes = [("model.embed_tokens.weight", (VOCABULARY, HIDDEN))]
    while 2 * sum(int(np.prod(shape)) for _, shape in shapes) < n_bytes:
        shapes += layer_shapes(len(shapes) // 8)
    infos = [TensorInfo(name, shape, "bfloat16") for name, shape in shapes]
    rng = np.random.default_rng(0)
    pools = rng.standard_normal(POOL, np.float32), rng.laplace(0, 0.7, POOL).astype(np.float32)
    with formats.create(path, infos) as writer:
        for info in infos:
            start = rng.integers(POOL - info.size) if info.size < POOL else 0
            values = np.resize(pools[rng.integers(2)][start : start + info.size], info.shape)
            values *= 0.02 * np.exp(rng.normal(0, 0.5))
            for axis, side in enumerate(info.shape):
                spread = np.exp(rng.normal(0, 0.3, side)) * np.where(rng.random(side) < axis * WIDE, 8.0, 1.0)
                values *= spread.astype(np.float32).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
            writer.put(info.name, (values.view(np.uint32) >> 16).astype(np.uint16))
    return sum(info.size for info in infos)


def encode(folder: Path, workers: int, **options: Any) -> None:
    """The model to several streams."""
    with _executor(workers) as executor:
        nncjit.compress(
            folder / "m.safetensors",
            folder / "m.nnc",
            executor=executor,
            shard_bytes="500MB",
            threads=1 if workers else None,
            **options,
        )


def decode(folder: Path, workers: int) -> None:
    """And back to several files."""
    with _executor(workers) as executor:
        nncjit.decompress(folder / "m.nnc.index.json", folder / "b.safetensors.index.json", executor=executor)


def _executor(workers: int) -> Any:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers else nullcontext()


def through(source: Path, target: Path, work: Callable[[bytes], bytes]) -> None:
    """A file through a coder, piece by piece, each with its length in front."""
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(PIECE):
            coded = work(piece)
            write.write(len(coded).to_bytes(8, "little") + coded)


def back(source: Path, target: Path, work: Callable[[bytes], bytes]) -> None:
    """The pieces of `through`, decoded."""
    with source.open("rb") as read, target.open("wb") as write:
        while head := read.read(8):
            write.write(work(read.read(int.from_bytes(head, "little"))))


def zstd(folder: Path, way: str) -> None:
    """With zstd at level 3, with a thread for each core."""
    import zstandard

    if way == "encode":
        coder = zstandard.ZstdCompressor(level=3, threads=-1)
        through(folder / "m.safetensors", folder / "m.coded", coder.compress)
    else:
        back(folder / "m.coded", folder / "b.safetensors", zstandard.ZstdDecompressor().decompress)


def zipnn(folder: Path, way: str) -> None:
    """ZipNN, with as many threads as it wants."""
    from zipnn import ZipNN

    coder = ZipNN(bytearray_dtype="bfloat16", input_format="byte")
    if way == "encode":
        through(folder / "m.safetensors", folder / "m.coded", lambda piece: bytes(coder.compress(bytearray(piece))))
    else:
        back(folder / "m.coded", folder / "b.safetensors", lambda piece: bytes(coder.decompress(piece)))


STAGES: dict[str, Callable[[Path, int], None]] = {
    "nncjit, 4 bits: encode": lambda folder, workers: encode(folder, workers, bits=4),
    "nncjit, 4 bits: decode": decode,
    "nncjit, lossless: encode": lambda folder, workers: encode(folder, workers, quantizer="lossless"),
    "nncjit, lossless: decode": decode,
    "ZipNN: encode": lambda folder, _: zipnn(folder, "encode"),
    "ZipNN: decode": lambda folder, _: zipnn(folder, "decode"),
    "zstd 3: encode": lambda folder, _: zstd(folder, "encode"),
    "zstd 3: decode": lambda folder, _: zstd(folder, "decode"),
}
"""In this order, since a decoder takes what the encoder before it has left."""


def run_stage(stage: str, folder: Path, workers: int) -> dict[str, float]:
    """One stage in a process of its own."""
    words = [sys.executable, __file__, "--stage", stage, "--folder", str(folder), "--workers", str(workers)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measured(stage: str, folder: Path, workers: int) -> dict[str, float]:
    """Seconds, those of the processor, and peak memory of this process or the largest of its children."""
    forget(folder)
    started = time.perf_counter()
    STAGES[stage](folder, workers)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": seconds,
        "processor_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
        "peak": max(peak_memory(), used[1].ru_maxrss * 1024 if workers else 0),
    }


def forget(folder: Path) -> None:
    """Write all files to the disk, and let the system's memory of them go."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_of(folder: Path, pattern: str) -> int:
    """Bytes of some files."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def all_coders(folder: Path, workers: int) -> Iterator[dict[str, Any]]:
    """A row for each coder."""
    original = size_of(folder, "m.safetensors")
    for coder in dict.fromkeys(stage.partition(":")[0] for stage in STAGES):
        if find_spec(MODULES.get(coder, "nncjit")) is None:
            continue
        there = run_stage(f"{coder}: encode", folder, workers)
        size = size_of(folder, "m-*.nnc") + size_of(folder, "m.coded")
        row = {"coder": coder, "bytes": size, "percent": 100 * size / original, "encode": there}
        yield row | {"decode": run_stage(f"{coder}: decode", folder, workers)}
        for path in [*folder.glob("m[-.]*nnc*"), *folder.glob("m.coded"), *folder.glob("b*")]:
            path.unlink()


def read_and_write(source: Path, target: Path) -> None:
    """What the disk has to do for a conversion: read one file, and write as many bytes as the other has."""
    with source.open("rb") as file:
        while file.read(PIECE):
            pass
    with target.with_name("written").open("wb") as file:
        for start in range(0, target.stat().st_size, PIECE):
            file.write(bytes(min(PIECE, target.stat().st_size - start)))
    target.with_name("written").unlink()


def overlap(disk: Path, n_bytes: float) -> dict[str, dict[str, float]]:
    """Seconds from disk to disk, of the coder from memory to memory, and of the disk for the same bytes."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        memory = Path(name)
        write_model(memory / "m.safetensors", n_bytes)
        shutil.copy(memory / "m.safetensors", disk)
        nncjit.compress(memory / "m.safetensors", memory / "warm.nnc", qp=-20)  # compiles
        nncjit.decompress(memory / "warm.nnc", memory / "warm.safetensors")
        for verb, source, target in (("compress", "m.safetensors", "o.nnc"), ("decompress", "o.nnc", "o.safetensors")):
            work, options = getattr(nncjit, verb), {"qp": -20} if verb == "compress" else {}
            copied = [disk / source, disk / target]
            ways = {
                "coder": partial(work, memory / source, memory / target, **options),
                "file to file": partial(work, disk / source, disk / target, **options),
                "disk": partial(read_and_write, *copied),
            }
            row = dict.fromkeys(ways, float("inf"))
            for way, act in [*ways.items()] * ROUNDS:
                forget(disk)
                started = time.perf_counter()
                act()
                row[way] = min(row[way], time.perf_counter() - started)
            found[verb] = row | {"ratio": row["file to file"] / max(row["coder"], row["disk"])}
    return found


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, help="where files are made and removed; it needs 2.3 times the size")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: the threads of one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(json.dumps(measured(args.stage, args.folder, args.workers)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        weights = write_model(folder / "m.safetensors", args.gigabytes * 1e9)
        found: dict[str, Any] = {"cores": os.cpu_count(), "workers": args.workers, "weights": weights}
        found |= {"bytes": size_of(folder, "m.safetensors"), "rows": list(all_coders(folder, args.workers))}
        (folder / "m.safetensors").unlink()
        found["overlap"] = overlap(folder, min(SHARE_OF_MEMORY * args.gigabytes, 2.0) * 1e9)
    factor = SEVEN_BILLION / weights
    found["seven_billion_processor_seconds"] = {
        row["coder"]: {way: row[way]["processor_seconds"] * factor for way in ("encode", "decode")}
        for row in found["rows"]
    }
    save_or_print(found, args.json)


if __name__ == "__main__":
    main()
