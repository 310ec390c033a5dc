"""Model files: one module per format, imported when such a file is opened.

Each format is two functions: ``read(path, mmap=...) -> Model`` and ``write(path, infos, metadata, ...)``, a context
manager that yields ``store(info, array)`` and puts the file in its place when the block ends well. The module of a
format that holds whole networks names its graph in ``GRAPH``; its ``write(path, infos, graph, ...)`` puts the tensors
into that graph.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.files import check_readable
from nncjit.formats.tensor_writer import Store, Writer
from nncjit.model import Graph, Model, TensorInfo
from nncjit.remote import fetched, is_url, uploaded

__all__ = ["Writer", "create", "is_known", "known_suffixes", "open_model"]

_MODULES = {
    ".safetensors": "safetensors",
    ".safetensors.index.json": "sharded",
    ".bin.index.json": "sharded",
    ".npz": "npz",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".bin": "pytorch",
    ".ckpt": "pytorch",
    ".pt2": "torch_archive",
    ".torchscript": "torch_archive",
    ".jit": "torch_archive",
    ".ptl": "torch_archive",
    ".onnx": "onnx",
    ".gguf": "gguf",
    ".nnef": "nnef",
    ".nnef.tgz": "nnef_archive",
    ".nnef.tar.gz": "nnef_archive",
    ".nnef.tar": "nnef_archive",
    ".keras": "keras",
    ".weights.json": "keras_shards",
    ".h5": "keras",
    ".hdf5": "keras",
}
_NOT_READ = {
    "saved_model.pb": "a SavedModel, whose variables nncjit does not read: save the model as .keras",
    ".ckpt.index": "a checkpoint of TensorFlow, which nncjit does not read: save the model as .keras",
    "variables.index": "the index of a SavedModel's variables, which nncjit does not read: save the model as .keras",
    ".pb": "a graph of TensorFlow, which nncjit does not read: save the model as .keras, or convert it to ONNX",
    ".tflite": "a TensorFlow Lite model, which nncjit does not read",
    ".mlmodel": "a Core ML model, which nncjit does not read",
    ".mlpackage": "a Core ML model, which nncjit does not read",
    ".msgpack": "a checkpoint of Flax, which nncjit does not read: save the arrays as .safetensors",
    ".pdparams": "a checkpoint of Paddle, which nncjit does not read: save the arrays as .safetensors",
    ".pkl": "a pickle, which may run code when it is read: save the arrays as .safetensors",
    ".pickle": "a pickle, which may run code when it is read: save the arrays as .safetensors",
    ".joblib": "a pickle, which may run code when it is read: save the arrays as .safetensors",
    ".npy": "a single array: give it to nncjit.encode, or save it as .npz",
}


def known_suffixes() -> tuple[str, ...]:
    """The endings of file names that `open_model` and `create` take."""
    return tuple(_MODULES)


def is_known(path: str | os.PathLike[str]) -> bool:
    """Whether the name has the suffix of a known format."""
    return _name(path).endswith(known_suffixes())


def _name(path: Any) -> str:
    """In small letters; OptionError for what is no path."""
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str):
        raise OptionError(f"a model file is named by a path, not by a {type(path).__name__}")
    links = [link for link in name.split("::") if "://" in link] if is_url(name) else []
    return (links[0] if links else name).lower()  # of zip://m.npz::a.zip, what is in the archive


def _module_for(path: str | os.PathLike[str]) -> ModuleType:
    name = _name(path)
    for suffix, module in _MODULES.items():
        if name.endswith(suffix):
            return importlib.import_module(f"nncjit.formats.{module}")
    for suffix, reason in _NOT_READ.items():
        if name.endswith(suffix):
            raise OptionError(f"{path}: is {reason}")
    raise OptionError(f"{path}: the suffix is not one of {', '.join(_MODULES)}")


def open_model(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:
    """Open a model file and read names, shapes and dtypes, but no values.

    Parameters
    ----------
    path : path or URL
        With one of `known_suffixes`. URLs need fsspec.
    mmap : bool
        Tensors of safetensors files are read-only views of a memory map instead of fresh arrays: no copy, but memory
        that counts as used, and slow on network disks. The file must not be cut short while it is open.

    Returns
    -------
    Model
        Close it, or use it in a ``with`` statement.

    Raises
    ------
    OptionError
        The suffix is unknown.
    ModelError
        The file does not exist or is damaged, or a tensor has a type that nncjit does not support.
    """
    if is_url(path):
        return _at_url(str(path), _module_for(path))
    if isinstance(path, str | os.PathLike):
        check_readable(path)  # a missing file is told before a strange suffix
    model: Model = _module_for(path).read(path, mmap=mmap)
    return model


def _at_url(url: str, module: ModuleType) -> Model:
    """A model file at a URL: in ranges where the format allows it, else as a copy in a temporary folder."""
    if hasattr(module, "read_url"):
        return module.read_url(url)  # type: ignore[no-any-return]
    with ExitStack() as stack:
        path = stack.enter_context(fetched(url))
        check_readable(path)
        model: Model = stack.enter_context(module.read(path))
        return Model(model, model.metadata, stack.pop_all().close, model.graphs)


@contextmanager
def _sent(
    write: Callable[..., AbstractContextManager[Store]], url: Any, *arguments: Any, **options: Any
) -> Iterator[Store]:
    """The writer of a file that goes to a URL when it is complete."""
    with uploaded(url) as path, write(path, *arguments, **options) as store:
        yield store


def create(
    path: str | os.PathLike[str],
    infos: Sequence[TensorInfo],
    metadata: Mapping[str, str] | None = None,
    *,
    graphs: Sequence[Graph] = (),
    shard_size: int | None = None,
    fsync: bool = False,
) -> Writer:
    """Write a model file tensor by tensor; see `Writer`.

    Parameters
    ----------
    path : path or URL
        With one of `known_suffixes`. An old file stays as it is until the new one is complete.
    infos : sequence of TensorInfo
        All tensors, in the order in which the file will list them.
    metadata : mapping of str to str
        Kept by safetensors; the other formats have no place for it.
    graphs : sequence of Graph
        What the tensors are part of. Formats that hold whole networks need theirs; the others have no place for it.
    shard_size : int
        Bytes of one file of a sharded model; of no use for others, which an `NncWarning` says. By default a tensor goes
        to the file that `TensorInfo.shard` names, where all of them have one, and otherwise files hold up to 5 GB.
    fsync : bool
        Wait until all data are on the disk.

    Raises
    ------
    OptionError
        The suffix is unknown.
    ModelError
        The format holds whole networks, and the graph is not there. From entering the ``with`` statement on: the file
        cannot be written.
    """
    module = _module_for(path)
    if any(graph.format == getattr(module, "NETWORK", None) for graph in graphs):
        module = importlib.import_module("nncjit.formats.torch_archive")
    write = partial(_sent, module.write) if is_url(path) else module.write
    if shard_size is not None and not os.fspath(path).lower().endswith(".index.json"):
        said = "shard_size is not used: the name of a model in several files ends with .safetensors.index.json"
        warnings.warn(f"{path}: {said}", NncWarning, stacklevel=2)
    if hasattr(module, "GRAPH"):
        graph = next((graph for graph in graphs if graph.format == module.GRAPH and not graph.quantization), None)
        if graph is None:
            raise ModelError(f"{path}: needs the {module.GRAPH.upper()} graph of the network, and there is none")
        beside = {"graphs": graphs, "metadata": metadata or {}} if hasattr(module, "KEEPS_METADATA") else {}
        return Writer(write(path, infos, graph, **beside, fsync=fsync), infos)
    return Writer(write(path, infos, metadata or {}, shard_size=shard_size, fsync=fsync), infos)
