"""ONNX models: the tensors of a network, and its graph without them.

The graph is the model with the data of its tensors taken out; names, types and shapes stay in it. What is no tensor in
the sense of this package stays too: text, complex numbers, single numbers and short lists of integers, which describe
the computation rather than the network's knowledge. So does all else, metadata included.

The bytes of tensors are neither read with the graph nor written with it: see `protobuf_wire`. A model of 2 GB needs the
memory of its graph and a few tensors.
"""

from __future__ import annotations

import mmap as memory_map
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.files import atomic_write, os_errors, reserve, write_at
from nncjit.formats import onnx_tensors, protobuf_wire
from nncjit.formats.onnx_external import INLINE, Extent, ExternalFiles, extent_of
from nncjit.formats.onnx_places import Place, places
from nncjit.formats.onnx_roles import roles
from nncjit.formats.onnx_tensors import OnnxType
from nncjit.formats.protobuf_wire import Hole, Piece, Range, bytes_field
from nncjit.formats.tensor_writer import PlacedStore
from nncjit.model import Graph, Model, Role, Tensor, TensorInfo

__all__ = ["GRAPH", "read", "write"]

GRAPH = "onnx"
"""The graph that `write` needs."""

Array = np.ndarray[Any, Any]

TAKEN_OUT, TAKEN_FROM_BESIDE = "nnc", "nnc beside"
"""Location of data that are in the stream; the second, of those that were in a file beside the model."""

LEFT_IN_PLACE = 1024
"""Bytes from which data are not read with the graph."""
SHORT_LIST = 64
"""Bytes below which integers stay in the graph."""
LARGEST_FILE = (1 << 31) - (1 << 20)
"""Bytes of a protocol buffer; a larger model has its data beside it."""
_ALIGNMENT = 64

