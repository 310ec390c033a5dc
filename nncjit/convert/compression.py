"""Model files of any known format to streams, tensor by tensor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

from nncjit import formats
from nncjit.calibrate import Statistics, opened
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.model_encoder import encode_model, estimate_model
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.errors import ModelError, OptionError
from nncjit.files import atomic_write
from nncjit.model import Model
from nncjit.option_values import Texts, check_flags, optional
from nncjit.progress import Progress, reporting
from nncjit.stream.reports import CompressReport, source_name

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
    sensitivity: Mapping[str, Any] | None = None,
    pruning: Pruning | None = None,
    calibration: Statistics | AnyPath | None = None,
    **keywords: Unpack[OptionKeywords],
) -> CompressReport:
    """Compress a model to an NNC file.

    Parameters
    ----------
    source : path, mapping of str to array_like, or module
        A safetensors file, a safetensors index of several, an npz archive or a PyTorch checkpoint; or a model in
        memory, as `encode` takes it.
    target : path or binary file
        The NNC file to write; an old one is replaced only when the new one is complete. An object with ``write`` gets
        the whole stream at the end.
    options : Options, optional
        What the encoder may choose.
    threads : int, optional
        Threads at work; default: all cores that the process may use. The file does not depend on it.
    progress : callable or bool, optional
        Called with (weights done, weights in all, tensor name) after each tensor. True: show a bar.
    dry_run : bool
        Write nothing: estimate the sizes from samples.
    metadata : mapping of str to str, optional
        Text about the model that is stored with it, added to what the source has.
    sensitivity : mapping of str to array_like, optional
        Importance of a weight is its magnitude times this, by tensor; for example mean squared gradients.
    pruning : Pruning, optional
        Channels to remove (`nncjit.reduce.plan_pruning`).
    calibration : Statistics or path, optional
        Which errors of the weights the output feels (`nncjit.calibrate`): the steps and levels then follow that.
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
    check_flags(dry_run=dry_run)
    with (
        _opened(source, metadata) as model,
        opened(calibration) as statistics,
        reporting(progress, "compress") as told,
    ):
        execution = Execution(threads=threads, progress=told)
        data = Data(sensitivity=sensitivity, pruning=pruning, calibration=statistics)
        original = sum(tensor.nbytes for tensor in model)
        if dry_run:
            encoded = estimate_model(model, chosen, execution, data)
        else:
            with _output(target) as file:
                encoded = encode_model(model, file, chosen, execution, data)
    return encoded.report(source_name(source), source_name(target), original, estimated=dry_run)


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
        with atomic_write(target) as file:
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
