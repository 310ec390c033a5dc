"""Is a stream whole? Everything is decoded, everything that can be checked is."""

from __future__ import annotations

import time
import zlib
from typing import Any

from nncjit.bits import Source, as_source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import decode_units
from nncjit.errors import BitstreamError
from nncjit.jit import threads as thread_counts
from nncjit.progress import Progress, reporting
from nncjit.stream.data_units import StreamReader
from nncjit.stream.reports import DecompressReport, TensorReport, decoded_row, source_name, with_tied_rows

_CHUNK = 1 << 24


def verify(
    source: Any,
    *,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    progress: Progress | bool | None = None,
) -> DecompressReport:
    """Check a stream: its checksum, all headers, and every payload by decoding it.

    Parameters
    ----------
    source : path, bytes-like or binary file
        The stream. One of another writer has no checksum; the rest is checked all the same.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    max_bytes : int or str, optional
        Most memory that all tensors together may take (they are not kept). Default: for each tensor, as in `decode`.
    progress : callable or bool, optional
        As in `compress`.

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
    with as_source(source) as stream, reporting(progress, "verify") as told:
        reader = StreamReader(stream)
        units = list(reader.data_units())
        if reader.crc32 is not None:
            check_crc32(stream, *reader.crc32)
        rows: dict[str, TensorReport] = {}
        done, total = 0, sum(opened.weights for opened in units)
        for item in decode_units(units, MemoryBudget(max_bytes, stream.size, kept=False), threads=threads):
            rows[item.part.name] = decoded_row(item.part, item.opened)
            done += item.storage.size
            if told is not None:
                told(done, max(done, total), item.part.name)
        tensors = with_tied_rows(rows, reader)
        return DecompressReport(
            source=source_name(source),
            target="",
            original_bytes=sum(row.original_bytes for row in tensors),
            compressed_bytes=stream.size,
            seconds=time.perf_counter() - started,
            threads=thread_counts.count(threads),
            tensors=tensors,
            checksum=reader.crc32 is not None,
        )


def check_crc32(stream: Source, expected: int, stop: int) -> None:
    """Refuse a stream whose bytes before `stop` have another checksum.

    Raises
    ------
    BitstreamError
    """
    crc32 = 0
    for start in range(0, stop, _CHUNK):
        crc32 = zlib.crc32(stream.read(start, min(start + _CHUNK, stop)), crc32)
    if crc32 != expected:
        reason = f"the checksum of the bytes before it is {crc32:08x}, it says {expected:08x}: the file was changed"
        raise BitstreamError(reason, bit=8 * stop, path="checksum")
