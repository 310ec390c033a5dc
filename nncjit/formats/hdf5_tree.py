"""HDF5 files as a tree of groups and attributes in JSON, and datasets as tensors.

The tree has what makes an equal file once the values are there: groups, attributes with their types, layout and filters
of datasets. A file may refer to other files, to itself, or to nothing; all of that is refused, and so are datasets that
would become much larger than what is stored of them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nncjit.dtypes import DTYPES
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats.hdf5_text import ELEMENT, TextClaims
from nncjit.model import TensorInfo

__all__ = ["Dataset", "Tree", "damage", "fill", "open_hdf5", "rebuild", "survey"]

Tree = dict[str, Any]
"""A group: ``attrs`` by name, ``items`` by name (groups, and datasets with ``type``), ``ordered``."""

MAX_DEPTH = 64
MAX_OBJECTS = 1 << 20
MAX_VALUE = 1 << 24
"""Bytes of an attribute, or of a dataset that is text."""
MAX_EXPANSION = 1000
"""Bytes of a dataset for each that is stored, beyond the first `FREE`."""
FREE = 1 << 20
MAX_REPEATS = 4
"""Bytes of attributes and text for each of the file, beyond the first `FREE`: datasets with several names repeat."""
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_BFLOAT16 = "|V2"
"""How Keras stores bfloat16, in files of weights beside an attribute that says so."""
_OPAQUE = {f"|V{n}": f"uint{8 * n}" for n in (1, 2, 4, 8)}
"""Bytes that nothing is said of -> the integers as which they come back exactly."""


class Dataset(NamedTuple):
    """A dataset that becomes a tensor."""

    info: TensorInfo
    handle: Any
    """Of h5py."""

    def read(self) -> np.ndarray[Any, Any]:
        """The values as a storage array."""
        array = self.info.empty()
        with damage(self.info.name):
            if not self.handle:
                raise ModelError("the file is closed")
            if self.info.size:
                self.handle.read_direct(array.view(self.handle.dtype) if self.handle.dtype.kind == "V" else array)
        return array


def fill(dataset: Any, array: np.ndarray[Any, Any]) -> None:
    """Write a storage array into a dataset of h5py."""
    if array.size:
        dataset[...] = array.view(dataset.dtype) if dataset.dtype.kind == "V" else array


def open_hdf5(file: Any, mode: str = "r", *, ordered: bool = False) -> Any:
    """An h5py File of an open binary file; `ordered`: a new one keeps the order of its groups."""
    with damage("HDF5 file"):
        return _h5py().File(file, mode, **({"track_order": True} if ordered else {}))


@contextmanager
def damage(what: str) -> Iterator[None]:
    """Turn what h5py raises into a ModelError that names what was read or written."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, AttributeError, IndexError) as error:
        first = (str(error).strip("'\" ") or type(error).__name__).splitlines()[0]
        raise ModelError(f"{what}: is damaged, or not what HDF5 can hold ({first})") from None


def _h5py() -> Any:
    return require("h5py", "HDF5 and Keras files")


def _is_group(item: Any) -> bool:
    return isinstance(item, _h5py().Group)


def _member(group: Any, name: str) -> Any:
    """A group or dataset that a group holds itself."""
    h5py = _h5py()
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        kinds = {h5py.SoftLink: "a soft link", h5py.ExternalLink: "a link to another file"}
        raise ModelError(f"is {kinds.get(type(link), 'a link of unknown kind')}, which nncjit does not follow")
    item = group[name]
    if not isinstance(item, h5py.Group | h5py.Dataset):
        raise ModelError(f"is a {type(item).__name__}, which is neither a group nor a dataset")
    return item


