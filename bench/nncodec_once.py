"""One job of NNCodec in a process of its own: ``nncodec_once.py encode|decode IN OUT [JSON options]``.

Runs under any Python that can import `nncodec.nnc_core` and NumPy, where nncjit need not be installed: the job itself
is nncjit/report/nncodec_worker.py, loaded by its place. The last line of standard output is a JSON object: seconds,
peak memory in bytes, and bytes of the stream; NNCodec's own prints come before it.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parents[1] / "nncjit" / "report" / "nncodec_worker.py"


def load_worker() -> Any:
    """The module that calls NNCodec."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_memory() -> int:
    """Most bytes that this process had in memory. What getrusage tells begins with the parent's size at the fork."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(verb: str, source: str, target: str, options: str = "{}") -> None:
    from nncodec.nnc_core import coder  # noqa: F401 - the import is not timed

    seconds = load_worker().work(verb, source, target, json.loads(options))
    stream = target if verb == "encode" else source
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "bytes": Path(stream).stat().st_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
