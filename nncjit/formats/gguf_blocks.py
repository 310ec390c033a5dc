"""Blocks of GGUF's quantised types taken apart into planes, and put together again bit for bit.

A block holds levels, scales and often minima, packed into bytes. Byte compressors see a mixture; apart, each plane has
a distribution of its own. Levels keep the shape of the tensor. The two bytes of a half-precision scale are planes of
their own: the first holds sign, exponent and little of the mantissa, and is well coded.

Of levels with eight bits, the three lowest are a plane of their own: in a bell curve this wide they are as good as
random, and the coder's many adaptive bins for each of them would cost more than they save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nncjit.formats.packed_codes import codes_of_levels, levels_of_codes

Array = Any
"""ndarray; NumPy's own types say no more than that of the results of views and shifts."""
Planes = dict[str, Array]
"""Suffix -> int8 or uint8[blocks, n]; the levels have the suffix "" and, of a block, one for each weight."""

LOW_BITS = 3
"""Of levels of eight bits, how many are split off."""


class BlockType(NamedTuple):
    """A quantised type."""

    name: str
    weights: int
    """Of a block."""
    n_bytes: int
    """Of a block."""
    unpack: Callable[[Array], Planes]
    """Planes of uint8[blocks, n_bytes]."""
    pack: Callable[[Planes], Array]
    """The inverse."""


def _halves(raw: Array, group: int) -> Array:
    """Nibbles: in each group of bytes all the low ones, then all the high ones."""
    parts = raw.reshape(len(raw), -1, 1, group) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return (parts & 15).reshape(len(raw), -1)


def _from_halves(codes: Array, group: int) -> Array:
    parts = codes.reshape(len(codes), -1, 2, group)
    return (parts[:, :, 0] | parts[:, :, 1] << 4).reshape(len(codes), -1)


