"""Topology and quantisation data of exchange formats in a stream: opaque bytes that go in and come out as they are.

A topology unit has one byte for its format. The standard's codes stand for NNEF, ONNX, PyTorch and TensorFlow; a format
without one has a private code here. Data are deflated where that makes them smaller.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from nncjit.errors import ModelError
from nncjit.model import Graph
from nncjit.syntax import (
    CompressionFormat,
    QntHeader,
    QuantizationFormat,
    TopologyFormat,
    TplHeader,
    Unit,
    UnitType,
)

CODES = {known.name.lower(): int(known) for known in QuantizationFormat} | {"gguf": 0xC1}
"""topology_ and quantization_storage_format by the name of the format."""
_NAMES = {code: name for name, code in CODES.items()}
_PRIVATE = "private "
_OURS = (TopologyFormat.PRUN, TopologyFormat.REFLIST)
"""Topology units that say something about the stream itself."""
_WORTH_TRYING = 1 << 20
"""Bytes of which a sample decides whether deflating is worth it."""


def code_of(name: str) -> int:
    """The storage format of a graph's format; ModelError if there is none."""
    if name in CODES:
        return CODES[name]
    number = name.removeprefix(_PRIVATE)
    if name.startswith(_PRIVATE) and number.isdecimal() and 128 <= int(number) <= 255:
        return int(number)
    raise ModelError(f"graph format {name!r} is not one of {', '.join(CODES)} or 'private 128' to 'private 255'")


def write_graphs(graphs: Iterable[Graph]) -> Iterator[tuple[UnitType, TplHeader | QntHeader, bytes]]:
    """Type, header and body of the units that carry these graphs; empty ones need none."""
    for graph in graphs:
        code, data = code_of(graph.format), bytes(graph.data)
        if not data:
            continue
        # a lone zero byte stands for empty data, and must be wrapped
        deflated = data == b"\0" or len(zlib.compress(data[:_WORTH_TRYING], 6)) < len(data[:_WORTH_TRYING])
        packing = CompressionFormat.DEFLATE if deflated else CompressionFormat.RAW
        if graph.quantization:
            header = QntHeader(quantization_storage_format=code, quantization_compression_format=packing)
            yield UnitType.QNT, header, data
        else:
            yield UnitType.TPL, TplHeader(topology_storage_format=code, topology_compression_format=packing), data


def is_graph(unit: Unit) -> bool:
    """Whether a topology or quantisation unit, which is no metadata unit, carries a graph that is not empty."""
    if unit.type == UnitType.TPL and unit.header.topology_storage_format in _OURS:
        return False
    return unit.payload_size > 1 or not unit.starts_with(b"\0")


def graph_of(unit: Unit) -> Graph:
    """The graph that a unit carries.

    Raises
    ------
    BitstreamError
        Its data are deflated and damaged, or inflate beyond the limit.
    """
    header: Any = unit.header
    quantization = unit.type == UnitType.QNT
    code = header.quantization_storage_format if quantization else header.topology_storage_format
    return Graph(_NAMES.get(code, f"{_PRIVATE}{code}"), unit.read_body(unit.limit), quantization)
