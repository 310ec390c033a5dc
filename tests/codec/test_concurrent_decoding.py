"""Decoding for somebody who works meanwhile: everything comes, once, as `decode` has it, and block rows come early."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

import nncjit
from codec.builder import Builder
from nncjit import dtypes
from nncjit.bits import as_source
from nncjit.cabac.delivery import LEVELS
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadDecoding, PayloadJob, count_segments
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import to_scan
from nncjit.decoder import concurrent_decoder, memory_budget
from nncjit.decoder.concurrent_decoder import ConcurrentDecoder
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.errors import BitstreamError, ModelError, OptionError
from nncjit.jit.teams import finish
from nncjit.stream.data_units import StreamReader
from nncjit.syntax import PayloadType

RNG = np.random.default_rng(0)


def stream_of(model, quantizer="trellis"):
    return nncjit.encode(model, quantizer=quantizer, **({} if quantizer == "raw" else {"scan_order": 1}))


def kinds():
    """A stream with tensors of all sorts: in block rows and in one, in pieces, raw, of no element."""
    return {
        "rows": RNG.standard_normal((300, 40)).astype(np.float32),
        "half": RNG.standard_normal((129, 8, 3)).astype(np.float16),
        "bias": RNG.standard_normal(40).astype(np.float32),
        "number": np.float32(3.5),
        "none": np.zeros((0, 7), np.float32),
        "exact": RNG.integers(-99, 99, (200, 30)),
        "flags": RNG.integers(0, 2, 50).astype(bool),
        "last": RNG.standard_normal((65, 64)).astype(np.float32),
    }


@contextmanager
def begun(data, threads=None):
    """A decoder that has begun with a stream's units."""
    with as_source(data) as source, ConcurrentDecoder(MemoryBudget(None, source.size, kept=False), threads) as decoder:
        decoder.begin(StreamReader(source).data_units())
        yield decoder


def collected(data, *, pieces, threads=None):
    """All tensors, and how many pieces each came in; each element must come once."""
    found, counts = {}, {}
    with begun(data, threads) as decoder:
        for item in decoder.results(pieces=pieces):
            name = item.part.name
            counts[name] = counts.get(name, 0) + 1
            if item.start is None:
                assert name not in found
                found[name] = (item.storage, None)
                continue
            assert pieces
            whole, seen = found.setdefault(
                name, (np.empty(item.part.shape, item.storage.dtype), np.zeros(item.part.shape, int))
            )
            part = slice(item.start, item.start + item.storage.size)
            whole.reshape(-1)[part] = item.storage.reshape(-1)
            seen.reshape(-1)[part] += 1
    for _, seen in found.values():
        assert seen is None or (seen == 1).all()
    return {name: storage for name, (storage, _) in found.items()}, counts


@pytest.mark.parametrize("few", [1, 1 << 13, 1 << 20])
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("quantizer", ["uniform", "trellis", "raw"])
def test_everything_comes_once(quantizer, pieces, few, monkeypatch):
    monkeypatch.setattr(concurrent_decoder, "FEW", few)
    data = stream_of(kinds(), quantizer=quantizer)
    want = nncjit.decode(data)
    found, counts = collected(data, pieces=pieces)
    assert set(found) == set(want)
    for name, array in want.items():
        assert np.array_equal(dtypes.as_array(found[name], str(array.dtype)), array), name
    if not pieces:
        assert list(found) == list(want)
        assert set(counts.values()) == {1}


@pytest.mark.parametrize("threads", [1, 3])
def test_huge_tensors_come_piece_by_piece(threads, monkeypatch):
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1 << 10)
    monkeypatch.setattr(concurrent_decoder, "PIECE", 1 << 11)
    data = stream_of(kinds())
    found, counts = collected(data, pieces=True, threads=threads)
    assert counts["rows"] >= 300 * 40 >> 12
    for name, array in nncjit.decode(data).items():
        assert np.array_equal(dtypes.as_array(found[name], str(array.dtype)), array), name


def test_block_rows_come_before_their_batch_is_done(monkeypatch):
    """The decoder waits, after its work, for somebody who has seen a block row."""
    seen = threading.Event()
    plain = concurrent_decoder.decoding_of

    def waiting(*arguments, **options):
        yield from plain(*arguments, **options)
        assert seen.wait(30), "no block row came"

    monkeypatch.setattr(concurrent_decoder, "decoding_of", waiting)
    data = stream_of({"a": kinds()["rows"], "b": kinds()["last"]})
    with begun(data) as decoder:
        for item in decoder.results(pieces=True):
            assert item.storage.size
            seen.set()