def _quarters(raw: Array) -> Array:
    """Codes of two bits, 32 bytes at a time."""
    parts = raw.reshape(len(raw), -1, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return (parts & 3).reshape(len(raw), -1)


def _from_quarters(codes: Array) -> Array:
    p = codes.reshape(len(codes), -1, 4, 32)
    return (p[:, :, 0] | p[:, :, 1] << 2 | p[:, :, 2] << 4 | p[:, :, 3] << 6).reshape(len(codes), -1)


def _bit_rows(raw: Array) -> Array:
    """Single bits of 32 bytes: the lowest of each, then the next."""
    parts = raw.reshape(len(raw), 1, 32) >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    return (parts & 1).reshape(len(raw), -1)


def _from_bit_rows(bits: Array) -> Array:
    return np.bitwise_or.reduce(bits.reshape(len(bits), 8, 32) << np.arange(8, dtype=np.uint8).reshape(1, 8, 1), axis=1)


def _half(raw: Array, name: str) -> Planes:
    """A half-precision number."""
    return {f".{name}_high": raw[:, 1:2], f".{name}_low": raw[:, 0:1]}


def _from_half(planes: Planes, name: str) -> Array:
    return np.concatenate([planes[f".{name}_low"], planes[f".{name}_high"]], axis=1)


def _signed(codes: Array, middle: int) -> Array:
    """Codes as levels around zero."""
    return (codes.astype(np.int16) - middle).astype(np.int8)


def _unsigned(levels: Array, middle: int) -> Array:
    return (levels.astype(np.int16) + middle).astype(np.uint8)


def _six_bits(raw: Array) -> Planes:
    """The scales and minima of Q4_K and Q5_K: eight of each, six bits long, in twelve bytes."""
    a, b, c = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = np.concatenate([a & 63, c & 15 | a >> 2 & 48], axis=1)
    minima = np.concatenate([b & 63, c >> 4 | b >> 2 & 48], axis=1)
    return {".scales": scales, ".minima": minima}


def _from_six_bits(planes: Planes) -> Array:
    s, m = planes[".scales"], planes[".minima"]
    a, b = (x[:, :4] | x[:, 4:] >> 4 << 6 for x in (s, m))
    return np.concatenate([a, b, s[:, 4:] & 15 | m[:, 4:] << 4], axis=1)


def _q3_scales(raw: Array) -> Array:
    """Sixteen scales of six bits: the low nibbles first, then pairs of high bits."""
    low = np.concatenate([raw[:, :8] & 15, raw[:, :8] >> 4], axis=1)
    high = np.concatenate([raw[:, 8:] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    return _signed(low | high << 4, 32)


def _from_q3_scales(scales: Array) -> Array:
    codes = _unsigned(scales, 32)
    low, high = codes & 15, codes >> 4
    parts = high.reshape(len(high), 4, 4)
    last = parts[:, 0] | parts[:, 1] << 2 | parts[:, 2] << 4 | parts[:, 3] << 6
    return np.concatenate([low[:, :8] | low[:, 8:] << 4, last], axis=1)


def _simple(halves: tuple[str, ...], *, fifth_bit: bool) -> tuple[Callable[[Array], Planes], Callable[[Planes], Array]]:
    """Q4_0 to Q5_1: half-precision numbers, perhaps a fifth bit for each weight, then nibbles."""
    start = 2 * len(halves)
    middle = 16 if fifth_bit else 8

    def unpack(blocks: Array) -> Planes:
        codes = _halves(blocks[:, -16:], 16)
        if fifth_bit:
            codes = codes | np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4
        planes = {"": _signed(codes, middle)}
        for k, name in enumerate(halves):
            planes |= _half(blocks[:, 2 * k : 2 * k + 2], name)
        return planes

    def pack(planes: Planes) -> Array:
        codes = _unsigned(planes[""], middle)
        fifth = [np.packbits(codes >> 4, axis=1, bitorder="little")] if fifth_bit else []
        numbers = [_from_half(planes, name) for name in halves]
        return np.concatenate([*numbers, *fifth, _from_halves(codes & 15, 16)], axis=1)

    return unpack, pack


def _unpack_q8_0(blocks: Array) -> Planes:
    levels = blocks[:, 2:].view(np.int8).astype(np.int16)
    half = 1 << LOW_BITS - 1
    coarse = levels + half >> LOW_BITS
    low = (levels - (coarse << LOW_BITS) + half).astype(np.uint8)
    bits = np.unpackbits(low.reshape(-1, 1), axis=1, count=LOW_BITS, bitorder="little")
    packed = np.packbits(bits.reshape(len(blocks), -1), axis=1, bitorder="little")
    return {"": coarse.astype(np.int8), ".low": packed} | _half(blocks[:, :2], "d")


def _pack_q8_0(planes: Planes) -> Array:
    coarse = planes[""].astype(np.int16)
    bits = np.unpackbits(planes[".low"], axis=1, bitorder="little").reshape(-1, LOW_BITS)
    low = np.packbits(bits, axis=1, bitorder="little").reshape(coarse.shape).astype(np.int16)
    levels = (coarse << LOW_BITS) + low - (1 << LOW_BITS - 1)
    return np.concatenate([_from_half(planes, "d"), levels.astype(np.int8).view(np.uint8)], axis=1)


def _unpack_q2_k(blocks: Array) -> Planes:
    scales, levels, d, dmin = np.split(blocks, [16, 80, 82], axis=1)
    planes = {"": _quarters(levels), ".scales": scales & 15, ".minima": scales >> 4}
    return planes | _half(d, "d") | _half(dmin, "dmin")


def _pack_q2_k(planes: Planes) -> Array:
    scales = planes[".scales"] & 15 | planes[".minima"] << 4
    numbers = [_from_half(planes, name) for name in ("d", "dmin")]
    return np.concatenate([scales, _from_quarters(planes[""] & 3), *numbers], axis=1)


def _unpack_q3_k(blocks: Array) -> Planes:
    mask, levels, scales, d = np.split(blocks, [32, 96, 108], axis=1)
    codes = _quarters(levels) | _bit_rows(mask) << 2
    return {"": _signed(codes, 4), ".scales": _q3_scales(scales)} | _half(d, "d")


def _pack_q3_k(planes: Planes) -> Array:
    codes = _unsigned(planes[""], 4)
    scales = _from_q3_scales(planes[".scales"])
    return np.concatenate(
        [_from_bit_rows(codes >> 2 & 1), _from_quarters(codes & 3), scales, _from_half(planes, "d")], axis=1
    )


def _unpack_q4_k(blocks: Array) -> Planes:
    d, dmin, scales, levels = np.split(blocks, [2, 4, 16], axis=1)
    return {"": _signed(_halves(levels, 32), 8)} | _six_bits(scales) | _half(d, "d") | _half(dmin, "dmin")


def _pack_q4_k(planes: Planes) -> Array:
    numbers = [_from_half(planes, name) for name in ("d", "dmin")]
    levels = _from_halves(_unsigned(planes[""], 8) & 15, 32)
    return np.concatenate([*numbers, _from_six_bits(planes), levels], axis=1)


def _unpack_q5_k(blocks: Array) -> Planes:
    d, dmin, scales, high, levels = np.split(blocks, [2, 4, 16, 48], axis=1)
    codes = _halves(levels, 32) | _bit_rows(high) << 4
    return {"": _signed(codes, 16)} | _six_bits(scales) | _half(d, "d") | _half(dmin, "dmin")


def _pack_q5_k(planes: Planes) -> Array:
    codes = _unsigned(planes[""], 16)
    numbers = [_from_half(planes, name) for name in ("d", "dmin")]
    return np.concatenate(
        [*numbers, _from_six_bits(planes), _from_bit_rows(codes >> 4 & 1), _from_halves(codes & 15, 32)], axis=1
    )


def _unpack_q6_k(blocks: Array) -> Planes:
    low, high, scales, d = np.split(blocks, [128, 192, 208], axis=1)
    codes = _halves(low, 64) | _quarters(high) << 4
    return {"": _signed(codes, 32), ".scales": scales.view(np.int8)} | _half(d, "d")


def _pack_q6_k(planes: Planes) -> Array:
    codes = _unsigned(planes[""], 32)
    scales = planes[".scales"].view(np.uint8)
    return np.concatenate(
        [_from_halves(codes & 15, 64), _from_quarters(codes >> 4), scales, _from_half(planes, "d")], axis=1
    )


def _unpack_mxfp4(blocks: Array) -> Planes:
    return {"": levels_of_codes(_halves(blocks[:, 1:], 16), 4), ".e": blocks[:, :1]}


def _pack_mxfp4(planes: Planes) -> Array:
    return np.concatenate([planes[".e"], _from_halves(codes_of_levels(planes[""], 4) & 15, 16)], axis=1)


def _unpack_iq4_xs(blocks: Array) -> Planes:
    d, high, low, levels = np.split(blocks, [2, 4, 8], axis=1)
    above = high.reshape(len(blocks), 2, 1) >> np.array([0, 2, 4, 6], np.uint8) & 3
    pairs = np.stack([low & 15, low >> 4], axis=2).reshape(len(blocks), 8)
    scales = _signed(pairs | above.reshape(len(blocks), 8) << 4, 32)
    return {"": _signed(_halves(levels, 16), 8), ".scales": scales} | _half(d, "d")


def _pack_iq4_xs(planes: Planes) -> Array:
    scales = _unsigned(planes[".scales"], 32)
    low = scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4
    above = (scales >> 4).reshape(len(scales), 2, 4) << np.array([0, 2, 4, 6], np.uint8)
    levels = _from_halves(_unsigned(planes[""], 8) & 15, 16)
    return np.concatenate([_from_half(planes, "d"), np.bitwise_or.reduce(above, axis=2), low, levels], axis=1)


def _unpack_nvfp4(blocks: Array) -> Planes:
    return {"": levels_of_codes(_halves(blocks[:, 4:], 8), 4), ".scales": blocks[:, :4]}


def _pack_nvfp4(planes: Planes) -> Array:
    return np.concatenate([planes[".scales"], _from_halves(codes_of_levels(planes[""], 4) & 15, 8)], axis=1)


def _unpack_tq1_0(blocks: Array) -> Planes:
    """Bytes of five levels each stay so: not all bytes are such, and a byte has the entropy of its levels."""
    return {"": blocks[:, :48], ".fours": blocks[:, 48:52]} | _half(blocks[:, 52:], "d")


def _pack_tq1_0(planes: Planes) -> Array:
    return np.concatenate([planes[""], planes[".fours"], _from_half(planes, "d")], axis=1)


def _unpack_tq2_0(blocks: Array) -> Planes:
    return {"": _signed(_quarters(blocks[:, :64]), 1)} | _half(blocks[:, 64:], "d")


def _pack_tq2_0(planes: Planes) -> Array:
    return np.concatenate([_from_quarters(_unsigned(planes[""], 1) & 3), _from_half(planes, "d")], axis=1)


BLOCK_TYPES = {
    2: BlockType("Q4_0", 32, 18, *_simple(("d",), fifth_bit=False)),
    3: BlockType("Q4_1", 32, 20, *_simple(("d", "m"), fifth_bit=False)),
    6: BlockType("Q5_0", 32, 22, *_simple(("d",), fifth_bit=True)),
    7: BlockType("Q5_1", 32, 24, *_simple(("d", "m"), fifth_bit=True)),
    8: BlockType("Q8_0", 32, 34, _unpack_q8_0, _pack_q8_0),
    10: BlockType("Q2_K", 256, 84, _unpack_q2_k, _pack_q2_k),
    11: BlockType("Q3_K", 256, 110, _unpack_q3_k, _pack_q3_k),
    12: BlockType("Q4_K", 256, 144, _unpack_q4_k, _pack_q4_k),
    13: BlockType("Q5_K", 256, 176, _unpack_q5_k, _pack_q5_k),
    14: BlockType("Q6_K", 256, 210, _unpack_q6_k, _pack_q6_k),
    20: BlockType("IQ4_NL", 32, 18, *_simple(("d",), fifth_bit=False)),
    23: BlockType("IQ4_XS", 256, 136, _unpack_iq4_xs, _pack_iq4_xs),
    34: BlockType("TQ1_0", 256, 54, _unpack_tq1_0, _pack_tq1_0),
    35: BlockType("TQ2_0", 256, 66, _unpack_tq2_0, _pack_tq2_0),
    39: BlockType("MXFP4", 32, 17, _unpack_mxfp4, _pack_mxfp4),
    40: BlockType("NVFP4", 64, 36, _unpack_nvfp4, _pack_nvfp4),
}
"""ggml_type -> how its blocks are taken apart."""
WHOLE = {
    9: (32, 40),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    21: (256, 110),
    22: (256, 82),
    29: (256, 56),
    41: (128, 18),
}
"""ggml_types that are left whole: weights and bytes of a block. They gain next to nothing."""
PLAIN = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
"""ggml_types that are no blocks."""
