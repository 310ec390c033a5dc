"""Huge tensors are read by block rows; streams are those of tensors that are all in memory."""

from __future__ import annotations

import io
from contextlib import nullcontext

import numpy as np
import pytest

import nncjit
from nncjit import formats
from nncjit.cabac import arithmetic_encoder, layer_groups, row_skipping
from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import NarrowLevels
from nncjit.cabac.scan import to_scan
from nncjit.decoder import concurrent_decoder
from nncjit.encoder import huge_tensors, unit_payloads
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.encoder.model_encoder import encode_model
from nncjit.encoder.options import Options
from nncjit.formats import Writer
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.quant import value_source
from nncjit.syntax import Unit

WINDOW = 1 << 18


@pytest.fixture
def small_windows(monkeypatch):
    """Tensors of this test's size are huge; returns how to switch that off."""
    monkeypatch.setattr(huge_tensors, "HUGE", 1 << 16)
    monkeypatch.setattr(huge_tensors, "STRIP", 1 << 15)
    monkeypatch.setattr(value_source, "WINDOW", WINDOW)
    monkeypatch.setattr(layer_groups, "GROUP", WINDOW)
    monkeypatch.setattr(layer_groups, "PART", 1 << 16)
    monkeypatch.setattr(layer_groups, "count", lambda: 1)
    monkeypatch.setattr(layer_groups, "LANES", 1)
    monkeypatch.setattr(row_skipping, "TOGETHER", 1 << 16)
    monkeypatch.setattr(arithmetic_encoder, "LARGE_OUTPUT", 1 << 13)

    def switch_off():
        monkeypatch.setattr(huge_tensors, "HUGE", 1 << 60)
        monkeypatch.setattr(arithmetic_encoder, "LARGE_OUTPUT", 1 << 60)

    return switch_off


def write(path, values):
    storage = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    with formats.create(path, [TensorInfo("w", values.shape, "bfloat16")]) as writer:
        writer.put("w", storage)
    return path


def normal(rows, width):
    rng = np.random.default_rng(rows)
    return rng.standard_normal((rows, width)) * np.exp(rng.normal(0, 0.5, (rows, 1)))


def sparse(rows, width):
    values = normal(rows, width)
    return np.where(np.abs(values) > 2 * np.median(np.abs(values)), values, 0)


