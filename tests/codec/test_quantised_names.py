"""Scales of models that are quantised already are exact: GPTQ, AWQ, compressed-tensors, bitsandbytes, float8."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit

RNG = np.random.default_rng(0)


def floats(*shape):
    return (RNG.random(shape) * 0.01 + 1e-3).astype("f2")


def words(*shape):
    return RNG.integers(-(2**31), 2**31, shape).astype("i4")


GPTQ = {
    "l.qweight": words(32, 64),
    "l.qzeros": words(4, 8),
    "l.scales": floats(4, 64),
    "l.g_idx": np.arange(256, dtype="i4"),
}
LAYERS = {
    "GPTQ": (GPTQ, {"l.scales"}),
    "AWQ": ({"a.b.qweight": words(256, 8), "a.b.scales": floats(4, 64)}, {"a.b.scales"}),
    "compressed-tensors": ({"l.weight_packed": words(64, 32), "l.weight_scale": floats(64, 4)}, {"l.weight_scale"}),
    "int8": ({"l.weight": RNG.integers(-99, 99, (64, 64), np.int8), "l.SCB": floats(64)}, {"l.SCB"}),
    "bitsandbytes": (
        {"l.weight": RNG.integers(0, 256, (2048, 1), np.uint8), "l.weight.absmax": floats(64)},
        {"l.weight.absmax"},
    ),
    "HQQ": ({"l.W_q": RNG.integers(0, 256, (64, 64), np.uint8), "l.scale": floats(64, 1)}, {"l.scale"}),
    "Quanto": (
        {"l.weight._data": RNG.integers(-99, 99, (64, 64), np.int8), "l.weight._scale": floats(64)},
        {"l.weight._scale"},
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_scales_are_exact_and_all_else_is_as_before(kind):
    arrays, scales = LAYERS[kind]
    arrays = arrays | {"plain.weight": floats(64, 64), "plain.scales": floats(64, 64), "norm.weight": floats(64)}
    back = nncjit.decode(nncjit.encode(arrays))
    assert {name for name in arrays if not np.array_equal(back[name], arrays[name])} >= {"plain.weight", "plain.scales"}
    assert all(np.array_equal(back[name], arrays[name]) for name in {*scales, *LAYERS[kind][0]})


def test_rules_come_before_it():
    back = nncjit.decode(nncjit.encode(GPTQ, rules={".*scales": "bits:4"}))
    assert not np.array_equal(back["l.scales"], GPTQ["l.scales"])


def test_levels_of_eight_bits_are_exact_where_they_have_scales():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weight = RNG.standard_normal((128, 128)).astype(ml_dtypes.float8_e4m3fn)
    for arrays, exact in (
        ({"l.weight": weight, "l.weight_scale_inv": floats(1, 1)}, True),
        ({"l.weight": weight}, False),
    ):
        back = nncjit.decode(nncjit.encode(arrays))
        assert (back["l.weight"].tobytes() == weight.tobytes()) == exact


def test_levels_with_scales_are_never_larger_than_with_zstd():
    zstandard = pytest.importorskip("zstandard")
    weight = RNG.standard_normal((512, 768))
    scale = (np.abs(weight).max(1, keepdims=True) / 127).astype("f4")
    arrays = {"l.weight": np.rint(weight / scale).astype(np.int8), "l.weight_scale": scale}
    stream = nncjit.encode(arrays)
    assert np.array_equal(nncjit.decode(stream)["l.weight"], arrays["l.weight"])
    theirs = sum(len(zstandard.ZstdCompressor(level=19).compress(array.tobytes())) for array in arrays.values())
    assert len(stream) < theirs
    assert nncjit.encode(arrays, compatible="nncodec")


def packed_nibbles(kind):
    """Levels of four bits with a scale for each 128 inputs, packed as GPTQ and AWQ do it."""
    weight = RNG.standard_normal((4, 128, 384))
    levels = np.clip(np.rint(weight / (np.abs(weight).max(1, keepdims=True) / 7.5)) + 8, 0, 15)
    levels = levels.reshape(512, 384).astype(np.uint32)
    shifts = 4 * np.arange(8, dtype=np.uint32)
    if kind == "GPTQ":
        return (levels.reshape(64, 8, 384) << shifts[:, None]).sum(1).astype(np.uint32).view(np.int32)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return (levels.reshape(512, 48, 8)[..., order] << shifts).sum(2).astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("kind", ["GPTQ", "AWQ"])
def test_packed_nibbles_take_little_more_than_their_entropy(kind):
    words = packed_nibbles(kind)
    stream = nncjit.encode({"l.qweight": words, "l.scales": np.ones(4, "f2")})
    assert np.array_equal(nncjit.decode(stream)["l.qweight"], words)
    octets = words.view(np.uint8)
    counts = np.unique(np.concatenate([octets & 15, octets >> 4]), return_counts=True)[1]
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    assert len(stream) < 1.005 * entropy


def test_blocks_of_mxfp4_take_little_more_than_their_entropy():
    codes = np.rint(RNG.normal(7.5, 2.5, (2, 64, 40, 16))).clip(0, 15).astype(np.uint8)
    arrays = {"experts.down_proj_blocks": codes[0] | codes[1] << 4}
    arrays["experts.down_proj_scales"] = RNG.integers(118, 124, (64, 40), np.uint8)
    stream = nncjit.encode(arrays)
    assert all(np.array_equal(array, arrays[name]) for name, array in nncjit.decode(stream).items())
    counts = np.unique(codes, return_counts=True)[1]
    assert len(stream) < 1.02 * -(counts * np.log2(counts / counts.sum())).sum() / 8 + 0.4 * 64 * 40 + 200


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
def test_words_of_nibbles_of_any_kind_come_back(dtype):
    n = np.dtype(dtype).itemsize
    for low, high in ((0, 16), (6, 11), (14, 16)):
        nibbles = RNG.integers(low, high, (3000, n, 2), np.uint8)
        words = (nibbles[..., 0] | nibbles[..., 1] << 4).reshape(-1).view(dtype)
        assert np.array_equal(nncjit.decode(nncjit.encode({"w": words}))["w"], words)
