"""Updates of models in files, tensor by tensor: what the verbs `update` and `apply` do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np

from nncjit import formats
from nncjit.decoder.inspection import bytes_of
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.files import atomic_write, resolved
from nncjit.formats.folder_model import is_folder
from nncjit.jit import threads as thread_counts
from nncjit.progress import Progress, reporting
from nncjit.remote import is_url, uploaded
from nncjit.stream.reports import CompressReport, DecompressReport, TensorReport
from nncjit.updates.chain_folder import ChainFolder
from nncjit.updates.chain_sides import Receiver, Sender
from nncjit.updates.chain_state import Array, ChainState, Parameter
from nncjit.updates.model_sources import AnyPath, listed, model_path, opened_model
from nncjit.updates.new_model import new_model
from nncjit.updates.update_decoder import opened_updates
from nncjit.updates.update_encoder import EncodedUpdate, encode_update
from nncjit.updates.update_options import UpdateKeywords, UpdateOptions


def update_files(
    base: AnyPath,
    new: AnyPath,
    target: AnyPath,
    options: Options | UpdateOptions | None = None,
    *,
    keep: AnyPath | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    **keywords: Unpack[UpdateKeywords],
) -> CompressReport:
    """Write the update that leads from one model file to another.

    Parameters
    ----------
    base : path
        What the receiver has: a model file of any known format, an NNC file, a folder with one of them, or the folder
        of a `Sender`, which then goes on to the new model.
    new : path
        A model file of any known format, an NNC file, or a folder with one of them.
    target : path
        The update; an old file is replaced only when the new one is complete.
    options : Options, optional
    keep : path, optional
        A new folder for a `Sender` that starts from `base` and has sent this update.
    threads, progress : optional
        As in `nncjit.update`.
    **keywords
        As for `nncjit.update`.

    Raises
    ------
    OptionError, ModelError
        As for `nncjit.update`, or a file cannot be read or written.
    """
    if formats.is_known(target):
        raise OptionError(f"{os.fspath(target)}: the target is an update, its name ends like a model's file")
    _check_target(target, (base, new))
    session: Sender | None = None
    if ChainFolder.is_at(base):
        if keep is not None:
            raise OptionError("keep is for a base that is a file: a session keeps itself")
        session = Sender.open(base, threads=threads)
    with ExitStack() as files:
        path = files.enter_context(uploaded(target)) if is_url(target) else target
        file = files.enter_context(atomic_write(path))
        if keep is not None:
            with opened_model(base) as model:
                session = Sender(model, options, folder=keep, threads=threads, **keywords)
            with _begun(session):
                done = session.update_into(file, new, progress=progress, ready=files.close)
        elif session is not None:
            changes: Any = keywords if options is None else UpdateOptions.of(options, keywords).keywords()
            done = session.update_into(file, new, progress=progress, ready=files.close, **changes)
        else:
            before, after = files.enter_context(opened_model(base)), files.enter_context(opened_model(new))
            told = files.enter_context(reporting(progress, "update"))
            chosen = UpdateOptions.of_one_update(options, keywords)
            done = encode_update(ChainState.of(before), after, file, chosen, Execution(threads=threads, progress=told))
    return _compressed(new, target, done)


def apply_files(
    base: AnyPath,
    updates: Sequence[Any],
    target: AnyPath | None,
    *,
    keep: AnyPath | None = None,
    like: AnyPath | None = None,
    base_model_id: str | None = None,
    threads: int | None = None,
    max_bytes: int | None = None,
    progress: Progress | bool | None = None,
) -> DecompressReport:
    """Make a model file of a base and updates to it.

    Parameters
    ----------
    base : path
        A model file of any known format, an NNC file, a folder with one of them, or the folder of a `Receiver`, which
        then goes on to the model after the last update.
    updates : sequence of path
        In their order; none, where the model that a receiver has is wanted.
    target : path or None
        A file of any known format; a new folder, where `base` is a folder; None where the folder of a receiver is all
        that is wanted. What the container of `base` holds beside tensors, a graph or other files, stays.
    keep : path, optional
        A new folder for a `Receiver` that starts from `base` and has had these updates.
    like : path, optional
        A model whose graph the new one gets instead, or a folder whose other files go along.
    base_model_id, threads, max_bytes, progress : optional
        As in `nncjit.apply`.

    Raises
    ------
    BitstreamError, UpdateError
        As for `nncjit.apply`. The target and the folder are left as they were.
    OptionError, ModelError
        A file cannot be read or written, or its suffix is unknown.
    """
    started, updates = time.perf_counter(), listed(updates)
    if target is not None:
        _check_target(target, (base, *updates, like))
    if like is None and is_folder(base) and not ChainFolder.is_at(base):
        like = base
    receiver: Receiver | None = None
    if ChainFolder.is_at(base):
        if keep is not None:
            raise OptionError("keep is for a base that is a file: a session keeps itself")
        if base_model_id is not None:
            raise OptionError("base_model_id is for a base that is a file: a session keeps what its updates must say")
        receiver = Receiver.open(base, threads=threads, max_bytes=max_bytes)
    elif keep is not None:
        with opened_model(base) as model:
            receiver = Receiver(model, folder=keep, base_model_id=base_model_id, threads=threads, max_bytes=max_bytes)
    if receiver is not None:
        with _begun(receiver) if keep is not None else nullcontext():
            if updates or target is None or keep is not None:
                receiver.go_on(updates, target, like=like, progress=progress)
            else:
                receiver.save(target, like=like)
        infos = receiver.infos
    elif target is None:
        raise OptionError("no target is given")
    else:
        with ExitStack() as files:
            model = files.enter_context(opened_model(base))
            state = ChainState.of(model)
            application = opened_updates(state, updates, files, max_bytes=max_bytes, base_model_id=base_model_id)
            infos = application.infos
            told = files.enter_context(reporting(progress, "apply"))
            writer = files.enter_context(new_model(target, application.states[-1], like))

            def put(parameter: Parameter) -> Parameter:
                writer.put(parameter.name, np.asarray(parameter.read()))
                return replace(parameter, read=partial(_gone, parameter.name))

            application.run(put, goes_on=False, threads=threads, progress=told)
    rows = [TensorReport(i.name, i.shape, i.dtype, "", None, 0, i.nbytes) for i in infos]
    return DecompressReport(
        source=os.fspath(base),
        target=os.fspath(target if target is not None else keep or base),
        original_bytes=sum(row.original_bytes for row in rows),
        compressed_bytes=sum(map(bytes_of, updates)),
        seconds=time.perf_counter() - started,
        threads=thread_counts.count(threads),
        tensors=tuple(rows),
    )


@contextmanager
def _begun(session: Sender | Receiver) -> Iterator[None]:
    """A new session that goes again where its first update does not come about."""
    try:
        yield
    except BaseException:
        session.discard()
        raise


def _gone(name: str) -> Array:
    raise AssertionError(f"{name} was written and let go")


def _compressed(new: AnyPath, target: AnyPath, done: EncodedUpdate) -> CompressReport:
    return CompressReport(
        source=os.fspath(new),
        target=os.fspath(target),
        original_bytes=sum(row.original_bytes for row in done.tensors),
        compressed_bytes=done.size,
        seconds=done.seconds,
        threads=done.threads,
        tensors=done.tensors,
        snr=done.snr,
    )


def _check_target(target: AnyPath, others: Sequence[Any]) -> None:
    """Refuse to write over what is read."""
    for other in others:
        if not isinstance(other, str | os.PathLike):
            continue
        model = other if ChainFolder.is_at(other) else model_path(other)
        if _place(target) in (_place(other), _place(model)):
            raise OptionError(f"{os.fspath(target)}: the target is one of the files to read, which are never changed")


def _place(path: AnyPath) -> AnyPath:
    """Where a file is, whatever it is called."""
    return path if is_url(path) else resolved(path)
