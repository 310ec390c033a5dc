"""Coding order and raster order are the same elements, rearranged as the standard says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.cabac import scan
from nncjit.cabac.layer import Layer
from nncjit.cabac.scan import from_scan, reorder_rows, to_scan
from nncjit.errors import OptionError

pytestmark = pytest.mark.kernel


def coding_order(rows: int, width: int, side: int) -> list[int]:
    """Indices of a matrix block by block. Spec, section 7, said once more and slowly."""
    return [
        row * width + column
        for top in range(0, rows, side)
        for left in range(0, width, side)
        for row in range(top, min(top + side, rows))
        for column in range(left, min(left + side, width))
    ]


@settings(max_examples=60)
@given(st.integers(2, 40), st.integers(2, 70), st.integers(1, 4), st.sampled_from([np.int32, np.int8, np.float32]))
def test_scan_visits_blocks_in_order_and_back(rows, width, scan, dtype):
    layer = Layer.of((rows, width), scan=scan)
    raster = (np.arange(rows * width) % 251 - 125).astype(dtype).reshape(rows, width)
    flat = to_scan(raster, layer)
    assert flat.dtype == dtype
    assert flat.tolist() == raster.ravel()[coding_order(rows, width, layer.block_side)].tolist()
    assert from_scan(flat, layer).tolist() == raster.ravel().tolist()


def test_without_scan_nothing_is_copied():
    array = np.zeros((4, 6), np.int32)
    layer = Layer.of(array.shape)
    assert np.shares_memory(to_scan(array, layer), array)
    assert np.shares_memory(from_scan(to_scan(array, layer), layer), array)


def test_read_only_and_strided_arrays_are_taken():
    array = np.arange(600, dtype=np.int32).reshape(20, 30)[:, ::2]
    layer = Layer.of(array.shape, scan=1)
    frozen = array.copy()
    frozen.flags.writeable = False
    assert to_scan(array, layer).tolist() == to_scan(frozen, layer).tolist()


def test_block_rows_can_be_done_one_by_one():
    layer = Layer.of((37, 21), scan=1)
    raster = np.arange(layer.size, dtype=np.int32)
    flat = np.zeros_like(raster)
    for top in range(0, 37, 8):
        reorder_rows(raster, flat, layer, top, min(top + 8, 37), to_flat=True)
    assert flat.tolist() == to_scan(raster, layer).tolist()


def test_another_number_of_elements_is_refused():
    with pytest.raises(OptionError, match=r"\(5,\) does not fit a layer of 2 x 3"):
        to_scan(np.zeros(5, np.int32), Layer.of((2, 3)))


@pytest.mark.parametrize("overwrite", [False, True])
def test_threads_and_strips_change_nothing(monkeypatch, overwrite):
    monkeypatch.setattr(scan, "STRIP", 100)
    layer = Layer.of((71, 19), scan=1)
    array = np.arange(layer.size, dtype=np.int32)
    expected = scan.to_scan(array.copy(), layer)
    monkeypatch.setattr(scan, "STRIP", 1 << 20)
    np.testing.assert_array_equal(scan.to_scan(array.copy(), layer), expected)
    monkeypatch.setattr(scan, "STRIP", 200)
    with ThreadPoolExecutor(3) as workers:
        found = scan.to_scan(array.copy(), layer, overwrite=overwrite, workers=workers)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scan.from_scan(found, layer), array)
