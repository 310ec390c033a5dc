"""Streams handed to a child process, what counts as a finding, and how a finding is made small."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.child import VERBS

CHILD = Path(__file__).with_name("child.py")
CORPUS = Path(__file__).with_name("corpus")

SECONDS, SECONDS_PER_BYTE = 5.0, 1e-4
"""Processor time that a stream may take."""
WALL = 60.0
"""Seconds after which a child is killed."""
WARM_UP = 600.0
"""Seconds that a child may take until its first answer: kernels are compiled."""
LATE = ("slow", "hang")
"""Kinds of findings that other work on the machine can cause."""

HEADERS = (16 << 20, 1 << 11)
"""Bytes, and bytes per byte of stream, that reading headers may take at its peak."""
BOUNDED = (24 << 20, 1 << 11)
"""The same of decoding with max_bytes of 1 MiB."""
EARNED = (256 << 20, 1 << 16)
"""The same of decoding with the default: a byte of payload holds at most 1416 values of a tensor."""
MEMORY = dict.fromkeys(VERBS, BOUNDED) | dict.fromkeys(("inspect", "lenient", "open"), HEADERS) | {"decode": EARNED}


@dataclass(frozen=True)
class Finding:
    """A stream and what is wrong with what becomes of it."""

    verb: str
    kind: str
    """"crash", "hang", "slow", "memory", "unbounded" (no memory for what was asked), "foreign" or "unclear"."""
    data: bytes
    told: str


class Child:
    """A child process, started anew when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, verb: str, data: bytes) -> Finding | None:
        """Hand over one stream. What took long is replayed, as others may be at work on this machine: it is a finding
        only where it takes long again, in a child of its own with much more time.
        """
        found = self._ask(verb, data)
        if found is None or found.kind not in LATE:
            return found
        self.close()
        return self._ask(verb, data)

    def _ask(self, verb: str, data: bytes) -> Finding | None:
        fresh = self._process is None
        if self._process is None:
            self._start()
        answer = self._exchange(verb, data, WARM_UP if fresh else WALL)
        if answer is None:
            code = self.close()
            kind = "hang" if code is None else "crash"
            return Finding(verb, kind, data, f"the child ended with {code}")
        return judge(verb, data, answer)

    def _start(self) -> None:
        self._process = subprocess.Popen([sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process, self._answers), daemon=True).start()

    @staticmethod
    def _listen(process: subprocess.Popen[bytes], answers: queue.Queue[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put(b"")

    def _exchange(self, verb: str, data: bytes, seconds: float) -> dict[str, Any] | None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"verb": verb, "size": len(data)}).encode() + b"\n" + data)
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except (BrokenPipeError, queue.Empty):
            return None
        answer: dict[str, Any] | None = json.loads(line) if line else None
        return answer

    def close(self) -> int | None:
        """End the process; its code, or None where it was still at work."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            code = process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        return code


def judge(verb: str, data: bytes, answer: dict[str, Any]) -> Finding | None:
    """What is wrong with a child's answer, if anything."""
    outcome, told = answer["outcome"], answer["told"]
    if outcome not in ("result", "refused"):
        return Finding(verb, outcome, data, told)
    base, per_byte = MEMORY[verb]
    if answer["peak"] > base + per_byte * len(data):
        return Finding(verb, "memory", data, f"{answer['peak']:,} bytes for {len(data):,} ({told or outcome})")
    if answer["seconds"] > SECONDS + SECONDS_PER_BYTE * len(data):
        return Finding(verb, "slow", data, f"{answer['seconds']:.1f} s for {len(data):,} bytes ({told or outcome})")
    return None


def minimise(child: Child, found: Finding, tries: int = 200) -> Finding:
    """A shorter stream of the same kind of finding: pieces are left out, large ones first."""
    best, size = found, len(found.data) // 2
    if found.kind in LATE:
        tries //= 20  # each takes minutes
    while size and tries > 0:
        for at in range(0, len(best.data), size):
            tries -= 1
            again = child.ask(best.verb, best.data[:at] + best.data[at + size :])
            if again is not None and again.kind == best.kind:
                best = again
                break
            if tries <= 0:
                break
        else:
            size //= 2
    return best
