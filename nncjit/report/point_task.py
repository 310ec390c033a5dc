"""One point of an evaluation: a model encoded, decoded and measured, by the caller or by a worker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nncjit import formats
from nncjit.convert import compress
from nncjit.decoder.stream_decoder import decode
from nncjit.encoder.model_encoder import encode
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.model import TensorInfo
from nncjit.reduce import Pruning
from nncjit.report import metrics
from nncjit.report.evaluation import SNR, Point
from nncjit.report.memory import in_child
from nncjit.report.pruned_model import full_size, plain_pruning
from nncjit.report.task import Task
from nncjit.report.task_run import plain, read_arrays

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class Totals(NamedTuple):
    """Sizes of the whole model."""

    weights: int
    n_bytes: int

    @classmethod
    def of(cls, arrays: Arrays) -> Totals:
        return cls(sum(array.size for array in arrays.values()), sum(array.nbytes for array in arrays.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTask:
    """What is needed to measure one point. Small, and made of values that can be sent to a worker."""

    number: int
    curve: str
    settings: dict[str, Any]
    """The options that make the point, for people."""
    model: Path
    options: dict[str, Any]
    """All of them."""
    task: Task | None
    memory: bool
    pruning: Pruning | None
    threads: int | None


def measure_point(point: PointTask) -> Point:
    """Measure one point, on a worker: it reads the model itself."""
    options = Options(**point.options)
    warm([options])
    return measure(point, read_arrays(point.model))


def measure(point: PointTask, original: Arrays) -> Point:
    """Measure one point of a model that is in memory, too."""
    with tempfile.TemporaryDirectory(prefix="nncjit-eval-") as folder:
        return _measured(point, original, Path(folder))


def _measured(point: PointTask, original: Arrays, folder: Path) -> Point:
    target, options = folder / "model.nnc", Options(**point.options)
    report = compress(point.model, target, options, threads=point.threads, pruning=point.pruning)
    started = time.perf_counter()
    found = {name: plain(array) for name, array in decode(target, threads=point.threads).items()}
    decode_seconds = time.perf_counter() - started
    whole = full_size(found, point.pruning)
    measures, task_seconds = quality(original, whole, point.task, found)
    factors = _factors(target, found, point)
    seconds_of_factors = None if factors is None else quality(original, whole, point.task, factors)[1]
    peaks: dict[str, int | None] = {}
    if point.memory:
        back, source = folder / "back.safetensors", str(point.model)
        keywords = {"threads": point.threads, "pruning": plain_pruning(point.pruning), **point.options}
        there = in_child("nncjit.report.pruned_model:compress_pruned", source, target, **keywords)
        again = in_child("nncjit:decompress", target, back, threads=point.threads)
        peaks = {"encode_peak": there.peak_bytes, "decode_peak": again.peak_bytes}
        peaks["task_peak"] = task_peak(point.task, back)
        if factors is not None:
            peaks["factored_peak"] = task_peak(point.task, saved(factors, folder / "factors.safetensors"))
    totals = Totals.of(original)
    return Point(
        curve=point.curve,
        options=point.settings,
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


def _factors(stream: Path, found: Arrays, point: PointTask) -> Arrays | None:
    """The model with the factors of its matrices in their stead; None where there are none, or the task takes none."""
    if point.task is None or not point.task.takes_factors:
        return None
    parts = {name: plain(array) for name, array in decode(stream, threads=point.threads, parts=True).items()}
    return parts if parts.keys() - found.keys() else None


def saved(arrays: Arrays, path: Path) -> Path:
    """Write arrays to a model file, and return its path."""
    infos = [TensorInfo(name, array.shape, array.dtype.name) for name, array in arrays.items()]
    with formats.create(path, infos) as writer:
        for name, array in arrays.items():
            writer.put(name, array)
    return path


def task_peak(task: Task | None, path: Path) -> int | None:
    """Peak memory of a process that only does the task with the tensors of a file."""
    if task is None or not task.spec:
        return None
    return in_child("nncjit.report.task_run:run_task", task.spec, path).peak_bytes


def quality(
    original: Arrays, found: Arrays, task: Task | None, given: Arrays | None = None
) -> tuple[dict[str, float], float | None]:
    """All measures of decoded weights, and the seconds that the task took, with what it is `given` in their stead."""
    measures = {SNR: metrics.model_snr(original, found)}
    if task is None:
        return measures, None
    started = time.perf_counter()
    measures |= task(found if given is None else given)
    return measures, time.perf_counter() - started


def warm(options: Iterable[Options]) -> None:
    """Compile the kernels that points need, so that their times do not include it."""
    random = np.random.default_rng(0)
    tiny = {
        "matrix": random.standard_normal((128, 96), dtype=np.float32),
        "vector": random.standard_normal(64, dtype=np.float32),
        "integers": np.arange(9),
    }
    for each in options:
        try:
            decode(encode(tiny, each, rules=()))
        except OptionError:  # an option that does not fit this toy model may fit the real one
            continue
