"""Codebooks: lossless ones, fitted ones, and the bits of their headers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncjit.bits import BitWriter
from nncjit.errors import OptionError
from nncjit.jit import JIT
from nncjit.quant.codebook import Codebook, fit, from_levels
from quant.oracle import weights

pytestmark = pytest.mark.kernel
N = 20_000 if JIT else 300


def written_bits(book):
    """Bits of the codebook as the header's own code writes them. Spec, section 2."""
    bits = BitWriter()
    bits.u(4, book.egk)
    bits.ue(2, book.size)
    bits.ie(2, book.zero - (book.size >> 1))
    bits.ie(7, int(book.values[book.zero]))
    for distance in np.diff(book.values).tolist():
        bits.ue(book.egk, distance - 1)
    return bits.pos


@settings(deadline=None)
@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=40, unique=True), st.data())
def test_header_bits_are_those_written(values, data):
    book = Codebook(np.array(sorted(values)), data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 15)))
    assert book.header_bits() == written_bits(book)


@settings(deadline=None)
@given(arrays(np.int32, st.integers(1, 60), elements=st.integers(-(2**30), 2**30) | st.integers(-5, 5)))
def test_levels_come_back_through_their_own_codebook(levels):
    book = from_levels(levels)
    assert (book.values == np.unique(levels)).all()
    coded = book.coded(levels)
    assert coded.min() >= -book.zero
    assert coded.max() < book.size - book.zero
    assert (book.levels(coded) == levels).all()


def test_too_many_levels_have_no_codebook():
    levels = np.arange(100, dtype=np.int32)
    assert from_levels(levels, max_size=99) is None
    assert from_levels(levels * (1 << 24), max_size=99) is None
    assert from_levels(levels, max_size=100).size == 100
    assert from_levels(np.zeros(0, np.int32)) is None


def test_zero_offset_is_where_most_values_are():
    levels = np.repeat(np.int32([-40, 7, 900, 1000]), [3, 4, 200, 3])
    assert from_levels(levels).zero == 2


def test_order_fits_the_distances():
    dense, wide = from_levels(np.arange(50, dtype=np.int32)), from_levels(np.arange(50, dtype=np.int32) * 1024)
    assert dense.egk == 0
    assert wide.egk > 7
    assert wide.header_bits() < Codebook(wide.values, wide.zero, 0).header_bits()


@pytest.mark.parametrize("size", [1, 2, 5, 16, 64])
def test_fitted_entries_are_the_means_of_what_they_take(size):
    values, step = weights(N), 2.0**-14
    book = fit(values, step, size)
    assert 1 <= book.size <= size
    coded = book.quantise(values, step)
    found = book.table(step)[coded + book.zero]
    best = np.abs(values[:, None] - book.table(step)[None, :]).min(axis=1)
    assert (np.abs(values - found) <= best + step).all()
    if size > 1:
        uniform = np.linspace(values.min(), values.max(), size)
        other = np.abs(values[:, None] - uniform[None, :]).min(axis=1)
        assert np.sum((values - found) ** 2) < np.sum(other**2)


def test_sparse_values_keep_their_zero():
    values = weights(N)
    values[::2] = 0
    book = fit(values, 2.0**-14, 8)
    assert 0 in book.values
    assert (book.levels(book.quantise(values, 2.0**-14))[::2] == 0).all()


def test_values_that_spread_too_far_still_get_a_codebook():
    book = fit(np.float32([-1e4, 0, 1, 1e4]), 2.0**-10, 3)
    assert book.size <= 3
    assert book.values[0] < 0 < book.values[-1]


@pytest.mark.parametrize(("values", "zero", "egk"), [([3, 3], 0, 0), ([], 0, 0), ([1, 2], 2, 0), ([1, 2], 0, 16)])
def test_no_codebook_of_what_the_header_cannot_hold(values, zero, egk):
    with pytest.raises(OptionError):
        Codebook(np.array(values, np.int64), zero, egk)


def test_sizes_out_of_range_are_refused():
    with pytest.raises(OptionError, match="entries"):
        fit(weights(9), 0.1, 0)
    with pytest.raises(OptionError, match="entries"):
        fit(weights(0), 0.1, 4)