def test_the_thread_ends_with_the_last_batch():
    """Before the caller is done with what it gave, which may take long."""
    before = threading.active_count()
    with begun(stream_of(kinds())) as decoder:
        for _ in decoder.results():
            pass
        deadline = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(1e-3)
        assert threading.active_count() == before


def test_decoding_begins_while_headers_are_read(monkeypatch):
    """Whoever reads the second header waits for the decoder of the first unit."""
    monkeypatch.setattr(concurrent_decoder, "FEW", 1 << 10)
    decoded = threading.Event()
    plain = concurrent_decoder.decoding_of

    def telling(*arguments, **options):
        yield from plain(*arguments, **options)
        decoded.set()

    def slowly(units):
        yield next(units)
        assert decoded.wait(30), "nothing was decoded"
        yield from units

    monkeypatch.setattr(concurrent_decoder, "decoding_of", telling)
    data = stream_of(kinds())
    with as_source(data) as source, ConcurrentDecoder(MemoryBudget(None, source.size, kept=False)) as decoder:
        units = decoder.begin(slowly(StreamReader(source).data_units()))
        names = [item.part.name for item in decoder.results()]
    assert names == [opened.path for opened in units] == list(nncjit.decode(data))


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(("threads", "n_bytes", "most"), [(1, 1 << 20, 2), (5, 1 << 20, 6), (5, 0, 2), (5, 3 << 14, 3)])
def test_so_many_batches_are_there_as_have_room(threads, n_bytes, most, pieces, monkeypatch):
    """Each takes 16 KiB; two there are always, and no more than one for each thread and one in waiting."""
    alive, counts = weakref.WeakSet(), []

    class Counted(concurrent_decoder._Batch):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            alive.add(self)
            counts.append(len(alive))

    monkeypatch.setattr(concurrent_decoder, "_Batch", Counted)
    monkeypatch.setattr(concurrent_decoder, "FEW", 1 << 10)
    monkeypatch.setattr(concurrent_decoder, "IN_FLIGHT", n_bytes)
    monkeypatch.setattr(concurrent_decoder, "IN_FLIGHT_PER_THREAD", 0)
    monkeypatch.setattr(memory_budget, "BATCH_WEIGHTS", 1 << 12)
    data = stream_of({f"w{k}": RNG.standard_normal((64, 64)).astype(np.float32) for k in range(9)})
    with begun(data, threads) as decoder:
        for _ in decoder.results(pieces=pieces):
            pass
    assert len(counts) == 9
    assert max(counts) == most


@pytest.mark.parametrize("pieces", [False, True])
def test_batches_side_by_side_give_what_one_after_the_other_gives(pieces, monkeypatch):
    monkeypatch.setattr(memory_budget, "BATCH_WEIGHTS", 1 << 13)
    model = {f"w{k}": RNG.standard_normal((130 - k, 64)).astype(np.float32) for k in range(12)} | kinds()
    data = stream_of(model)
    want = nncjit.decode(data)
    found, _ = collected(data, pieces=pieces, threads=4)
    assert all(np.array_equal(dtypes.as_array(found[name], str(a.dtype)), a) for name, a in want.items())
    assert pieces or list(found) == list(want)


