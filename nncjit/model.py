"""A model: named tensors in order, each read only when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from nncjit import arrays
from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError, did_you_mean

__all__ = ["Graph", "Model", "Role", "Tensor", "TensorInfo"]

MAX_RANK = 64
"""Dimensions of an array in NumPy 2."""
MAX_BYTES = (1 << 63) - 1


def _check(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse a name that no file can hold, and a dtype, a dimension or a size that no array can have."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelError(f"{name!a} is not valid Unicode") from None
    if dtype not in DTYPES:
        raise ModelError(f"{name}: dtype {dtype} is not one that nncjit handles ({', '.join(DTYPES)})")
    if len(shape) > MAX_RANK:
        raise ModelError(f"{name}: {len(shape)} dimensions, at most {MAX_RANK} are possible")
    n_bytes = DTYPES[dtype].itemsize
    for dim in shape:
        if dim < 0:
            raise ModelError(f"{name}: dimension {dim} is negative")
        n_bytes *= max(dim, 1)  # NumPy refuses such shapes even where another dimension is 0
    if n_bytes > MAX_BYTES:
        raise ModelError(f"{name}: shape {list(shape)} is too large")


@dataclass(frozen=True, slots=True)
class Graph:
    """What the tensors are part of, as an exchange format writes it down: bytes that only that format understands.

    Attributes
    ----------
    format : str
        ``"nnef"``, ``"onnx"``, ``"pytorch"``, ``"tensorflow"``, ``"unrecognised"``, one of this project's own formats
        (``"gguf"``) or ``"private N"`` with the number N of someone else's.
    data : bytes
        In the stream it is a topology unit, or a quantisation unit.
    quantization : bool
        Whether it describes the quantisation instead of the topology.
    """

    format: str
    data: bytes
    quantization: bool = False

    def __repr__(self) -> str:
        kind = "quantization" if self.quantization else "topology"
        return f"Graph({self.format!r}, {len(self.data)} bytes of {kind})"


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor does in its network, where the model's format tells it."""

    kind: str
    """``"weight"``, ``"bias"``, of a batch norm ``"gamma"``, ``"beta"``, ``"mean"`` or ``"var"``; of quantised tensors
    ``"levels"``, ``"scale"`` or ``"zero_point"``, and ``"kept"`` for what else is to be stored exactly."""
    layer: str = ""
    """The same for all tensors of a layer and of the batch norm behind it; empty where the tensor is in no layer."""
    axis: int = 0
    """Of a weight: the dimension of its outputs."""
    eps: float = 0.0
    """Of a batch norm."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without its values.

    Raises
    ------
    ModelError
        When made with a dtype, a dimension or a size that no array can have.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    """A name in `nncjit.dtypes.DTYPES`."""
    same_as: str | None = None
    """The earlier tensor of the model whose memory this one shares (tied weights)."""
    shard: str | None = None
    """The file that holds it, where a model lies in several."""
    role: Role | None = None
    """See `Tensor`."""

    def __post_init__(self) -> None:
        _check(self.name, self.shape, self.dtype)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for dim in self.shape:
            size *= dim
        return size

    @property
    def nbytes(self) -> int:
        """Bytes of the storage array."""
        return self.size * self.itemsize

    def empty(self) -> np.ndarray[Any, Any]:
        """A new storage array for this tensor, not filled."""
        return np.empty(self.shape, DTYPES[self.dtype].storage)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a model. `read` gives its values as a storage array (see `nncjit.dtypes`); any thread may call it.

    A tied tensor (`same_as`) can be read like any other; it returns the values of the tensor that it is tied to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray[Any, Any]]
    same_as: str | None = None
    shard: str | None = None
    fresh: bool = False
    """Whether `read` gives a new array each time, which the reader may overwrite."""
    role: Role | None = None
    """None where the format does not tell it; names may (`nncjit.reduce.names`)."""
    part: Callable[[int, int], np.ndarray[Any, Any]] | None = None
    """Reads the elements ``start`` to ``stop`` in raster order, a new 1-D storage array; None: only all can be read."""

    info: TensorInfo = field(init=False, repr=False, compare=False)
    """The same without the values."""

    def __post_init__(self) -> None:
        info = TensorInfo(self.name, self.shape, self.dtype, self.same_as, self.shard, self.role)
        object.__setattr__(self, "info", info)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.info.size

    @property
    def nbytes(self) -> int:
        """Bytes of the storage array."""
        return self.info.nbytes


class Model:
    """Tensors by name, in order, with text about them; a context manager that closes the file behind them.

    Parameters
    ----------
    tensors : iterable of Tensor
        `same_as` names an earlier tensor of equal shape and dtype that is not tied itself.
    metadata : mapping of str to str
    close : callable
        Lets go of the file; tensors cannot be read afterwards.
    graphs : sequence of Graph
        What the format says of the network beside its tensors.

    Raises
    ------
    ModelError
        Two tensors of one name, or a tie that leads nowhere.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        metadata: Mapping[str, str] | None = None,
        close: Callable[[], object] | None = None,
        graphs: Sequence[Graph] = (),
    ) -> None:
        self._tensors: dict[str, Tensor] = {}
        for tensor in tensors:
            if tensor.name in self._tensors:
                raise ModelError(f"two tensors are named {tensor.name!r}")
            if tensor.same_as is not None:
                self._check_tie(tensor)
            self._tensors[tensor.name] = tensor
        self.metadata = dict(metadata or {})
        self.graphs = tuple(graphs)
        self._close = close

    @classmethod
    def from_mapping(
        cls, mapping: Any, metadata: Mapping[str, str] | None = None, graphs: Sequence[Graph] = ()
    ) -> Model:
        """A model in memory: arrays by name, or a module with a ``state_dict()``.

        Parameters
        ----------
        mapping : mapping of str to array_like
            NumPy, ml_dtypes, PyTorch or JAX arrays, or anything that NumPy can convert. Nothing is copied or
            converted before it is read. Entries that share their memory, with equal shape, strides and dtype, are tied.
        metadata : mapping of str to str
        graphs : sequence of Graph

        Raises
        ------
        ModelError
            An entry is not an array of numbers. The error names it.
        """
        if not isinstance(mapping, Mapping) and hasattr(mapping, "state_dict"):
            mapping = mapping.state_dict()
        if not isinstance(mapping, Mapping):
            raise ModelError(f"a model is a mapping of names to arrays, not {type(mapping).__name__}")
        return cls(tensors_of(mapping), metadata, graphs=graphs)

    def _check_tie(self, tensor: Tensor) -> None:
        earlier = self._tensors.get(tensor.same_as or "")
        if earlier is None:
            raise ModelError(f"{tensor.name}: tied to {tensor.same_as!r}, which does not come before it")
        if earlier.same_as is not None or (earlier.shape, earlier.dtype) != (tensor.shape, tensor.dtype):
            raise ModelError(f"{tensor.name}: cannot be tied to {earlier.name!r}")

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    @property
    def infos(self) -> list[TensorInfo]:
        return [tensor.info for tensor in self]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors.values())

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise ModelError(f"there is no tensor {name!r}{did_you_mean(name, self._tensors)}") from None

    def close(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tensors_of(mapping: Mapping[Any, Any]) -> Iterator[Tensor]:
    """The arrays of a mapping as tensors, tied where they share memory; ModelError for what is no array of numbers."""
    first_at: dict[object, str] = {}
    for name, value in mapping.items():
        if not isinstance(name, str):
            raise ModelError(f"the name of a tensor is a str, not {name!r}")
        array = arrays.adopt(value, name)
        shape, dtype = arrays.describe(array, name)
        place = arrays.place(array)
        same_as = None if place is None else first_at.setdefault(place, name)
        read = partial(arrays.to_storage, array, name)
        tied = same_as if same_as != name else None
        yield Tensor(name, shape, dtype, read, tied, part=arrays.part_reader(array, name))
