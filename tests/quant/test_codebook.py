"""Codebooks: the levels come back through them, and the bits of their headers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncjit.bits import BitWriter
from nncjit.errors import OptionError
from nncjit.quant.codebook import Codebook, from_levels

pytestmark = pytest.mark.kernel


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


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=40, unique=True), st.data())
def test_header_bits_are_those_written(values, data):
    book = Codebook(np.array(sorted(values)), data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 15)))
    assert book.header_bits() == written_bits(book)


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


@pytest.mark.parametrize(("values", "zero", "egk"), [([3, 3], 0, 0), ([], 0, 0), ([1, 2], 2, 0), ([1, 2], 0, 16)])
def test_no_codebook_of_what_the_header_cannot_hold(values, zero, egk):
    with pytest.raises(OptionError):
        Codebook(np.array(values, np.int64), zero, egk)
