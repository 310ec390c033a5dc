"""Large float tensors without loss: in pieces, by any number of threads, with vectors and without."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nncjit
from nncjit.decoder import concurrent_decoder
from nncjit.decoder.float_piece_decoder import PiecesJob, decode_float_pieces
from nncjit.encoder import float_piece_encoder, unit_contents
from nncjit.encoder.float_piece_encoder import split_in_pieces
from nncjit.formats import Writer
from nncjit.jit import JIT, processor
from nncjit.jit.teams import finish
from nncjit.stream.float_pieces import CHUNK, CODES, FORMATS, PIECE, SMALLEST, FloatPieces

RNG = np.random.default_rng(0)
WEIGHTS = (0.02 * RNG.standard_normal(PIECE + CHUNK + 5)).astype(np.float32)


@pytest.fixture(scope="module")
def stream():
    return nncjit.encode({"w": WEIGHTS}, preset="lossless")


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_all_ways_give_the_same(stream, wide, threads, monkeypatch):
    if wide and JIT and not processor.has_wide_vectors():
        pytest.skip("needs AVX-512")
    assert bytes(nncjit.encode({"w": WEIGHTS}, preset="lossless", threads=threads)) == bytes(stream)
    monkeypatch.setattr(processor, "has_wide_vectors", lambda: wide)
    assert nncjit.decode(stream, threads=threads)["w"].tobytes() == WEIGHTS.tobytes()


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("size", [1, 31, 2064, 2 * CHUNK + 7, PIECE + 16])
def test_vectors_write_the_same_bytes(dtype, size, monkeypatch):
    if JIT and not processor.has_wide_vectors():
        pytest.skip("needs AVX-512")
    rng, kind = np.random.default_rng(size), FORMATS[CODES[dtype]].words
    bits = 8 * kind.itemsize
    for words in (
        rng.integers(0, 1 << bits, size),  # all symbols
        rng.geometric(0.3, size) << (bits - 8),  # frequent and rare ones, and zeros behind them
        np.full(size, 1 << (bits - 3)),  # one symbol
    ):
        monkeypatch.setattr(processor, "has_wide_vectors", lambda: True)
        tail = split_in_pieces(words.astype(kind), dtype, None).tail
        monkeypatch.setattr(processor, "has_wide_vectors", lambda: False)
        assert split_in_pieces(words.astype(kind), dtype, None).tail == tail


def test_it_takes_about_its_entropy(stream):
    shares = np.unique(WEIGHTS.view(np.uint32) >> 23 & 255, return_counts=True)[1] / WEIGHTS.size
    assert 8 * len(stream) / WEIGHTS.size < 24 - shares @ np.log2(shares) + 0.03


def test_trailing_zeros_are_left_out_where_they_are():
    weights = WEIGHTS[: 16 * CHUNK].copy()
    weights[4 * CHUNK : 9 * CHUNK] = weights[4 * CHUNK : 9 * CHUNK].astype(np.float16)
    streams = [nncjit.encode({"w": w}, preset="lossless") for w in (WEIGHTS[: 16 * CHUNK], weights)]
    assert len(streams[0]) - len(streams[1]) > 4.9 * CHUNK * 12 / 8
    assert nncjit.decode(streams[1])["w"].tobytes() == weights.tobytes()


def test_streams_with_coded_exponents_are_still_read(monkeypatch):
    monkeypatch.setattr(unit_contents, "takes_pieces", lambda *_: False)
    earlier = nncjit.encode({"w": WEIGHTS[: 4 * SMALLEST].reshape(64, -1)}, preset="lossless")
    assert nncjit.decode(earlier)["w"].tobytes() == WEIGHTS[: 4 * SMALLEST].tobytes()


def tail_of_few():
    return split_in_pieces(WEIGHTS[:SMALLEST], "float32", None).tail


def pieces_in(tail):
    return FloatPieces.read(lambda start, stop: tail[start:stop], len(tail), FORMATS[106], SMALLEST)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tail: tail[:3], "cut off in the lengths"),
        (lambda tail: tail[:-4] + b"\x05\0\0\0", "a piece of 5 bytes"),
        (lambda tail: tail[200:], "are there"),
        (lambda tail: tail[:-4] + b"\xff\xff\xff\x7f", "are there"),
    ],
)
def test_what_is_no_list_of_pieces_is_refused(damage, said):
    with pytest.raises(nncjit.ModelError, match=said):
        pieces_in(damage(tail_of_few()))


@pytest.mark.parametrize(("at", "byte", "said"), [(0, 25, "leaves out"), (0, 255, "leaves out"), (1, 255, "add up")])
def test_what_is_no_piece_is_refused(at, byte, said):
    data = pieces_in(tail_of_few()).data.copy()
    data[at] = byte
    pieces = FloatPieces(FORMATS[106], data, np.array([data.size]))
    (fault,) = finish(decode_float_pieces([PiecesJob(pieces, np.empty(SMALLEST, np.uint32))], 1))
    assert said in str(fault)


@pytest.mark.skipif(not (JIT and sys.platform.startswith("linux")), reason="compiled code, and mprotect to watch it")
@pytest.mark.parametrize("side", ["before", "behind"])
def test_damaged_pieces_are_decoded_beside_forbidden_pages(side):
    program = Path(__file__).with_name("guarded_pieces.py")
    places = [str(program.parent.parent), str(Path(nncjit.__file__).parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, program, side, "400"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 50 < int(done.stdout.split()[-1]) < 350


def test_a_file_is_read_some_elements_at_a_time(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy")
    monkeypatch.setattr(float_piece_encoder, "AT_ONCE", PIECE)
    safetensors.save_file({"w": WEIGHTS}, tmp_path / "m.safetensors")
    nncjit.compress(tmp_path / "m.safetensors", tmp_path / "m.nnc", preset="lossless")
    assert nncjit.decode(tmp_path / "m.nnc")["w"].tobytes() == WEIGHTS.tobytes()
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1 << 16)
    monkeypatch.setattr(concurrent_decoder, "PIECE", 1 << 16)
    monkeypatch.setattr(Writer, "put", lambda *_: pytest.fail("was put at once"))
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors", max_bytes=WEIGHTS.nbytes)
    assert safetensors.load_file(tmp_path / "back.safetensors")["w"].tobytes() == WEIGHTS.tobytes()


class CountingFile(io.BytesIO):
    """Knows how many bytes were read."""

    count = 0

    def read(self, size=-1):
        found = super().read(size)
        self.count += len(found)
        return found


@pytest.mark.parametrize("split", [False, True], ids=["one unit", "parts of units"])
def test_only_the_pieces_that_a_slice_meets_are_read(split):
    weights = WEIGHTS[: PIECE + CHUNK].reshape(-1, 64)
    whole = nncjit.encode({"w": weights}, preset="lossless", **({"max_unit_bytes": 500_000} if split else {}))
    file = CountingFile(whole)
    with nncjit.open(file) as f:
        tensor = f.get_slice("w")
        for index, most in (
            (slice(-2, None), 0.02),
            (-1, 0.02),
            ((slice(-9, None, 3), slice(None, 5)), 0.02),
            (3, 0.995),
            (slice(PIECE // 64 - 2, PIECE // 64 + 2), 1.0),
        ):
            file.count = 0
            np.testing.assert_array_equal(tensor[index], weights[index])
            assert file.count < most * len(whole)


def test_damage_is_found_in_the_pieces_that_are_decoded_and_only_there(stream):
    damaged = bytearray(stream)
    end = next(unit["offset"] + unit["size"] for unit in nncjit.inspect(stream).units if unit["type"] == "NDU")
    lengths = np.frombuffer(damaged[end - 8 : end], "<u4")
    damaged[end - 8 - int(lengths[1])] = 255
    with nncjit.open(bytes(damaged), max_bytes=4 * PIECE) as f:
        np.testing.assert_array_equal(f.get_slice("w")[:9], WEIGHTS[:9])
        with pytest.raises(nncjit.BitstreamError, match=r"w: .*piece 1 leaves out"):
            f.get_slice("w")[-1:]
        with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
            f.get_tensor("w")
