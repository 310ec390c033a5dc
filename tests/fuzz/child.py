"""A process that reads streams and says what became of each. It may crash or be killed: the parent has the input.

Requests come on standard input, each a JSON line ``{"verb": ..., "size": ...}`` and that many bytes; answers go to
standard output as JSON lines.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.structures import valid

import nncjit
from nncjit.errors import BitstreamError, NncError

SMALL = 1 << 20
"""The max_bytes of the verbs that are given one."""
FILES_PER_BYTE = 1 << 7
"""Bytes of headers and indices that model files may have for each byte of a stream."""
ADDRESS_SPACE = 4 << 30
"""Bytes of address space beyond what the process has when it is warm: what asks for more gets a MemoryError."""


def _slices(data: bytes) -> None:
    with nncjit.open(data, max_bytes=SMALL) as file:
        for name in file.keys()[:20]:
            if file.get_slice(name).get_shape():
                file.get_slice(name)[:1]


def _files(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "s.nnc", Path(folder) / "m.safetensors.index.json"
        source.write_bytes(data)
        try:
            nncjit.decompress(source, target, max_bytes=SMALL, full_size=True)
        finally:
            written = sum(path.stat().st_size for path in Path(folder).iterdir())
        if written > 2 * SMALL + FILES_PER_BYTE * len(data):
            raise ValueError(f"{written:,} bytes of disk for {len(data):,}")


VERBS: dict[str, Callable[[bytes], Any]] = {
    "inspect": lambda data: nncjit.inspect(data).to_dict(),
    "lenient": lambda data: nncjit.inspect(data, lenient=True),
    "open": nncjit.open,
    "slices": _slices,
    "small": lambda data: nncjit.decode(data, max_bytes=SMALL),
    "parts": lambda data: nncjit.decode(data, max_bytes=SMALL, parts=True),
    "full": lambda data: nncjit.decode(data, max_bytes=SMALL, full_size=True),
    "state": lambda data: nncjit.decode(data, max_bytes=SMALL, state=nncjit.UpdateState()),
    "verify": lambda data: nncjit.verify(data, max_bytes=SMALL),
    "decode": nncjit.decode,
    "files": _files,
}


def attempt(verb: str, data: bytes) -> dict[str, Any]:
    """What became of one stream: "result", "refused", or a finding with its traceback."""
    outcome, told = "result", ""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    started = time.process_time()
    try:
        VERBS[verb](data)
    except NncError as error:
        outcome, told = "refused", str(error)
        if "no memory" in told:
            outcome = "unbounded"
        elif "\n" in told or (isinstance(error, BitstreamError) and not 0 <= error.bit <= 8 * len(data)):
            outcome = "unclear"
    except BaseException:  # noqa: BLE001 - this is what is looked for
        outcome, told = "foreign", traceback.format_exc()
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1] - before
    return {"outcome": outcome, "told": told[-2000:], "seconds": seconds, "peak": peak}


def main() -> None:
    """Answer requests until there are no more."""
    warm_up()
    limit = _address_space() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tracemalloc.start()
    answers = sys.stdout
    for line in sys.stdin.buffer:
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["size"])
        answers.write(json.dumps(attempt(request["verb"], data)) + "\n")
        answers.flush()


def warm_up() -> None:
    """Compile all kernels: no stream shall be blamed for that."""
    rng = random.Random(0)
    for _ in range(60):
        data = valid(rng).write()
        for verb in VERBS.values():
            verb(data)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
