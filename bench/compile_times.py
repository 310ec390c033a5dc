"""What compiling costs: the first decoding, the first encoding and ``nncjit warmup`` in new processes, with an empty
cache and with what that left there: ``python bench/compile_times.py [--json FILE]``.

Times are processor seconds, which a busy machine stretches less than wall time. "Compiling" is without what is imported
and what the kernels do; a kernel's time has that of the helpers that are compiled for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from saved_figures import save_or_print

import nncjit

WORKS = {
    "decode": "import nncjit; nncjit.decode(open(sys.argv[1], 'rb').read())",
    "encode": "import nncjit, numpy; nncjit.encode(dict(numpy.load(sys.argv[2])))",
    "warmup": "from nncjit.cli.main import main; main(['warmup', '--json'])",
}
"""By name: statements for a process that has a stream and a model's arrays."""
CHILD = """
import json, sys, time
started = time.process_time()
from numba.core import event
open_since, kernels = [], {{}}
class Listener(event.Listener):
    def on_start(self, told):
        open_since.append(time.process_time())
    def on_end(self, told):
        seconds = time.process_time() - open_since.pop()
        if not open_since:
            name = told.data["dispatcher"].py_func.__qualname__
            kernels[name] = kernels.get(name, 0.0) + seconds
event.register("numba:compile", Listener())
{work}
print("\\n" + json.dumps({{"seconds": time.process_time() - started, "kernels": kernels}}))
"""
SIDE = 256
"""Of the matrix that is encoded and decoded."""


def measured(work: str, stream: Path, arrays: Path, cache: Path) -> dict[str, Any]:
    """What a new process takes."""
    command = [sys.executable, "-c", CHILD.format(work=WORKS[work]), str(stream), str(arrays)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    kernels = dict(sorted(found["kernels"].items(), key=lambda item: -item[1]))
    return {"seconds": found["seconds"], "compiling": sum(kernels.values()), "kernels": kernels}


def main() -> None:
    """Measure, and save or print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=[*WORKS], help="what is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream, arrays = folder / "model.nnc", folder / "model.npz"
        matrix = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
        np.savez(arrays, w=matrix)
        stream.write_bytes(nncjit.encode({"w": matrix}))
        for work in args.only:
            cache = folder / work
            rows[work] = {case: measured(work, stream, arrays, cache) for case in ("empty cache", "full cache")}
    save_or_print(rows, args.json)


if __name__ == "__main__":
    main()
