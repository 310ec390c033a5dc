"""Payloads beyond the largest unit come in parts, though nobody asked for parts."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.encoder import stream_writer
from nncjit.syntax import read_units, unit_writer


@pytest.mark.parametrize("quantizer", ["raw", "uniform", "trellis"])
def test_a_payload_beyond_the_largest_unit_is_split_by_itself(quantizer, monkeypatch):
    weights = np.random.default_rng(0).normal(0, 1, (150, 80)).astype(np.float32)
    model = {"w": weights, "v": weights[:2]}
    expected = nncjit.decode(nncjit.encode(model, quantizer=quantizer))["w"]
    monkeypatch.setattr(unit_writer, "MAX_UNIT_SIZE", 3000)
    monkeypatch.setattr(stream_writer, "LARGEST_PAYLOAD", 2000)
    data = nncjit.encode(model, quantizer=quantizer)
    np.testing.assert_array_equal(nncjit.decode(data)["w"], expected)
    parts = [len(unit.pieces) for unit in read_units(data) if unit.names]
    assert parts[0] > 1
    assert parts[1] == 1


def test_the_largest_unit_and_one_byte_more(monkeypatch):
    monkeypatch.setattr(unit_writer, "MAX_UNIT_SIZE", 3000)
    for size in range(480, 520):
        weights = np.random.default_rng(size).normal(0, 1, size).astype(np.float32)
        monkeypatch.setattr(stream_writer, "LARGEST_PAYLOAD", 4 * 500)
        data = nncjit.encode({"w": weights}, quantizer="raw")
        np.testing.assert_array_equal(nncjit.decode(data)["w"], weights)
