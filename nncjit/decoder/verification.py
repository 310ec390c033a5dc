"""Is a stream whole? Everything is decoded, everything that can be checked is."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import replace
from os import fspath
from pathlib import Path
from typing import Any

from nncjit.bits import Source, as_source
from nncjit.decoder.checksums import crc32_of
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import decode_units
from nncjit.errors import BitstreamError, ModelError, OptionError
from nncjit.formats.folder_model import read_from
from nncjit.jit import threads as thread_counts
from nncjit.progress import Progress, reporting
from nncjit.stream.data_units import StreamReader
from nncjit.stream.reports import DecompressReport, TensorReport, decoded_row, source_name, with_tied_rows
from nncjit.stream.stream_index import AnyPath, is_index, read_index, streams_of
from nncjit.tasks import check_executor, path_for_tasks, run_tasks


def verify(
    source: Any,
    *,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
) -> DecompressReport:
    """Check a stream: its checksum, all headers, and every payload by decoding it.

    Parameters
    ----------
    source : path, bytes-like or binary file
        The stream, or the path of the index of several (``.nnc.index.json``). One of another writer has no checksum;
        the rest is checked all the same.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    max_bytes : int or str, optional
        Most memory that all tensors together may take (they are not kept). Default: for each tensor, as in `decode`.
    progress : callable or bool, optional
        As in `compress`.
    executor : Executor, optional
        For the streams of an index, as in `compress`.

    Returns
    -------
    DecompressReport
        Sizes, time and a row for each tensor.

    Raises
    ------
    BitstreamError
        What is wrong, at which bit, in which element.
    ModelError
        The file does not exist or cannot be read.
    """
    started = time.perf_counter()
    check_executor(executor)
    name, source = source_name(source), read_from(source, decoded=True)
    if is_index(source):
        with reporting(progress, "verify") as told:
            found = _verify_all(source, executor, (threads, max_bytes), told, started)
            return replace(found, source=name)
    if executor is not None:
        raise OptionError("an executor verifies the files of an index: the source's name ends with .nnc.index.json")
    with as_source(source) as stream, reporting(progress, "verify") as told:
        reader = StreamReader(stream)
        units = list(reader.data_units())
        if reader.crc32 is not None:
            check_crc32(stream, *reader.crc32, threads)
        rows: dict[str, TensorReport] = {}
        done, total = 0, sum(opened.weights for opened in units)
        for item in decode_units(units, MemoryBudget(max_bytes, stream.size, kept=False), threads=threads):
            rows[item.part.name] = decoded_row(item.part, item.opened)
            done += item.storage.size
            if told is not None:
                told(done, max(done, total), item.part.name)
        tensors = with_tied_rows(rows, reader)
        return DecompressReport(
            source=name,
            target="",
            original_bytes=sum(row.original_bytes for row in tensors),
            compressed_bytes=stream.size,
            seconds=time.perf_counter() - started,
            threads=thread_counts.count(threads),
            tensors=tensors,
            checksum=reader.crc32 is not None,
        )


def _verify_all(
    source: AnyPath,
    executor: Executor | None,
    limits: tuple[int | None, int | str | None],
    told: Progress | None,
    started: float,
) -> DecompressReport:
    """Check the streams of an index, each in a task of its own, and that they hold what the index says."""
    weight_map: dict[str, str] = read_index(source)["weight_map"]
    reports: dict[str, DecompressReport] = {}
    streams = streams_of(source)

    def take(task: tuple[str, int | None, int | str | None], report: DecompressReport) -> None:
        reports[Path(task[0]).name] = report
        if told is not None:
            told(len(reports), len(streams), Path(task[0]).name)

    threads = 1 if limits[0] is None and executor is not None else limits[0]
    run_tasks(executor, _verify_one, [(path_for_tasks(stream), threads, limits[1]) for stream in streams], take)
    rows = {name: {row.name: row for row in report.tensors} for name, report in reports.items()}
    for name, stream in weight_map.items():
        if name not in rows[stream]:
            raise ModelError(f"{fspath(source)}: {name!r} is not in {stream}, where the index has it")
    tensors = tuple(rows[stream][name] for name, stream in weight_map.items())
    return DecompressReport(
        source=fspath(source),
        target="",
        original_bytes=sum(row.original_bytes for row in tensors),
        compressed_bytes=sum(report.compressed_bytes for report in reports.values()),
        seconds=time.perf_counter() - started,
        threads=thread_counts.count(limits[0]),
        tensors=tensors,
        checksum=all(report.checksum for report in reports.values()),
    )


def _verify_one(task: tuple[str, int | None, int | str | None]) -> DecompressReport:
    path, threads, max_bytes = task
    try:
        return verify(path, threads=threads, max_bytes=max_bytes)
    except BitstreamError as error:
        raise error.at(path=Path(path).name) from None


def check_crc32(stream: Source, expected: int, stop: int, threads: int | None = None) -> None:
    """Refuse a stream whose bytes before `stop` have another checksum; threads share the work.

    Raises
    ------
    BitstreamError
    """
    crc32 = crc32_of(stream, stop, threads)
    if crc32 != expected:
        reason = f"the checksum of the bytes before it is {crc32:08x}, it says {expected:08x}: the file was changed"
        raise BitstreamError(reason, bit=8 * stop, path="checksum")
