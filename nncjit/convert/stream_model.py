"""A stream as a model: its tensors are decoded when they are read, so that it stands beside model files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from nncjit import formats
from nncjit.bits import as_source
from nncjit.convert.decompression import tensor_infos
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import decode_units
from nncjit.formats.folder_model import read_from
from nncjit.model import Graph, Model, Tensor
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.reports import source_name
from nncjit.stream.stream_index import is_index, streams_of

__all__ = ["open_any"]

Array = np.ndarray[Any, Any]

AHEAD_UNITS, AHEAD_WEIGHTS = 256, 1 << 18
"""Units that are decoded at once where they are read in their order, and their weights, at the most."""


def open_any(source: Any, *, threads: int | None = None, max_bytes: int | str | None = None) -> Model:
    """A stream, or a model file of a known format, as a model whose tensors are read one by one.

    Parameters
    ----------
    source : path, bytes-like, binary file, or mapping of str to array_like
        What has the suffix of a known format is a model file; other paths, bytes and files are streams. Of a folder,
        the model in it.
    threads : int, optional
        Threads that decode a tensor; default: all cores that the process may use.
    max_bytes : int or str, optional
        Most memory that one tensor of a stream may take.

    Raises
    ------
    BitstreamError
        A header is damaged.
    ModelError
        The file cannot be read, or a mapping holds what is no array.
    """
    source = read_from(source)
    if isinstance(source, str | PathLike):
        if formats.is_known(source):
            return formats.open_model(source)
    elif not hasattr(source, "read") and not isinstance(source, bytes | bytearray | memoryview):
        return Model.from_mapping(source)
    tensors: list[Tensor] = []
    metadata: dict[str, str] = {}
    graphs: list[Graph] = []
    with ExitStack() as stack:
        for each in streams_of(source) if is_index(source) else [source]:
            stream = stack.enter_context(as_source(each))
            reader = StreamReader(stream)
            tensors += _tensors(reader, partial(MemoryBudget, max_bytes, stream.size), threads)
            reader.warn_of_update(source_name(each))
            metadata |= reader.model_metadata.metadata
            graphs += reader.graphs()
        return Model(tensors, metadata, close=stack.pop_all().close, graphs=graphs)


def _tensors(reader: StreamReader, budget: Callable[[], MemoryBudget], threads: int | None) -> Iterator[Tensor]:
    """The tensors of a stream, to be decoded one by one, each within a budget of its own."""
    units = list(reader.data_units())
    places = reader.with_ties({part.name: number for number, unit in enumerate(units) for part in unit.results()})
    read = _ReadAhead(units, budget, threads).read
    for info in tensor_infos(units, reader, reader.rebuilder(full_size=False, max_bytes=0)):
        load = partial(read, info.same_as or info.name, places[info.name])
        yield Tensor(info.name, info.shape, info.dtype, load, info.same_as)


class _ReadAhead:
    """Decodes units one by one, and small ones that are read in their order some at a time: a call of the decoder takes
    longer than a tiny tensor.
    """

    def __init__(self, units: list[DataUnit], budget: Callable[[], MemoryBudget], threads: int | None) -> None:
        self._units, self._budget, self._threads = units, budget, threads
        self._held: dict[str, Array] = {}
        self._next = -1
        self._lock = threading.Lock()

    def read(self, name: str, number: int) -> Array:
        """A tensor of a unit, a new array each time."""
        if self._units[number].weights > AHEAD_WEIGHTS:
            return self._decoded([self._units[number]])[name]
        with self._lock:
            if name not in self._held:
                together = self._following(number) if number == self._next else [self._units[number]]
                self._held = self._decoded(together)
                self._next = number + len(together)
            return self._held.pop(name)

    def _following(self, number: int) -> list[DataUnit]:
        found: list[DataUnit] = []
        weights = 0
        for unit in self._units[number : number + AHEAD_UNITS]:
            weights += unit.weights
            if found and weights > AHEAD_WEIGHTS:
                break
            found.append(unit)
        return found

    def _decoded(self, units: list[DataUnit]) -> dict[str, Array]:
        return {d.part.name: d.storage for d in decode_units(units, self._budget(), threads=self._threads)}
