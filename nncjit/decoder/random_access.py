"""Random access to a stream: nothing is decoded until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from nncjit import arrays, dtypes
from nncjit.bits import Source, as_source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.prefetching import iterate_ahead
from nncjit.decoder.stream_decoder import decode_rows, decode_units
from nncjit.errors import ModelError, OptionError, did_you_mean
from nncjit.model import Graph
from nncjit.option_values import THREADS, Bytes, check_flags, checked, optional, shown
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.reports import source_name
from nncjit.stream.stream_index import is_index, read_index, streams_of
from nncjit.stream.unit_parts import Part

Array = np.ndarray[Any, Any]

NUMPY, TORCH = ("np", "numpy"), ("pt", "torch")
"""The names of frameworks, as safetensors has them."""


class NncFile:
    """An open stream, used like `safetensors.safe_open` or like a mapping of names to arrays: ``f["w"]``, ``for name in
    f``. Made by `nncjit.open`; a context manager.

    The headers of all units are read when it is opened; payloads when a tensor is asked for. Any thread may ask.
    """

    def __init__(
        self,
        source: Any,
        *,
        framework: str = "np",
        device: Any = "cpu",
        threads: int | None = None,
        max_bytes: int | str | None = None,
        mmap: bool = False,
    ) -> None:
        self._finished = _finisher(framework, device)
        check_flags(mmap=mmap)
        self._threads = optional("threads", THREADS, threads)
        self._max_bytes = optional("max_bytes", Bytes(), max_bytes)
        self._name = source_name(source)
        self._held: dict[str, tuple[Part, DataUnit]] = {}
        self._metadata: dict[str, str] = {}
        self._readers: list[StreamReader] = []
        order = list(read_index(source)["weight_map"]) if is_index(source) else []
        with ExitStack() as stack:
            for stream in streams_of(source) if is_index(source) else [source]:
                self._add(stack.enter_context(as_source(stream, mmap=mmap)))
            missing = next((name for name in order if name not in self._held), None)
            if missing is not None:
                raise ModelError(f"{self._name}: {missing!r} is in none of the streams, the index has it")
            self._close = stack.pop_all().close
        self._held = {name: self._held[name] for name in order or self._held}

    def _add(self, source: Source) -> None:
        """The tensors of a stream."""
        reader = StreamReader(source)
        held = {part.name: (part, opened) for opened in reader.data_units() for part in opened.results()}
        reader.warn_of_update(self._name)
        self._held |= reader.with_ties(held)
        self._metadata |= reader.model_metadata.metadata
        self._readers.append(reader)

    def keys(self) -> list[str]:
        """The names of all tensors, in the order of the model."""
        return list(self._held)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __getitem__(self, name: str) -> Array:
        return self.get_tensor(name)

    def __repr__(self) -> str:
        return f"<NncFile {self._name!r}: {len(self._held):,} tensors in {self._size:,} bytes>"

    def __len__(self) -> int:
        return len(self._held)

    def metadata(self) -> dict[str, str]:
        """The metadata of the file that was compressed."""
        return dict(self._metadata)

    def graphs(self) -> tuple[Graph, ...]:
        """The topology and quantisation data that the stream carries beside its tensors, as they were put in.

        Raises
        ------
        BitstreamError
            They are damaged.
        """
        return tuple(graph for reader in self._readers for graph in reader.graphs())

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
        decoded = decode_units([opened], self._budget(), threads=self._threads)
        storage = next(item.storage for item in decoded if item.part.name == part.name)
        array: Array = self._finished(storage, part.dtype)
        return array

    def iter_tensors(
        self, names: Iterable[str] | None = None, *, prefetch: int | str = "256MB"
    ) -> Iterator[tuple[str, Array]]:
        """Decode tensors one after the other, the next ones while the caller works on one.

        Parameters
        ----------
        names : iterable of str, optional
            Which, in which order; default: all, in the order of the model.
        prefetch : int or str
            Most bytes that are decoded ahead, beside the tensor in the caller's hands; 0: none.

        Yields
        ------
        name, array

        Raises
        ------
        ModelError
            There is no tensor of a name.
        BitstreamError
            A unit is damaged.
        """
        wanted = [*self._held] if names is None else [names] if isinstance(names, str) else [*names]
        sizes = {name: self._find(name)[0].size_in_bytes for name in wanted}
        ahead = checked("prefetch", Bytes(), prefetch)
        return iterate_ahead(wanted, self.get_tensor, sizes, ahead)

    def get_slice(self, name: str) -> TensorSlice:
        """A view that is decoded when it is indexed: ``f.get_slice("w")[64:128]``.

        An integer or a slice as the first index decodes only the block rows that it meets, where the stream has entry
        points, and of a large tensor without loss only the pieces. Any other index decodes the whole tensor.
        """
        part, _ = self._find(name)
        return TensorSlice(part, partial(self.get_tensor, name), partial(self._get_rows, name))

    def _get_rows(self, name: str, rows: range) -> Array | None:
        """Decode some rows of a tensor; None where it must be decoded whole."""
        part, opened = self._find(name)
        storage = decode_rows(opened, rows, self._budget(), threads=self._threads)
        return None if storage is None else self._finished(storage, part.dtype)

    def _find(self, name: str) -> tuple[Part, DataUnit]:
        try:
            return self._held[name]
        except (KeyError, TypeError):
            meant = did_you_mean(name, self._held)
            raise ModelError(f"no tensor {shown(name)} in the stream{meant}") from None

    def _budget(self) -> MemoryBudget:
        return MemoryBudget(self._max_bytes, self._size)

    @property
    def _size(self) -> int:
        return sum(reader.source.size for reader in self._readers)

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def __enter__(self) -> NncFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorSlice:
    """A tensor of an open stream that is not decoded yet."""

    def __init__(self, part: Part, get_tensor: Callable[[], Array], get_rows: Callable[[range], Array | None]) -> None:
        self._part, self._get_tensor, self._get_rows = part, get_tensor, get_rows

    @property
    def name(self) -> str:
        """The tensor's name; of a tied one that of the tensor whose values it has."""
        return self._part.name

    def get_shape(self) -> list[int]:
        """The tensor's shape."""
        return list(self._part.shape)

    def get_dtype(self) -> str:
        """The tensor's dtype, as `nncjit.dtypes` names it."""
        return self._part.dtype

    def __getitem__(self, index: Any) -> Array:
        found = _rows_of(index, self._part.shape)
        if found is not None:
            rows, inside = found
            array = self._get_rows(rows)
            if array is not None:
                values: Array = array[inside]
                return values
        whole: Array = self._get_tensor()[index]
        return whole


