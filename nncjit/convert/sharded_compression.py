"""A model into several streams: planned from headers, each stream a task of its own, and resumed where it was ended."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

from nncjit import __version__, formats
from nncjit.convert.job import Job
from nncjit.convert.job_plan import DEFAULT_SHARD_BYTES, JobPlan, shards_of
from nncjit.convert.journal import Journal, key_of, mark_of
from nncjit.convert.sensitivity_file import opened_sensitivity
from nncjit.convert.shard_files import ShardNames, fingerprint, write_index
from nncjit.encoder import targets
from nncjit.encoder.execution import Data
from nncjit.encoder.options import Options
from nncjit.encoder.shared_plan import (
    Curve,
    Decisions,
    Whole,
    decide_with_curves,
    decide_without_targets,
    encode_piece,
    missed_targets,
    needs_samples,
    pieces_of,
    sample_piece,
)
from nncjit.encoder.targets import decibels
from nncjit.encoder.unkept_options import tells_loss, unkept
from nncjit.encoder.weight_statistics import WEIGHTS, statistics_of
from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.files import atomic_write
from nncjit.jit import threads as thread_counts
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.stream.reports import CompressReport, report_row
from nncjit.stream.stream_index import AnyPath
from nncjit.tasks import path_for_tasks, run_tasks


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker needs to encode one stream. Small, and made of plain values."""

    source: str
    names: tuple[str, ...]
    options: dict[str, Any]
    decisions: dict[str, Any]
    fingerprint: list[list[Any]]
    target: str
    threads: int | None
    number: int
    """Of the stream; the first has the model's graphs."""
    metadata: dict[str, str]
    calibration: str | None
    sensitivity: str | None


def compress_sharded(source: AnyPath, target: AnyPath, options: Options, job: Job, *, dry_run: bool) -> CompressReport:
    """Compress a model file to several streams and their index; see `compress`."""
    started = time.perf_counter()
    names = ShardNames(target)
    journal = Journal(names.journal)
    with formats.open_model(source) as model:
        infos = model.infos
        options.warn_where_none_is_coded(model.names)
        files = _fingerprint(source, infos, job.calibration, job.sensitivity)
        plan = _plan_at_hand(job, journal, options, files, infos)
        if plan is None:
            plan = _new_plan(source, model, options, job, files)
    if job.plan is not None and not job.plan.exists():
        plan.save(job.plan)
    if dry_run:
        return _report(source, names, infos, [], 0, started, job)
    with journal.locked():
        _begin(journal, plan, job)
        journal.announce([names.shard(number, len(plan.shards)) for number in range(len(plan.shards))])
        entries = _encode(source, names, journal, plan, infos, job)
        journal.check_there(entries)
        _finish(names, plan, infos, entries)
        journal.warn_of_others()
    rows = [entry["report"] for entry in entries]
    size = sum(entry["mark"]["bytes"] for entry in entries)
    report = _report(source, names, infos, rows, size, started, job)
    reached = (size, *_sums(rows))
    with formats.open_model(source) as model, statistics_of(job.calibration, model) as statistics:
        whole = Whole(infos, plan.options, Data(calibration=statistics))
        planned = plan.decisions.plan(whole)
        missed = missed_targets(whole, plan.decisions, {r.name: r for r in report.tensors}, reached)
        for said in (*missed, *unkept(report.tensors, planned)):
            warnings.warn(said, NncWarning, stacklevel=3)
        if tells_loss(report.tensors, planned):
            report = replace(report, loss=targets.relative_loss(reached[3], planned))
    return report


def _plan_at_hand(
    job: Job, journal: Journal, options: Options, files: list[list[Any]], infos: Sequence[TensorInfo]
) -> JobPlan | None:
    """The plan that was given, or that the journal of the same job holds."""
    if job.plan is not None and job.plan.exists():
        plan = JobPlan.load(job.plan)
        if plan.fingerprint != files:
            said = "the source, or its statistics, are not what was planned for, or have changed since"
            raise ModelError(f"{job.plan}: {said}")
        if options not in (Options(), plan.options):
            raise OptionError(f"{job.plan}: the plan has other options; give none, or another plan")
        if job.metadata and job.metadata != plan.metadata:
            raise OptionError(f"{job.plan}: the plan has other metadata; give none, or another plan")
        try:
            plan.check(infos)
        except OptionError as error:
            raise OptionError(f"{job.plan}: {error}") from None
        return plan
    if not job.resume or not isinstance(journal.plan, dict):
        return None
    if journal.plan.get("request") != _request(options, job, files):
        return None
    with suppress(OptionError):  # a damaged journal: the plan is made anew
        plan = JobPlan.from_dict(journal.plan)
        plan.check(infos)
        return plan
    return None


