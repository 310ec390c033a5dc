"""How a job of several files runs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from nncjit.progress import Progress


@dataclass(frozen=True, slots=True)
class Job:
    """How a sharded job runs, and what it is given beside the options."""

    executor: Executor | None = None
    shard_bytes: int | None = None
    resume: bool = True
    plan: Path | None = None
    threads: int | None = None
    progress: Progress | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    calibration: Path | str | None = None
    """A file, or the word for statistics that the weights themselves give (`nncjit.encoder.weight_statistics`)."""
    sensitivity: Path | None = None

    @property
    def task_threads(self) -> int | None:
        """Threads of one task: all where tasks come one by one, else one unless it was said."""
        return 1 if self.threads is None and self.executor is not None else self.threads