@pytest.mark.parametrize(("width", "block_rows"), [(64, 4096), (77, 3392), (8192, 32), (14336, 16), (32768, 8)])
def test_pieces_of_huge_tensors_fill_lanes(width, block_rows):
    """They are of 16 block rows or a multiple, where so many are no more weights than a piece has."""
    grain, size = 64 * width, 1 << 40
    opened = SimpleNamespace(weights=size)

    def decoded_with(_, elements):
        return range(elements.start // grain * grain, min(-(-elements.stop // grain) * grain, size))

    with mock.patch.object(concurrent_decoder, "decoded_with", decoded_with):
        assert len(decoded_with(opened, range(concurrent_decoder._weights_of_piece(opened)))) == block_rows * grain


@pytest.mark.parametrize("stop", [-1, -40, -200])
def test_a_stream_that_is_cut_off_is_refused_though_its_first_tensors_are_being_decoded(stop, tmp_path, monkeypatch):
    monkeypatch.setattr(concurrent_decoder, "FEW", 1 << 10)
    (tmp_path / "m.nnc").write_bytes(stream_of(kinds())[:stop])
    (tmp_path / "m.safetensors").write_bytes(b"old")
    before = threading.active_count()
    with pytest.raises(BitstreamError):
        nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.safetensors")
    assert threading.active_count() == before
    assert (tmp_path / "m.safetensors").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.nnc", "m.safetensors"]


def test_whoever_stops_early_leaves_no_thread():
    data = stream_of(kinds())
    before = threading.active_count()
    with begun(data) as decoder:
        next(decoder.results(pieces=True))
    assert threading.active_count() == before


def test_a_fault_comes_out_and_the_target_stays(tmp_path):
    data = bytearray(stream_of({"a": RNG.standard_normal((500, 64)).astype(np.float32)}))
    data[-40:-8] = bytes(32)
    (tmp_path / "m.nnc").write_bytes(data)
    (tmp_path / "m.safetensors").write_bytes(b"old")
    with pytest.raises(BitstreamError, match="a"):
        nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.nnc", "m.safetensors"]


def test_an_error_of_the_writer_comes_out(tmp_path, monkeypatch):
    data = stream_of(kinds())
    (tmp_path / "m.nnc").write_bytes(data)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nncjit.formats.safetensors.write_at", full)
    with pytest.raises(ModelError, match="no space left"):
        nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.nnc"]


def square():
    """A square matrix that is coded with its second dimension in front, in block rows: no shape shows it."""
    coded = RNG.integers(-5, 6, (128, 128)).astype(np.int32)
    encoder = PayloadEncoder()
    encoder.number(0, 8)
    layer = Layer.of(coded.shape, scan=1)
    encoder.layer(to_scan(coded, layer), layer, selection="none")
    payload = encoder.finish()
    (points,) = encoder.entry_points
    b = Builder()
    b.tensor(
        payload,
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        cabac_unary_length_minus1=9,
        topology_elem_id="w",
        tensor_dimensions=coded.shape,
        first_tensor_dimension_shift=1,
        scan_order=1,
        entry_points=tuple((p.value, p.state, p.offset) for p in points),
    )
    return b.data, coded.T.astype(np.float32)


def test_a_square_matrix_that_was_moved_is_no_rows_of_its_code(monkeypatch):
    data, want = square()
    assert np.array_equal(nncjit.decode(data)["w"], want)
    assert np.array_equal(nncjit.open(data).get_slice("w")[5:70], want[5:70])
    monkeypatch.setattr(concurrent_decoder, "HUGE", 1)
    found, counts = collected(data, pieces=True)
    assert np.array_equal(found["w"], want)
    assert counts == {"w": 1}


def counted(size, *, lanes, damage=lambda _: None, counts_of=lambda n: np.zeros(n, np.int64)):
    """A decoding that counts its segments, its job, the levels that were coded, and the counts."""
    rows = 40
    layer = Layer.of((rows, size // rows), scan=1)
    encoder = PayloadEncoder()
    levels = np.resize(np.arange(-3, 4, dtype=np.int32), size)
    encoder.layer(to_scan(levels, layer), layer, selection="none")
    data = np.frombuffer(encoder.finish(), np.uint8).copy()
    (points,) = encoder.entry_points
    table = np.array([(p.value, p.state, p.offset) for p in points], np.int64).reshape(-1, 3)
    job = LayerJob(layer, np.empty(size, np.int32), delivery=LEVELS, points=table)
    damage(data)
    counts = counts_of(count_segments(job))
    return PayloadDecoding([PayloadJob(data, (job,))], 2, lanes=lanes, finished=counts), job, levels, counts


@pytest.mark.parametrize("lanes", [False, True])
def test_segments_are_counted_when_they_are_done(lanes):
    decoding, job, levels, counts = counted(80_000, lanes=lanes)
    assert not counts.any()
    finish(decoding.calls())
    assert np.array_equal(job.out, levels)
    assert counts.tolist() == [1] * 5


@pytest.mark.parametrize("lanes", [False, True])
def test_segments_with_a_fault_are_not_counted(lanes):
    def damage(data):
        data[len(data) // 2 :] = 255

    decoding, job, levels, counts = counted(80_000, lanes=lanes, damage=damage)
    with pytest.raises(BitstreamError):
        finish(decoding.calls())
    assert counts.max() <= 1
    for k in np.flatnonzero(counts[:2]):
        rows = slice(16_000 * k, 16_000 * (k + 1))
        assert np.array_equal(job.out[rows], levels[rows])


@pytest.mark.parametrize("wrong", [lambda n: np.zeros(n + 1, np.int64), lambda n: np.zeros(n, np.int32)])
def test_counts_that_do_not_fit_are_refused(wrong):
    with pytest.raises(OptionError, match="finished"):
        counted(800, lanes=False, counts_of=wrong)