_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data")
_RAW_DATA, _EXTERNAL_DATA = 9, 13
_DESCENT: protobuf_wire.Descent = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Down to the TensorProtos of a ModelProto."""


def read(path: str | os.PathLike[str], *, mmap: bool = False) -> Model:  # noqa: ARG001 - tensors are read one by one
    """Open a file; see `nncjit.formats.open_model`."""
    path = Path(path)
    files = ExternalFiles(path)
    try:
        model = _parse(_without_data(path))
        return _take_out(model, files)
    except ModelError as error:
        files.close()
        raise ModelError(f"{path}: {error}") from None
    except BaseException:
        files.close()
        raise


def _without_data(path: Path) -> bytes:
    """The file with its large data replaced by references to where they are in it."""

    def refer(kind: str, number: int, place: Range) -> list[Piece] | None:
        if kind != "tensor" or number != _RAW_DATA or place.stop - place.start < LEFT_IN_PLACE:
            return None
        entries = {"location": INLINE, "offset": str(place.start), "length": str(place.stop - place.start)}
        said = [bytes_field(1, key.encode()) + bytes_field(2, text.encode()) for key, text in entries.items()]
        return [bytes_field(_EXTERNAL_DATA, entry) for entry in said]

    with (
        os_errors(path),
        path.open("rb") as file,
        memory_map.mmap(file.fileno(), 0, access=memory_map.ACCESS_READ) as m,
    ):
        view = memoryview(m)
        try:
            pieces = protobuf_wire.rewrite(view, Range(0, len(view)), "model", _DESCENT, refer)
            return b"".join(bytes(view[p.start : p.stop]) if isinstance(p, Range) else bytes(p) for p in pieces)  # type: ignore[arg-type] # without holes
        finally:
            view.release()


def _parse(data: bytes) -> Any:
    """A ModelProto."""
    onnx = require("onnx", "ONNX files")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # noqa: BLE001 - protobuf's own class of errors differs between its implementations
        raise ModelError(f"not an ONNX file, or a damaged one ({type(error).__name__})") from None
    if not model.HasField("graph"):
        raise ModelError("not an ONNX file: there is no graph in it")
    return model


def _take_out(model: Any, files: ExternalFiles) -> Model:
    """The tensors, and the graph that is left."""
    _lists_as_tensors(model)
    found: list[tuple[Place, Tensor]] = []
    first_at: dict[tuple[Extent, int, tuple[int, ...]], str] = {}
    all_places = list(places(model))
    for place in all_places:
        with _naming(place):
            _locate(place.tensor)
    told = roles(model, {(p.graph, p.local): tuple(p.tensor.dims) for p in all_places if p.local})
    for place in all_places:
        with _naming(place):
            tensor = _tensor(place, files, told.get((place.graph, place.local)), first_at)
        if tensor is not None:
            found.append((place, tensor))
    for place, _ in found:
        _clear(place.tensor)
    graph = Graph(GRAPH, model.SerializeToString(deterministic=True))
    return Model((tensor for _, tensor in found), close=files.close, graphs=[graph])


def _lists_as_tensors(model: Any) -> None:
    """Constants that are long lists of floats become tensors, which mean the same."""
    for node in _constants(model.graph.node):
        (attribute,) = node.attribute
        if attribute.name == "value_floats" and len(attribute.floats) > 1:
            attribute.t.data_type = 1
            attribute.t.dims.append(len(attribute.floats))
            attribute.t.float_data.extend(attribute.floats)
            attribute.name, attribute.type = "value", 4
            attribute.ClearField("floats")


def _constants(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            yield node
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _constants(graph.node)


@contextmanager
def _naming(place: Place) -> Iterator[None]:
    """Say in which node and tensor something is wrong."""
    try:
        yield
    except ModelError as error:
        node = f"{place.where}: " if place.where else ""
        raise ModelError(f"{node}tensor {place.name}: {error}") from None


def _tensor(
    place: Place, files: ExternalFiles, role: Role | None, first_at: dict[tuple[Extent, int, tuple[int, ...]], str]
) -> Tensor | None:
    """The tensor of a place; None where it stays in the graph, with its data in it."""
    proto = place.tensor
    kind = onnx_tensors.type_of(proto)
    shape = tuple(proto.dims)
    if proto.HasField("segment"):
        raise ModelError("is a segment of a tensor, which no reader of ONNX supports")
    external = proto.data_location == 1
    if kind is None:
        if external:
            raise ModelError(f"has data of type {proto.data_type} outside the graph, which nncjit does not hold")
        return None
    info = TensorInfo(place.name, shape, kind.dtype)
    size = onnx_tensors.raw_size(kind, shape)
    if external:
        extent = extent_of(proto, size)
        files.check(extent)
        if _stays(info, role):
            _put(proto, files.read(extent).tobytes())
            return None
        twin = first_at.setdefault((extent, proto.data_type, shape), place.name) if size else place.name
        load = partial(_load, files, kind, shape, extent)
        part = partial(_load_part, files, kind, extent) if onnx_tensors.is_plain(kind) else None
        same_as = twin if twin != place.name else None
        return Tensor(place.name, shape, kind.dtype, load, same_as, fresh=True, role=role, part=part)
    raw = proto.raw_data
    if raw or not size:
        if len(raw) != size:
            raise ModelError(f"has {len(raw)} bytes, its type and shape {list(shape)} need {size}")
        array = onnx_tensors.from_raw(kind, shape, np.frombuffer(raw, np.uint8))
    else:
        array = onnx_tensors.from_fields(kind, proto, shape)
    if _stays(info, role):
        return None
    return Tensor(place.name, shape, kind.dtype, lambda: array, role=role)


def _stays(info: TensorInfo, role: Role | None) -> bool:
    """Whether a tensor says how the network computes rather than what it knows, and costs less in the graph."""
    if info.dtype in ("float32", "float16", "bfloat16", "float64"):
        return info.size <= 1
    return info.nbytes < SHORT_LIST and (role is None or role.kind != "levels")


def _locate(proto: Any) -> None:
    """Leave what a TensorProto says itself of data outside of it, or what `_without_data` put in the place of its data,
    whichever holds: files may say that data are in the message, and may keep what was true before.
    """
    entries = [(entry.key, entry.value) for entry in proto.external_data]
    if ("location", INLINE) not in entries:
        return
    if proto.raw_data:
        raise ModelError("has its data twice")
    first = len(entries) - 1 - entries[::-1].index(("location", INLINE))
    inline = entries[first : first + 3]
    said_by_file = [pair for k, pair in enumerate(entries) if not first <= k < first + 3]
    del proto.external_data[:]
    for key, text in said_by_file if proto.data_location == 1 else inline:
        proto.external_data.add(key=key, value=text)
    proto.data_location = 1


def _load(files: ExternalFiles, kind: OnnxType, shape: tuple[int, ...], extent: Extent) -> Array:
    array: Array = onnx_tensors.from_raw(kind, shape, files.read(extent))
    return array


def _load_part(files: ExternalFiles, kind: OnnxType, extent: Extent, start: int, stop: int) -> Array:
    """Some elements of a tensor."""
    size = kind.bits // 8
    here = Extent(extent.location, extent.offset + size * start, size * (stop - start))
    return _load(files, kind, (stop - start,), here)


def _clear(proto: Any) -> None:
    """Take the data out of a TensorProto, and say that they are elsewhere."""
    beside = any(e.key == "location" and e.value != INLINE for e in proto.external_data)
    for field in _DATA_FIELDS:
        proto.ClearField(field)
    proto.data_location = 1
    entry = proto.external_data.add()
    entry.key, entry.value = "location", TAKEN_FROM_BESIDE if beside else TAKEN_OUT


def _put(proto: Any, raw: bytes) -> None:
    """Put data into a TensorProto."""
    for field in (*_DATA_FIELDS, "data_location"):
        proto.ClearField(field)
    proto.raw_data = raw


@contextmanager
def write(
    path: str | os.PathLike[str], infos: Sequence[TensorInfo], graph: Graph, *, fsync: bool = False
) -> Iterator[PlacedStore]:
    """Put tensors back into their graph; see `nncjit.formats.create`.

    Data that were beside the model are beside it again, in a file of the model's name with ``.data`` behind it. So are
    all where they are too many for one file.

    Raises
    ------
    ModelError
        The graph is damaged, or a tensor does not fit it.
    """
    path = Path(path)
    try:
        model = _parse(graph.data)
        filled = _fitting(model, {info.name: info for info in infos})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    sizes = {p.name: onnx_tensors.raw_size(kind, tuple(p.tensor.dims)) for p, kind in filled}
    beside = {p.name for p, _ in filled if _location(p.tensor) == TAKEN_FROM_BESIDE}
    if len(graph.data) + sum(sizes[p.name] + 64 for p, _ in filled if p.name not in beside) > LARGEST_FILE:
        beside = set(sizes)
    kinds = {place.name: kind for place, kind in filled}
    data_path = path.with_name(f"{path.name}.data")
    twins = {info.name: info.same_as for info in infos if info.same_as is not None}
    offsets = _refer(filled, beside, sizes, twins, data_path.name)
    layout, total = _layout(model, [p for p, _ in filled if p.name not in beside], sizes)
    if beside and data_path.exists() and not path.exists():
        raise ModelError(f"{data_path} exists and is no part of {path}: choose another name")
    with ExitStack() as stack:
        file = stack.enter_context(atomic_write(path, fsync=fsync))
        reserve(file, total)
        places_in_file: dict[str, int] = {}
        at = 0
        for piece in layout:
            if isinstance(piece, Hole):
                places_in_file[piece.name] = at
            else:
                with os_errors(path):
                    write_at(file, np.frombuffer(piece, np.uint8), at)
            at += protobuf_wire.size_of(piece)
        data_file = file
        if beside:
            data_file = stack.enter_context(atomic_write(data_path, fsync=fsync))
            reserve(data_file, max((offsets[name] + sizes[name] for name in beside), default=0))

        def put(info: TensorInfo, array: Array, start: int) -> None:
            kind = kinds[info.name]
            raw = onnx_tensors.to_raw(kind, array)
            outside = info.name in beside
            at = offsets[info.name] if outside else places_in_file[info.name]
            with os_errors(data_path if outside else path):
                # pieces are block rows, which begin with a byte of their own
                write_at(data_file if outside else file, raw, at + start * kind.bits // 8)

        yield PlacedStore(put)


def _location(proto: Any) -> str:
    return next((entry.value for entry in proto.external_data if entry.key == "location"), "")


def _fitting(model: Any, infos: dict[str, TensorInfo]) -> list[tuple[Place, OnnxType]]:
    """The places that are to be filled, one for each tensor."""
    filled = []
    left = dict(infos)
    for place in places(model):
        with _naming(place):
            kind = onnx_tensors.type_of(place.tensor)
            info = left.pop(place.name, None)
            if info is None:
                if place.tensor.data_location == 1:
                    raise ModelError("is in the graph, but not in the stream")
                continue
            if kind is None or info.dtype != kind.dtype or info.shape != tuple(place.tensor.dims):
                wanted = f"{kind.dtype if kind else 'other data'}{list(place.tensor.dims)}"
                raise ModelError(f"is {info.dtype}{list(info.shape)}, the graph wants {wanted}")
            filled.append((place, kind))
    for name in left:
        raise ModelError(f"tensor {name}: has no place in the graph")
    return filled


def _refer(
    filled: list[tuple[Place, OnnxType]], beside: set[str], sizes: dict[str, int], twins: dict[str, str], file: str
) -> dict[str, int]:
    """Make TensorProtos refer to their data in the file beside the model; the offsets there."""
    offsets: dict[str, int] = {}
    at = 0
    for place, _ in filled:
        name = place.name
        if name not in beside:
            continue
        if name not in offsets:
            shared = twins.get(name)
            offsets[name] = offsets.get(shared or "", at)
            if offsets[name] == at:
                at += -(-sizes[name] // _ALIGNMENT) * _ALIGNMENT
        _put(place.tensor, b"")
        place.tensor.ClearField("raw_data")
        place.tensor.data_location = 1
        for key, value in (("location", file), ("offset", offsets[name]), ("length", sizes[name])):
            entry = place.tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return offsets


def _layout(model: Any, inside: list[Place], sizes: dict[str, int]) -> tuple[list[Hole | bytes], int]:
    """The bytes of the file, with holes for the data of some tensors, and its size."""
    tokens: dict[bytes, str] = {}
    for place in inside:
        token = len(tokens).to_bytes(8, "little") + os.urandom(16)
        tokens[token] = place.name
        _put(place.tensor, token)
    view = memoryview(model.SerializeToString())

    def leave_hole(kind: str, number: int, place: Range) -> list[Piece] | None:
        if kind != "tensor" or number != _RAW_DATA or place.stop - place.start != 24:
            return None
        name = tokens.get(bytes(view[place.start : place.stop]))
        if name is None:
            return None
        head = protobuf_wire.varint(_RAW_DATA << 3 | 2) + protobuf_wire.varint(sizes[name])
        return [head, Hole(name, sizes[name])]

    pieces = protobuf_wire.rewrite(view, Range(0, len(view)), "model", _DESCENT, leave_hole)
    whole = [bytes(view[p.start : p.stop]) if isinstance(p, Range) else p for p in pieces]
    return whole, sum(map(protobuf_wire.size_of, pieces))
