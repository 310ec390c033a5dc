"""Streams to model files of any known format, tensor by tensor."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from nncjit import formats
from nncjit.bits import as_source
from nncjit.convert.dequantized_onnx import Form, check_form, dequantized
from nncjit.convert.encoded_nnef import decompress_nnef, is_nnef
from nncjit.convert.encoded_onnx import decompress_onnx, is_encoded
from nncjit.convert.hf_restoring import decompress_folder, is_encoded_folder
from nncjit.convert.job import Job
from nncjit.convert.model_folders import into_folder
from nncjit.convert.sharded_decompression import decompress_sharded
from nncjit.decoder.concurrent_decoder import ConcurrentDecoder
from nncjit.decoder.disk_budget import check_disk
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Array
from nncjit.errors import NncWarning, OptionError
from nncjit.formats import Writer
from nncjit.formats.folder_model import is_folder
from nncjit.jit import threads as thread_counts
from nncjit.model import TensorInfo
from nncjit.option_values import Bytes, Word, check_flags, optional
from nncjit.progress import Progress, reporting
from nncjit.stages import stage, staged
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.pruning_masks import Rebuilder
from nncjit.stream.reports import DecompressReport, TensorReport, decoded_row, source_name, with_tied_rows
from nncjit.stream.stream_index import is_index
from nncjit.tasks import check_executor

AnyPath = str | PathLike[str]


def decompress(
    source: Any,
    target: AnyPath,
    *,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    full_size: bool = False,
    progress: Progress | bool | None = None,
    executor: Executor | None = None,
    resume: bool = True,
    shard_size: int | str | None = None,
    form: str | None = None,
) -> DecompressReport:
    """Decompress an NNC file to a model file, the files of an index to a sharded model, or a folder to a folder.

    Parameters
    ----------
    source : path, bytes-like or binary file
        The NNC file; or the path of the index of several (``.nnc.index.json``), for a target that ends with
        ``.safetensors.index.json``. What is done is then kept in a journal: the same call goes on where it was ended.
    target : path
        A file of any known format, chosen by its suffix; an old one is replaced only when the new one is complete. For
        a folder, a folder: the model is ``model.safetensors`` in it, and the files that are no models are copied.
    threads : int, optional
        Threads at work; default: all cores that the process may use.
    max_bytes : int or str, optional
        Most bytes that all tensors together may take in the file, tied ones included (only a few are in memory at a
        time). Default: for each tensor, as in `decode`; on disk, what the stream earns, and 256 MiB (for long streams
        1024 times their size) of what it does not, such as constants, ties, and zeros for pruned channels.
    full_size : bool
        Give pruned tensors the size they had before, with zeros where something was removed. Models with encoded
        tensors inside have no pruned ones.
    progress : callable or bool, optional
        As in `compress`.
    executor : Executor, optional
        For the files of an index, as in `compress`. `max_bytes` is then for each of them.
    resume : bool
        Whether to go on where an earlier call was ended, for the files of an index.
    shard_size : int or str, optional
        Most bytes of one file of a sharded model, for example "2GB", where one stream becomes several files. For any
        other target an `NncWarning` says that it is not used.
    form : str, optional
        "qdq", for ONNX files: matrices and kernels that the stream holds as levels and one step (or one for each row)
        become int8 or int16 with a DequantizeLinear node. An `NncWarning` tells which others stay floats, and why.

    Returns
    -------
    DecompressReport
        Sizes, times and a row for each tensor.

    Raises
    ------
    BitstreamError
        The stream is damaged or cut off; the target is left as it was.
    OptionError
        The target has an unknown suffix, or an argument is wrong; the form is not for this source, target or network.
    ModelError
        The source cannot be read, or the target not be written.
    """
    started = time.perf_counter()
    check_flags(full_size=full_size, resume=resume)
    check_executor(executor)
    size = optional("shard_size", Bytes(least=1), shard_size)
    if optional("form", Word("qdq"), form):
        check_form(source, target)
    from_inside = _from_inside(source)
    if from_inside is not None:
        _refuse(executor)
        _refuse_inside(source, full_size=full_size or None, form=form)
        with reporting(progress, "decompress") as told:
            return from_inside(source, target, threads=threads, max_bytes=max_bytes, shard_size=size, told=told)
    if is_folder(source):
        with into_folder(source, target, decoded=True, in_shards=size is not None) as (inner, made):
            report = decompress(
                inner,
                made,
                threads=threads,
                max_bytes=max_bytes,
                full_size=full_size,
                progress=progress,
                executor=executor,
                resume=resume,
                shard_size=shard_size,
            )
        return replace(report, source=source_name(source), target=source_name(target))
    if is_index(source):
        with reporting(progress, "decompress") as told:
            job = Job(executor, None, resume, None, threads, told)
            allowed = optional("max_bytes", Bytes(), max_bytes)
            if executor is None and _is_one_file(target, shard_size=size, full_size=full_size):
                from nncjit.convert.merged_decompression import decompress_merged

                return decompress_merged(source, target, threads=threads, max_bytes=allowed, told=told)
            if size is not None:
                said = "shard_size is not used: each stream of an index becomes a file of its own"
                warnings.warn(f"{source}: {said}", NncWarning, stacklevel=2)
            return decompress_sharded(source, target, job, max_bytes=allowed, full_size=full_size)
    _refuse(executor)
    with ExitStack() as stack:
        stream = stack.enter_context(as_source(source))
        told = stack.enter_context(reporting(progress, "decompress"))
        reader, budget = StreamReader(stream), MemoryBudget(max_bytes, stream.size, kept=False)
        allowed = budget.left
        decoder = stack.enter_context(ConcurrentDecoder(budget, threads))
        with stage("parse"):  # what weights become in another form is to be known before anything is decoded for it
            units = list(reader.data_units()) if form else decoder.begin(reader.data_units())
        reader.warn_of_update(source_name(source))
        rebuilder = reader.rebuilder(full_size, allowed)
        infos = tensor_infos(units, reader, rebuilder)
        metadata = reader.model_metadata.metadata
        check_disk(units, infos, metadata, stream.size, budget.max_bytes)
        total, done = sum(info.size for info in infos if info.same_as is None), 0
        rows: dict[str, TensorReport] = {}
        wanted = Form(infos, reader.graphs(), units)
        if form:
            levels_budget = MemoryBudget(max_bytes, stream.size, kept=False)
            wanted = stack.enter_context(dequantized(wanted, target, levels_budget, threads))
            decoder.begin(wanted.units)
        with formats.create(target, wanted.infos, metadata, graphs=wanted.graphs, shard_size=size) as writer:
            pieces = writer.takes_pieces and not full_size
            for item in wanted.decoded(decoder, pieces=pieces):
                name = item.part.name
                _put(writer, wanted.names.get(name, name), rebuilder.rebuild(name, item.storage), item.start)
                if name not in rows:
                    rows[name] = decoded_row(item.part, item.opened)
                done += item.storage.size
                if told is not None:
                    told(done, total, name)
                del item  # or the next one would be decoded beside it
        tensors = with_tied_rows(rows, reader)
        return DecompressReport(
            source=source_name(source),
            target=source_name(target),
            original_bytes=sum(row.original_bytes for row in tensors),
            compressed_bytes=stream.size,
            seconds=time.perf_counter() - started,
            threads=thread_counts.count(threads),
            tensors=tensors,
        )


def _from_inside(source: Any) -> Callable[..., DecompressReport] | None:
    """What decodes the tensors inside a model file or folder; None for a source that is no such model."""
    if is_encoded_folder(source):
        return decompress_folder
    if is_nnef(source):
        return decompress_nnef
    return decompress_onnx if is_encoded(source) and not is_folder(source) else None


def _refuse(executor: Executor | None) -> None:
    """For a source that is not in several files."""
    if executor is not None:
        raise OptionError("an executor decodes the files of an index: the source's name ends with .nnc.index.json")


def _refuse_inside(source: Any, **arguments: Any) -> None:
    """Refuse arguments that a model with streams inside has no use for."""
    for name, value in arguments.items():
        if value is not None:
            raise OptionError(f"{source_name(source)}: holds streams inside: {name} cannot be used")


def _is_one_file(target: Any, *, shard_size: int | None, full_size: bool) -> bool:
    """Whether several streams shall become one file of a known format."""
    several = shard_size is not None or full_size or not isinstance(target, str | PathLike)
    return not several and formats.is_known(target) and not fspath(target).lower().endswith(".index.json")


def tensor_infos(units: list[DataUnit], reader: StreamReader, rebuilder: Rebuilder) -> list[TensorInfo]:
    """All tensors of a stream in the order of the model, from its metadata unit and its headers."""
    shards, tied = reader.model_metadata.shards, reader.model_metadata.tied
    found = {part.name: part for opened in units for part in opened.results()}
    return [
        TensorInfo(name, rebuilder.shape(part.name, part.shape), part.dtype, tied.get(name), shards.get(name))
        for name, part in reader.with_ties(found).items()
    ]


@staged("write")
def _put(writer: Writer, name: str, storage: Array, start: int | None) -> None:
    if start is None:
        writer.put(name, storage)
    else:
        writer.put_piece(name, storage, start)