def _rows_of(index: Any, shape: tuple[int, ...]) -> tuple[range, tuple[Any, ...]] | None:
    """The rows that an index of an array meets, and the index that means the same in these rows alone. None where its
    first item is no integer or slice, or meets nothing.
    """
    first, *others = index if isinstance(index, tuple) and index else (index,)
    if not shape or isinstance(first, bool):
        return None
    try:
        chosen: int | range = range(shape[0])[first]
    except (TypeError, IndexError):  # for NumPy to explain
        return None
    if isinstance(chosen, int):
        return range(chosen, chosen + 1), (0, *others)
    if not chosen:
        return None
    low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    stop = chosen.stop - low
    return range(low, high + 1), (slice(chosen.start - low, stop if stop >= 0 else None, chosen.step), *others)


def _finisher(framework: Any, device: Any) -> Callable[[Array, str], Any]:
    """What makes an array of a framework of a storage array and its dtype."""
    name = framework if isinstance(framework, str) else None
    if name in NUMPY:
        if str(device) != "cpu":
            raise OptionError(f"device is {shown(device)}: arrays of NumPy are in the processor's memory (cpu)")
        return dtypes.as_array
    if name in TORCH:
        place = arrays.torch_device(device)
        return lambda storage, dtype: arrays.to_torch(storage, dtype).to(place)
    raise OptionError(f"framework is {shown(framework)}, must be one of {', '.join(NUMPY + TORCH)}")


def open(
    file: Any,
    *,
    framework: str = "np",
    device: Any = "cpu",
    threads: int | None = None,
    max_bytes: int | str | None = None,
    mmap: bool = False,
) -> NncFile:
    """Open a stream for random access.

    Parameters
    ----------
    file : path, bytes-like or binary file
        The stream, or the path of the index of several (``.nnc.index.json``).
    framework : str
        What tensors come as: "np" for NumPy's arrays, "pt" for tensors of torch.
    device : str, int or torch.device
        Where tensors of torch go.
    threads : int, optional
        Threads at work when a tensor is decoded; default: all cores that the process may use.
    max_bytes : int or str, optional
        Most memory that one tensor may take; default as in `decode`.
    mmap : bool
        Map the file into memory instead of reading it (faster for many small reads of a local disk, slower on network
        disks).

    Returns
    -------
    NncFile
        With ``keys()``, ``get_tensor(name)`` (or ``f[name]``), ``get_slice(name)`` and ``metadata()``.

    Raises
    ------
    BitstreamError
        A header is damaged, or the file is cut off.
    ModelError
        The file does not exist or cannot be read, or torch is missing.
    OptionError
        There is no such framework or device.
    """
    return NncFile(file, framework=framework, device=device, threads=threads, max_bytes=max_bytes, mmap=mmap)
