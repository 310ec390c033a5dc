"""Integers under the preset lossless: every value comes back, smaller than a byte compressor makes them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from damage.damaging import refused_or_decoded
from hypothesis import given, settings
from hypothesis import strategies as st

import nncjit
from nncjit.stream import integer_planes
from nncjit.stream.integer_planes import IntegerPlanes, split
from nncjit.updates import Receiver, Sender

RNG = np.random.default_rng(0)
DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
SPLIT = list(integer_planes.CODES)
SHAPES = [(), (1,), (7,), (0, 3), (1023,), (1, 2000), (33, 65), (3, 4, 5, 50)]
KINDS = ["gaussian", "extreme", "constant", "uniform", "repetitive", "outliers"]


def gaussian(rows, columns, bits, rng=RNG):
    """Weights in integers of so many bits with a scale a row."""
    weights = rng.standard_normal((rows, columns)) * np.exp(rng.standard_normal((rows, 1)))
    return np.rint(weights / np.abs(weights).max(1, keepdims=True) * (2 ** (bits - 1) - 1)).astype(np.int8)


def drawn(kind, name, shape):
    dtype = np.dtype(name)
    if name == "bool":
        return RNG.random(shape) < (1.0 if kind == "constant" else 0.3)
    limits, size = np.iinfo(dtype), int(np.prod(shape))
    middle = 0 if dtype.kind == "i" else (limits.max + 1) // 2
    if kind == "extreme":
        return RNG.choice(np.array([limits.min, limits.max, limits.max - 1], dtype), shape)
    if kind == "constant":
        return np.full(shape, limits.max, dtype)
    if kind == "uniform":
        return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    spread = min(40, limits.max // 5)
    offsets = np.rint(spread * RNG.standard_normal(size)).clip(-127, 127).astype(np.int64)
    if kind == "repetitive":
        offsets = np.resize(offsets[: max(size // 50, 1)], size)
    values = (offsets + middle).astype(dtype) if dtype.kind == "i" else offsets.astype(dtype) + dtype.type(middle)
    if kind == "outliers" and size > 2:
        values[:: max(size // 3, 1)] = limits.max
        values[1] = limits.min
    return values.reshape(shape)


def code_of(stream):
    (unit,) = [unit for unit in nncjit.inspect(stream).units if unit["type"] == "NDU"]
    return unit["header"].get("nnr_decompressed_data_format")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DTYPES)
def test_every_value_comes_back(name, kind):
    model = {f"w{k}": drawn(kind, name, shape) for k, shape in enumerate(SHAPES)}
    back = nncjit.decode(nncjit.encode(model, preset="lossless"))
    for key, array in model.items():
        assert (back[key].dtype, back[key].shape) == (array.dtype, array.shape)
        assert (back[key] == array).all(), key


@settings(max_examples=40)
@given(st.sampled_from(SPLIT), st.lists(st.binary(min_size=2, max_size=2), min_size=1, max_size=40), st.data())
def test_any_values_are_split_and_joined(name, words, data):
    array = np.frombuffer(b"".join(words), np.dtype(name).newbyteorder("="))
    array = np.resize(array, data.draw(st.sampled_from([1, 7, 8, 9, 1001])))
    fields = integer_planes.FORMATS[integer_planes.CODES[name]]
    low_bits = data.draw(st.integers(int(fields.bits > 8), fields.bits - 1))
    levels, tail, _ = split(array, low_bits)
    planes = IntegerPlanes.parse(np.frombuffer(b"coded" + tail, np.uint8), fields, array.size)
    assert planes.coded_bytes == 5
    assert -(1 << 15) <= planes.lowest <= levels.min() <= levels.max() <= planes.highest < 1 << 15
    assert (planes.join(levels.astype(np.int16)) == array).all()


@settings(max_examples=200)
@given(st.sampled_from(SPLIT), st.binary(max_size=60), st.integers(1, 10_000))
def test_any_tail_is_understood_or_refused(name, tail, size):
    fields = integer_planes.FORMATS[integer_planes.CODES[name]]
    try:
        planes = IntegerPlanes.parse(np.frombuffer(tail, np.uint8), fields, size)
    except nncjit.ModelError:
        return
    assert 0 <= planes.coded_bytes <= len(tail)


def test_a_cut_or_changed_stream_is_refused_or_decoded():
    data = bytearray(nncjit.encode({"w": gaussian(100, 100, 8)}, preset="lossless"))
    assert code_of(bytes(data)) == integer_planes.CODES["int8"]
    refused_or_decoded(data, [*range(len(data) - 60, len(data)), *range(0, len(data), 211)], nncjit.NncError)
    with pytest.raises(nncjit.BitstreamError):
        nncjit.decode(data[:-40])


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("unsigned", [False, True])
def test_rows_with_a_scale_each_are_smaller_than_with_zstd(bits, unsigned):
    zstandard = pytest.importorskip("zstandard")
    levels = gaussian(512, 768, bits)
    if unsigned:
        levels = (levels.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    theirs = len(zstandard.ZstdCompressor(level=19).compress(levels.tobytes()))
    stream = nncjit.encode({"w": levels}, preset="lossless")
    assert (nncjit.decode(stream)["w"] == levels).all()
    assert len(stream) <= theirs


def test_other_streams_hold_the_integers_themselves():
    levels = gaussian(256, 256, 8)
    assert code_of(nncjit.encode({"w": levels})) == "INT8"
    assert code_of(nncjit.encode({"w": levels}, unary_length="auto")) == "INT8"
    assert code_of(nncjit.encode({"w": levels}, compatible="nncodec")) == "INT8"


def test_rows_can_be_read_and_a_dry_run_is_near(tmp_path):
    model = {"w": gaussian(600, 500, 8)}
    nncjit.compress(model, tmp_path / "w.nnc", preset="lossless")
    with nncjit.open(tmp_path / "w.nnc") as opened:
        assert (opened.get_slice("w")[70:75] == model["w"][70:75]).all()
    dry = nncjit.compress(model, io.BytesIO(), preset="lossless", dry_run=True)
    assert dry.compressed_bytes == pytest.approx((tmp_path / "w.nnc").stat().st_size, rel=0.01)


def test_updates_of_such_integers_come_back():
    models = [{"w": gaussian(64, 64, 8)}]
    models.append({"w": models[0]["w"] ^ (RNG.random((64, 64)) < 0.1)})
    models.append({"w": gaussian(64, 64, 8)})
    sender, receiver = Sender(models[0]), Receiver(models[0])
    for model in models[1:]:
        back = receiver.apply(sender.update(model, quantizer="lossless"))
        assert (back["w"] == model["w"]).all()
