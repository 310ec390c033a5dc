"""Where the tensors of PyTorch's archives lie: TorchScript (`torch.jit.save`) and programs (`torch.export.save`).

An archive has a member for each storage. Its pickles, or tables in JSON, say what tensors are made of it. A storage
that is one whole tensor has the tensor's shape; of others (views, transposed tensors), all elements are one row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from nncjit.errors import ModelError
from nncjit.formats.pickle_values import Called, Named, Persistent, values_of
from nncjit.model import Role, TensorInfo

__all__ = ["Site", "is_export", "is_torchscript", "sites"]

MAX_TABLE = 1 << 28
MAX_DEPTH = 500
SHORT = 64
"""Bytes below which integers stay in the archive."""

_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Char": "int8", "Byte": "uint8",
    "Short": "int16", "Int": "int32", "Long": "int64", "Bool": "bool", "ComplexFloat": "complex64",
    "ComplexDouble": "complex128", "QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32",
    "UInt16": "uint16", "UInt32": "uint32", "UInt64": "uint64", "Float8_e4m3fn": "float8_e4m3fn",
    "Float8_e5m2": "float8_e5m2", "Float8_e4m3fnuz": "float8_e4m3fnuz", "Float8_e5m2fnuz": "float8_e5m2fnuz",
    "Float8_e8m0fnu": "float8_e8m0fnu",
}  # fmt: skip
"""Classes of storages -> dtype."""
_SCALARS = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
    31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""Codes of types in the tables of torch.export -> dtype."""
_REBUILD = Named("torch._utils._rebuild_tensor_v2")
_PICKLES = {"data.pkl": ("data/", ""), "constants.pkl": ("constants/", "CONSTANTS.c")}
"""Pickle -> folder of its storages, and what the names of its tensors start with."""
_TABLES = ("weights", "constants")


class Archive(Protocol):
    """Members by name."""

    @property
    def names(self) -> list[str]: ...

    def read(self, name: str, limit: int) -> bytes: ...


class Site(NamedTuple):
    """A member that holds a tensor."""

    member: str
    info: TensorInfo


class View(NamedTuple):
    """What a tensor sees of a storage."""

    name: str
    dtype: str
    elements: int
    """Elements of the storage; -1 where only the member says it."""
    offset: Any
    shape: Any
    strides: Any
    quantised: bool = False


def root_of(archive: Archive) -> str:
    """The folder that all members are in, with its slash."""
    return f"{archive.names[0].partition('/')[0]}/" if archive.names else ""


def is_torchscript(names: list[str]) -> bool:
    """Whether members are those of a TorchScript archive."""
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def is_export(names: list[str]) -> bool:
    """Whether members are those of an exported program."""
    return any(
        name.endswith(("/archive_format", "/archive_version", "serialized_exported_program.json")) for name in names
    )


def sites(archive: Archive, size_of: Callable[[str], int]) -> Iterator[Site]:
    """The tensors of an archive.

    Parameters
    ----------
    archive : Archive
    size_of : callable
        Bytes of a member, as they are or were.

    Raises
    ------
    ModelError
        A table or a pickle is damaged, or a storage is missing or of another size than its tensors need.
    """
    root, names = root_of(archive), set(archive.names)
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder", 99).strip() != b"little":
        raise ModelError("has big-endian values, which nncjit does not read")
    found = _of_pickles if is_torchscript(archive.names) else _of_tables
    for member, views in found(archive, root).items():
        view = views[0]
        if member not in names:
            raise ModelError(f"tensor {view.name}: its storage {member} is missing")
        try:
            info = _info(views, size_of(member))
        except (TypeError, ValueError, OverflowError):
            raise ModelError(f"tensor {view.name}: what the archive says of it is damaged") from None
        if not _stays(info):
            yield Site(member, info)


def _info(views: list[View], size: int) -> TensorInfo:
    first = views[0]
    itemsize = TensorInfo(first.name, (), first.dtype).itemsize
    whole = {_whole_shape(view) for view in views}
    (shape,) = whole if len(whole) == 1 else (None,)
    count = first.elements if first.elements >= 0 else size // itemsize
    if count * itemsize != size:
        raise ModelError(f"tensor {first.name}: its storage has {size} bytes, {count} elements need {count * itemsize}")
    if shape is None or math.prod(shape) != count:
        shape = (count,)
    return TensorInfo(first.name, shape, first.dtype, role=Role("levels") if first.quantised else None)