def with_zero_rows(rows, width):
    values = normal(rows, width)
    values[rows // 3 : rows // 2] = values[:3] = values[::7] = 0
    return values


CASES = [
    (with_zero_rows(1000, 700), {}),
    (with_zero_rows(1000, 701), {"quantizer": "uniform"}),
    (with_zero_rows(1000, 701), {"scan_order": 1}),
    (with_zero_rows(700, 1000), {"compatible": "nncodec"}),
    (normal(1000, 700), {"qp": -60}),
    (normal(1000, 700), {"selection": "none", "threads": 1}),
    (normal(500, 700), {"selection": "reference"}),
    (np.where(normal(600, 600) > 5, 1e4, normal(600, 600)), {"qp": -30, "rate_weight": 0.5}),
    (normal(1000, 700), {}),
    (normal(1000, 701), {"rate_weight": 0.5}),
    (normal(1000, 700), {"quantizer": "uniform"}),
    (normal(900, 700), {"quantizer": "uniform", "rate_weight": 0.5, "scan_order": 0}),
    (normal(700, 1000), {"quantizer": "auto", "unary_length": "auto", "bits": 4}),
    (normal(1, 1) + normal(300, 2000) * 0.01, {}),
    (normal(128, 5000), {"scan_order": 4}),
    (sparse(900, 800), {"qp": -12}),
    (sparse(900, 800), {"qp": 0, "rate_weight": 1.0}),
    (np.ones((600, 600)), {}),
    (np.zeros((600, 600)), {}),
    (np.where(normal(600, 600) > 3, np.nan, 1), {}),
    (normal(600, 600), {"qp": 4}),
    (1e-3 * normal(600, 600), {"qp": 8}),
    (1e-3 * normal(600, 600), {"qp": 8, "quantizer": "uniform", "rate_weight": 0.5}),
    (np.where(np.arange(600)[:, None] == 599, normal(600, 600), 0), {"qp": -30}),
    (normal(600, 600), {"quantizer": "raw"}),
    (normal(600, 600), {"quantizer": "raw", "max_unit_bytes": 70_001}),
    (normal(600, 600), {"quantizer": "raw", "rules": {"w": "group:one"}}),
    (normal(360, 1000), {"quantizer": "lossless", "max_unit_bytes": 70_001}),
    (normal(1, 360_000)[0], {"quantizer": "raw"}),
]


@pytest.mark.parametrize(("values", "options"), CASES)
@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_bytes_are_those_of_a_tensor_in_memory(values, options, small_windows, tmp_path):
    source = write(tmp_path / "m.safetensors", values)
    with pytest.warns(nncjit.NncWarning) if not np.isfinite(values).all() else nullcontext():
        nncjit.compress(source, tmp_path / "huge.nnc", **options)
        small_windows()
        nncjit.compress(source, tmp_path / "whole.nnc", **options)
    assert (tmp_path / "huge.nnc").read_bytes() == (tmp_path / "whole.nnc").read_bytes()


def test_what_is_stored_as_it_is_is_never_in_memory_at_once(small_windows):
    values = np.arange(1 << 18, dtype=np.uint16).reshape(512, 512)
    most = []

    def part(start, stop):
        most.append(stop - start)
        return values.reshape(-1)[start:stop].copy()

    only_parts = Tensor("w", values.shape, "bfloat16", lambda: pytest.fail("was read at once"), part=part)
    file = io.BytesIO()
    encode_model(Model([only_parts]), file, Options(quantizer="raw"))
    assert max(most) <= huge_tensors.STRIP
    assert nncjit.decode(file.getvalue())["w"].tobytes() == values.tobytes()


def test_slices_of_what_is_stored_as_it_is_read_no_more(monkeypatch):
    values = normal(1000, 70).astype(np.float32)
    stream, read = nncjit.encode({"w": values}, quantizer="raw", max_unit_bytes=30_000), []
    whole = Unit.payload

    def payload(unit, *ends):
        read.append(ends)
        return whole(unit, *ends)

    monkeypatch.setattr(Unit, "payload", payload)
    with nncjit.open(stream) as file:
        read.clear()
        assert np.array_equal(file.get_slice("w")[300:320], values[300:320])
    assert read == [(300 * 70 * 4, 320 * 70 * 4)]


@pytest.mark.parametrize("ends", [(0, 4000), (0, 0), (1, 3999), (999, 1001), (1000, 2000), (3999, 4000)])
def test_payloads_give_any_of_their_bytes(ends, monkeypatch):
    monkeypatch.setattr(huge_tensors, "STRIP", 300)
    values = np.arange(1000, dtype=np.uint32)
    whole = values.tobytes()
    stored = unit_payloads.StoredPayload(HugeTensor(lambda a, b: values[a:b], values.shape, "float32"))
    parts = unit_payloads.joined(b"", *(whole[k : k + 1000] for k in range(0, 4000, 1000)))
    for payload in (whole, stored, parts):
        assert len(payload) == len(whole)
        assert unit_payloads.in_memory(payload) == whole
        assert b"".join(unit_payloads.pieces_of(payload, *ends)) == whole[slice(*ends)]
    assert unit_payloads.joined() == unit_payloads.joined(b"") == b""
    assert unit_payloads.joined(b"", b"a") == b"a"


@pytest.mark.parametrize("shape", [(1000, 700), (130, 5000), (64, 9), (65, 64), (7, 100_000), (256, 8, 33)])
@pytest.mark.parametrize("scan", [0, 1, 4])
def test_pieces_are_those_of_the_whole(shape, scan, small_windows):
    values = np.arange(np.prod(shape), dtype=np.float32)
    layer = Layer.of(shape, scan=scan)
    huge = HugeTensor(lambda start, stop: values[start:stop].copy(), shape, "float32").in_scan(layer)
    wanted = to_scan(values, layer)
    rng = np.random.default_rng(scan)
    for start, stop in [
        (0, values.size),
        (0, 0),
        (values.size, values.size),
        (5, 5),
        *rng.integers(0, values.size, (20, 2)),
    ]:
        np.testing.assert_array_equal(huge.load(start, max(start, stop)), wanted[start : max(start, stop)])


def test_values_and_levels_are_not_in_memory_at_once(small_windows, monkeypatch, tmp_path):
    loaded, load = [], NarrowLevels.load
    monkeypatch.setattr(
        NarrowLevels, "load", lambda self, start, stop: loaded.append(stop - start) or load(self, start, stop)
    )
    with formats.open_model(write(tmp_path / "m.safetensors", normal(1024, 1024))) as model:
        tensor = model["w"]
        most = []

        def part(start, stop):
            most.append(stop - start)
            return tensor.part(start, stop)

        only_parts = Tensor("w", tensor.shape, tensor.dtype, lambda: pytest.fail("was read at once"), part=part)
        encode_model(Model([only_parts]), io.BytesIO(), Options())
    assert max(most) <= huge_tensors.STRIP
    assert loaded
    assert max(loaded) <= WINDOW


@pytest.mark.parametrize("quantizer", ["trellis", "raw"])
@pytest.mark.parametrize("shape", [(1000, 700), (130, 5000), (300, 8, 33)])
def test_huge_tensors_are_decoded_piece_by_piece(shape, quantizer, monkeypatch, tmp_path):
    values = normal(shape[0], int(np.prod(shape[1:]))).reshape(shape)
    source, folder = write(tmp_path / "m.safetensors", values), tmp_path / "several"
    folder.mkdir()
    nncjit.compress(source, tmp_path / "m.nnc", quantizer=quantizer)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "whole.safetensors")
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1 << 16)
    monkeypatch.setattr(concurrent_decoder, "PIECE", 1 << 16)
    monkeypatch.setattr(Writer, "put", lambda *_: pytest.fail("was put at once"))
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "pieces.safetensors", max_bytes=values.size * 2)
    nncjit.decompress(tmp_path / "m.nnc", folder / "m.safetensors.index.json")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "pieces.safetensors").read_bytes() == whole
    assert next(folder.glob("*.safetensors")).read_bytes() == whole


