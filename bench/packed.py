"""Models that are quantised already, without loss: bytes beside zstd at level 19 and the entropy of their levels.

    python bench/packed.py [--json FILE.json]

Normally distributed weights whose columns have different sizes, quantised in the ways of the formats. GPTQ and AWQ pack
four bits into words, with a scale and a zero point for each group of 128; bitsandbytes and MXFP4 pack them into bytes;
QDQ models of ONNX have int8 with a scale for each row or for the tensor; float8 has a scale for each row; GGUF has
blocks of levels and scales. The entropy is that of all levels of a tensor, each by itself, with one distribution for
them: no coder that adapts takes much less, as long as levels are independent. Of GGUF it is the sum over the planes of
its blocks.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import zstandard
from saved_figures import save_or_print

import nncjit
from nncjit.formats import gguf_blocks

ROWS, COLUMNS, GROUP = 4096, 2048, 128
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column of each nibble of a word."""
NF4 = np.array(
    [
        *(-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0),
        *(0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.723, 1),
    ],
    np.float32,
)
"""Values of bitsandbytes' four bits."""
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""Values of GGUF's IQ4_NL and IQ4_XS."""
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""Magnitudes of the floats of MXFP4."""


class Case(NamedTuple):
    """A tensor, or several that belong together, as they are stored."""

    title: str
    stored: dict[str, np.ndarray]
    levels: list[np.ndarray]
    """What the entropy counts."""


def made_weights() -> np.ndarray:
    """Inputs x outputs."""
    rng = np.random.default_rng(0)
    weights = 0.02 * rng.standard_normal((ROWS, COLUMNS), np.float32)
    weights *= np.exp(rng.normal(0, 0.3, COLUMNS)).astype(np.float32)
    return weights


def four_bits(weights: np.ndarray, *, asymmetric: bool) -> np.ndarray:
    """Levels 0 to 15 of inputs x outputs, with a scale for each group of inputs."""
    groups = weights.reshape(-1, GROUP, weights.shape[1])
    if asymmetric:
        low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
        step = (high - low) / 15
        zero = np.rint(-low / step)
    else:
        step, zero = np.abs(groups).max(1, keepdims=True) / 7.5, 8
    return np.clip(np.rint(groups / step) + zero, 0, 15).astype(np.uint32).reshape(weights.shape)


def gptq(levels: np.ndarray) -> np.ndarray:
    """Eight inputs in a word."""
    words = levels.reshape(-1, 8, levels.shape[1])
    return np.bitwise_or.reduce(words << (4 * np.arange(8, dtype=np.uint32))[:, None], axis=1).view(np.int32)


def awq(levels: np.ndarray) -> np.ndarray:
    """Eight outputs in a word."""
    words = levels.reshape(len(levels), -1, 8)[:, :, AWQ_ORDER]
    return np.bitwise_or.reduce(words << (4 * np.arange(8, dtype=np.uint32)), axis=2).view(np.int32)


def in_bytes(codes: np.ndarray) -> np.ndarray:
    """Two codes of four bits in a byte."""
    flat = codes.reshape(-1, 2).astype(np.uint8)
    return flat[:, 0] | flat[:, 1] << 4


def int8(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """Levels -127 to 127."""
    return np.rint(127 * weights / np.abs(weights).max(axis=axis, keepdims=True)).astype(np.int8)


def nearest(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Index of the nearest value of an ascending grid."""
    return np.searchsorted((grid[1:] + grid[:-1]) / 2, values)


