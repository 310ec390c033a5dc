"""ONNX models whose tensors are NNC streams inside the file: NAME.nnc.onnx.

The graph stays an ONNX graph. In the place of a tensor X, it has a tensor of bytes X.nnc, and a node that makes X of
it: operator ``Decode`` of the domain ``nncjit``, with the attributes ``to`` (data_type of X) and ``shape``. The domain
is this project's own. `nncjit.onnx` has the operator for ONNX's reference evaluator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.convert.tensor_streams import decode_as, encoded_apart, in_turn, named_as_container
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats import create, open_model
from nncjit.formats.onnx_places import Place, graphs, places
from nncjit.formats.onnx_tensors import TYPES
from nncjit.model import Graph, Tensor, TensorInfo
from nncjit.progress import Progress
from nncjit.stream.reports import CompressReport, DecompressReport, TensorReport

SUFFIX = ".nnc.onnx"
"""Of the names of such files."""
DOMAIN, OPERATOR, VERSION = "nncjit", "Decode", 1
WORTH_CODING = 256
"""Bytes below which a tensor stays as it is."""

_UINT8 = 2
_SET_OF_BYTES = ".nnc"


def is_encoded(path: Any) -> bool:
    """Whether the name is that of such a file."""
    return named_as_container(path, (SUFFIX,))


def compress_onnx(source: Any, target: Any, options: Options, execution: Execution) -> CompressReport:
    """Encode the tensors of an ONNX file inside it.

    Raises
    ------
    OptionError
        An option puts several tensors into one unit.
    ModelError
        The source is no ONNX file, or the target cannot be written.
    """
    started = time.perf_counter()
    if not str(fspath(source)).lower().endswith(".onnx") or is_encoded(source):
        raise ModelError(f"{source}: only an ONNX file can be encoded inside, to {target}")
    with open_model(source) as model:
        proto = _parse(model.graphs[0].data)
        found = {place.name: place for place in places(proto)}
        apart = {path: graph for path, graph in graphs(proto) if hasattr(graph, "initializer")}
        options.warn_where_none_is_coded(model.names)
        taken = {place.local for place in found.values()}
        taken |= {name for graph in apart.values() for node in graph.node for name in (*node.input, *node.output)}
        coded = [
            t
            for t in model
            if options.codes(t.name)
            and _can_be_coded(t, found[t.name], apart)
            and found[t.name].local + _SET_OF_BYTES not in taken
        ]
        options.choices(tensor.name for tensor in model)  # a rule that holds for none is refused
        with encoded_apart(coded, options, execution, Path(target).resolve().parent) as streams:
            for tensor in coded:
                _encode_place(found[tensor.name], apart[found[tensor.name].graph], streams.size(tensor.name))
            if all(row.domain != DOMAIN for row in proto.opset_import):
                proto.opset_import.add(domain=DOMAIN, version=VERSION)
            infos = [
                TensorInfo(t.name + _SET_OF_BYTES, (streams.size(t.name),), "uint8") if t.name in streams else t.info
                for t in model
            ]
            with create(target, infos, graphs=[Graph("onnx", proto.SerializeToString())]) as writer:
                for tensor in model:
                    if tensor.name in streams:
                        data = np.frombuffer(streams.read(tensor.name), np.uint8)
                        writer.put(tensor.name + _SET_OF_BYTES, data)
                    elif tensor.same_as is None:
                        writer.put(tensor.name, tensor.read())
        return streams.report((source, target), model, Path(target).stat().st_size, started)


def decompress_onnx(
    source: Any,
    target: Any,
    *,
    threads: int | None = None,
    max_bytes: Any = None,
    shard_size: int | None = None,
    told: Progress | None = None,
) -> DecompressReport:
    """Decode the tensors inside an ONNX file, and leave out the nodes that would. Arguments are those of `decompress`.

    Raises
    ------
    BitstreamError
        A stream is damaged.
    ModelError
        A stream does not fit its node, or a file cannot be read or written.
    """
    started = time.perf_counter()
    with open_model(source) as model:
        proto = _parse(model.graphs[0].data)
        wanted: dict[str, TensorInfo] = {}
        kept = {tensor.name: tensor for tensor in model}
        bytes_of = {(place.graph, place.local): place for place in places(proto) if place.local}
        for path, graph in graphs(proto):
            for node in [node for node in graph.node if (node.domain, node.op_type) == (DOMAIN, OPERATOR)]:
                place = bytes_of.get((path, next(iter(node.input), "")))
                if place is None or place.name not in kept:
                    raise ModelError(f"{source}: node {node.name} ({OPERATOR}): there are no bytes to decode")
                wanted[place.name] = _decode_place(place, graph, node, source)
        for row in [row for row in proto.opset_import if row.domain == DOMAIN]:
            proto.opset_import.remove(row)
        infos = [wanted.get(tensor.name, tensor.info) for tensor in model]
        rows = []
        graphs_now = [Graph("onnx", proto.SerializeToString())]
        with create(target, infos, graphs=graphs_now, shard_size=shard_size) as writer:
            for tensor, info in in_turn(model, infos, told):
                if tensor.name not in wanted:
                    if tensor.same_as is None:
                        writer.put(tensor.name, tensor.read())
                    continue
                data = tensor.read().tobytes()
                writer.put(info.name, decode_as(data, info, threads=threads, max_bytes=max_bytes))
                rows.append(TensorReport(info.name, info.shape, info.dtype, "", None, tensor.size, info.nbytes))
        return DecompressReport(
            source=fspath(source),
            target=fspath(target),
            original_bytes=sum(info.nbytes for info in infos),
            compressed_bytes=Path(source).stat().st_size,
            seconds=time.perf_counter() - started,
            threads=threads or 1,
            tensors=tuple(rows),
        )


def _parse(data: bytes) -> Any:
    return require("onnx", "ONNX files").ModelProto.FromString(data)


def _can_be_coded(tensor: Tensor, place: Place, apart: dict[str, Any]) -> bool:
    """Whether a node can stand for the tensor: nodes of its graph call it by a name, and no user of the model gives it
    another value.
    """
    if tensor.same_as is not None or tensor.nbytes < WORTH_CODING or not place.local or place.graph not in apart:
        return False
    graph = apart[place.graph]
    if any(place.tensor is sparse.values for sparse in graph.sparse_initializer):
        return False
    constant = any(place.local in node.output and node.attribute[0].HasField("t") for node in _constants(graph))
    initial = any(place.local == tensor.name for tensor in graph.initializer)
    return (constant or initial) and all(place.local != given.name for given in graph.input)


def _constants(graph: Any) -> Iterator[Any]:
    return (node for node in graph.node if node.op_type == "Constant" and len(node.attribute) == 1)


def _encode_place(place: Place, graph: Any, size: int) -> None:
    """Put a tensor of bytes and a node in the place of a tensor."""
    onnx = require("onnx", "ONNX files")
    name, data = place.local, place.local + _SET_OF_BYTES
    node = onnx.helper.make_node(
        OPERATOR,
        [data],
        [name],
        name=f"{name}{_SET_OF_BYTES}.decode",
        domain=DOMAIN,
        to=place.tensor.data_type,
        shape=list(place.tensor.dims),
    )
    at = 0
    for k, constant in enumerate(graph.node):
        if constant.op_type == "Constant" and list(constant.output) == [name]:
            constant.output[0] = data
            at = k + 1
    if not at:
        place.tensor.name = data
    place.tensor.data_type = _UINT8
    del place.tensor.dims[:]
    place.tensor.dims.append(size)
    graph.node.insert(at, node)


def _decode_place(place: Place, graph: Any, node: Any, source: Any) -> TensorInfo:
    """Give a tensor its place again; what it is."""
    try:
        given = {attribute.name: attribute for attribute in node.attribute}
        code, shape = given["to"].i, tuple(given["shape"].ints)
        kind = TYPES[code]
        name = place.name.removesuffix(_SET_OF_BYTES)
        info = TensorInfo(name, shape, kind.dtype)
    except (KeyError, ValueError, ModelError):
        raise ModelError(f"{source}: node {node.name} ({OPERATOR}): does not say type and shape") from None
    output = node.output[0] if node.output else ""
    if f"{output}{_SET_OF_BYTES}" != place.local:
        raise ModelError(f"{source}: node {node.name} ({OPERATOR}): makes {output!r} of {place.local!r}")
    for constant in graph.node:
        if constant.op_type == "Constant" and list(constant.output) == [place.local]:
            constant.output[0] = output
    if place.tensor.name == place.local:
        place.tensor.name = output
    place.tensor.data_type = code
    del place.tensor.dims[:]
    place.tensor.dims.extend(shape)
    graph.node.remove(node)
    return info
