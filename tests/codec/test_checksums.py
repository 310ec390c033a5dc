"""Checksums of parts give that of the whole."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from nncjit.bits import as_source
from nncjit.decoder import checksums
from nncjit.decoder.checksums import combined, crc32_of


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1), (1, 1), (5, 1000), (1000, 5), (4097, 65537)])
def test_two_parts(sizes):
    first, second = (np.random.default_rng(size).bytes(size) for size in sizes)
    assert combined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@pytest.mark.parametrize("stop", [0, 1, 99, 100, 101, 1234])
def test_a_stream_in_parts(stop, monkeypatch):
    monkeypatch.setattr(checksums, "PART", 100)
    data = np.random.default_rng(1).bytes(1234)
    with as_source(data) as source:
        assert crc32_of(source, stop, threads=2) == zlib.crc32(data[:stop])
