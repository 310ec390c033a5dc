"""NNEF models whose .dat files hold NNC streams: a folder NAME.nnc.nnef, or an archive NAME.nnc.nnef.tgz.

The container stays one of NNEF: graph.nnef and graph.quant are as they were, and each variable has its .dat file. In
the place of values, the file has a stream; its header keeps type, shape and quantisation, and a vendor code of this
project says what follows (see `nnef_headers`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np

from nncjit import formats
from nncjit.convert.hf_layout import new_folder
from nncjit.convert.tensor_streams import check_fits, decode_as, described, encoded_apart, in_turn, named_as_container
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.errors import BitstreamError, ModelError, OptionError
from nncjit.formats.folder_model import is_folder
from nncjit.formats.nnef_headers import (
    encoded_header,
    headers_in,
    is_encoded_header,
    is_typed,
    kept_headers,
    plain_header,
    usual_header,
)
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.progress import Progress
from nncjit.stream.reports import CompressReport, DecompressReport, TensorReport

__all__ = ["compress_nnef", "decompress_nnef", "is_encoded_nnef", "is_nnef"]

SUFFIXES = (".nnef", ".nnef.tgz", ".nnef.tar.gz", ".nnef.tar")
"""Of NNEF models; those with encoded tensors have .nnc in front."""
FOLDER = ".nnef"
GRAPH = "graph.nnef"
WORTH_CODING = 256
"""Bytes below which a tensor stays as it is."""


def is_nnef(path: Any) -> bool:
    """Whether the name is that of an NNEF model."""
    return named_as_container(path, SUFFIXES)


def is_encoded_nnef(path: Any) -> bool:
    """Whether the name is that of an NNEF model with encoded tensors."""
    return named_as_container(path, tuple(f".nnc{suffix}" for suffix in SUFFIXES))


def compress_nnef(source: Any, target: Any, options: Options, execution: Execution) -> CompressReport:
    """Encode the tensors of an NNEF model inside its .dat files.

    Tensors of fewer than 256 bytes, values of a vendor's types, and what ``only`` or a rule that says ``raw`` leaves
    out stay as they were; so does a tensor whose stream would not be smaller.

    Raises
    ------
    OptionError
        An option puts several tensors into one unit.
    ModelError
        The source is no NNEF model, or encoded already; the target exists, or cannot be written.
    """
    started = time.perf_counter()
    path = _graph_in(source)
    with formats.open_model(path) as model, _placed(target) as place:
        headers = _headers_of(model)
        encoded_already = [name for name, header in headers.items() if is_encoded_header(header)]
        if encoded_already:
            raise ModelError(f"{source}: variable {encoded_already[0]}: is an NNC stream already")
        options.warn_where_none_is_coded(model.names)
        coded = _to_code(model, headers, options)
        with encoded_apart(coded, options, execution, Path(target).resolve().parent) as streams:
            sizes = {t.name: streams.size(t.name) for t in coded if streams.size(t.name) < t.nbytes}
            headers |= {name: encoded_header(headers[name], size) for name, size in sizes.items()}
            infos = [TensorInfo(t.name, (sizes[t.name],), "uint8") if t.name in sizes else t.info for t in model]
            metadata = model.metadata | kept_headers(headers)
            with formats.create(place, infos, metadata, graphs=model.graphs) as writer:
                for tensor in model:
                    name = tensor.name
                    inside = np.frombuffer(streams.read(name), np.uint8) if name in sizes else tensor.read()
                    writer.put(name, inside)
        return streams.report((source, target), model, _bytes_of(place), started, sizes)


def decompress_nnef(
    source: Any,
    target: Any,
    *,
    threads: int | None = None,
    max_bytes: Any = None,
    shard_size: int | None = None,
    told: Progress | None = None,
) -> DecompressReport:
    """Decode the tensors inside the .dat files of an NNEF model.

    Arguments are those of `decompress`. A target with the suffix of no format is a folder to make, with graph.nnef in
    it.

    Raises
    ------
    OptionError
        The target's name is that of a model with encoded tensors.
    ModelError
        The model is an ordinary one; a stream is damaged or does not fit its header; a file cannot be read or written.
    """
    started = time.perf_counter()
    if is_encoded_nnef(target):
        raise OptionError(f"{target}: a decoded model has no .nnc in its name")
    path = _graph_in(source)
    with formats.open_model(path) as model:
        headers = _headers_of(model)
        compressed = sum(tensor.nbytes for tensor in model)
        streams = {tensor.name for tensor in model if is_encoded_header(headers[tensor.name])}
        if not streams and not is_encoded_nnef(source):
            raise ModelError(f"{source}: no variable of it is an NNC stream")
        budget = MemoryBudget(max_bytes, compressed, kept=False)
        infos = [_decoded_info(t, headers, budget) if t.name in streams else t.info for t in model]
        metadata, rows = model.metadata | kept_headers(headers), []
        with (
            _placed(target) as place,
            formats.create(place, infos, metadata, graphs=model.graphs, shard_size=shard_size) as writer,
        ):
            for tensor, info in in_turn(model, infos, told):
                if tensor.name not in streams:
                    writer.put(tensor.name, tensor.read())
                    continue
                data = tensor.read().tobytes()
                writer.put(tensor.name, decode_as(data, info, threads=threads, max_bytes=max_bytes))
                rows.append(TensorReport(info.name, info.shape, info.dtype, "", None, len(data), info.nbytes))
        return DecompressReport(
            source=fspath(source),
            target=fspath(target),
            original_bytes=sum(info.nbytes for info in infos),
            compressed_bytes=compressed,
            seconds=time.perf_counter() - started,
            threads=threads or 1,
            tensors=tuple(rows),
        )


def _graph_in(source: Any) -> Any:
    """The file to open: graph.nnef of a folder, or the archive."""
    path = Path(source) / GRAPH if is_folder(source) else source
    if not is_nnef(path) or (is_folder(source) and not Path(path).is_file()):
        raise ModelError(f"{source}: is no NNEF model: a folder with {GRAPH}, that file, or an archive of it")
    return path


@contextmanager
def _placed(target: Any) -> Iterator[Path]:
    """The file to write: graph.nnef in a new folder, or the target."""
    name = fspath(target).lower()
    if formats.is_known(target) and not (is_encoded_nnef(target) and name.endswith(FOLDER)):
        yield Path(target)
        return
    with new_folder(Path(target)) as folder:
        yield folder / GRAPH


def _headers_of(model: Model) -> dict[str, bytes]:
    kept = headers_in(model.metadata)
    return {t.name: kept.get(t.name) or usual_header(t.dtype, t.shape) for t in model}


def _to_code(model: Model, headers: dict[str, bytes], options: Options) -> list[Tensor]:
    choices = options.choices(model.names)  # a rule that holds for none is refused
    by_default = options.quantising.quantizer
    return [
        tensor
        for tensor in model
        if is_typed(headers[tensor.name])
        and tensor.nbytes >= WORTH_CODING
        and options.codes(tensor.name)
        and (choices[tensor.name].quantising.quantizer != "raw" or by_default == "raw")
    ]


def _decoded_info(tensor: Tensor, headers: dict[str, bytes], budget: MemoryBudget) -> TensorInfo:
    """What the tensor is when it is decoded; its header is from then on what it was before."""
    try:
        plain = plain_header(headers[tensor.name])
        shape, dtype = described(tensor.read().tobytes(), tensor.name, budget)
    except (BitstreamError, ModelError) as error:
        said = str(error).removeprefix(f"{tensor.name}: ")
        raise ModelError(f"variable {tensor.name}: {said}") from None
    info = TensorInfo(tensor.name, plain.shape, plain.dtype)
    check_fits(info, dtype, shape)
    headers[tensor.name] = plain.data
    return info


def _bytes_of(place: Any) -> int:
    """Bytes of an archive, or of the files in the folder of a graph."""
    path = Path(place)
    if path.name.lower().endswith(FOLDER):
        return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    return path.stat().st_size
