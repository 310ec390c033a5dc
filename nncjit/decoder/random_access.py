"""Random access to a stream: nothing is decoded until it is asked for."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.bits import as_source
from nncjit.decoder.stream_decoder import MAX_BYTES, decode_units
from nncjit.errors import ModelError
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.unit_parts import Part

Array = np.ndarray[Any, Any]


class NncFile:
    """An open stream, used like `safetensors.safe_open`. Made by `nncjit.open`; a context manager.

    The headers of all units are read when it is opened; payloads when a tensor is asked for. Any thread may ask.
    """

    def __init__(
        self, source: Any, *, threads: int | None = None, max_bytes: int = MAX_BYTES, mmap: bool = False
    ) -> None:
        self._threads, self._max_bytes = threads, max_bytes
        self._source = as_source(source, mmap=mmap)
        try:
            reader = StreamReader(self._source)
            held = {part.name: (part, opened) for opened in reader.data_units() for part in opened.results()}
        except BaseException:
            self._source.close()
            raise
        self._held = reader.with_ties(held)
        self._metadata = dict(reader.carried.metadata)

    def keys(self) -> list[str]:
        """The names of all tensors, in the order of the model."""
        return list(self._held)

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __len__(self) -> int:
        return len(self._held)

    def metadata(self) -> dict[str, str]:
        """The metadata of the file that was compressed."""
        return dict(self._metadata)

    def get_tensor(self, name: str) -> Array:
        """Decode one tensor.

        Raises
        ------
        ModelError
            There is no tensor of this name.
        BitstreamError
            Its unit is damaged.
        """
        part, opened = self._find(name)
        decoded = decode_units([opened], threads=self._threads, max_bytes=self._max_bytes)
        storage = next(item.storage for item in decoded if item.part.name == part.name)
        return dtypes.as_array(storage, part.dtype)

    def get_slice(self, name: str) -> TensorSlice:
        """A view that is decoded when it is indexed: ``f.get_slice("w")[64:128]``."""
        return TensorSlice(self, name, self._find(name)[0])

    def _find(self, name: str) -> tuple[Part, DataUnit]:
        try:
            return self._held[name]
        except KeyError:
            raise ModelError(f"no tensor {name!r} in the stream") from None

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def __enter__(self) -> NncFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorSlice:
    """A tensor of an open stream that is not decoded yet."""

    def __init__(self, file: NncFile, name: str, part: Part) -> None:
        self._file, self._name, self._part = file, name, part

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._part.shape)

    def get_dtype(self) -> str:
        """The tensor's dtype, as `nncjit.dtypes` names it."""
        return self._part.dtype

    def __getitem__(self, index: Any) -> Array:
        values: Array = self._file.get_tensor(self._name)[index]
        return values


def open(file: Any, *, threads: int | None = None, max_bytes: int = MAX_BYTES, mmap: bool = False) -> NncFile:
    """Open a stream for random access.

    Parameters
    ----------
    file : path, bytes-like or binary file
        The stream.
    threads : int, optional
        Threads at work when a tensor is decoded; default: all cores that the process may use.
    max_bytes : int
        Most memory that one tensor may take.
    mmap : bool
        Map the file into memory instead of reading it (faster for many small reads of a local disk, slower on network
        disks).

    Returns
    -------
    NncFile
        With ``keys()``, ``get_tensor(name)``, ``get_slice(name)`` and ``metadata()``.

    Raises
    ------
    BitstreamError
        A header is damaged, or the file is cut off.
    ModelError
        The file does not exist or cannot be read.
    """
    return NncFile(file, threads=threads, max_bytes=max_bytes, mmap=mmap)
