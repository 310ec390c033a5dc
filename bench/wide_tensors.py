"""What a weight takes of the processor when tensors are wide and threads are many:

    python bench/wide_tensors.py [--columns 1024 4096 14336] [--threads 1 2 4 8] [--folder FOLDER] [--json FILE.json]

The wider a tensor, the fewer block rows there are to share among the lanes of all threads. With as many cores as
threads, what takes no more of the processor for each thread more ends sooner. Times are of the process, the best of
three runs, of bfloat16 matrices that are compressed and decompressed from file to file, and decoded in memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from saved_figures import save_or_print

import nncjit
from nncjit import dtypes, formats
from nncjit.decoder.stream_decoder import compile_kernels as compile_decoder
from nncjit.encoder.model_encoder import compile_kernels as compile_encoder
from nncjit.model import TensorInfo

WEIGHTS = 1 << 27
"""Of a model, about."""
HEIGHT = 4096
RUNS = 3


def write_model(path: Path, columns: int) -> int:
    """Matrices of so many columns; how many weights."""
    rng = np.random.default_rng(0)
    count = max(round(WEIGHTS / (HEIGHT * columns)), 1)
    infos = [TensorInfo(f"layers.{k}.weight", (HEIGHT, columns), "bfloat16") for k in range(count)]
    with formats.create(path, infos) as writer:
        for info in infos:
            values = 0.02 * rng.standard_normal(info.shape, np.float32)
            writer.put(info.name, dtypes.from_float32(values, info.dtype))
    return sum(info.size for info in infos)


def nanoseconds(act: Callable[[], object], weights: int) -> float:
    """Of the processor, for each weight."""
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        act()
        times.append(time.process_time() - started)
    return 1e9 * min(times) / weights


def measured(columns: int, threads: list[int], within: Path | None) -> list[dict[str, Any]]:
    """A row for each number of threads."""
    rows = []
    with tempfile.TemporaryDirectory(dir=within) as name:
        model, stream, back = (Path(name) / file for file in ("m.safetensors", "m.nnc", "b.safetensors"))
        weights = write_model(model, columns)
        for count in threads:
            steps: dict[str, Callable[[], object]] = {
                "compress": partial(nncjit.compress, model, stream, threads=count),
                "decompress": partial(nncjit.decompress, stream, back, threads=count),
                "decode": partial(nncjit.decode, stream, threads=count),
            }
            rows.append(
                {"columns": columns, "threads": count} | {key: nanoseconds(act, weights) for key, act in steps.items()}
            )
        with formats.open_model(back) as found:
            for key, array in nncjit.decode(stream).items():
                np.testing.assert_array_equal(array.view(np.uint16), found[key].read())
    return rows


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[1024, 4096, 14336])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--folder", type=Path, help="where files are made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    args = parser.parse_args()
    compile_decoder()
    compile_encoder()
    rows = [row for columns in args.columns for row in measured(columns, args.threads, args.folder)]
    save_or_print({"rows": rows}, args.json)


if __name__ == "__main__":
    main()