def _whole_shape(view: View) -> tuple[int, ...] | None:
    """The shape of a view that sees a storage from its start, in order."""
    shape, strides = [tuple(int(n) for n in numbers) for numbers in (view.shape, view.strides)]
    if int(view.offset) or len(shape) != len(strides) or any(n < 0 for n in shape):
        return None
    step = 1
    for dim, stride in zip(shape[::-1], strides[::-1], strict=True):
        if dim != 1 and stride != step and 0 not in shape:
            return None
        step *= dim
    return shape


def _stays(info: TensorInfo) -> bool:
    """Whether a tensor says how the network computes rather than what it knows, and costs less where it is."""
    return info.size <= 1 or (info.dtype[0] in "iub" and info.dtype != "bfloat16" and info.nbytes < SHORT)


def _of_pickles(archive: Archive, root: str) -> dict[str, list[View]]:
    found: dict[str, list[View]] = {}
    for pickle, (folder, start) in _PICKLES.items():
        if f"{root}{pickle}" in archive.names:
            value = values_of(archive.read(f"{root}{pickle}", MAX_TABLE))
            for path, tensor in _tensors(value, start.rstrip("."), set()):
                view, key = _view(path, tensor)
                found.setdefault(f"{root}{folder}{key}", []).append(view)
    return found


def _tensors(value: Any, path: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Called]]:
    """Tensors in a value with their paths, each object once."""
    if depth > MAX_DEPTH:
        raise ModelError(f"has more than {MAX_DEPTH} objects within each other")
    if id(value) in seen or not isinstance(value, Called | dict | list | tuple):
        return
    seen.add(id(value))
    if isinstance(value, Called) and any(
        map(_is_storage, value.arguments if isinstance(value.arguments, tuple) else ())
    ):
        yield path, value
        return
    inner: Any = (value.arguments, value.state) if isinstance(value, Called) else (value,)
    for each in inner:
        rows = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list | tuple) else ()
        for key, row in rows:
            joint = "" if not path or path.endswith("CONSTANTS.c") else "."
            yield from _tensors(row, f"{path}{joint}{key}", seen, depth + 1)


def _is_storage(value: Any) -> bool:
    return isinstance(value, Persistent)


def _view(path: str, tensor: Called) -> tuple[View, str]:
    """What a tensor sees, and the key of its storage."""
    try:
        storage, offset, shape, strides = tensor.arguments[:4]
        _, kind, key, _, count = storage.about
        name = kind.name.removeprefix("torch.").removesuffix("Storage")
        view = View(path, _STORAGES[name], int(count), offset, shape, strides, name.startswith("Q"))
    except (TypeError, ValueError, AttributeError, KeyError, IndexError):
        raise ModelError(f"tensor {path}: is made in a way that nncjit does not know") from None
    if not isinstance(key, str) or view.elements < 0:
        raise ModelError(f"tensor {path}: its storage has no name or no size")
    return view, key


def _of_tables(archive: Archive, root: str) -> dict[str, list[View]]:
    found: dict[str, list[View]] = {}
    for kind in _TABLES:
        folder = f"{root}data/{kind}/"
        for table in [name for name in archive.names if name.startswith(folder) and name.endswith("_config.json")]:
            try:
                rows = json.loads(archive.read(table, MAX_TABLE))["config"].items()
                for name, row in rows:
                    if not row["use_pickle"] and row["tensor_meta"] and row["tensor_meta"]["dtype"] in _SCALARS:
                        found.setdefault(folder + row["path_name"], []).append(_row_view(name, row["tensor_meta"]))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ModelError(f"member {table}: is damaged") from None
    return found


def _row_view(name: str, meta: dict[str, Any]) -> View:
    shape, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
    return View(name, _SCALARS[meta["dtype"]], -1, meta["storage_offset"]["as_int"], shape, strides)
