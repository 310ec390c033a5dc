"""Packed codes and levels of quantised models in pieces: every value comes back, near the entropy of the levels."""

from __future__ import annotations

import numpy as np
import pytest
from damage.damaging import refused_or_decoded
from hypothesis import given, settings
from hypothesis import strategies as st

import nncjit
from nncjit import dtypes
from nncjit.decoder import concurrent_decoder
from nncjit.decoder.float_piece_decoder import PiecesJob, decode_float_pieces
from nncjit.encoder.integer_piece_encoder import Way, cheapest_way, in_pieces
from nncjit.jit.teams import finish
from nncjit.stream.float_pieces import PIECE
from nncjit.stream.integer_pieces import FORMATS, MOST_LOW_BITS, PACKED, IntegerPieces, Offsets

RNG = np.random.default_rng(0)
CODES = RNG.binomial(15, 0.5, (600, 8, 64)).astype(np.uint32)
"""Codes of four bits, those of eight rows in a word."""
WORDS = np.bitwise_or.reduce(CODES << (4 * np.arange(8, dtype=np.uint32))[:, None], axis=1).view(np.int32)


def entropy(levels):
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    return -levels.size * (shares @ np.log2(shares)) / 8


def code_of(stream):
    (unit,) = [unit for unit in nncjit.inspect(stream).units if unit["type"] == "NDU"]
    return unit["header"].get("nnr_decompressed_data_format")


def joined(tail, code, shape):
    """The values in a tail, decoded."""
    symbols = FORMATS[code]
    size = int(np.prod(shape))
    found = IntegerPieces.read(lambda start, stop: tail[start:stop], len(tail), symbols, size)
    words = np.empty((*shape, symbols.per_value), np.uint8)
    (fault,) = finish(decode_float_pieces([PiecesJob(found.pieces, words)], 1))
    if fault is not None:
        raise fault
    return found.join(words)


@settings(max_examples=60)
@given(st.sampled_from(list(FORMATS)), st.integers(1, 40), st.integers(0, MOST_LOW_BITS), st.data())
def test_any_values_are_split_and_joined(code, size, low_bits, data):
    dtype = dtypes.find(FORMATS[code].dtype)
    octets = data.draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    values = np.frombuffer(octets, dtype.storage.newbyteorder("<")).astype(dtype.storage)
    if dtype.name == "int4":
        values = values >> 4
    offsets = PACKED
    if FORMATS[code].bits == 8:
        lowest, highest = int(values.min()), int(values.max())
        offsets = Offsets(max(low_bits, int(highest - lowest > 127)), lowest)
    split = in_pieces(values, Way(code, offsets), None)
    assert split.code == code
    assert not split.levels.any()
    assert (joined(split.tail, code, values.shape) == values).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_words_of_packed_codes_take_about_the_entropy_of_the_codes(threads):
    zstandard = pytest.importorskip("zstandard")
    stream = nncjit.encode({"layer.qweight": WORDS}, threads=threads)
    assert code_of(stream) == 120
    assert (nncjit.decode(stream, threads=threads)["layer.qweight"] == WORDS).all()
    assert len(stream) < 1.004 * entropy(CODES)
    assert len(stream) < len(zstandard.compress(WORDS.tobytes(), 19))


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64"])
def test_words_of_all_types_come_back(dtype):
    words = WORDS.view(dtype) if dtype != "uint32" else WORDS.view(np.uint32)
    stream = nncjit.encode({"w": words})
    assert code_of(stream) == {"uint32": 121, "int64": 122, "uint64": 123}[dtype]
    back = nncjit.decode(stream)["w"]
    assert back.dtype == words.dtype
    assert (back == words).all()


@pytest.mark.parametrize(("spread", "share"), [(2, 1.006), (12, 1.006), (40, 1.006)])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_levels_of_a_byte_take_about_their_entropy(dtype, spread, share):
    levels = np.rint(spread * RNG.standard_normal((256, 1024))).clip(-127, 127).astype(np.int8)
    if dtype == "uint8":
        levels = (levels.astype(np.int16) + 128).astype(np.uint8)
    stream = nncjit.encode({"w": levels}, preset="lossless")
    assert (nncjit.decode(stream)["w"] == levels).all()
    assert len(stream) < share * entropy(levels)


def test_nibbles_in_bytes_are_symbols_of_their_own():
    model = {
        "fc.weight": RNG.binomial(15, 0.5, (2, 1 << 16)).astype(np.uint8),
        "fc.weight.absmax": np.ones(9, np.float32),
    }
    levels = model["fc.weight"]
    model["fc.weight"] = levels[0] | levels[1] << 4
    stream = nncjit.encode(model)
    assert len(stream) < 1.01 * entropy(levels) + 200
    assert (nncjit.decode(stream)["fc.weight"] == model["fc.weight"]).all()


def test_four_bit_floats_and_powers_of_two_are_smaller_than_their_bytes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if not hasattr(ml_dtypes, "float8_e8m0fnu"):
        pytest.skip("of a later version of ml_dtypes")
    scales = RNG.integers(118, 124, 1 << 14).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
    stream = nncjit.encode({"w": scales})
    assert len(stream) < 0.4 * scales.nbytes
    assert nncjit.decode(stream)["w"].tobytes() == scales.tobytes()
    assert code_of(nncjit.encode({"w": scales[:50]})) == 82


