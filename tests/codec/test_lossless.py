"""Floats without loss: every bit pattern comes back, and what does not gain is stored as it is."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest
from damage.damaging import refused_or_decoded
from hypothesis import given, settings
from hypothesis import strategies as st

import nncjit
from nncjit.decoder.float_joining import exponents_in_words, join_floats
from nncjit.stream import float_planes
from nncjit.stream.float_planes import CHUNK, FloatPlanes, split

RNG = np.random.default_rng(0)
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, None) or name) for name in float_planes.CODES}
SHAPES = [(), (1,), (7,), (CHUNK,), (CHUNK + 1,), (70_000,), (300, 500), (2, 3, 4, 5), (0, 3)]


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def drawn(kind, dtype, shape):
    size = int(np.prod(shape))
    if kind == "any bits":
        return RNG.integers(0, 256, size * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(shape)
    values = 0.02 * RNG.standard_normal(shape)
    if kind == "sparse":
        values = values * (RNG.random(shape) > 0.7)
    if kind == "narrow":
        values = np.asarray(values).astype(ml_dtypes.bfloat16).astype(np.float64)
    if kind == "constant":
        values = np.full(shape, 0.3)
    return np.asarray(values).astype(dtype)


@pytest.mark.parametrize("kind", ["any bits", "weights", "sparse", "narrow", "constant"])
@pytest.mark.parametrize("name", DTYPES)
def test_every_bit_comes_back(name, kind):
    model = {f"w{k}": drawn(kind, DTYPES[name], shape) for k, shape in enumerate(SHAPES)}
    back = nncjit.decode(nncjit.encode(model, preset="lossless"))
    assert all(same(back[key], array) for key, array in model.items())


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_all_patterns_of_a_type_come_back(name):
    dtype = DTYPES[name]
    patterns = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
    for array in (patterns, np.repeat(patterns[:100], 100), patterns[::-1].copy()):
        levels, tail, _ = split(array, name)
        planes = FloatPlanes.parse(np.frombuffer(b"coded" + tail, np.uint8), planes_of(name), array.size)
        assert planes.coded_bytes == 5
        assert (join_floats(planes, words_of(planes, levels)).view(array.dtype) == array).all()


def words_of(planes, levels):
    """What the arithmetic decoder leaves."""
    delivery = exponents_in_words(planes)
    return delivery.table_of(0)[levels - delivery.lowest]


def planes_of(name):
    return float_planes.FORMATS[float_planes.CODES[name]]


@settings(max_examples=60)
@given(st.sampled_from(sorted(DTYPES)), st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=40), st.data())
def test_any_values_are_split_and_joined(name, words, data):
    dtype = DTYPES[name]
    array = np.frombuffer(b"".join(words), f"u{dtype.itemsize}")
    array = np.resize(array, data.draw(st.sampled_from([1, len(array), CHUNK, CHUNK + 3])))
    levels, tail, _ = split(array, name)
    planes = FloatPlanes.parse(np.frombuffer(tail, np.uint8), planes_of(name), array.size)
    assert (join_floats(planes, words_of(planes, levels)).view(array.dtype) == array).all()


@settings(max_examples=300)
@given(st.sampled_from(sorted(DTYPES)), st.binary(max_size=60), st.integers(1, 3 * CHUNK))
def test_any_tail_is_understood_or_refused(name, tail, size):
    try:
        planes = FloatPlanes.parse(np.frombuffer(tail, np.uint8), planes_of(name), size)
    except nncjit.ModelError:
        return
    assert 0 <= planes.coded_bytes <= len(tail)


@pytest.mark.parametrize("cut", [1, 2, 5, 40, 1000])
def test_a_cut_or_changed_stream_is_refused_or_decoded(cut):
    data = bytearray(nncjit.encode({"w": drawn("weights", np.dtype(np.float32), (100, 100))}, preset="lossless"))
    refused_or_decoded(data, range(len(data) - 200, len(data), 7), nncjit.BitstreamError)
    with pytest.raises(nncjit.BitstreamError):
        nncjit.decode(data[:-cut])


def test_it_is_smaller_where_something_repeats_and_raw_where_nothing_does():
    bits = {}
    for kind in ("weights", "narrow", "any bits"):
        stream = nncjit.encode({"w": drawn(kind, np.dtype(np.float32), (256, 256))}, preset="lossless")
        (row,) = stream.report.tensors
        bits[kind] = row.bits_per_weight
        assert row.snr == np.inf
        assert row.tool == ("raw" if kind == "any bits" else "lossless")
    assert bits["weights"] < 26.7
    assert bits["narrow"] < 10.8
    assert 32 <= bits["any bits"] < 32.1


def test_a_rule_keeps_some_tensors_exactly():
    model = {name: drawn("weights", np.dtype(np.float32), (64, 64)) for name in ("a.weight", "head")}
    back = nncjit.decode(nncjit.encode(model, rules={"head": "lossless"}))
    assert same(back["head"], model["head"])
    assert not same(back["a.weight"], model["a.weight"])


def test_rows_can_be_read_and_a_dry_run_is_near():
    model = {"w": drawn("weights", np.dtype(np.float32), (700, 600))}
    stream = nncjit.encode(model, preset="lossless")
    with nncjit.open(stream) as opened:
        assert same(opened.get_slice("w")[3:9], model["w"][3:9])
    dry = nncjit.compress(model, io.BytesIO(), preset="lossless", dry_run=True)
    assert dry.compressed_bytes == pytest.approx(len(stream), rel=0.01)


def test_presets_are_ordered_and_give_way_to_options():
    model = {"w": drawn("weights", np.dtype(np.float32), (200, 200))}
    sizes = [len(nncjit.encode(model, preset=name)) for name in ("tiny", "balanced", "safe", "lossless")]
    assert sizes == sorted(sizes)
    assert sizes[1] == len(nncjit.encode(model))
    options = nncjit.Options(preset="tiny", bits=3)
    assert (options.fineness.kind, options.quantising.rate_weight) == ("bits", 1.0)
    assert nncjit.Options(preset="safe").replace(preset="lossless").quantising.quantizer == "lossless"
    assert nncjit.Options(**options.keywords()) == options
    with pytest.raises(nncjit.OptionError, match=r"no preset 'tny' \(did you mean 'tiny'\?\)"):
        nncjit.Options(preset="tny")