def mxfp4(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of sign and magnitude, and the exponent of each block of 32, biased."""
    blocks = weights.reshape(-1, 32)
    exponent = np.floor(np.log2(np.abs(blocks).max(1))) - 2
    scaled = blocks / np.exp2(exponent)[:, None]
    return nearest(np.abs(scaled), E2M1) | (scaled < 0) << 3, (exponent + 127).astype(np.uint8)


def tensors(weights: np.ndarray) -> Iterator[Case]:
    """Tensors of safetensors and ONNX files."""
    plain, shifted = four_bits(weights, asymmetric=False), four_bits(weights, asymmetric=True)
    order = np.argsort(np.random.default_rng(1).random(ROWS))
    yield Case("GPTQ, 4 bits, symmetric", {"layer.qweight": gptq(plain)}, [plain])
    yield Case("GPTQ, 4 bits, symmetric, in another order", {"layer.qweight": gptq(plain[order])}, [plain])
    yield Case("GPTQ, 4 bits, asymmetric", {"layer.qweight": gptq(shifted)}, [shifted])
    yield Case("AWQ, 4 bits", {"layer.qweight": awq(shifted)}, [shifted])
    rows = np.ascontiguousarray(weights.T)
    scaled = rows.reshape(-1, 64)
    absmax = np.abs(scaled).max(1, keepdims=True)
    codes = nearest(scaled / absmax, NF4)
    yield Case("bitsandbytes, NF4", {"layer.weight": in_bytes(codes), "layer.weight.absmax": absmax}, [codes])
    codes, exponents = mxfp4(rows)
    stored = {"layer.down_proj_blocks": in_bytes(codes), "layer.down_proj_scales": exponents}
    yield Case("MXFP4 in bytes", stored, [codes, exponents])
    for title, axis in (("int8, a scale for each row", 1), ("int8, one scale", None)):
        yield Case(
            title, {"layer.weight": int8(rows, axis), "layer.weight_scale": np.ones(1, np.float32)}, [int8(rows, axis)]
        )
    scale = np.abs(rows).max(1, keepdims=True) / 448
    floats = (rows / scale).astype(ml_dtypes.float8_e4m3fn)
    yield Case(
        "float8 e4m3, a scale for each row",
        {"layer.weight": floats, "layer.weight_scale": scale},
        [floats.view(np.uint8)],
    )


def levels_of(weights: np.ndarray, block: gguf_blocks.BlockType) -> dict[str, np.ndarray]:
    """The planes of a block type with the nearest levels of a grid for each 16 or 32 weights, and scales of its own."""
    planes = block.unpack(np.zeros((weights.size // block.weights, block.n_bytes), np.uint8))
    bits = int(block.name[1])
    grain = 16 if block.name in ("Q2_K", "Q3_K", "Q6_K") else 32
    groups = weights.reshape(-1, grain)
    if ".minima" in planes or ".m_high" in planes:  # from the lowest value to the highest
        low = np.minimum(groups.min(1, keepdims=True), 0)
        step = (groups.max(1, keepdims=True) - low) / (2**bits - 1)
        codes = np.rint((groups - low) / step)
    else:
        low, step = None, np.abs(groups).max(1, keepdims=True) / 2 ** (bits - 1)
        codes = np.rint(groups / step) + 2 ** (bits - 1)
    codes = codes.clip(0, 2**bits - 1)
    middle = 0 if block.name == "Q2_K" else 2 ** (bits - 1)
    planes[""] = (codes - middle).astype(np.int16).astype(planes[""].dtype).reshape(planes[""].shape)
    for key, values in ((".scales", step), (".minima", low)):
        if key in planes:
            shared = values.reshape(len(planes[key]), -1)
            most = np.abs(shared).max(1, keepdims=True)
            top = {"Q2_K": 15, "Q3_K": 31, "Q6_K": 127}.get(block.name, 63)
            planes[key] = np.rint(np.abs(shared) / most * top).astype(planes[key].dtype)
            step, low = (most / top, low) if key == ".scales" else (step, most / top)
    for name, values in (("d", step), ("m", low), ("dmin", low)):
        if f".{name}_high" in planes:
            octets = halves(values)
            planes[f".{name}_low"], planes[f".{name}_high"] = octets[:, :1], octets[:, 1:]
    return planes


def halves(values: np.ndarray) -> np.ndarray:
    """The bytes of half-precision numbers, a row for each."""
    return np.ascontiguousarray(values, np.float16).view(np.uint8).reshape(-1, 2)


def iq4(weights: np.ndarray, block: gguf_blocks.BlockType) -> dict[str, np.ndarray]:
    """The nearest of uneven levels; of IQ4_XS with scales of six bits for each 32, times one of half precision."""
    groups = weights.reshape(-1, block.weights // 32, 32)
    step = np.abs(groups).max(2) / 127
    numbers = step.max(1) / (31 if block.name == "IQ4_XS" else 1)
    scales = np.rint(step / numbers[:, None])
    codes = nearest(groups / (scales * numbers[:, None])[:, :, None], IQ4)
    octets = halves(numbers)
    planes = {
        "": (codes - 8).astype(np.int8).reshape(len(groups), -1),
        ".d_low": octets[:, :1],
        ".d_high": octets[:, 1:],
    }
    return planes if block.name == "IQ4_NL" else planes | {".scales": scales.astype(np.int8)}


def nvfp4(weights: np.ndarray) -> dict[str, np.ndarray]:
    """Codes of sign and magnitude, and a float8 scale for each 16."""
    groups = weights.reshape(-1, 16)
    unit = np.abs(weights).max() / 6 / 448
    scales = (np.abs(groups).max(1) / 6 / unit).astype(ml_dtypes.float8_e4m3fn)
    scaled = groups / (scales.astype(np.float32) * unit)[:, None]
    codes = (nearest(np.abs(scaled), E2M1) | (scaled < 0) << 3).astype(np.uint8)
    return {"": gguf_blocks.levels_of_codes(codes, 4).reshape(-1, 64), ".scales": scales.view(np.uint8).reshape(-1, 4)}


def ternary(weights: np.ndarray, block: gguf_blocks.BlockType) -> dict[str, np.ndarray]:
    """Levels of -1, 0 and 1 with one scale for the tensor, as BitNet has them."""
    step = np.abs(weights).mean()
    levels = np.rint(weights / step).clip(-1, 1).astype(np.int8).reshape(-1, 256)
    octets = np.broadcast_to(halves(step), (len(levels), 2))
    planes = {"": levels, ".d_low": octets[:, :1], ".d_high": octets[:, 1:]}
    if block.name == "TQ2_0":
        return planes
    trits = (levels + 1).astype(np.uint16)
    parts = trits[:, :160].reshape(-1, 5, 32), trits[:, 160:240].reshape(-1, 5, 16), trits[:, 240:].reshape(-1, 4, 4)
    ninths = np.array([81, 27, 9, 3, 1])[:, None]
    rows = [((part * ninths[: part.shape[1]]).sum(1) * 256 + 242) // 243 for part in parts]
    codes = np.concatenate(rows, axis=1).astype(np.uint8)
    return planes | {"": codes[:, :48], ".fours": codes[:, 48:]}


def gguf_planes(weights: np.ndarray, block: gguf_blocks.BlockType) -> dict[str, np.ndarray]:
    """The planes of any block type."""
    if block.name.startswith("IQ4"):
        return iq4(weights, block)
    if block.name.startswith("TQ"):
        return ternary(weights, block)
    if block.name == "NVFP4":
        return nvfp4(weights)
    if block.name == "MXFP4":
        codes, exponents = mxfp4(weights)
        return {"": gguf_blocks.levels_of_codes(codes.astype(np.uint8), 4), ".e": exponents[:, None]}
    if block.name == "Q8_0":
        groups = weights.reshape(-1, 32)
        step = np.abs(groups).max(1, keepdims=True) / 127
        raw = np.concatenate(
            [step.astype(np.float16).view(np.uint8), np.rint(groups / step).astype(np.int8).view(np.uint8)], 1
        )
        return block.unpack(raw)
    return levels_of(weights, block)


def gguf_file(kind: int, blocks: np.ndarray, columns: int) -> bytes:
    """A file with one tensor."""
    name = b"blk.0.w"
    rows = blocks.nbytes // gguf_blocks.BLOCK_TYPES[kind].n_bytes * gguf_blocks.BLOCK_TYPES[kind].weights // columns
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", len(name)) + name
    head += struct.pack("<IQQIQ", 2, columns, rows, kind, 0)
    return head + bytes(-len(head) % 32) + blocks.tobytes()


def entropy(levels: np.ndarray) -> float:
    """Bytes of all levels."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / levels.size)).sum()) / 8


def row_of(title: str, stored: bytes, coded: int, planes: list[np.ndarray], beside: int = 0) -> dict[str, object]:
    """A row of the table; `beside` are bytes that the entropy of the planes does not count."""
    row = {"title": title, "bytes": len(stored), "nncjit": coded, "zstd": len(zstandard.compress(stored, 19))}
    return row | {"entropy": sum(map(entropy, planes)) + beside}


def main() -> None:
    """Measure, and save or print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the rows")
    arguments = parser.parse_args()
    weights, rows = made_weights(), []
    for title, arrays, levels in tensors(weights):
        stream = nncjit.encode(arrays, quantizer="lossless")
        back = nncjit.decode(stream)
        assert all(back[name].tobytes() == array.tobytes() for name, array in arrays.items())
        floats = sum(array.nbytes for array in arrays.values() if array.dtype == np.float32)
        rows.append(row_of(title, b"".join(a.tobytes() for a in arrays.values()), len(stream), levels, floats))
    columns = np.ascontiguousarray(weights.T)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.gguf")
        for kind, block in gguf_blocks.BLOCK_TYPES.items():
            planes = gguf_planes(columns, block)
            data = gguf_file(kind, np.ascontiguousarray(block.pack(planes)), ROWS)
            path.write_bytes(data)
            report = nncjit.compress(path, path.with_suffix(".nnc"))
            nncjit.decompress(path.with_suffix(".nnc"), path.with_name("back.gguf"))
            assert path.with_name("back.gguf").read_bytes() == data
            rows.append(row_of(f"GGUF, {block.name}", data, report.compressed_bytes, list(planes.values())))
    save_or_print({"rows": rows}, arguments.json)


if __name__ == "__main__":
    main()
