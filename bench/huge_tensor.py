"""What one huge tensor takes: time and peak memory of a model of a single matrix, file to file.

    python bench/huge_tensor.py [--gigabytes 1] [--dtype bfloat16] [--folder FOLDER] [--json FILE.json]

Once as the package does it, by block rows, and (without ``--no-whole``) once with the limit for that out of reach, as
it is for smaller tensors, and by block rows without loss and stored as it is. The model is compared with the decoded
file, and with the stream by random access.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from nncodec_once import peak_memory
from saved_figures import save_or_print

import nncjit
from nncjit import dtypes, formats
from nncjit.decoder import concurrent_decoder
from nncjit.encoder import huge_tensors
from nncjit.model import TensorInfo

WIDTH = 8192
ROWS = 1024
"""That are written together."""
LOOKS = 50
WAYS = ("block rows", "whole")
CASES = (("trellis", WAYS[0]), ("trellis", WAYS[1]), ("lossless", WAYS[0]), ("raw", WAYS[0]))
"""What is measured: how the tensor is coded, and how it is taken."""


def write_tensor(path: Path, n_bytes: float, dtype: str) -> TensorInfo:
    """A matrix of about so many bytes, piece by piece."""
    rows = max(round(n_bytes / (WIDTH * dtypes.find(dtype).itemsize)), 1)
    info = TensorInfo("w", (rows, WIDTH), dtype)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, WIDTH), np.float32)
    with formats.create(path, [info]) as writer:
        for first in range(0, rows, ROWS):
            here = spread_rows(values, rng)[: rows - first]
            writer.put_piece("w", dtypes.from_float32(here, dtype), first * WIDTH)
    return info


def spread_rows(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The values from a random place on, each row with a spread of its own."""
    rows, width = values.shape
    spread = 0.02 * np.exp(rng.normal(0, 0.3, (rows, 1))).astype(np.float32)
    return np.roll(values, int(rng.integers(width)), axis=1) * spread


def decibels(before: np.ndarray, after: np.ndarray) -> float:
    """The SNR of some values."""
    power, error = (float(np.sum(x.astype(np.float64) ** 2)) for x in (before, before.astype(np.float64) - after))
    return 10 * math.log10(power / error) if error else math.inf


def work(verb: str, folder: Path, way: str, quantizer: str) -> dict[str, float]:
    """One direction, in this process."""
    if way == WAYS[1]:
        huge_tensors.HUGE = concurrent_decoder.HUGE = 1 << 62
    started, used = time.perf_counter(), time.process_time()
    if verb == "encode":
        nncjit.compress(folder / "m.safetensors", folder / "m.nnc", quantizer=quantizer)
    else:
        nncjit.decompress(folder / "m.nnc", folder / "b.safetensors")
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return {"seconds": seconds, "processor_seconds": used, "peak": peak_memory()}


def compare(folder: Path) -> float:
    """Looks at some rows in the model, in the stream by random access, and in the decoded file; their SNR in dB."""
    looked: list[list[np.ndarray]] = [[], []]
    with (
        formats.open_model(folder / "m.safetensors") as before,
        formats.open_model(folder / "b.safetensors") as after,
        nncjit.open(folder / "m.nnc") as stream,
    ):
        info, part, part_after = before["w"].info, before["w"].part, after["w"].part
        assert part is not None
        assert part_after is not None
        rows = [0, info.shape[0] - 1, *np.random.default_rng(1).integers(0, info.shape[0], LOOKS).tolist()]
        for row in rows:
            a, b = row * WIDTH, (row + 1) * WIDTH
            for found, read in zip(looked, (part, part_after), strict=True):
                found.append(dtypes.to_float32(read(a, b), info.dtype))
            if row in rows[:4]:
                np.testing.assert_array_equal(np.asarray(stream.get_slice("w")[row], np.float32), looked[1][-1])
    return decibels(*map(np.concatenate, looked))


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.074)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--no-whole", action="store_true", help="only by block rows, and only quantised")
    parser.add_argument("--folder", type=Path, help="where files are made and removed; it needs 2.3 times the size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--verb", choices=("encode", "decode"), help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--quantizer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.verb:
        print(json.dumps(work(args.verb, args.folder, args.way, args.quantizer)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        info = write_tensor(folder / "m.safetensors", args.gigabytes * 1e9, args.dtype)
        found: dict[str, Any] = {"dtype": args.dtype, "weights": info.size, "bytes": info.nbytes, "rows": []}
        for quantizer, way in CASES[: 1 if args.no_whole else None]:
            row: dict[str, Any] = {"way": way, "quantizer": quantizer}
            for verb in ("encode", "decode"):
                words = ["--verb", verb, "--folder", name, "--way", way, "--quantizer", quantizer]
                done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
                row[verb] = json.loads(done.stdout)
            snr = compare(folder)
            row |= {"coded_bytes": (folder / "m.nnc").stat().st_size, "snr": None if math.isinf(snr) else snr}
            found["rows"].append(row)
    save_or_print(found, args.json)


if __name__ == "__main__":
    main()