def test_what_other_readers_must_know_is_coded_as_it_was():
    levels = RNG.integers(-8, 8, (256, 256)).astype(np.int8)
    assert code_of(nncjit.encode({"w": levels})) == "INT8"
    with pytest.raises(nncjit.OptionError, match=r"layer\.qweight"):
        nncjit.encode({"layer.qweight": WORDS}, compatible="nncodec")


def test_a_slice_and_a_huge_tensor_are_decoded_by_pieces(tmp_path, monkeypatch):
    words = np.resize(WORDS, (1200, 64))
    assert words.size > PIECE // 8
    nncjit.compress({"w": words}, tmp_path / "w.nnc")
    with nncjit.open(tmp_path / "w.nnc") as opened:
        tensor = opened.get_slice("w")
        for rows in (slice(0, 3), slice(500, 530), slice(-2, None)):
            assert (tensor[rows] == words[rows]).all()
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1 << 16)
    monkeypatch.setattr(concurrent_decoder, "PIECE", 1 << 12)
    safetensors = pytest.importorskip("safetensors.numpy")
    nncjit.decompress(tmp_path / "w.nnc", tmp_path / "w.safetensors")
    assert (safetensors.load_file(tmp_path / "w.safetensors")["w"] == words).all()


def made(code, offsets, values):
    return bytearray(in_pieces(values, Way(code, offsets), None).tail)


@pytest.mark.parametrize(
    ("code", "values", "at", "byte", "said"),
    [
        (116, np.arange(100, dtype=np.int8), -3, 7, "leaves 7 bits"),
        (116, np.arange(100, dtype=np.int8), -1, 120, "leaves 0 bits"),
        (116, np.arange(100, dtype=np.int8), -2, 100, "has value 199, which int8"),
        (118, np.arange(-8, 8, dtype=np.int8), -2, 254, "has value 13, which int4"),
        (120, WORDS[0], 5, 200, "has symbol 200 among codes"),
    ],
)
def test_values_that_the_type_does_not_have_are_refused(code, values, at, byte, said):
    offsets = Offsets(0, int(values.min())) if FORMATS[code].bits == 8 else PACKED
    tail = made(code, offsets, values)
    tail[at] = byte
    with pytest.raises(nncjit.ModelError, match=said):
        joined(bytes(tail), code, values.shape)


def test_a_tail_without_an_end_is_refused():
    for code in FORMATS:
        with pytest.raises(nncjit.ModelError, match="cut off"):
            IntegerPieces.read(lambda start, stop: bytes(2)[start:stop], 2, FORMATS[code], 10)


def test_a_cut_or_changed_stream_is_refused_or_decoded():
    data = bytearray(nncjit.encode({"layer.qweight": WORDS}))
    refused_or_decoded(data, [*range(len(data) - 60, len(data)), *range(0, len(data), 3001)], nncjit.NncError)
    with pytest.raises(nncjit.BitstreamError):
        nncjit.decode(data[:-40])


def test_the_estimate_is_that_of_the_pieces():
    levels = np.rint(3 * RNG.standard_normal(1 << 16)).astype(np.int8)
    found = cheapest_way(levels, "int8", levels)
    tail = in_pieces(levels, found.way, None).tail
    assert found.bits == pytest.approx(8 * len(tail), rel=0.003)


def test_quantised_checkpoints(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model = {"l.qweight": WORDS.reshape(-1, 64), "l.qzeros": WORDS[:4], "l.scales": RNG.random((4, 64)).astype("f2")}
    safetensors.save_file(model, tmp_path / "m.safetensors")
    report = nncjit.compress(tmp_path / "m.safetensors", tmp_path / "m.nnc")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors")
    back = safetensors.load_file(tmp_path / "back.safetensors")
    assert all(back[name].tobytes() == array.tobytes() for name, array in model.items())
    assert report.compressed_bytes < 0.8 * report.original_bytes


SCHEMES = {
    "MLX": (WORDS.reshape(-1, 64).view("u4"), {"weight": 0, "scales": "f2", "biases": "f2"}),
    "AQLM": (RNG.integers(-128, 128, (32, 64, 2), "i1"), {"codes": 0, "codebooks": "f2", "scales": "f2"}),
    "EXL3": (RNG.integers(0, 1 << 15, (4, 4, 64), "i2"), {"trellis": 0, "suh": "f2", "svh": "f2"}),
    "QuIP#": (RNG.integers(0, 1 << 15, (32, 64), "i2"), {"Qidxs": 0, "SU": "f2", "SV": "f2", "Wscale": "f4"}),
    "EETQ": (RNG.integers(-128, 128, (32, 64), "i1"), {"weight": 0, "weight_scales": "f2"}),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_whatever_says_what_levels_mean_is_exact(scheme):
    levels, names = SCHEMES[scheme]
    model = {f"l.{n}": RNG.random((16, 64), "f4").astype(t) if t else levels for n, t in names.items()}
    back = nncjit.decode(nncjit.encode(model))
    assert all(back[name].tobytes() == array.tobytes() for name, array in model.items())


def test_unsigned_levels_around_a_zero_point_are_small_under_any_name():
    levels = np.rint(12 * RNG.standard_normal((128, 256))).astype(np.int8)
    sizes = [len(nncjit.encode({"w_quantized": made})) for made in (levels, (levels ^ -128).view("u1"))]
    assert sizes[1] < 1.01 * sizes[0] < 0.75 * levels.size
