"""Time, bytes and memory of compressing and decompressing a model, by stage and by tensor.

Stages are timed with one thread, because they overlap with more threads and their shares would not be exact. The time
with all threads is measured separately. Memory is recorded first, in a separate pass, which also compiles the kernels
before anything is timed.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from nncjit import formats
from nncjit.convert import compress, decompress
from nncjit.decoder.inspection import Inspection, inspect
from nncjit.decoder.random_access import open as open_stream
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.formats.folder_model import read_from
from nncjit.report.memory import in_child
from nncjit.stages import Cost, Recorder, recording

REST = "rest"
"""Everything outside the stages."""
REPEATS = 2
"""Timed passes; the faster one counts."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """What a stage took, over all tensors."""

    name: str
    seconds: float
    """Wall time."""
    cpu_seconds: float
    """Processor time, of all threads that took part; what its share is a share of."""
    calls: int
    peak_bytes: int
    """Most memory that Python and NumPy held while it ran."""


@dataclass(frozen=True, slots=True)
class Way:
    """Compressing or decompressing as a whole."""

    stages: tuple[StageRow, ...]
    """The most expensive first."""
    seconds: float
    """Wall time with one thread."""
    cpu_seconds: float
    """Processor time with one thread."""
    threads: int
    seconds_with_threads: float
    """Wall time with so many."""
    peak_bytes: int
    """Peak memory of a separate process that does only this, with so many threads."""
    idle_bytes: int
    """What that process had before: the interpreter, NumPy, Numba."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """What a tensor took."""

    name: str
    shape: tuple[int, ...]
    weights: int
    original_bytes: int
    bytes: int
    """Of the unit that holds it; 0 where another tensor stands for that."""
    compress_seconds: float
    """Processor time of all its stages; 0 for a stream."""
    decompress_seconds: float
    """Processor time to read and decode it alone."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Where time, bytes and memory go."""

    source: str
    compress: Way | None
    """None for a stream."""
    decompress: Way
    bytes_by_kind: Mapping[str, int]
    """Bytes of the stream: payloads, headers of units, the rest."""
    original_bytes: int
    tensors: tuple[TensorRow, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return asdict(self)


def profile(
    source: str | PathLike[str],
    options: Options | None = None,
    *,
    threads: int | None = None,
    calibration: str | PathLike[str] | None = None,
) -> Profile:
    """Profile a model file in both directions, or the decompression of a stream.

    Parameters
    ----------
    source : path or URL
        A model of any known format, or an NNC file.
    options : Options, optional
        What the encoder may choose.
    threads : int, optional
        For the passes that use more than one; default: all cores that the process may use.
    calibration : path, optional
        Statistics of the model (`nncjit.calibrate`).

    Raises
    ------
    NncError
        What `nncjit.compress` and `nncjit.decompress` raise.
    """
    name, source = fspath(source), read_from(source)
    keywords = Options.of(options, {}).keywords()
    if not formats.is_known(source) and (keywords or calibration is not None):
        given = ", ".join([*keywords, *(["calibration"] if calibration is not None else [])])
        raise OptionError(f"{fspath(source)}: is a stream, which is only decoded: {given} cannot be used")
    if calibration is not None:
        keywords["calibration"] = fspath(calibration)
    with tempfile.TemporaryDirectory(prefix="nncjit-profile-") as made:
        folder = Path(made)
        there = None
        stream, encoding = fspath(source), Recorder()
        if formats.is_known(source):
            stream = str(folder / "model.nnc")
            there, encoding = _way("nncjit:compress", compress, source, stream, threads, keywords)
        back, _ = _way("nncjit:decompress", decompress, stream, folder / "back.safetensors", threads, {})
        found = inspect(stream)
        tensors = _tensors(stream, found, encoding)
    by_size = sorted(tensors, key=lambda row: (-row.bytes, row.name))
    kinds = _kinds(found)
    return Profile(name, there, back, kinds, found.original_bytes, tuple(by_size))


def _way(
    public: str,
    work: Callable[..., Any],
    source: str | PathLike[str],
    target: str | Path,
    threads: int | None,
    keywords: Mapping[str, Any],
) -> tuple[Way, Recorder]:
    """The passes: memory (which also compiles), time with one thread, time with all, peak in a separate process."""

    def run(threads: int | None) -> _Pass:
        wall, cpu = time.perf_counter(), time.process_time()
        report = work(source, target, threads=threads, **keywords)
        return _Pass(time.perf_counter() - wall, time.process_time() - cpu, report.threads)

    with recording(memory=True) as memory:
        run(1)
    timed: list[tuple[_Pass, Recorder]] = []
    for _ in range(REPEATS):
        with recording() as recorder:
            timed.append((run(1), recorder))
    best, recorder = min(timed, key=lambda pair: pair[0].cpu_seconds)
    at_work = run(threads).threads
    together = [run(threads) for _ in range(REPEATS)] if at_work > 1 else [best]
    child = in_child(public, source, target, threads=threads, **keywords)
    way = Way(
        stages=_stages(recorder, memory, best),
        seconds=best.seconds,
        cpu_seconds=best.cpu_seconds,
        threads=at_work,
        seconds_with_threads=min(run.seconds for run in together),
        peak_bytes=child.peak_bytes,
        idle_bytes=child.idle_bytes,
    )
    return way, recorder


class _Pass(NamedTuple):
    """One run of the work."""

    seconds: float
    cpu_seconds: float
    threads: int


def _stages(timed: Recorder, memory: Recorder, whole: _Pass) -> tuple[StageRow, ...]:
    sums = _by_stage(timed)
    peaks = _by_stage(memory)
    rows = [
        StageRow(name, cost.seconds, cost.cpu_seconds, cost.calls, peaks.get(name, Cost()).peak)
        for name, cost in sums.items()
    ]
    left = max(whole.seconds - sum(row.seconds for row in rows), 0.0)
    cpu_left = max(whole.cpu_seconds - sum(row.cpu_seconds for row in rows), 0.0)
    rows.append(StageRow(REST, left, cpu_left, 1, 0))
    return tuple(sorted(rows, key=lambda row: -row.cpu_seconds))


def _by_stage(recorder: Recorder) -> dict[str, Cost]:
    sums: dict[str, Cost] = {}
    for (name, _), cost in recorder.costs.items():
        sums.setdefault(name, Cost()).add(cost)
    return sums


def _tensors(stream: str, found: Inspection, encoding: Recorder) -> list[TensorRow]:
    spent: dict[str, float] = {}
    for (_, tensor), cost in encoding.costs.items():
        spent[tensor] = spent.get(tensor, 0.0) + cost.cpu_seconds
    rows = []
    inside = 0  # bytes of units that so far have named only parts of a block
    with open_stream(stream, threads=1) as file:
        own = set(file.keys())
        for row in found.tensors:
            name = row.name if row.name in own else row.name.removesuffix("_H")  # two factors make one tensor
            if name not in own:
                inside += row.bytes
                continue
            shape, n_bytes, seconds = row.shape, 0, 0.0
            if row.tied_to is None:
                started = time.process_time()
                values = file.get_tensor(name)
                seconds = time.process_time() - started
                shape, n_bytes = values.shape, values.nbytes
            mine = spent.get(name, 0.0)
            rows.append(TensorRow(name, shape, math.prod(shape), n_bytes, row.bytes + inside, mine, seconds))
            inside = 0
    return rows


def _kinds(found: Inspection) -> dict[str, int]:
    """Bytes of the stream by what they are for."""
    units = [unit for unit in found.units if unit["type"] == "NDU"]
    payload = sum(int(unit["payload_size"]) for unit in units)
    headers = sum(int(unit["size"]) for unit in units) - payload
    return {"payloads": payload, "headers of units": headers, "the rest": found.bytes - payload - headers}