class _Survey:
    """What is in a file of known size."""

    def __init__(self, size: int, prefix: str, claims: TextClaims) -> None:
        self._size, self._prefix, self._claims = size, prefix, claims
        self._left = MAX_REPEATS * size + FREE
        self._seen: dict[Any, str] = {}
        self.datasets: list[Dataset] = []
        self.ties: dict[str, str] = {}

    def group(self, group: Any, path: str, depth: int = 0) -> Tree:
        with damage(path or "/"):
            if depth > MAX_DEPTH:
                raise ModelError(f"there are more than {MAX_DEPTH} groups within each other")
            self._first(group, path)
            tree: Tree = {"attrs": self._attributes(group), "items": {}}
            if group.id.get_create_plist().get_link_creation_order():
                tree["ordered"] = True
            names = list(group)
        for name in names:
            inner = f"{path}/{name}" if path else name
            with damage(inner):
                item = _member(group, name)
                row = None if _is_group(item) else self._dataset(item, inner)
            tree["items"][name] = row or self.group(item, inner, depth + 1)
        return tree

    def _first(self, item: Any, path: str) -> str | None:
        """The path under which an object was met before."""
        about = _h5py().h5o.get_info(item.id)
        earlier = self._seen.setdefault((about.fileno, about.addr), path)
        if len(self._seen) > MAX_OBJECTS:
            raise ModelError(f"the file has more than {MAX_OBJECTS} groups and datasets")
        if earlier != path and _is_group(item):
            raise ModelError(f"is the group {earlier or '/'} again")
        return None if earlier == path else earlier

    def _dataset(self, item: Any, path: str) -> Tree:
        earlier = self._first(item, path)
        if item.is_virtual or item.external:
            raise ModelError("has its values in other files")
        name = self._prefix + path
        if earlier is not None:
            self.ties[name] = self._prefix + earlier
        if item.dtype.kind in "OS" or item.shape is None:
            return {"attrs": self._attributes(item), "value": self._value(item, item)}
        attrs = self._attributes(item)
        info = TensorInfo(name, tuple(item.shape), _dtype_of(item, attrs), self.ties.get(name))
        stored = min(item.id.get_storage_size(), self._size)
        if info.nbytes > MAX_EXPANSION * stored + FREE:
            raise ModelError(f"{stored} bytes are stored of {item.dtype}{list(info.shape)}")
        self.datasets.append(Dataset(info, item))
        return {"attrs": attrs, **_layout(item)}

    def _attributes(self, item: Any) -> Tree:
        found = {}
        for name in item.attrs:
            with damage(f"attribute {name}"):
                found[name] = self._value(item, item.attrs.get_id(name), name)
        return found

    def _value(self, owner: Any, handle: Any, name: str | None = None) -> Tree:
        """An attribute by its name, or a dataset that is text: its size is known before any of it is read."""
        if handle.shape is None:
            return _packed(handle, None)
        text = _text_of(handle)
        varies = text is not None and text.length is None
        count = prod(handle.shape)
        stored = count * (ELEMENT if varies else handle.dtype.itemsize)
        if stored > min(MAX_VALUE, self._size):
            raise ModelError(f"has {stored} bytes, which is too much")
        if varies and count:
            claimed = self._claims.of(owner, name, count)
            if claimed > self._size:
                raise ModelError(f"claims to be text of {claimed} bytes, the file has {self._size}")
            stored += claimed
        self._left -= stored
        if self._left < 0:
            raise ModelError("attributes and text repeat what the file holds too often")
        if name is None:
            return _packed(handle, handle[()])
        return _packed(handle, owner.attrs[name])


def survey(file: Any, source: BinaryIO, size: int, prefix: str = "") -> tuple[Tree, list[Dataset]]:
    """The tree of an h5py File, and the datasets that are tensors.

    Parameters
    ----------
    source : binary file
        What h5py reads.
    size : int
        Its bytes.
    prefix : str
        What the names of tensors start with.

    Raises
    ------
    ModelError
        It refers to other files or to itself, or holds what nncjit cannot hold; with the path.
    """
    with damage("HDF5 file"):
        found = _Survey(size, prefix, TextClaims(source, size, file))
        tree = found.group(file, "")
    return tree, found.datasets


def _dtype_of(item: Any, attrs: Tree) -> str:
    if item.dtype.str == _BFLOAT16:
        said = attrs.get("dtype")
        if said is not None and said["shape"] == [] and _unpacked(said)[0].item() == b"bfloat16":
            return "bfloat16"
    if item.dtype.str in _OPAQUE and not item.dtype.names:
        return _OPAQUE[item.dtype.str]
    name = str(item.dtype.name)
    if name not in DTYPES or _h5py().check_enum_dtype(item.dtype):
        raise ModelError(f"has values of type {item.dtype}, which nncjit does not hold")
    return name


def _layout(item: Any) -> Tree:
    """How the values of a dataset are stored."""
    row: Tree = {"type": item.dtype.str}
    plist = item.id.get_create_plist()
    for k in range(plist.get_nfilters()):
        code = plist.get_filter(k)[0]
        if code not in _FILTERS:
            raise ModelError(f"is packed by filter {code}, which nncjit does not know")
    if item.chunks:
        row |= {"chunks": list(item.chunks), "maxshape": list(item.maxshape)}
        row |= {key: value for key in ("compression", "compression_opts") if (value := getattr(item, key)) is not None}
        row |= {key: True for key in ("shuffle", "fletcher32") if getattr(item, key)}
    return row