@pytest.mark.parametrize("external", [False, True], ids=["in the file", "beside it"])
def test_huge_tensors_of_onnx_files_go_by_block_rows(external, small_windows, monkeypatch, tmp_path):
    onnx = pytest.importorskip("onnx")
    values = normal(1000, 700).astype(np.float32)
    shape = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "net", [], [shape], [onnx.numpy_helper.from_array(values, "w")])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=external, location="m.data")
    nncjit.compress(tmp_path / "m.onnx", tmp_path / "m.nnc")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "whole.onnx")
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1 << 16)
    monkeypatch.setattr(concurrent_decoder, "PIECE", 1 << 16)
    monkeypatch.setattr(Writer, "put", lambda *_: pytest.fail("was put at once"))
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "pieces.onnx")
    small_windows()
    nncjit.compress(tmp_path / "m.onnx", tmp_path / "other.nnc")
    assert (tmp_path / "other.nnc").read_bytes() == (tmp_path / "m.nnc").read_bytes()
    whole, pieces = (onnx.load(tmp_path / f"{name}.onnx").graph.initializer[0] for name in ("whole", "pieces"))
    want = nncjit.decode(tmp_path / "m.nnc")["w"]
    assert np.array_equal(onnx.numpy_helper.to_array(whole), want)
    assert np.array_equal(onnx.numpy_helper.to_array(pieces), want)