def _request(options: Options, job: Job, files: list[list[Any]]) -> str:
    """What a plan follows from."""
    return key_of(__version__, options.keywords(), job.shard_bytes or DEFAULT_SHARD_BYTES, files, dict(job.metadata))


def _new_plan(source: AnyPath, model: Model, options: Options, job: Job, files: list[list[Any]]) -> JobPlan:
    with statistics_of(job.calibration, model) as statistics, opened_sensitivity(job.sensitivity) as importances:
        whole = Whole(model.infos, options, Data(calibration=statistics, sensitivity=importances))
        decisions = decide_without_targets(model, whole)
        shards = shards_of(pieces_of(model, whole, decisions), model.infos, job.shard_bytes or DEFAULT_SHARD_BYTES)
        plan = JobPlan(options, decisions, shards, files, job.metadata)
        if not needs_samples(whole):
            return plan
        tasks = [_task(source, plan, number, "", job) for number in range(len(shards))]
        curves: dict[int, Curve] = {}

        def sampled(task: ShardTask, curve: Curve) -> None:
            curves[task.number] = curve
            if job.progress is not None:
                job.progress(sum(weights[number] for number in curves), sum(weights), "samples")

        sizes = {info.name: info.size for info in model.infos}
        weights = [sum(sizes[name] for name in shard) for shard in shards]
        run_tasks(job.executor, sample_shard, tasks, sampled)
        in_order = [curves[number] for number in range(len(shards))]
        return replace(plan, decisions=decide_with_curves(whole, decisions, in_order))


def _task(source: AnyPath, plan: JobPlan, number: int, target: str, job: Job) -> ShardTask:
    return ShardTask(
        path_for_tasks(source),
        plan.shards[number],
        plan.options.keywords(),
        plan.decisions.to_dict(),
        plan.fingerprint,
        target,
        job.task_threads,
        number,
        dict(plan.metadata),
        job.calibration if job.calibration in (None, WEIGHTS) else path_for_tasks(job.calibration),
        None if job.sensitivity is None else path_for_tasks(job.sensitivity),
    )


def _fingerprint(source: AnyPath, infos: Sequence[TensorInfo], *others: AnyPath | None) -> list[list[Any]]:
    """Of all files that the streams follow from."""
    found = fingerprint(source, (info.shard for info in infos))
    files = (other for other in others if other not in (None, WEIGHTS))
    return [*found, *(mark for file in files for mark in fingerprint(file, ()))]


@contextmanager
def _piece(task: ShardTask) -> Iterator[tuple[Model, Whole]]:
    """The tensors of a task as a model of their own, and the whole model."""
    with (
        formats.open_model(task.source) as model,
        statistics_of(task.calibration, model) as statistics,
        opened_sensitivity(task.sensitivity) as importances,
    ):
        infos = model.infos
        _check_unchanged(task, infos)
        tensors: list[Tensor] = [model[name] for name in task.names]
        piece = Model(tensors, model.metadata | task.metadata, graphs=() if task.number else model.graphs)
        data = Data(calibration=statistics, sensitivity=importances)
        yield piece, Whole(infos, Options(**task.options), data)
        _check_unchanged(task, infos)


def _check_unchanged(task: ShardTask, infos: Sequence[TensorInfo]) -> None:
    """Refuse a source that is not the one that was planned for; asked before and after it was read."""
    found = _fingerprint(task.source, infos, task.calibration, task.sensitivity)
    if found != [list(file) for file in task.fingerprint]:
        raise ModelError(f"{task.source}: was changed since the job was planned")


def sample_shard(task: ShardTask) -> Curve:
    """The task of the first phase, where there is a target: what a stream would cost at every scale."""
    with _piece(task) as (piece, whole):
        return sample_piece(piece, whole, Decisions.from_dict(task.decisions), task.threads)


