"""A model over grids of options: size, quality, time and memory at each point, beside NNCodec where there is one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nncjit import formats
from nncjit.convert import compress
from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import Options
from nncjit.errors import ModelError, OptionError
from nncjit.model import TensorInfo
from nncjit.reduce import Pruning
from nncjit.report import metrics
from nncjit.report.evaluation import SNR, Evaluation, Measured, Point, Pruned
from nncjit.report.grid import Series
from nncjit.report.memory import in_child
from nncjit.report.pruned_model import full_size, plain_pruning, shrunk
from nncjit.report.rival import RIVAL, Rival, back_from_rival, first_qp, fit_for_rival
from nncjit.report.task import Task
from nncjit.report.task_run import plain, read_arrays

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Progress = Callable[[int, int, str], object]
"""Called with (points done, points in all, the point that is being measured)."""

RIVAL_STRIDE = 3
"""Steps of qp from one point of NNCodec's curve to the next: about 4.5 dB."""
RIVAL_POINTS = 12
"""At the most."""


class _Totals(NamedTuple):
    """Sizes of the whole model."""

    weights: int
    n_bytes: int

    @classmethod
    def of(cls, arrays: Arrays) -> _Totals:
        return cls(sum(array.size for array in arrays.values()), sum(array.nbytes for array in arrays.values()))


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
    """Threads at work; None: all cores that the process may use."""
    pruning: Pruning | None = None
    """Channels that are removed at all points."""


def evaluate(request: Request, progress: Progress | None = None) -> Evaluation:
    """Measure a model at all points of the curves.

    Raises
    ------
    ModelError
        The model cannot be read, or its weights do not fit the task.
    OptionError
        An option does not fit the model, or the rival cannot be started.
    """
    original = read_arrays(request.model)
    totals = _Totals.of(original)
    if not any(array.dtype.kind == "f" and array.size for array in original.values()):
        raise ModelError(f"{request.model}: it holds no floats, so there is no quality to trade for size")
    reference, seconds = _quality(original, original, request.task)
    pruned = None if request.pruning is None else _pruned(request, original, shrunk(original, request.pruning))
    _warm(request.curves)
    total = sum(len(curve.points) for curve in request.curves)
    total += 0 if request.rival is None else len(request.rival_qps or range(RIVAL_POINTS))
    tell = _Teller(progress, total)
    points: list[Point] = []
    with ExitStack() as stack:
        if request.rival is not None:
            stack.enter_context(request.rival)  # fails at once if the rival cannot be started
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nncjit-eval-")))
        for curve in request.curves:
            label = f"nncjit, {curve.label}" if curve.label else "nncjit"
            for options, settings in zip(curve.points, curve.settings, strict=True):
                tell(f"{label} {settings}")
                found = _ours(request, original, options, folder, totals)
                points.append(replace(found, curve=label, options=settings))
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
        original=Measured(reference, seconds, _task_peak(request, request.model) if request.memory else None),
        pruned=pruned,
        points=tuple(points),
    )


def _ours(request: Request, original: Arrays, options: Options, folder: Path, totals: _Totals) -> Point:
    target = folder / "model.nnc"
    report = compress(request.model, target, options, threads=request.threads, pruning=request.pruning)
    started = time.perf_counter()
    found = {name: plain(array) for name, array in decode(target, threads=request.threads).items()}
    decode_seconds = time.perf_counter() - started
    whole = full_size(found, request.pruning)
    measures, task_seconds = _quality(original, whole, request.task, found)
    factors = _factors(target, found, request)
    seconds_of_factors = None if factors is None else _quality(original, whole, request.task, factors)[1]
    peaks: dict[str, int | None] = {}
    if request.memory:
        back, source = folder / "back.safetensors", str(request.model)
        keywords = {"threads": request.threads, "pruning": plain_pruning(request.pruning), **options.keywords()}
        there = in_child("nncjit.report.pruned_model:compress_pruned", source, target, **keywords)
        again = in_child("nncjit:decompress", target, back, threads=request.threads)
        peaks = {"encode_peak": there.peak_bytes, "decode_peak": again.peak_bytes}
        peaks["task_peak"] = _task_peak(request, back)
        if factors is not None:
            peaks["factored_peak"] = _task_peak(request, _saved(factors, folder / "factors.safetensors"))
    return Point(
        curve="",
        options={},
        bytes=report.compressed_bytes,
        ratio=metrics.ratio(report.compressed_bytes, totals.n_bytes),
        bits_per_weight=metrics.bits_per_weight(report.compressed_bytes, totals.weights),
        measures=measures,
        encode_seconds=report.seconds,
        decode_seconds=decode_seconds,
        task_seconds=task_seconds,
        factored_seconds=seconds_of_factors,
        **peaks,
    )


def _pruned(request: Request, original: Arrays, kept: Arrays) -> Pruned:
    """The model with fewer channels, before it is coded."""
    measures, seconds = _quality(original, full_size(kept, request.pruning), request.task, kept)
    peak = None
    if request.memory:
        with tempfile.TemporaryDirectory(prefix="nncjit-eval-") as folder:
            peak = _task_peak(request, _saved(kept, Path(folder) / "pruned.safetensors"))
    totals = _Totals.of(kept)
    return Pruned(measures, seconds, peak, weights=totals.weights, bytes=totals.n_bytes)


def _factors(stream: Path, found: Arrays, request: Request) -> Arrays | None:
    """The model with the factors of its matrices in their stead; None where there are none, or the task takes none."""
    if request.task is None or not request.task.takes_factors:
        return None
    parts = {name: plain(array) for name, array in decode(stream, threads=request.threads, parts=True).items()}
    return parts if parts.keys() - found.keys() else None


def _saved(arrays: Arrays, path: Path) -> Path:
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in arrays.items()]
    with formats.create(path, infos) as writer:
        for name, array in arrays.items():
            writer.put(name, array)
    return path


def _task_peak(request: Request, path: Path) -> int | None:
    """Peak memory of a process that only does the task with the tensors of a file."""
    if request.task is None or not request.task.spec:
        return None
    return in_child("nncjit.report.task_run:run_task", request.task.spec, path).peak_bytes


def _rivals(
    request: Request, rival: Rival, original: Arrays, ours: Sequence[Point], totals: _Totals, tell: _Teller
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
        measures, task_seconds = _quality(original, back_from_rival(found, original), request.task)
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


def _quality(
    original: Arrays, found: Arrays, task: Task | None, given: Arrays | None = None
) -> tuple[dict[str, float], float | None]:
    """All measures of decoded weights, and the seconds that the task took, with what it is `given` in their stead."""
    measures = {SNR: metrics.model_snr(original, found)}
    if task is None:
        return measures, None
    started = time.perf_counter()
    measures |= task(found if given is None else given)
    return measures, time.perf_counter() - started


def _warm(curves: Sequence[Series]) -> None:
    """Compile the kernels that the first points need, so that their times do not include it."""
    random = np.random.default_rng(0)
    tiny = {
        "matrix": random.standard_normal((128, 96), dtype=np.float32),
        "vector": random.standard_normal(64, dtype=np.float32),
        "integers": np.arange(9),
    }
    for curve in curves:
        try:
            decode(encode(tiny, curve.points[0], rules=()))
        except OptionError:  # an option that does not fit this toy model may fit the real one
            continue


class _Teller:
    """Counts the points for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, max(total, 1), 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total, what)
        self._done += 1
