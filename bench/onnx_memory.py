"""What a large ONNX model takes whose data lie beside it: time and peak memory, file to file.

    python bench/onnx_memory.py [--gigabytes 2] [--tensor-megabytes 256] [--folder FOLDER] [--json FILE.json]

The model multiplies its input by square matrices of float32, one after another, with the tails of a normal distribution
and a spread of each row's own. Both directions run in processes of their own. The decoded model is checked, and some of
its rows are compared with those of the original.
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
from huge_tensor import decibels, spread_rows
from nncodec_once import peak_memory
from saved_figures import save_or_print

import nncjit
from nncjit import formats

ROWS = 1024
"""That are written together."""
LOOKS = 20
NAMES = {"encode": ("m.onnx", "m.nnc"), "decode": ("m.nnc", "b.onnx")}


def write_model(path: Path, n_bytes: float, n_tensor: float) -> int:
    """A model of about so many bytes in tensors of about so many; the bytes of its data."""
    import onnx
    from onnx import TensorProto, helper

    side = max(math.isqrt(round(n_tensor / 4)), 1)
    count = max(round(n_bytes / (4 * side * side)), 1)
    nodes, tensors = [], []
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, side), np.float32)
    with path.with_name("m.onnx.data").open("wb") as data:
        for k in range(count):
            tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[side, side], data_location=1)
            for key, value in (("location", "m.onnx.data"), ("offset", data.tell()), ("length", 4 * side * side)):
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]))
            for first in range(0, side, ROWS):
                data.write(spread_rows(values, rng)[: side - first].tobytes())
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return 4 * side * side * count


def work(verb: str, folder: Path) -> dict[str, float]:
    """One direction, in this process."""
    source, target = (folder / name for name in NAMES[verb])
    started, used = time.perf_counter(), time.process_time()
    (nncjit.compress if verb == "encode" else nncjit.decompress)(source, target)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return {"seconds": seconds, "processor_seconds": used, "peak": peak_memory()}


def compare(folder: Path) -> float:
    """The SNR in dB of some rows of each tensor, after a check of the decoded model."""
    import onnx

    onnx.checker.check_model(folder / "b.onnx")
    rows, decoded = [], []
    rng = np.random.default_rng(1)
    with formats.open_model(folder / "m.onnx") as before, formats.open_model(folder / "b.onnx") as after:
        for name in before.names:
            side = before[name].shape[1]
            for row in rng.integers(0, side, LOOKS).tolist():
                for model, found in ((before, rows), (after, decoded)):
                    part = model[name].part
                    assert part is not None
                    found.append(part(row * side, (row + 1) * side))
    return decibels(np.concatenate(rows), np.concatenate(decoded))


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.147)
    parser.add_argument("--tensor-megabytes", type=float, default=268.4)
    parser.add_argument("--folder", type=Path, help="where files are made and removed; it needs 2.3 times the size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--verb", choices=tuple(NAMES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.verb:
        print(json.dumps(work(args.verb, args.folder)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        size = write_model(folder / "m.onnx", args.gigabytes * 1e9, args.tensor_megabytes * 1e6)
        found: dict[str, Any] = {"bytes": size, "tensor_bytes": round(args.tensor_megabytes * 1e6)}
        for verb in NAMES:
            words = [sys.executable, __file__, "--verb", verb, "--folder", name]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            found[verb] = json.loads(done.stdout)
        found |= {"coded_bytes": (folder / "m.nnc").stat().st_size, "snr": compare(folder)}
    save_or_print(found, args.json)


if __name__ == "__main__":
    main()
