"""A model over grids of options: size, quality, time and memory at each point, beside NNCodec where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import PicklingError
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import Pruning
from nncjit.report import metrics
from nncjit.report.evaluation import SNR, Evaluation, Measured, Point, Pruned
from nncjit.report.grid import Series
from nncjit.report.point_task import PointTask, Totals, measure, measure_point, quality, saved, task_peak, warm
from nncjit.report.pruned_model import full_size, shrunk
from nncjit.report.rival import RIVAL, Rival, back_from_rival, first_qp, fit_for_rival
from nncjit.report.task import Task
from nncjit.report.task_run import read_arrays
from nncjit.tasks import check_executor, path_for_tasks, run_tasks

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Progress = Callable[[int, int, str], object]
"""Called with (points done, points in all, the point that is being measured)."""

RIVAL_STRIDE = 3
"""Steps of qp from one point of NNCodec's curve to the next: about 4.5 dB."""
RIVAL_POINTS = 12
"""At the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be evaluated."""

    model: Path
    curves: Sequence[Series]
    task: Task | None = None
    rival: Rival | None = None
    rival_qps: Sequence[int] | None = None
    """None: where the rival's error is about ours."""
    memory: bool = False
    """Whether to measure peak memory, in a process for each figure."""
    threads: int | None = None
    """Threads at work; None: all cores that the process may use, one on an executor."""
    executor: Executor | None = None
    """Where points are measured, each by a task that holds the model in its memory; None: here, one by one."""
    pruning: Pruning | None = None
    """Channels that are removed at all points."""


def evaluate(request: Request, progress: Progress | None = None) -> Evaluation:
    """Measure a model at all points of the curves.

    Raises
    ------
    ModelError
        The model cannot be read, or its weights do not fit the task; a worker was lost.
    OptionError
        An option does not fit the model, or the rival cannot be started.
    """
    check_executor(request.executor)
    original = read_arrays(request.model)
    totals = Totals.of(original)
    if not any(array.dtype.kind == "f" and array.size for array in original.values()):
        raise ModelError(f"{request.model}: it holds no floats, so there is no quality to trade for size")
    reference, seconds = quality(original, original, request.task)
    pruned = None if request.pruning is None else _pruned(request, original, shrunk(original, request.pruning))
    total = sum(len(curve.points) for curve in request.curves)
    total += 0 if request.rival is None else len(request.rival_qps or range(RIVAL_POINTS))
    tell = _Teller(progress, total)
    with nullcontext() if request.rival is None else request.rival:  # fails at once if the rival cannot be started
        points = _ours(request, original, tell)
        if request.rival is not None:
            points.extend(list(_rivals(request, request.rival, original, points, totals, tell)))
    return Evaluation(
        model=str(request.model),
        task=request.task.name if request.task else "",
        title=request.task.title if request.task else "",
        main=request.task.main if request.task else SNR,
        higher_is_better=request.task.higher_is_better if request.task else True,
        weights=totals.weights,
        original_bytes=totals.n_bytes,
        original=Measured(reference, seconds, task_peak(request.task, request.model) if request.memory else None),
        pruned=pruned,
        points=tuple(points),
    )


def _ours(request: Request, original: Arrays, tell: _Teller) -> list[Point]:
    """Our points, each a task of its own."""
    executor = request.executor
    tasks = _point_tasks(request)
    found: dict[int, Point] = {}

    def take(task: PointTask, point: Point) -> None:
        found[task.number] = point
        if executor is not None:
            tell(f"{task.curve} {task.settings}")

    def one_by_one() -> Iterator[PointTask]:
        for task in tasks:
            tell(f"{task.curve} {task.settings}")
            yield task

    if executor is None:
        warm(curve.points[0] for curve in request.curves)
        run_tasks(None, partial(measure, original=original), one_by_one(), take)
    else:
        try:
            run_tasks(executor, measure_point, tasks, take)
        except (PicklingError, AttributeError, TypeError) as error:
            if request.task is None or request.task.spec:
                raise
            raise OptionError(f"task {request.task.name}: it cannot be sent to workers ({error})") from error
    return [found[number] for number in range(len(tasks))]


def _point_tasks(request: Request) -> list[PointTask]:
    made: list[PointTask] = []
    for curve in request.curves:
        label = f"nncjit, {curve.label}" if curve.label else "nncjit"
        for options, settings in zip(curve.points, curve.settings, strict=True):
            made.append(
                PointTask(
                    number=len(made),
                    curve=label,
                    settings=dict(settings),
                    model=Path(path_for_tasks(request.model)),
                    options=options.keywords(),
                    task=request.task,
                    memory=request.memory,
                    pruning=request.pruning,
                    threads=1 if request.threads is None and request.executor is not None else request.threads,
                )
            )
    return made


def _pruned(request: Request, original: Arrays, kept: Arrays) -> Pruned:
    """The model with fewer channels, before it is coded."""
    measures, seconds = quality(original, full_size(kept, request.pruning), request.task, kept)
    peak = None
    if request.memory:
        with TemporaryDirectory(prefix="nncjit-eval-") as folder:
            peak = task_peak(request.task, saved(kept, Path(folder) / "pruned.safetensors"))
    totals = Totals.of(kept)
    return Pruned(measures, seconds, peak, weights=totals.weights, bytes=totals.n_bytes)


def _rivals(
    request: Request, rival: Rival, original: Arrays, ours: Sequence[Point], totals: Totals, tell: _Teller
) -> Iterator[Point]:
    """NNCodec's points: at the parameters asked for, else from our finest error on, until it is as small as ours."""
    taken, left = fit_for_rival(original)
    outside = sum(array.nbytes for array in left.values())
    finest = max((p.measures[SNR] for p in ours if np.isfinite(p.measures[SNR])), default=np.inf)
    start = first_qp(original, finest)
    qps = request.rival_qps or range(start, start + RIVAL_STRIDE * RIVAL_POINTS, RIVAL_STRIDE)
    for qp in qps:
        tell(f"{RIVAL} qp={qp}")
        data, encode_seconds = rival.encode(taken, qp=qp)
        found, decode_seconds = rival.decode(data)
        measures, task_seconds = quality(original, back_from_rival(found, original), request.task)
        size = len(data) + outside
        yield Point(
            curve=RIVAL,
            options={"qp": qp},
            bytes=size,
            ratio=metrics.ratio(size, totals.n_bytes),
            bits_per_weight=metrics.bits_per_weight(size, totals.weights),
            measures=measures,
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            task_seconds=task_seconds,
        )
        if request.rival_qps is None and size < min(p.bytes for p in ours):
            return


class _Teller:
    """Counts the points for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, max(total, 1), 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total, what)
        self._done += 1