def _packed(handle: Any, value: Any) -> Tree:
    """The value of an attribute or of a dataset of text, in JSON."""
    dtype, shape = handle.dtype, handle.shape
    text = _text_of(handle)
    if shape is None:
        return {"type": _text_type(text) if text else dtype.str, "shape": None}
    if text is not None and text.length is None:
        flat = np.asarray(value, object).reshape(-1)
        words = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else str(word) for word in flat]
        return {"type": _text_type(text), "shape": list(shape), "data": words}
    raw = np.asarray(value, dtype).tobytes()
    said = _text_type(text) if text else ("bool" if dtype.kind == "b" else dtype.str)
    return {"type": said, "shape": list(shape), "data": base64.b64encode(raw).decode()}


def _text_of(handle: Any) -> Any:
    """What h5py says of a type that is text; None for numbers."""
    h5py, dtype = _h5py(), handle.dtype
    text = h5py.check_string_dtype(dtype)
    if text is None and (dtype.kind not in "Sfiubc" or h5py.check_enum_dtype(dtype)):
        raise ModelError(f"has values of type {dtype}, which nncjit does not hold")
    return text


def _text_type(text: Any) -> str:
    return f"{text.encoding}:{'' if text.length is None else text.length}"


def _unpacked(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """The value and its dtype."""
    h5py = _h5py()
    name, shape = row["type"], row["shape"]
    encoding, colon, length = name.partition(":")
    if colon:
        dtype = h5py.string_dtype(encoding, int(length) if length else None)
    else:
        dtype = np.dtype(name)
        if dtype.kind not in "fiubc":
            raise ModelError(f"type {name} is none of a file that nncjit has read")
    if shape is None:
        return h5py.Empty(dtype), dtype
    if colon and not length:
        words = np.empty(len(row["data"]), object)
        words[:] = [word.encode("utf-8", "surrogateescape") for word in row["data"]]
        return words.reshape(shape), dtype
    return np.frombuffer(base64.b64decode(row["data"]), dtype).reshape(shape), dtype


def rebuild(file: Any, tree: Any, infos: Mapping[str, TensorInfo], prefix: str = "") -> dict[str, Any]:
    """Groups, attributes and empty datasets as a tree has them; the datasets by the names of their tensors.

    Raises
    ------
    ModelError
        The tree is damaged, or a tensor of it is not among `infos`.
    """
    made: dict[str, Any] = {}
    with damage("HDF5 file"):
        _fill(file, tree, infos, prefix, made)
    return made


def _fill(
    group: Any, tree: Tree, infos: Mapping[str, TensorInfo], prefix: str, made: dict[str, Any], depth: int = 0
) -> None:
    if depth > MAX_DEPTH:
        raise ModelError(f"has more than {MAX_DEPTH} groups within each other")
    for name, row in tree["items"].items():
        path = prefix + name
        with damage(path):
            if "/" in name or name in ("", ".") or "\0" in name:
                raise ModelError("is no name of a group or dataset")
            if "items" in row:
                inner = group.create_group(name, track_order=bool(row.get("ordered")) or None)
                _fill(inner, row, infos, f"{path}/", made, depth + 1)
                continue
            if "value" in row:
                value, dtype = _unpacked(row["value"])
                item = group.create_dataset(name, data=value, dtype=dtype)
            else:
                item = _create(group, name, row, infos.get(path), made)
                made[path] = item
            _attributes_to(item, row["attrs"])
    _attributes_to(group, tree["attrs"])


def _attributes_to(item: Any, rows: Mapping[str, Any]) -> None:
    for name, row in rows.items():
        value, dtype = _unpacked(row)
        item.attrs.create(name, value, None if row["shape"] is None else tuple(row["shape"]), dtype)


def _create(group: Any, name: str, row: Tree, info: TensorInfo | None, made: Mapping[str, Any]) -> Any:
    if info is None:
        raise ModelError("is in the file's tree, but not in the stream")
    if info.same_as is not None and info.same_as in made:
        group[name] = made[info.same_as]
        return made[info.same_as]
    dtype = np.dtype(row["type"])
    wanted = _OPAQUE.get(dtype.str, dtype.name)
    if info.dtype != wanted and (info.dtype, dtype.str) != ("bfloat16", _BFLOAT16):
        raise ModelError(f"is {info.dtype}, the file's tree wants {wanted}")
    layout: Tree = {key: row[key] for key in ("compression", "compression_opts", "shuffle", "fletcher32") if key in row}
    if "chunks" in row:
        layout |= {"chunks": tuple(row["chunks"]), "maxshape": tuple(row["maxshape"])}
    return group.create_dataset(name, info.shape, dtype, **layout)
