"""ONNX models whose tensors are NNC streams inside the file: NAME.nnc.onnx.

The graph stays an ONNX graph, with nodes that make tensors of bytes: see `onnx_decode_nodes`. `nncjit.onnx` has the
operator for ONNX's reference evaluator and for onnxruntime.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np

from nncjit.convert.onnx_decode_nodes import BYTES, DecodeNode, NodeMaker, find_nodes, take_out
from nncjit.convert.tensor_streams import decode_as, encoded_apart, in_turn, named_as_container
from nncjit.encoder.execution import Execution
from nncjit.encoder.options import Options
from nncjit.errors import ModelError
from nncjit.extras import require
from nncjit.formats import create, open_model
from nncjit.formats.onnx_places import places
from nncjit.formats.onnx_tensors import TYPES
from nncjit.model import Graph, Tensor, TensorInfo
from nncjit.progress import Progress
from nncjit.stream.reports import CompressReport, DecompressReport, TensorReport

Array = np.ndarray[Any, Any]

SUFFIX = ".nnc.onnx"
"""Of the names of such files."""
WORTH_CODING = 256
"""Bytes below which a tensor stays as it is."""


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
        nodes = NodeMaker(proto)
        options.warn_where_none_is_coded(model.names)
        coded = [
            t
            for t in model
            if options.codes(t.name)
            and t.same_as is None
            and t.nbytes >= WORTH_CODING
            and nodes.can_make(found[t.name])
        ]
        options.choices(tensor.name for tensor in model)  # a rule that holds for none is refused
        with encoded_apart(coded, options, execution, Path(target).resolve().parent) as streams:
            for tensor in coded:
                nodes.put(found[tensor.name], streams.size(tensor.name))
            infos = [
                TensorInfo(t.name + BYTES, (streams.size(t.name),), "uint8") if t.name in streams else t.info
                for t in model
            ]
            with create(target, infos, graphs=[Graph("onnx", proto.SerializeToString())]) as writer:
                for tensor in model:
                    if tensor.name in streams:
                        data = np.frombuffer(streams.read(tensor.name), np.uint8)
                        writer.put(tensor.name + BYTES, data)
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
    with _opened_inside(source) as inside:
        wanted = {one.place.name: one for one in inside.nodes}
        take_out(inside.proto, inside.nodes)
        infos = [wanted[t.name].info if t.name in wanted else t.info for t in inside.tensors.values()]
        rows = []
        graphs_now = [Graph("onnx", inside.proto.SerializeToString())]
        with create(target, infos, graphs=graphs_now, shard_size=shard_size) as writer:
            for tensor, info in in_turn(inside.tensors.values(), infos, told):
                if tensor.name not in wanted:
                    if tensor.same_as is None:
                        writer.put(tensor.name, tensor.read())
                    continue
                _, storage = inside.decode(wanted[tensor.name], threads=threads, max_bytes=max_bytes)
                writer.put(info.name, storage)
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


def decode_inside(
    source: Any, *, threads: int | None = None, max_bytes: Any = None
) -> Iterator[tuple[DecodeNode, bytes, Array]]:
    """The tensors that nodes of a file make, one after the other: the node, its bytes, and the storage array.

    Raises
    ------
    ModelError
        The source is no such file, a stream is damaged or does not fit its node. The error names node and tensor.
    """
    if not is_encoded(source):
        raise ModelError(f"{source}: is no ONNX file with encoded tensors inside ({SUFFIX})")
    with _opened_inside(source) as inside:
        for one in inside.nodes:
            yield one, *inside.decode(one, threads=threads, max_bytes=max_bytes)


@dataclass(slots=True)
class _Inside:
    """A file with encoded tensors."""

    source: Any
    proto: Any
    nodes: list[DecodeNode]
    tensors: dict[str, Tensor]

    def decode(self, one: DecodeNode, *, threads: int | None, max_bytes: Any) -> tuple[bytes, Array]:
        """The bytes of a node, and the storage array that it makes of them."""
        names = {other.info.name for other in self.nodes}
        try:
            data = self.tensors[one.place.name].read().tobytes()
            return data, decode_as(data, one.info, threads=threads, max_bytes=max_bytes, others=names)
        except ModelError as error:
            raise ModelError(f"{self.source}: {one.where}: {str(error).removeprefix(one.info.name + ': ')}") from None


@contextmanager
def _opened_inside(source: Any) -> Iterator[_Inside]:
    with open_model(source) as model:
        proto = _parse(model.graphs[0].data)
        tensors = {tensor.name: tensor for tensor in model}
        try:
            nodes = find_nodes(proto)
            for one in nodes:
                if one.place.name not in tensors:
                    tensors[one.place.name] = _left_in_graph(one)
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from None
        yield _Inside(source, proto, nodes, tensors)


def _left_in_graph(one: DecodeNode) -> Tensor:
    """Bytes so few that they are in the graph, where all bytes of tensors are not."""
    tensor = one.place.tensor
    if TYPES.get(tensor.data_type, TYPES[1]).dtype != "uint8" or not tensor.raw_data:
        raise ModelError(f"{one.where}: there are no bytes to decode")
    data = np.frombuffer(tensor.raw_data, np.uint8)
    return Tensor(one.place.name, data.shape, "uint8", lambda: data)


def _parse(data: bytes) -> Any:
    return require("onnx", "ONNX files").ModelProto.FromString(data)