def encode_shard(task: ShardTask) -> dict[str, Any]:
    """The task of the second phase: reads its tensors, writes its file, and gives it its name when it is whole."""
    decisions = Decisions.from_dict(task.decisions)
    with atomic_write(task.target) as file, _piece(task) as (piece, whole):
        encoded = encode_piece(piece, file, whole, decisions, task.threads)
    rows = [asdict(row) for row in encoded.tensors]
    report = {"tensors": rows, "power": encoded.power, "error": encoded.error, "loss": encoded.loss}
    return {"mark": mark_of(Path(task.target)), "report": report}


def _begin(journal: Journal, plan: JobPlan, job: Job) -> None:
    """A journal that holds this plan."""
    content = plan.to_dict()
    kept = journal.plan if isinstance(journal.plan, dict) else {}
    same = {name: value for name, value in kept.items() if name != "request"} == content
    if job.resume and same:
        return
    if not job.resume:
        journal.restart()
    journal.add({"plan": content | {"request": _request(plan.options, job, plan.fingerprint)}})


def _encode(
    source: AnyPath, names: ShardNames, journal: Journal, plan: JobPlan, infos: Sequence[TensorInfo], job: Job
) -> list[dict[str, Any]]:
    """The journal's lines of all streams, in order; those that are missing are made."""
    count = len(plan.shards)
    entries: dict[int, dict[str, Any]] = {}
    keys = plan.keys()
    sizes = {info.name: info.size for info in infos}
    weights = [sum(sizes[name] for name in shard) for shard in plan.shards]
    total, done = sum(weights), 0

    def take(number: int, entry: dict[str, Any]) -> None:
        nonlocal done
        entries[number] = entry
        done += weights[number]
        if job.progress is not None:
            job.progress(done, total, names.shard(number, count))

    for number in range(count):
        entry = journal.finished(names.shard(number, count), keys[number], partial(_read, plan.shards[number]))
        if entry is not None:
            take(number, entry)

    def finished(task: ShardTask, result: dict[str, Any]) -> None:
        number = task.number
        entry = {"file": names.shard(number, count), "key": keys[number], **result}
        journal.add(entry)
        take(number, entry)

    missing = sorted((n for n in range(count) if n not in entries), key=lambda n: (-weights[n], n))
    tasks = [_task(source, plan, n, path_for_tasks(names.folder / names.shard(n, count)), job) for n in missing]
    run_tasks(job.executor, encode_shard, tasks, finished, kept=True)
    return [entries[number] for number in range(count)]


def _read(names: Sequence[str], entry: dict[str, Any]) -> None:
    """Fail on a line of a journal that lacks what will be asked of it."""
    if {report_row(row).name for row in entry["report"]["tensors"]} != {*names}:
        raise ValueError
    _sums([entry["report"]])


def _finish(names: ShardNames, plan: JobPlan, infos: Sequence[TensorInfo], entries: list[dict[str, Any]]) -> None:
    """Write the index: the model is complete."""
    count = len(plan.shards)
    home = {name: names.shard(number, count) for number, shard in enumerate(plan.shards) for name in shard}
    facts = {
        "total_size": sum(entry["mark"]["bytes"] for entry in entries),
        "original_size": sum(info.nbytes for info in infos),
        "options": plan.options.keywords(),
    }
    files = [{"file": entry["file"], **entry["mark"]} for entry in entries]
    write_index(names.index, {info.name: home[info.name] for info in infos}, facts, files)


def _sums(reports: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Sum of squares of all lossy tensors, that of their errors, and the loss of a calibration."""
    power, error, loss = (sum(report.get(what, 0.0) for report in reports) for what in ("power", "error", "loss"))
    return power, error, loss


def _report(
    source: AnyPath,
    names: ShardNames,
    infos: Sequence[TensorInfo],
    reports: list[dict[str, Any]],
    size: int,
    started: float,
    job: Job,
) -> CompressReport:
    rows = {row["name"]: report_row(row) for r in reports for row in r["tensors"]}
    power, error, _ = _sums(reports)
    return CompressReport(
        source=fspath(source),
        target=fspath(names.index),
        original_bytes=sum(info.nbytes for info in infos),
        compressed_bytes=size,
        seconds=time.perf_counter() - started,
        threads=thread_counts.count(job.threads),
        tensors=tuple(rows[info.name] for info in infos if info.name in rows),
        snr=decibels(power, error) if power else None,
        estimated=not reports,
    )
