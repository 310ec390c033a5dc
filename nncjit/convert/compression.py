"""Model files of any known format to streams, tensor by tensor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

from nncjit import formats
from nncjit.calibrate import Statistics
from nncjit.convert.encoded_nnef import compress_nnef, is_encoded_nnef
from nncjit.convert.encoded_onnx import compress_onnx, is_encoded
from nncjit.convert.job import Job
from nncjit.convert.model_folders import into_folder
from nncjit.convert.sensitivity_file import opened_sensitivity
from nncjit.convert.sharded_compression import compress_sharded
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.model_encoder import encode_model, estimate_model
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.encoder.weight_statistics import WEIGHTS, statistics_of
from nncjit.errors import ModelError, OptionError
from nncjit.files import atomic_write
from nncjit.formats.folder_model import is_folder
from nncjit.model import Model
from nncjit.option_values import Bytes, Texts, check_flags, optional
from nncjit.progress import Progress, reporting
from nncjit.remote import is_url, uploaded
from nncjit.stream.reports import CompressReport, source_name
from nncjit.stream.stream_index import is_index
from nncjit.tasks import check_executor

if TYPE_CHECKING:
    from nncjit.reduce import Pruning

AnyPath = str | PathLike[str]

IN_MEMORY = 1 << 24
"""Bytes of a stream for a file object that wait in memory before they go to a temporary file."""


@explains_options
def compress(
    source: AnyPath | Mapping[str, Any] | Any,
    target: AnyPath | BinaryIO,
    options: Options | None = None,
    *,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    dry_run: bool = False,
    metadata: Mapping[str, str] | None = None,
    sensitivity: Mapping[str, Any] | AnyPath | None = None,
    pruning: Pruning | None = None,
    calibration: Statistics | AnyPath | None = None,
    executor: Executor | None = None,
    shard_bytes: int | str | None = None,
    resume: bool = True,
    plan: AnyPath | None = None,
    **keywords: Unpack[OptionKeywords],
) -> CompressReport:
    """Compress a model to an NNC file, or to several with an index; a folder to a folder.

    An ONNX file can also keep its graph and have its tensors encoded inside: the target then ends with ``.nnc.onnx``.
    So can an NNEF model: ``.nnc.nnef`` is a folder to make, ``.nnc.nnef.tgz`` (``.tar``, ``.tar.gz``) an archive.

    A target that ends with ``.nnc.index.json``, or one of `executor`, `shard_bytes` and `plan`, asks for several files:
    ``m-00001-of-00003.nnc`` and so on, and the index ``m.nnc.index.json``, which is written last. Each is encoded by a
    task of its own, and what is done is kept in ``m.nnc.journal``: the same call goes on where it was ended, and
    encodes anew only the files whose tensors, options or source have changed. Bytes never depend on the executor.

    Parameters
    ----------
    source : path, mapping of str to array_like, or module
        A safetensors file, a safetensors index of several, an npz archive, a PyTorch checkpoint, an ONNX or a GGUF
        file; a folder with such a file, as Hugging Face has it; or a model in memory, as `encode` takes it.
        A path may be a URL that fsspec knows: of safetensors files, ranges of bytes are read; others are copied first.
    target : path or binary file
        The NNC file to write; an old one is replaced only when the new one is complete. An object with ``write`` gets
        the whole stream at the end. For a folder, a folder: the model is ``model.nnc`` in it, and the files that are
        no models are copied.
    options : Options, optional
        What the encoder may choose.
    threads : int, optional
        Threads at work; default: all cores that the process may use. The file does not depend on it.
    progress : callable or bool, optional
        Called with (weights done, weights in all, tensor name) after each tensor, before that with ``"samples"`` and
        ``"search"`` in place of a name while steps for a target are looked for. True: show a bar.
    dry_run : bool
        Write nothing: estimate the sizes from samples.
    metadata : mapping of str to str, optional
        Text about the model that is stored with it, added to what the source has.
    sensitivity : mapping of str to array_like or path, optional
        Importance of a weight is its magnitude times this, by tensor; for example mean squared gradients. For several
        files it is the path of a model file with these values, which all workers must see.
    pruning : Pruning, optional
        Channels to remove (`nncjit.reduce.plan_pruning`); not for several files.
    calibration : Statistics, path or "weights", optional
        Which errors of the weights the output feels (`nncjit.calibrate`): the steps and levels then follow that. For
        several files it is a path, which all workers must see. ``"weights"``: the weights themselves give an idea.
    executor : Executor, optional
        Whatever has the `submit` of `concurrent.futures.Executor`, also one of Dask or MPI: each file is a task. The
        source and the target's folder must be seen by all workers. A task has one thread unless `threads` says more.
    shard_bytes : int or str, optional
        Bytes of the original tensors in one file, for example "2GB". Default: 5 GB.
    resume : bool
        Whether to go on where an earlier call was ended, rather than to encode all files anew.
    plan : path, optional
        A JSON file with what is decided before encoding: tensors of each file, options, steps. It is written where it
        does not exist, and followed where it does.
    **keywords
        Single options; they come before those of `options`.

    Returns
    -------
    CompressReport
        Sizes, times and a row for each tensor.

    Raises
    ------
    OptionError
        An option is wrong, or the source has an unknown suffix.
    ModelError
        The source cannot be read, or the target not be written.
    """
    chosen = Options.of(options, keywords)
    check_flags(dry_run=dry_run, resume=resume)
    if is_folder(source) and not is_encoded_nnef(target):
        with into_folder(source, target, writes=not dry_run) as (inner, made):
            report = compress(
                inner,
                made,
                chosen,
                threads=threads,
                progress=progress,
                dry_run=dry_run,
                metadata=metadata,
                sensitivity=sensitivity,
                pruning=pruning,
                calibration=calibration,
                executor=executor,
                shard_bytes=shard_bytes,
                resume=resume,
                plan=plan,
            )
        return replace(report, source=source_name(source), target=source_name(target))
    compress_inside = compress_onnx if is_encoded(target) else compress_nnef if is_encoded_nnef(target) else None
    if compress_inside is not None:
        if not isinstance(source, str | PathLike):
            raise OptionError(f"{target}: is made of a model file, not of a {type(source).__name__}")
        if dry_run or any(
            x is not None for x in (metadata, sensitivity, pruning, calibration, executor, shard_bytes, plan)
        ):
            raise OptionError(f"{target}: a file with encoded tensors inside is made with options alone")
        with reporting(progress, "compress") as told:
            return compress_inside(source, target, chosen, Execution(threads=threads, progress=told))
    if is_index(target) or any(argument is not None for argument in (executor, shard_bytes, plan)):
        check_executor(executor)
        paths = _two_paths(source, target, pruning=pruning)
        texts = optional("metadata", Texts(), metadata) or {}
        with reporting(progress, "compress") as told:
            n_bytes = optional("shard_bytes", Bytes(least=1), shard_bytes)
            followed = None if plan is None else Path(plan)
            guess = calibration if isinstance(calibration, str) and calibration == WEIGHTS else None
            statistics_path = guess or _path_of(calibration, "several files are calibrated by a file of statistics")
            sensitivity_path = _path_of(sensitivity, "the sensitivity of several files is in a file")
            job = Job(executor, n_bytes, resume, followed, threads, told, texts, statistics_path, sensitivity_path)
            return compress_sharded(*paths, chosen, job, dry_run=dry_run)
    with (
        _opened(source, metadata) as model,
        statistics_of(calibration, model) as statistics,
        opened_sensitivity(sensitivity) as importances,
        reporting(progress, "compress") as told,
    ):
        execution = Execution(threads=threads, progress=told)
        data = Data(sensitivity=importances, pruning=pruning, calibration=statistics)
        original = sum(tensor.nbytes for tensor in model)
        if dry_run:
            encoded = estimate_model(model, chosen, execution, data)
        else:
            with _output(target) as file:
                encoded = encode_model(model, file, chosen, execution, data)
    return encoded.report(source_name(source), source_name(target), original, estimated=dry_run)


def _path_of(given: Any, said: str) -> Path | None:
    """A file that tasks open."""
    if given is not None and not isinstance(given, str | PathLike):
        raise OptionError(f"{said}: give its path")
    return None if given is None else Path(given)


def _two_paths(source: Any, target: Any, **not_given: Any) -> tuple[AnyPath, AnyPath]:
    """Source and target; refuses what several files cannot be made of."""
    if is_url(target):
        raise OptionError(f"{target}: several files are written on this machine, not to a URL")
    if not isinstance(source, str | PathLike) or not isinstance(target, str | PathLike):
        raise OptionError("several files are made of a file: give the paths of a model file and of a target")
    for name, value in not_given.items():
        if value is not None:
            raise OptionError(f"{name} cannot be given where a model becomes several files")
    if formats.is_known(target) and not is_index(target):
        raise OptionError(f"{target}: the target is an NNC file, its name ends like one of another format")
    return source, target


@contextmanager
def _opened(source: Any, metadata: Mapping[str, str] | None) -> Iterator[Model]:
    """The model behind a path, or in memory."""
    is_path = isinstance(source, str | PathLike)
    with formats.open_model(source) if is_path else Model.from_mapping(source) as model:
        model.metadata.update(optional("metadata", Texts(), metadata) or {})
        yield model


@contextmanager
def _output(target: Any) -> Iterator[BinaryIO]:
    """A file open for reading and writing whose bytes end up at `target`."""
    if isinstance(target, str | PathLike):
        if formats.is_known(target):
            raise OptionError(f"{target}: the target is an NNC file, its name ends like one of another format")
        with uploaded(target) if is_url(target) else nullcontext(target) as path, atomic_write(path) as file:
            yield file
        return
    if not hasattr(target, "write"):
        raise OptionError(f"the target is a {type(target).__name__}, must be a path or a binary file")
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as spooled:
        yield spooled  # type: ignore[misc] # all that is done with it, a spooled file can do
        spooled.seek(0)
        try:
            shutil.copyfileobj(spooled, target)
        except (TypeError, ValueError, OSError) as error:
            raise ModelError(f"the file object cannot be written: {error}") from error
