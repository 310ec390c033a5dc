"""Several streams back to a model in one file, tensor by tensor."""

from __future__ import annotations

import time
from os import fspath

from nncjit import formats
from nncjit.convert.stream_model import open_any
from nncjit.decoder.inspection import inspect
from nncjit.jit import threads as thread_counts
from nncjit.progress import Progress
from nncjit.stream.reports import DecompressReport, TensorReport
from nncjit.stream.stream_index import AnyPath

__all__ = ["decompress_merged"]


def decompress_merged(
    source: AnyPath, target: AnyPath, *, threads: int | None, max_bytes: int | None, told: Progress | None
) -> DecompressReport:
    """Decompress the streams of an index to one file of any format; see `decompress`."""
    started = time.perf_counter()
    found = inspect(source)
    with open_any(source, threads=threads, max_bytes=max_bytes) as model:
        infos = [model[row.name].info for row in found.tensors]
        done, total = 0, sum(info.size for info in infos if info.same_as is None)
        with formats.create(target, infos, model.metadata, graphs=model.graphs) as writer:
            for info in infos:
                if info.same_as is None:
                    writer.put(info.name, model[info.name].read())
                    done += info.size
                    if told is not None:
                        told(done, total, info.name)
    rows = tuple(
        TensorReport(row.name, row.shape, row.dtype, ", ".join(row.tools), None, row.bytes, info.nbytes)
        for row, info in zip(found.tensors, infos, strict=True)
    )
    return DecompressReport(
        source=fspath(source),
        target=fspath(target),
        original_bytes=sum(row.original_bytes for row in rows),
        compressed_bytes=found.bytes,
        seconds=time.perf_counter() - started,
        threads=thread_counts.count(threads),
        tensors=rows,
    )
