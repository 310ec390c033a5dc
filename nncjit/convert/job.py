"""How a job of several files runs."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from nncjit.progress import Progress


@dataclass(frozen=True, slots=True)
class Job:
    """How a sharded job runs. Nothing here changes a byte, but `shard_bytes`."""

    executor: Executor | None = None
    shard_bytes: int | None = None
    resume: bool = True
    plan: Path | None = None
    threads: int | None = None
    progress: Progress | None = None

    @property
    def task_threads(self) -> int | None:
        """Threads of one task: all where tasks come one by one, else one unless it was said."""
        return 1 if self.threads is None and self.executor is not None else self.threads
