"""Time and peak memory of a function, measured in a separate process.

The peak memory of a process never falls, so a second function in the same process could not be measured. A new process
starts with a new peak: ``python -m nncjit.report.memory MODULE:FUNCTION`` reads the function's
arguments from standard input as JSON, does the work, and prints what it took.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nncjit import errors

_MARK = "nncjit-work "
"""Precedes the answer, so that other output of the function is not mistaken for it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a piece of work took."""

    seconds: float
    """Of the function alone: without imports, but with compiling if the kernel cache is cold."""
    peak_bytes: int
    """Most memory that the process had at any time."""
    idle_bytes: int
    """Memory before the function was called: the interpreter and imported libraries."""
    result: Any
    """What the function returned, as JSON has it; None where it was no JSON."""


def in_child(function: str, *args: Any, **keywords: Any) -> Work:
    """Run a function in a process of its own.

    Parameters
    ----------
    function : str
        ``"module:name"``, for example ``"nncjit:compress"``.
    *args, **keywords
        Anything that JSON can say, and paths.

    Raises
    ------
    NncError
        What the function raised, with the same text.
    ModelError
        The process died.
    """
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __name__, function],
        input=json.dumps([args, keywords], default=os.fspath),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    answer = next((line for line in reversed(done.stdout.splitlines()) if line.startswith(_MARK)), None)
    if answer is None:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise errors.ModelError(f"{function} died in a process of its own: {last}")
    told = json.loads(answer[len(_MARK) :])
    if "error" in told:
        kind = errors.OptionError if told["error"] == "OptionError" else errors.ModelError
        raise kind(told["text"])
    return Work(**told)


def peak_memory() -> int:
    """Peak memory of this process in bytes.

    On Linux, children inherit the parent's peak in `getrusage`, but not in /proc.
    """
    return _proc_status("VmHWM") or _resource_peak()


def _proc_status(field: str) -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _resource_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _work(name: str, args: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    module, _, attribute = name.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    idle = peak_memory()
    started = time.perf_counter()
    try:
        result = function(*args, **keywords)
    except errors.NncError as error:
        return {"error": type(error).__name__, "text": str(error)}
    seconds = time.perf_counter() - started
    told = {"seconds": seconds, "peak_bytes": peak_memory(), "idle_bytes": idle}
    plain = result.to_dict() if hasattr(result, "to_dict") else result
    try:
        json.dumps(plain)
    except TypeError:
        plain = None
    return told | {"result": plain}


def main() -> None:
    """The child."""
    args, keywords = json.load(sys.stdin)
    told = _work(sys.argv[1], args, keywords)
    sys.stdout.write(f"\n{_MARK}{json.dumps(told)}\n")


if __name__ == "__main__":
    main()
