"""Files in, files out; random access; nothing is lost when something goes wrong."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nncjit
from nncjit.jit import JIT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    side = 520 if JIT else 70
    tensors = {
        "w": rng.standard_normal((side, 520)).astype(np.float32),
        "b": rng.standard_normal(40).astype(np.float32),
        "half": rng.standard_normal((30, 40)).astype(np.float16),
        "ids": np.arange(12, dtype=np.int64).reshape(3, 4),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False, True]),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "who": "ä"})
    return path


@pytest.fixture
def stream(model: Path) -> Path:
    target = model.with_suffix(".nnc")
    nncjit.compress(model, target)
    return target


def test_a_file_comes_back_with_order_types_and_metadata(model: Path, stream: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    report = nncjit.decompress(stream, back)
    before, after = load_file(model), load_file(back)
    assert {n: (a.dtype, a.shape) for n, a in after.items()} == {n: (a.dtype, a.shape) for n, a in before.items()}
    for name in ("ids", "scalar", "empty", "mask"):
        assert np.array_equal(after[name], before[name])
    assert np.square(after["w"] - before["w"]).mean() < 0.1
    with nncjit.open(stream) as f:
        assert f.metadata() == {"format": "pt", "who": "ä"}
    assert report.original_bytes == sum(a.nbytes for a in before.values())
    assert report.compressed_bytes == stream.stat().st_size
    assert json.dumps(report.to_dict())


def test_the_report_adds_up(model: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    report = nncjit.compress(model, tmp_path / "x.nnc", progress=lambda *args: seen.append(args))
    assert report.compressed_bytes == (tmp_path / "x.nnc").stat().st_size
    assert sum(row.bytes for row in report.tensors) <= report.compressed_bytes
    assert [name for _, _, name in seen] == [row.name for row in report.tensors]
    assert seen[-1][0] == seen[-1][1] == report.weights
    assert report.snr is not None
    assert report.snr > 10


def test_a_dry_run_writes_nothing_and_tells_the_size(model: Path, tmp_path: Path) -> None:
    told = nncjit.compress(model, tmp_path / "x.nnc", dry_run=True)
    assert told.estimated
    assert not (tmp_path / "x.nnc").exists()
    real = nncjit.compress(model, tmp_path / "x.nnc")
    assert told.compressed_bytes == pytest.approx(real.compressed_bytes, rel=0.03)


def test_npz_in_and_out(model: Path, stream: Path, tmp_path: Path) -> None:
    nncjit.decompress(stream, tmp_path / "back.npz")
    nncjit.compress(tmp_path / "back.npz", tmp_path / "again.nnc", quantizer="raw")
    with np.load(tmp_path / "back.npz") as archive:
        for name, array in nncjit.decode(tmp_path / "again.nnc").items():
            assert np.array_equal(array, archive[name]), name


def test_random_access_decodes_only_what_is_asked_for(stream: Path) -> None:
    everything = nncjit.decode(stream)
    with nncjit.open(stream) as f:
        assert f.keys() == list(everything)
        assert "w" in f
        assert np.array_equal(f.get_tensor("w"), everything["w"])
        piece = f.get_slice("w")
        assert piece.get_shape() == list(everything["w"].shape)
        assert np.array_equal(piece[10:70, ::3], everything["w"][10:70, ::3])
        with pytest.raises(nncjit.ModelError, match="nothing"):
            f.get_tensor("nothing")
    only = nncjit.decode(stream, names=["ids", "b"])
    assert list(only) == [name for name in everything if name in ("ids", "b")]
    with pytest.raises(nncjit.ModelError, match="nothing"):
        nncjit.decode(stream, names=["nothing"])


def test_many_threads_may_read_one_open_file(stream: Path) -> None:
    want = nncjit.decode(stream)["w"]
    wrong: list[int] = []
    with nncjit.open(stream) as f:

        def work(i: int) -> None:
            if not np.array_equal(f.get_tensor("w"), want):
                wrong.append(i)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_verify_finds_a_changed_byte_wherever_it_is(stream: Path) -> None:
    assert nncjit.verify(stream).checksum
    data = stream.read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(0, len(data), 60 if JIT else 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(nncjit.BitstreamError):
            nncjit.verify(bytes(damaged))


def test_a_stream_cut_between_units_is_recognised(stream: Path) -> None:
    data = stream.read_bytes()
    last = nncjit.inspect(data).units[-3]
    with pytest.raises(nncjit.BitstreamError, match="cut off"):
        nncjit.decode(data[: last["offset"]])


def test_a_failed_decompression_leaves_the_old_file(stream: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.safetensors"
    target.write_bytes(b"precious")
    damaged = bytearray(stream.read_bytes())
    damaged[len(damaged) // 2 :] = b""
    broken = tmp_path / "broken.nnc"
    broken.write_bytes(damaged)
    with pytest.raises(nncjit.BitstreamError):
        nncjit.decompress(broken, target)
    assert target.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir() if "tmp" in p.name or p.name.startswith(".")) == []


def test_an_interrupted_compression_leaves_the_old_file(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.nnc"
    target.write_bytes(b"precious")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nncjit.compress(model, target, progress=interrupt)
    assert target.read_bytes() == b"precious"
    assert {p.name for p in tmp_path.iterdir()} == {"old.nnc", "model.safetensors"}


@pytest.mark.parametrize(
    ("source", "target", "error", "says"),
    [
        ("missing.safetensors", "x.nnc", nncjit.ModelError, "missing.safetensors"),
        ("model.xyz", "x.nnc", nncjit.OptionError, "suffix"),
        ("model.safetensors", "no/such/folder/x.nnc", nncjit.ModelError, "no/such/folder"),
        ("model.safetensors", "x.npz", nncjit.OptionError, "x.npz"),
    ],
)
def test_wrong_paths_get_one_clear_error(
    model: Path, tmp_path: Path, source: str, target: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "model.xyz").write_bytes(b"?")
    with pytest.raises(error, match=says) as caught:
        nncjit.compress(tmp_path / source, tmp_path / target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a stream at all", b"PK\3\4" + b"x" * 50, b"\x80" * 1000])
def test_what_is_not_a_stream_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.nnc"
    path.write_bytes(content)
    for work in (nncjit.decode, nncjit.verify, nncjit.inspect, nncjit.open):
        with pytest.raises((nncjit.BitstreamError, nncjit.ModelError)):
            work(path)


def test_encoding_leaves_the_arrays_of_the_caller_alone() -> None:
    array = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    before = array.copy()
    data = nncjit.encode({"w": array}, scan_order=2)
    assert np.array_equal(array, before)
    assert np.square(nncjit.decode(data)["w"] - before).mean() < 0.01


def test_a_file_and_its_arrays_give_the_same_stream(model: Path, stream: Path) -> None:
    assert nncjit.decode(nncjit.encode(load_file(model)))["w"].tobytes() == nncjit.decode(stream)["w"].tobytes()
