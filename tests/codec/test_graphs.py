"""Topology and quantisation data of exchange formats travel through streams as they are."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.bits import as_source
from nncjit.errors import BitstreamError, ModelError, NncWarning
from nncjit.stream.data_units import StreamReader
from nncjit.syntax import UnitType

WEIGHTS = {"w": np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30), "b": np.zeros(4, np.float32)}

DATA = [
    b"text without a zero byte",
    b"\0",
    b"\0\0\0",
    b"a\0b\0" * 300,
    b'{"nncjit":0}',
    bytes(range(256)) * 200,
    np.random.default_rng(0).bytes(70_000),
]
FORMATS = ["unrecognised", "nnef", "onnx", "pytorch", "tensorflow", "gguf", "private 200"]


def graphs_of(stream):
    with nncjit.open(stream) as f:
        return f.graphs()


@pytest.mark.parametrize("data", DATA, ids=lambda data: f"{len(data)} bytes")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("quantization", [False, True])
def test_graphs_come_back_as_they_were(name, data, quantization):
    graph = nncjit.Graph(name, data, quantization)
    stream = nncjit.encode(WEIGHTS, graphs=[graph])
    assert graphs_of(stream) == (graph,)
    assert list(nncjit.decode(stream)) == ["w", "b"]


def test_several_graphs_keep_their_order_beside_everything_else():
    graphs = tuple(nncjit.Graph(name, name.encode(), k % 2 == 1) for k, name in enumerate(FORMATS))
    stream = nncjit.encode(WEIGHTS, graphs=graphs, references="index", max_unit_bytes=256)
    assert graphs_of(stream) == graphs
    assert nncjit.verify(stream).checksum
    assert len(nncjit.inspect(stream).tensors) == 2


def test_an_empty_graph_takes_no_unit():
    assert nncjit.encode(WEIGHTS, graphs=[nncjit.Graph("onnx", b"")]) == nncjit.encode(WEIGHTS)
    assert graphs_of(nncjit.encode(WEIGHTS)) == ()


def test_tensors_do_not_depend_on_the_graph():
    plain, carried = (nncjit.decode(nncjit.encode(WEIGHTS, graphs=g)) for g in ((), [nncjit.Graph("onnx", b"x" * 99)]))
    assert all(np.array_equal(plain[name], carried[name]) for name in plain)


@pytest.mark.parametrize("name", ["ONNX", "", "private 127", "private 256", "private x", "prun", "reflist"])
def test_a_format_without_a_code_is_refused(name):
    with pytest.raises(ModelError, match="graph format"):
        nncjit.encode(WEIGHTS, graphs=[nncjit.Graph(name, b"x")])


def test_a_reader_that_knows_no_graphs_gets_none_and_the_user_is_told():
    with pytest.warns(NncWarning, match="left out: nncodec"):
        stream = nncjit.encode(WEIGHTS, graphs=[nncjit.Graph("onnx", b"x")], compatible="nncodec")
    assert graphs_of(stream) == ()


def test_damaged_graphs_are_refused_only_when_asked_for():
    graph = nncjit.Graph("onnx", b"abc" * 1000)
    stream = bytearray(nncjit.encode(WEIGHTS, graphs=[graph]))
    reader = StreamReader(as_source(bytes(stream)))
    (unit,) = [u for u in reader if u.type == UnitType.TPL and u.header.topology_storage_format == 2]
    stream[unit.payload_start + 4] ^= 0xFF
    assert list(nncjit.decode(bytes(stream))) == ["w", "b"]
    with pytest.raises(BitstreamError):
        graphs_of(bytes(stream))


def test_a_file_of_weights_has_no_place_for_a_graph(tmp_path):
    stream = nncjit.encode(WEIGHTS, graphs=[nncjit.Graph("onnx", b"x")])
    (tmp_path / "m.nnc").write_bytes(stream)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.npz")
    assert sorted(np.load(tmp_path / "m.npz")) == ["b", "w"]
