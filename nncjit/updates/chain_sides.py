"""Both ends of a link: a sender and a receiver that hold the same model, and what the next update builds on.

A side is in memory, or in a folder from which it goes on after a restart. Both sides start from equal models. After
each update, what the sender holds is bit for bit what the receiver has, so that errors do not add up.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self, Unpack

import numpy as np

from nncjit import dtypes
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.errors import ModelError, OptionError
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.option_values import shown
from nncjit.progress import Progress, reporting
from nncjit.updates import bit_patterns
from nncjit.updates.chain_folder import ChainFolder
from nncjit.updates.chain_state import Array, ChainState, Parameter
from nncjit.updates.keeping import kept_in_memory
from nncjit.updates.model_sources import AnyModel, AnyPath, listed, opened_model
from nncjit.updates.new_model import new_model
from nncjit.updates.update_decoder import opened_updates
from nncjit.updates.update_encoder import EncodedUpdate, encode_update
from nncjit.updates.update_options import UpdateKeywords, UpdateOptions

Keep = Callable[[Parameter], Parameter]
Commit = Callable[[ChainState], None]


class _Side:
    """What both sides have in common."""

    KIND = ""

    def __init__(self, state: ChainState, folder: ChainFolder | None, threads: int | None) -> None:
        self._state, self._folder, self._threads = state, folder, threads

    @classmethod
    def _made(
        cls, base: AnyModel, folder: AnyPath | None, about: dict[str, Any]
    ) -> tuple[ChainState, ChainFolder | None]:
        """The state of a new side, in the keeping of memory or folder."""
        with opened_model(base) as model:
            state = ChainState.of(model)
            if folder is not None:
                held = ChainFolder.create(folder, state, {"kind": cls.KIND, **about})
                return held.state, held
            kept = {name: kept_in_memory(parameter) for name, parameter in state.parameters.items()}
            return state.with_parameters(kept), None

    @classmethod
    def _opened(cls, folder: AnyPath) -> ChainFolder:
        held = ChainFolder.open(folder)
        if held.about.get("kind") != cls.KIND:
            raise ModelError(f"{os.fspath(folder)}: is the session of a {held.about.get('kind')}, not of a {cls.KIND}")
        return held

    @property
    def number(self) -> int:
        """Updates so far."""
        return self._state.number

    @property
    def infos(self) -> list[TensorInfo]:
        """The tensors of the model in their order."""
        return self._state.infos()

    def arrays(self) -> dict[str, Array]:
        """The model as the receiver has it: arrays that cannot be written to. Tied tensors are one array."""
        stored = {
            name: _read_only(dtypes.as_array(p.read(), p.info.dtype)) for name, p in self._state.parameters.items()
        }
        return {name: stored[self._state.tied.get(name, name)] for name in self._state.order}

    def save(self, target: AnyPath, *, like: AnyPath | None = None) -> None:
        """Write the model to a file of any known format, tensor by tensor.

        Parameters
        ----------
        target : path
            A format that holds whole networks needs a graph: that of the file that the side began with, or of `like`.
            A name without suffix is a new folder, where `like` is a folder.
        like : path, optional
            A model whose graph the file gets, or a folder whose other files go along.

        Raises
        ------
        OptionError
            The target has an unknown suffix.
        ModelError
            There is no graph, or the target cannot be written.
        """
        _save(self._state, target, like)

    def discard(self) -> None:
        """Remove what the folder of this side holds, if it has one."""
        if self._folder is not None:
            self._folder.discard()

    def rebase(self, model: Mapping[str, Any]) -> None:
        """Take other values for the model, as where all senders start a round from the same one. Both sides must do it.

        Nodes, levels and history stay, so that contexts go on; what a sender that carries had left over is added to
        its next update.

        Raises
        ------
        ModelError
            A tensor is missing or new, or has another shape or dtype.
        """
        new = {tensor.name: tensor for tensor in Model.from_mapping(model)}
        for name in new:
            if name not in self._state.parameters and name not in self._state.tied:
                raise ModelError(f"{name}: is in the model to start from, not in that of this {self.KIND}")
        with self._change() as (keep, commit):
            kept = {}
            for name, parameter in self._state.parameters.items():
                tensor = new.get(name)
                if tensor is None or (tensor.shape, tensor.dtype) != (parameter.info.shape, parameter.info.dtype):
                    have = "has none" if tensor is None else f"has it as {tensor.dtype}{list(tensor.shape)}"
                    info = parameter.info
                    raise ModelError(f"{name}: is {info.dtype}{list(info.shape)}, the model to start from {have}")
                kept[name] = keep(replace(parameter, read=tensor.read, value_sha256=None))
            self._check_ties(new)
            commit(replace(self._state, parameters=kept, rebased=True))

    def _check_ties(self, new: Mapping[str, Tensor]) -> None:
        """Refuse values of a tied tensor that are not those of the tensor that it is tied to."""
        for name, twin in self._state.tied.items():
            tensor, other = new.get(name), new[twin]
            if tensor is None or tensor.same_as == twin or other.same_as == name:
                continue
            fits = (tensor.shape, tensor.dtype) == (other.shape, other.dtype)
            if not fits or not bit_patterns.are_equal(tensor.read(), other.read()):
                raise ModelError(f"{name}: is tied to {twin}, the model to start from has other values in it")

    @contextmanager
    def _change(self) -> Iterator[tuple[Keep, Commit]]:
        """How to keep parameters, and how to make a state the one that counts."""
        if self._folder is not None:
            with self._folder.transaction() as change:
                yield change.keep, partial(self._commit, change.commit)
            return
        before = {p.number: p for p in self._state.parameters.values()}
        yield lambda p: kept_in_memory(p, before.get(p.number)), partial(self._commit, lambda _: None)

    def _commit(self, first: Commit, state: ChainState) -> None:
        first(state)
        self._state = state


class Sender(_Side):
    """The side that writes updates.

    Parameters
    ----------
    base : mapping of str to array_like, or path
        The model that both sides start from.
    options : Options, optional
    folder : path, optional
        A new or empty folder that shall hold this side, for models that do not fit into memory and for restarts.
    threads : int, optional
    **keywords
        As for `nncjit.update`; they hold for all updates.

    Raises
    ------
    OptionError, ModelError
        As for `nncjit.update`; the folder is not empty.
    """

    KIND = "sender"

    def __init__(
        self,
        base: AnyModel,
        options: Options | UpdateOptions | None = None,
        *,
        folder: AnyPath | None = None,
        threads: int | None = None,
        **keywords: Unpack[UpdateKeywords],
    ) -> None:
        self.options = UpdateOptions.of(options, keywords)
        super().__init__(*self._made(base, folder, {"options": self.options.keywords()}), threads)
        self.last: EncodedUpdate | None = None
        """What came of the last update."""

    @classmethod
    def open(cls, folder: AnyPath, *, threads: int | None = None) -> Self:
        """The side that a folder holds.

        Raises
        ------
        ModelError
            The folder holds none, the other side, or is damaged.
        """
        held, side = cls._opened(folder), cls.__new__(cls)
        side.options = UpdateOptions.of(None, held.about.get("options", {}))
        _Side.__init__(side, held.state, held, threads)
        side.last = None
        return side

    def update(
        self,
        new: AnyModel,
        *,
        progress: Progress | bool | None = None,
        **keywords: Unpack[UpdateKeywords],
    ) -> bytes:
        """The update that leads to a new model, which the receiver must get before the next one.

        Parameters
        ----------
        new : mapping of str to array_like, or path
        progress : callable, optional
        **keywords
            Other options for this update only.

        Raises
        ------
        OptionError, ModelError
            As for `nncjit.update`. The sender stays where it was.
        """
        file = io.BytesIO()
        self.update_into(file, new, progress=progress, **keywords)
        return file.getvalue()

    def update_into(
        self,
        file: Any,
        new: AnyModel,
        *,
        progress: Progress | bool | None = None,
        ready: Callable[[], None] | None = None,
        **keywords: Unpack[UpdateKeywords],
    ) -> EncodedUpdate:
        """`update` into a file open for reading and writing. `ready` is called when it is written, before the sender
        goes on to the new model: it can put the file where it belongs.
        """
        if not all(hasattr(file, name) for name in ("write", "seek", "truncate")) or isinstance(file, io.TextIOBase):
            raise OptionError(f"file is {shown(file)}, must be a binary file open for reading and writing")
        if ready is not None and not callable(ready):
            raise OptionError(f"ready is {shown(ready)}, must be a function without arguments")
        options = UpdateOptions.of(self.options, keywords)
        state = self._state if self._state.rebased else self._state.without_residuals()
        with opened_model(new) as model, reporting(progress, "update") as told, self._change() as (keep, commit):
            execution = Execution(threads=self._threads, progress=told)
            done = encode_update(state, model, file, options, execution, keep)
            if ready is not None:
                ready()
            commit(done.state)
        self.last = replace(done, state=self._state)
        return self.last


class Receiver(_Side):
    """The side that reads updates.

    Parameters
    ----------
    base : mapping of str to array_like, or path
        The model that both sides start from.
    folder : path, optional
        A new or empty folder that shall hold this side.
    base_model_id : str, optional
        What each update must say of the model that it belongs to.
    threads, max_bytes : int, optional
        As in `nncjit.decode`.
    """

    KIND = "receiver"

    def __init__(
        self,
        base: AnyModel,
        *,
        folder: AnyPath | None = None,
        base_model_id: str | None = None,
        threads: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(*self._made(base, folder, {"base_model_id": base_model_id}), threads)
        self.base_model_id, self.max_bytes = base_model_id, max_bytes

    @classmethod
    def open(cls, folder: AnyPath, *, threads: int | None = None, max_bytes: int | None = None) -> Self:
        """The side that a folder holds.

        Raises
        ------
        ModelError
            The folder holds none, the other side, or is damaged.
        """
        held, side = cls._opened(folder), cls.__new__(cls)
        _Side.__init__(side, held.state, held, threads)
        side.base_model_id, side.max_bytes = held.about.get("base_model_id"), max_bytes
        return side

    def apply(self, *updates: Any, progress: Progress | bool | None = None) -> dict[str, Array]:
        """Apply updates, one after the other; the model after the last.

        Parameters
        ----------
        *updates : bytes-like, path or binary file
        progress : callable, optional

        Raises
        ------
        BitstreamError, UpdateError
            As for `nncjit.apply`. The receiver stays where it was, also where only the last update does not fit.
        """
        self.go_on(updates, progress=progress)
        return self.arrays()

    def go_on(
        self,
        updates: Sequence[Any],
        target: AnyPath | None = None,
        *,
        like: AnyPath | None = None,
        progress: Progress | bool | None = None,
    ) -> None:
        """`apply` for models that do not fit into memory: write the model to a file on request, as `save` does. The
        receiver goes on only when the file is complete.
        """
        with ExitStack() as files, reporting(progress, "apply") as told, self._change() as (keep, commit):
            application = opened_updates(
                self._state,
                listed(updates),
                files,
                max_bytes=self.max_bytes,
                base_model_id=self.base_model_id,
            )
            state = application.run(keep, goes_on=True, threads=self._threads, progress=told)
            if target is not None:
                _save(state, target, like)
            commit(state)


def _save(state: ChainState, target: AnyPath, like: AnyPath | None) -> None:
    with new_model(target, state, like) as writer:
        for name, parameter in state.parameters.items():
            writer.put(name, np.asarray(parameter.read()))


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
