"""Filling a model file from arrays that come one by one, in any order and from any thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.model import Model, Tensor, TensorInfo

Store = Callable[[TensorInfo, np.ndarray[Any, Any]], None]
"""Puts the values of one tensor into the file; called from any thread, once per tensor."""


class PlacedStore:
    """The `Store` of a format in which each tensor has its place: pieces of a tensor can be stored one by one.

    Parameters
    ----------
    put : callable
        Takes a tensor, some of its elements, and where in the tensor their first one is.
    """

    def __init__(self, put: Callable[[TensorInfo, np.ndarray[Any, Any], int], None]) -> None:
        self.put = put

    def __call__(self, info: TensorInfo, array: np.ndarray[Any, Any]) -> None:
        """Put all elements."""
        self.put(info, array, 0)


class Writer:
    """A model file in the making, as a context manager.

    For each tensor that is not tied, either `allocate` an array, fill it and call `done`, or `put` an existing array. A
    tied tensor is written with the tensor whose memory it shares. All methods may be called from any thread, but only
    before the ``with`` block ends. If the block ends without an exception, the file appears; otherwise nothing changes.

    Parameters
    ----------
    file : context manager
        Yields the `Store` of the format.
    infos : sequence of TensorInfo
    """

    def __init__(self, file: AbstractContextManager[Store], infos: Sequence[TensorInfo]) -> None:
        Model(Tensor(i.name, i.shape, i.dtype, i.empty, i.same_as) for i in infos)  # names and ties
        self._file = file
        self._targets: dict[str, list[TensorInfo]] = {info.name: [info] for info in infos if info.same_as is None}
        for info in infos:
            if info.same_as is not None:
                self._targets[info.same_as].append(info)
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._left = set(self._targets)
        self._written: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._store: Store | None = None

    def allocate(self, name: str) -> np.ndarray[Any, Any]:
        """The storage array of a tensor (see `nncjit.dtypes`), to be filled; its content is undefined."""
        array = self._info(name).empty()
        with self._lock:
            self._arrays[name] = array
        return array

    def done(self, name: str) -> None:
        """Write the array that `allocate` returned and release it; it must not be used afterwards."""
        with self._lock:
            array = self._arrays.pop(name, None)
        if array is None:
            raise ModelError(f"{name}: done before it was allocated")
        self.put(name, array)

    def put(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Write a storage array without `allocate` and `done`.

        Raises
        ------
        ModelError
            The shape or dtype is not the announced one.
        """
        info = self._info(name)
        storage = DTYPES[info.dtype].storage
        if array.shape != info.shape or array.dtype != storage:
            raise ModelError(f"{name}: got {array.dtype}{list(array.shape)}, announced was {storage}{list(info.shape)}")
        assert self._store is not None, "a Writer is used in a with statement"
        contiguous = np.asarray(array, order="C")
        for target in self._targets[name]:
            self._store(target, contiguous)
        with self._lock:
            self._left.discard(name)

    @property
    def takes_pieces(self) -> bool:
        """Whether `put_piece` can be used."""
        return isinstance(self._store, PlacedStore)

    def put_piece(self, name: str, array: np.ndarray[Any, Any], start: int) -> None:
        """Write some elements of a tensor in raster order, of which the first is number `start`; each once.

        Raises
        ------
        ModelError
            The dtype is not the announced one, or the tensor has fewer elements.
        """
        info = self._info(name)
        storage = DTYPES[info.dtype].storage
        if array.dtype != storage or start + array.size > info.size:
            raise ModelError(f"{name}: got {array.size} {array.dtype} at {start} of {info.size} {storage}")
        assert isinstance(self._store, PlacedStore)
        contiguous = np.asarray(array, order="C")
        for target in self._targets[name]:
            self._store.put(target, contiguous, start)
        with self._lock:
            self._written[name] += array.size
            if self._written[name] >= info.size:
                self._left.discard(name)

    def _info(self, name: str) -> TensorInfo:
        with self._lock:
            if name not in self._left:
                what = "is written already" if name in self._targets else "is no tensor to write"
                raise ModelError(f"{name}: {what}")
        return self._targets[name][0]

    def __enter__(self) -> Writer:
        self._store = self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._left:
            missing = ModelError(f"{len(self._left)} tensors were not written, {min(self._left)!r} among them")
            self._file.__exit__(ModelError, missing, None)
            raise missing
        self._file.__exit__(kind, error, trace)
