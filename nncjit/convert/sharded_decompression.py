"""Several streams to a sharded safetensors model: each file a task of its own, resumed where it was ended."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from os import fspath
from pathlib import Path
from typing import Any

from nncjit.convert.job import Job
from nncjit.convert.journal import Journal, key_of, mark_of
from nncjit.errors import ModelError, OptionError
from nncjit.files import atomic_write
from nncjit.formats.sharded import check_neighbours
from nncjit.jit import threads as thread_counts
from nncjit.stream.reports import DecompressReport, TensorReport, report_row
from nncjit.stream.stream_index import AnyPath, read_index, streams_of
from nncjit.tasks import path_for_tasks, run_tasks

INDEX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StreamTask:
    """What a worker needs to decode one stream into a file of its own."""

    source: str
    target: str
    key: str
    n_bytes: int
    threads: int | None
    max_bytes: int | None
    full_size: bool


def decompress_sharded(
    source: AnyPath, target: AnyPath, job: Job, *, max_bytes: int | None, full_size: bool
) -> DecompressReport:
    """Decompress the streams of an index to a sharded model; see `decompress`."""
    started = time.perf_counter()
    path = Path(target)
    if not path.name.lower().endswith(INDEX):
        said = f"its name ends with {INDEX}, or here and at its stored size with the suffix of one file"
        raise OptionError(f"{target}: several streams become a model in several files: {said}")
    weight_map: dict[str, str] = read_index(source)["weight_map"]
    streams = streams_of(source)
    stem = path.name[: -len(INDEX)]
    names = [f"{stem}-{k + 1:05d}-of-{len(streams):05d}.safetensors" for k in range(len(streams))]
    journal = Journal(path.with_name(f"{stem}.safetensors.journal"))
    check_neighbours(path, [name for name in names if name not in journal.own])
    tasks = [
        StreamTask(
            path_for_tasks(stream),
            path_for_tasks(path.with_name(name)),
            key_of(_mark(stream), full_size, name),
            stream.stat().st_size,
            job.task_threads,
            max_bytes,
            full_size,
        )
        for stream, name in zip(streams, names, strict=True)
    ]
    with journal.locked():
        if not job.resume:
            journal.restart()
        journal.announce(names)
        entries = _decode(journal, tasks, job)
        home = {row["name"]: name for name, entry in zip(names, entries, strict=True) for row in entry["rows"]}
        _check_complete(source, weight_map, home)
        journal.check_there(entries)
        total = sum(row["original_bytes"] for entry in entries for row in entry["rows"])
        index = {"metadata": {"total_size": total}, "weight_map": {name: home[name] for name in weight_map}}
        with atomic_write(path) as file:
            file.write(json.dumps(index, indent=2, ensure_ascii=False).encode())
        journal.warn_of_others()
    rows = {name: row for entry in entries for name, row in _rows(entry).items()}
    return _report(source, target, [rows[name] for name in weight_map], tasks, started, job.threads)


def _mark(stream: Path) -> dict[str, Any]:
    try:
        return mark_of(stream)
    except OSError as error:
        raise ModelError(f"{stream}: {error.strerror}") from error


def _decode(journal: Journal, tasks: list[StreamTask], job: Job) -> list[dict[str, Any]]:
    """The journal's lines of all files, in order; those that are missing are made."""
    entries: dict[str, dict[str, Any]] = {}
    total, done = sum(task.n_bytes for task in tasks), 0

    def take(task: StreamTask, entry: dict[str, Any]) -> None:
        nonlocal done
        entries[task.target] = entry
        done += task.n_bytes
        if job.progress is not None:
            job.progress(done, total, Path(task.target).name)

    def finished(task: StreamTask, result: dict[str, Any]) -> None:
        entry = {"file": Path(task.target).name, "key": task.key, **result}
        journal.add(entry)
        take(task, entry)

    missing = []
    for task in tasks:
        entry = journal.finished(Path(task.target).name, task.key, _rows)
        if entry is None:
            missing.append(task)
        else:
            take(task, entry)
    run_tasks(job.executor, decode_stream, sorted(missing, key=lambda task: -task.n_bytes), finished, kept=True)
    return [entries[task.target] for task in tasks]


def _rows(entry: dict[str, Any]) -> dict[str, TensorReport]:
    """What a line of the journal tells of tensors, by name."""
    return {row["name"]: report_row(row) for row in entry["rows"]}


def decode_stream(task: StreamTask) -> dict[str, Any]:
    """The task: reads its stream, writes its file, and gives it its name when it is whole."""
    from nncjit.convert.decompression import decompress  # which calls this module

    report = decompress(
        task.source, task.target, threads=task.threads, max_bytes=task.max_bytes, full_size=task.full_size
    )
    return {"mark": mark_of(Path(task.target)), "rows": [asdict(row) for row in report.tensors]}


def _check_complete(source: AnyPath, weight_map: dict[str, str], home: dict[str, str]) -> None:
    missing = next((name for name in weight_map if name not in home), None)
    if missing is not None:
        raise ModelError(f"{source}: {missing!r} is in none of the streams, the index has it in {weight_map[missing]}")


def _report(
    source: AnyPath,
    target: AnyPath,
    rows: list[TensorReport],
    tasks: list[StreamTask],
    started: float,
    threads: int | None,
) -> DecompressReport:
    """One report of all streams."""
    return DecompressReport(
        source=fspath(source),
        target=fspath(target),
        original_bytes=sum(row.original_bytes for row in rows),
        compressed_bytes=sum(task.n_bytes for task in tasks),
        seconds=time.perf_counter() - started,
        threads=thread_counts.count(threads),
        tensors=tuple(rows),
    )
