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


def main(verb: str, source: str, target: str, options: str = "{}") -> None:
    from nncodec.nnc_core import coder  # noqa: F401 - the import is not timed

    seconds = load_worker().work(verb, source, target, json.loads(options))
    stream = target if verb == "encode" else source
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "bytes": Path(stream).stat().st_size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
