"""What a model of very many tiny tensors takes: processor time and peak memory of each step, all in one process.

    python bench/many_tensors.py [--tensors 10000 100000] [--folder FOLDER] [--json FILE.json]

One thread; two thirds of the tensors are matrices of 64 weights, the others vectors of 16. With time and memory that
grow with the number of tensors, microseconds a tensor are the same for 10,000 and for 100,000.
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
from nncodec_once import peak_memory
from saved_figures import save_or_print

import nncjit
from nncjit import formats
from nncjit.model import TensorInfo
from nncjit.report.tensor_page import write_page

LOOKS = 1000


def write_model(path: Path, number: int) -> None:
    """So many tensors."""
    rng = np.random.default_rng(0)
    infos = [TensorInfo(f"model.layers.{k}.weight", (8, 8) if k % 3 else (16,), "float32") for k in range(number)]
    with formats.create(path, infos) as writer:
        for info in infos:
            writer.put(info.name, rng.standard_normal(info.shape, np.float32))


def look(path: Path, number: int) -> None:
    """Open a stream, and decode some of its tensors by name."""
    with nncjit.open(path) as file:
        for k in np.random.default_rng(1).integers(0, number, LOOKS).tolist():
            file.get_tensor(f"model.layers.{k}.weight")


def measured(number: int, within: Path | None) -> dict[str, Any]:
    """The steps for so many tensors."""
    found: dict[str, Any] = {"tensors": number}
    with tempfile.TemporaryDirectory(dir=within) as name:
        folder = Path(name)
        model, stream = folder / "m.safetensors", folder / "m.nnc"
        write_model(model, number)
        shard_bytes, compress = model.stat().st_size // 8, partial(nncjit.compress, threads=1)
        steps: dict[str, Callable[[], object]] = {
            "compress": partial(compress, model, stream),
            "inspect": partial(nncjit.inspect, stream),
            "verify": partial(nncjit.verify, stream, threads=1),
            "decompress": partial(nncjit.decompress, stream, folder / "b.safetensors", threads=1),
            "decode": partial(nncjit.decode, stream, threads=1),
            f"open, and {LOOKS} tensors": partial(look, stream, number),
            "compress to 8 files": partial(compress, model, folder / "s.nnc", shard_bytes=shard_bytes),
            "report": partial(write_page, stream, folder / "m.html"),
        }
        for step, act in steps.items():
            started = time.process_time()
            act()
            found[step] = time.process_time() - started
    return found | {"peak": peak_memory()}


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, nargs="+", default=[10_000, 100_000], help="ascending, for the peaks")
    parser.add_argument("--folder", type=Path, help="where files are made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    args = parser.parse_args()
    save_or_print({"rows": [measured(number, args.folder) for number in args.tensors]}, args.json)


if __name__ == "__main__":
    main()
