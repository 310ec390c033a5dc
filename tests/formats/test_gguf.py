"""GGUF files go to streams and come back bit for bit, smaller than a byte compressor makes them; bad files do not."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.formats import open_model
from nncjit.formats.gguf_blocks import BLOCK_TYPES, PLAIN, WHOLE

RNG = np.random.default_rng(0)
ALIGNMENT = 32


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, data):
    return struct.pack("<I", kind) + data


VALUES = [
    ("general.architecture", value(8, text("llama"))),
    ("some.float", value(6, struct.pack("<f", 0.5))),
    ("some.flags", value(9, struct.pack("<IQ", 7, 3) + b"\1\0\1")),
    ("tokens", value(9, struct.pack("<IQ", 8, 2) + text("a") + text("bc"))),
    ("nested", value(9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 5, 2) + bytes(8))),
]


def gguf_file(tensors, values=VALUES, *, version=3, alignment=ALIGNMENT, counts=None):
    """The bytes of a file; tensors are (name, shape, ggml_type, bytes)."""
    counts = counts or (len(tensors), len(values))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts)
    head += b"".join(text(key) + data for key, data in values)
    at = 0
    body = b""
    for name, shape, kind, data in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, at)
        body += data + bytes(-len(data) % alignment)
        at = len(body)
    return head + bytes(-len(head) % alignment if tensors else 0) + body


def blocks_of(kind, rows=64, columns=512):
    """A tensor of a block type whose levels have a bell curve and whose scales vary."""
    block = BLOCK_TYPES[kind]
    count = rows * columns // block.weights
    planes = block.unpack(np.zeros((count, block.n_bytes), np.uint8))
    made = {}
    for suffix, plane in planes.items():
        if suffix == "":
            wide = {"Q2_K": 0.6, "Q3_K": 1.2, "MXFP4": 2.0, "NVFP4": 2.0, "TQ2_0": 0.6}.get(block.name, 2.2)
            span = {"Q5_0": 15, "Q5_1": 15, "Q5_K": 15, "Q6_K": 31, "Q8_0": 15}.get(block.name, 7)
            wide = span / 3 if span > 7 else wide
            ends = {"Q2_K": (0, 3), "Q3_K": (-4, 3), "TQ2_0": (-1, 1), "TQ1_0": (0, 9)}
            low, high = ends.get(block.name, (-span, span))
            made[suffix] = np.clip(np.rint(RNG.normal(0, wide, plane.shape) + (low == 0)), low, high).astype(
                plane.dtype
            )
        elif suffix.endswith("_high"):
            made[suffix] = RNG.choice([0x1C, 0x1D, 0x1E, 0x9D], plane.shape).astype(plane.dtype)
        elif suffix in (".scales", ".minima"):
            made[suffix] = RNG.integers(2, 14, plane.shape).astype(plane.dtype)
        elif suffix in (".e", ".fours"):
            made[suffix] = RNG.integers(118, 122, plane.shape).astype(plane.dtype)
        else:
            made[suffix] = RNG.integers(0, 256, plane.shape).astype(plane.dtype)
    return ("w", (rows, columns), kind, block.pack(made).tobytes())


def there_and_back(tmp_path, data, **options):
    (tmp_path / "m.gguf").write_bytes(data)
    report = nncjit.compress(tmp_path / "m.gguf", tmp_path / "m.nnc", **options)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.gguf")
    assert (tmp_path / "back.gguf").read_bytes() == data
    return report


@pytest.mark.parametrize("block", BLOCK_TYPES.values(), ids=lambda block: block.name)
def test_any_block_is_packed_again_bit_for_bit(block):
    raw = RNG.integers(0, 256, (70, block.n_bytes), dtype=np.uint8)
    planes = block.unpack(raw)
    assert planes[""].shape == (70, 48 if block.name == "TQ1_0" else block.weights)
    assert np.array_equal(block.pack({suffix: plane.copy() for suffix, plane in planes.items()}), raw)


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: BLOCK_TYPES[kind].name)
def test_quantised_tensors_come_back_bit_for_bit_and_small(tmp_path, kind):
    zstandard = pytest.importorskip("zstandard")
    norm = ("norm", (512,), 0, RNG.normal(1, 0.1, 512).astype("<f4").tobytes())
    data = gguf_file([blocks_of(kind), norm])
    report = there_and_back(tmp_path, data)
    assert report.compressed_bytes < len(zstandard.compress(data, 19)) + 600


@pytest.mark.parametrize("kind", [*PLAIN, *WHOLE])
def test_all_other_types_come_back_bit_for_bit(tmp_path, kind):
    weights, n_bytes = WHOLE.get(kind, (1, {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}.get(kind)))
    raw = RNG.bytes(6 * n_bytes * 4)
    data = gguf_file([("x", (6, 4 * weights), kind, raw), blocks_of(2, 1, 32)])
    there_and_back(tmp_path, data)


def test_a_file_that_is_not_quantised_is_a_model_like_any_other(tmp_path):
    weights = RNG.normal(0, 0.1, (64, 64)).astype("<f4")
    (tmp_path / "m.gguf").write_bytes(gguf_file([("w", (64, 64), 0, weights.tobytes())]))
    report = nncjit.compress(tmp_path / "m.gguf", tmp_path / "m.nnc")
    assert 25 < report.snr < 40
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.gguf")
    with open_model(tmp_path / "back.gguf") as model:
        assert np.abs(model["w"].read() - weights).max() < 0.05
    there_and_back(tmp_path, gguf_file([("w", (64, 64), 0, weights.tobytes())]), quantizer="raw")


@pytest.mark.parametrize(
    "data",
    [
        gguf_file([]),
        gguf_file([], []),
        gguf_file([("empty", (0,), 0, b""), ("scalar", (), 0, b"\0\0\x80?")]),
        gguf_file([blocks_of(8, 2, 64)], version=2),
        gguf_file([blocks_of(8, 3, 32), ("é/\n", (5,), 24, b"abcde")]),
        gguf_file(
            [blocks_of(2, 2, 64)], [*VALUES, ("general.alignment", value(4, struct.pack("<I", 64)))], alignment=64
        ),
        gguf_file([blocks_of(2, 2, 64)])[:-24],
        b"GGUF" + struct.pack("<IIII1sIIIQ", 1, 1, 0, 1, b"w", 1, 9, 24, 0) + bytes(27) + b"in place!",
        gguf_file([("w", (5,), 24, b"abcde" + bytes(9) + b"not zero" + bytes(60) + b"here, too")]),
        gguf_file([("w", (5,), 24, b"abcde")]) + bytes(999),
    ],
    ids=[
        *("no tensors", "nothing", "empty and scalar", "version 2", "names", "alignment", "no padding at the end"),
        *("version 1", "bytes of no tensor", "zeros at the end"),
    ],
)
def test_odd_files_come_back_bit_for_bit(tmp_path, data):
    there_and_back(tmp_path, data)


def test_the_library_reads_what_comes_back(tmp_path):
    gguf = pytest.importorskip("gguf")
    weights = RNG.normal(0, 0.05, (64, 256)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("tokens", ["a", "b"])
    for name in ("Q4_0", "Q8_0", "MXFP4"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    there_and_back(tmp_path, (tmp_path / "m.gguf").read_bytes())
    for tensor in gguf.GGUFReader(tmp_path / "back.gguf").tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.abs(values - weights).max() < 0.06


def test_big_endian_files_come_back(tmp_path):
    gguf = pytest.importorskip("gguf")
    arrays = {"floats": RNG.standard_normal((4, 32), "f4"), "halves": np.arange(8, dtype="f2"), "ints": np.arange(5)}
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    for name, array in arrays.items():
        writer.add_tensor(name, array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_model(tmp_path / "m.gguf") as model:
        assert all(np.array_equal(model[name].read(), array) for name, array in arrays.items())
    there_and_back(tmp_path, (tmp_path / "m.gguf").read_bytes(), quantizer="raw")


def test_bytes_of_no_tensor_have_a_limit(tmp_path):
    data = gguf_file([("w", (5,), 24, b"abcde")])
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(data)
        file.truncate(len(data) + (1 << 24) + 64)
    assert "belong to no tensor" in refusal(lambda: open_model(tmp_path / "m.gguf"))
    (tmp_path / "m.gguf").write_bytes(data)
    with open_model(tmp_path / "m.gguf") as model:
        graph, arrays = model.graphs[0].data, {"w": model["w"].read()}
    for loose in (b"x", struct.pack("<QQ", 0, 1) + b"x", struct.pack("<QQ", 150, 99) + bytes(99)):
        graphs = [nncjit.Graph("gguf", graph[:-8] + loose + graph[-8:])]
        stream = nncjit.encode(arrays, graphs=graphs)
        assert "end is damaged" in refusal(lambda stream=stream: nncjit.decompress(stream, tmp_path / "back.gguf"))


def test_every_type_of_the_library_is_known():
    gguf = pytest.importorskip("gguf")
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    for kind, block in BLOCK_TYPES.items():
        assert sizes[kind] == (block.weights, block.n_bytes)
    for kind, size in WHOLE.items():
        assert sizes[kind] == size
    assert set(sizes) == {*BLOCK_TYPES, *WHOLE, *PLAIN}


def hostile():
    good = gguf_file([blocks_of(2, 2, 64)])
    name = good.index(text("w"))
    start = name + 9

    def changed(at, code, *new):
        return good[:at] + struct.pack(f"<{code}", *new) + good[at + struct.calcsize(code) :]

    return {
        "not a GGUF file": b"GGML" + good[4:],
        "version 4": changed(4, "I", 4),
        "version 5": changed(4, "I", 5 << 24),
        "its header goes on": changed(8, "Q", 1 << 60),
        "goes on after": changed(16, "Q", 1 << 40),
        "has type 77": changed(start + 4 + 16, "I", 77),
        "at most 8": changed(start, "I", 1 << 31),
        "is not made of blocks": changed(start + 4, "Q", 33),
        "would end at byte": changed(start + 12, "Q", 1 << 20),
        "too large": changed(start + 12, "Q", 1 << 62),
        "no multiple of 32": changed(start + 4 + 16 + 4, "Q", 7),
        "is there twice": gguf_file([blocks_of(2, 2, 64), blocks_of(2, 2, 64)]),
        "not valid Unicode": gguf_file([(b"\xff\xfe", (5,), 24, b"abcde")]),
        "unknown type": gguf_file([], [("x", value(13, b""))]),
        "must be a power of two": gguf_file([], [("general.alignment", value(4, struct.pack("<I", 48)))]),
    }


@pytest.mark.parametrize("reason", hostile())
def test_hostile_files_are_refused(tmp_path, reason):
    (tmp_path / "m.gguf").write_bytes(hostile()[reason])
    message = refusal(lambda: nncjit.compress(tmp_path / "m.gguf", tmp_path / "m.nnc"))
    assert reason in message
    assert "m.gguf" in message


def test_a_file_cut_anywhere_is_refused(tmp_path):
    data = gguf_file([blocks_of(2, 2, 64)])
    for stop in range(1, len(data) - 24):
        (tmp_path / "m.gguf").write_bytes(data[:stop])
        assert refusal(lambda: open_model(tmp_path / "m.gguf").close())


def test_tensors_that_do_not_fit_the_header_are_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_file([blocks_of(2, 2, 64)]))
    with open_model(tmp_path / "m.gguf") as model:
        arrays, graphs = {tensor.name: tensor.read() for tensor in model}, model.graphs
    wrong = {
        "tensor w.d_low: is in the header, but not in the stream": {n: a for n, a in arrays.items() if n != "w.d_low"},
        "tensor more: has no place": arrays | {"more": np.ones(3)},
        "tensor w: is int8[4], the header wants int8[2, 64]": arrays | {"w": np.ones(4, np.int8)},
    }
    for reason, changed in wrong.items():
        (tmp_path / "m.nnc").write_bytes(nncjit.encode(changed, graphs=graphs, quantizer="raw"))
        assert reason in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.gguf"))
    for data in (b"", b"short", graphs[0].data[:-9], graphs[0].data[:-8] + struct.pack("<Q", 1 << 50)):
        broken = [nncjit.Graph("gguf", data)]
        (tmp_path / "m.nnc").write_bytes(nncjit.encode(arrays, graphs=broken))
        assert "back.gguf" in refusal(lambda: nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.gguf"))


def test_a_part_of_a_model_says_so(tmp_path):
    split = [("split.no", value(2, struct.pack("<H", 0))), ("split.count", value(2, struct.pack("<H", 3)))]
    path = tmp_path / "m-00001-of-00003.gguf"
    path.write_bytes(gguf_file([blocks_of(2)], [*VALUES, *split]))
    with pytest.warns(nncjit.NncWarning, match="is file 1 of 3 of a model"), open_model(path) as model:
        assert "w" in model.names
