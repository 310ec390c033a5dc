"""Named stages of the work, and a recorder of their time and memory.

A function is marked with ``@staged("quantise")``, a block with ``with stage("plan", tensor):``. Without a recorder,
this only reads a global variable. While `recording`, each stage is charged with its own time only: the time of an inner
stage is not charged to the outer one. A process has at most one recording at a time, which covers all threads.
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NOBODY_LISTENS: AbstractContextManager[object] = nullcontext()


@dataclass(slots=True)
class Cost:
    """What a stage took, over all its calls and threads."""

    seconds: float = 0.0
    """Wall time inside the stage; of stages side by side on several threads, the sum."""
    cpu_seconds: float = 0.0
    """Processor time of the threads that called it."""
    calls: int = 0
    peak: int = 0
    """Most bytes that Python and NumPy held while it ran; 0 unless memory is recorded."""

    def add(self, other: Cost) -> None:
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.calls += other.calls
        self.peak = max(self.peak, other.peak)


@dataclass(slots=True)
class Recorder:
    """Collects costs from all threads. Made by `recording`."""

    memory: bool = False
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    """By (stage, tensor), in the order in which they first ended; the tensor is "" if a stage has none or all."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _here: threading.local = field(default_factory=threading.local)

    def open_spans(self) -> list[_Span]:
        """The stages that the calling thread is in, outermost first."""
        try:
            spans: list[_Span] = self._here.spans
        except AttributeError:
            spans = self._here.spans = []
        return spans

    def charge(self, name: str, tensor: str, cost: Cost) -> None:
        """Add to the costs of a stage."""
        with self._lock:
            self.costs.setdefault((name, tensor), Cost()).add(cost)


_listening: Recorder | None = None


def stage(name: str, tensor: str = "") -> AbstractContextManager[object]:
    """Make the block that follows a stage. Without a `tensor`, it belongs to the tensor of the outer stage."""
    return _NOBODY_LISTENS if _listening is None else _Span(_listening, name, tensor)


def staged(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a stage, which belongs to the tensor of the outer stage."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if _listening is None:
                return function(*args, **kwargs)
            with _Span(_listening, name, ""):
                return function(*args, **kwargs)

        return call

    return decorate


@contextmanager
def recording(*, memory: bool = False) -> Iterator[Recorder]:
    """Record the stages of everything that this process does in the block.

    Parameters
    ----------
    memory : bool
        Also record memory. This slows Python down, so take times from another recording. Exact if one thread works.
    """
    global _listening  # noqa: PLW0603 - one recording at a time, for all threads
    assert _listening is None, "a recording is under way"
    recorder = Recorder(memory)
    started = memory and not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    _listening = recorder
    try:
        yield recorder
    finally:
        _listening = None
        if started:
            tracemalloc.stop()


class _Span:
    """One call of a stage on one thread."""

    __slots__ = ("cpu", "name", "recorder", "tensor", "wall")

    def __init__(self, recorder: Recorder, name: str, tensor: str) -> None:
        self.recorder, self.name, self.tensor = recorder, name, tensor
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        spans = self.recorder.open_spans()
        if spans:
            self.tensor = self.tensor or spans[-1].tensor
            spans[-1].charge(calls=0)
        elif self.recorder.memory:
            tracemalloc.reset_peak()
        spans.append(self)
        self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.charge(calls=1)
        spans = self.recorder.open_spans()
        spans.pop()
        if spans:
            spans[-1].start()

    def start(self) -> None:
        """Count from now on."""
        self.cpu, self.wall = time.thread_time(), time.perf_counter()

    def charge(self, *, calls: int) -> None:
        """Charge what was spent since `start`."""
        wall, cpu = time.perf_counter() - self.wall, time.thread_time() - self.cpu
        peak = 0
        if self.recorder.memory and tracemalloc.is_tracing():
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
        self.recorder.charge(self.name, self.tensor, Cost(wall, cpu, calls, peak))
