"""A slice of an open stream is the slice of the tensor, and only the block rows that it meets are decoded."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.decoder import stream_decoder
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

SHAPE = (70, 5, 3) if JIT else (20, 3, 3)
ROWS = SHAPE[0]
SIDE = 8
"""Rows of a block row with scan order 1."""


@pytest.fixture(scope="module")
def stream() -> bytes:
    rng = np.random.default_rng(0)
    model = {
        "w": rng.standard_normal(SHAPE).astype(np.float32),
        "half": rng.standard_normal(SHAPE).astype(np.float16),
        "ids": rng.integers(-9, 9, SHAPE).astype(np.int8),
        "wide": rng.integers(-(2**60), 2**60, SHAPE if JIT else (*SHAPE[:2], 1)),
        "bias": rng.standard_normal(ROWS).astype(np.float32),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.float32),
    }
    return nncjit.encode(model, scan_order=1)


@pytest.fixture
def block_rows(monkeypatch) -> list[tuple[str, int]]:
    """How many block rows of which tensor are decoded."""
    seen: list[tuple[str, int]] = []
    decoding = stream_decoder.PayloadDecoding

    def note(jobs, threads, **options):
        for job in jobs:
            seen.extend((job.path, len(layer.block_rows or range(layer.layer.block_rows))) for layer in job.layers)
        return decoding(jobs, threads, **options)

    monkeypatch.setattr(stream_decoder, "PayloadDecoding", note)
    return seen


INDICES = [
    slice(None),
    slice(3, 5),
    slice(7, 9),
    slice(8, 16),
    slice(-3, None),
    slice(2, None, 3),
    slice(None, None, -1),
    slice(15, 3, -4),
    slice(5, 5),
    slice(100, 200),
    5,
    -1,
    np.int64(9),
    True,
    None,
    ...,
    (),
    (slice(9, 11), 2),
    (4, slice(None), -1),
    (slice(3, 12), ..., slice(None, None, 2)),
    (slice(17, 18), None, [0, 2]),
    ([1, 3], 0),
    np.arange(ROWS) % 3 == 0,
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
@pytest.mark.parametrize("name", ["w", "half", "ids", "wide", "bias", "scalar", "empty"])
def test_a_slice_is_the_slice_of_the_tensor(stream, name, index):
    whole = nncjit.decode(stream, names=[name])[name]
    with nncjit.open(stream) as f:
        piece = f.get_slice(name)
        try:
            expected = whole[index]
        except IndexError:
            with pytest.raises(IndexError):
                piece[index]
            return
        found = piece[index]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("index", "count"),
    [(slice(0, SIDE), 1), (slice(7, 9), 2), (slice(7, 20, 5), 3), (slice(8, 6, -1), 2), (ROWS - 1, 1), ((-1, 0), 1)],
    ids=repr,
)
@pytest.mark.parametrize("name", ["w", "half", "ids"])
def test_only_the_block_rows_that_it_meets_are_decoded(stream, block_rows, name, index, count):
    with nncjit.open(stream) as f:
        _ = f.get_slice(name)[index]
        assert block_rows == [(name, count)]
        block_rows.clear()
        _ = f.get_slice(name)[[1, 2]]
        assert block_rows == [(name, -(-ROWS // SIDE))]


def test_damage_is_found_in_the_rows_that_are_decoded_and_only_there(stream):
    unit = next(unit for unit in nncjit.inspect(stream).units if unit["type"] == "NDU")
    end = unit["offset"] + unit["size"]
    whole = nncjit.decode(stream)["w"]
    damaged = bytearray(stream)
    damaged[end - 6] ^= 255
    with nncjit.open(bytes(damaged)) as f:
        piece = f.get_slice("w")
        np.testing.assert_array_equal(piece[: 2 * SIDE], whole[: 2 * SIDE])
        with pytest.raises(nncjit.BitstreamError):
            piece[-1]
        with pytest.raises(nncjit.BitstreamError):
            f.get_tensor("w")


def test_without_entry_points_all_is_decoded(block_rows):
    weights = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    data = nncjit.encode({"w": weights}, scan_order=0)
    whole = nncjit.decode(data)["w"]
    block_rows.clear()
    with nncjit.open(data) as f:
        np.testing.assert_array_equal(f.get_slice("w")[3:5], whole[3:5])
    assert block_rows == [("w", 1)]


def test_memory_is_limited_by_the_slice_and_not_by_the_tensor(stream):
    block_row = 4 * SIDE * int(np.prod(SHAPE[1:]))
    with nncjit.open(stream, max_bytes=block_row) as f:
        assert f.get_slice("w")[:3].shape == (3, *SHAPE[1:])
        with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
            f.get_slice("w")[SIDE - 1 : SIDE + 1]
        with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
            f.get_tensor("w")
