"""Headers that repeat are read as if each were the first."""

from __future__ import annotations

import random

import pytest
from fuzz.structures import broken
from syntax.builders import Stream, ndu

from nncjit.errors import BitstreamError
from nncjit.syntax import UnitType, describe, read_units
from nncjit.syntax.repeated_headers import RepeatedHeaders


def outcome(data):
    """All units of a stream as plain values, and the error that it ends with."""
    units, error = [], None
    try:
        for unit in read_units(data):
            told = describe(unit), unit.names, unit.inputs, unit.context.seen, unit.pieces
            units.append(told)
    except BitstreamError as err:
        error = str(err)
    return units, error


def read_without(monkeypatch, data):
    with monkeypatch.context() as patch:
        patch.setattr(RepeatedHeaders, "find", lambda *_: None)
        return outcome(data)


@pytest.mark.parametrize("seed", range(40))
def test_broken_streams_give_the_same_units_and_errors(seed, monkeypatch):
    rng = random.Random(seed)
    for _ in range(8):
        _, data = broken(rng)
        assert outcome(data) == read_without(monkeypatch, data)


def many(n=40):
    """A stream of tensors in three shapes."""
    stream = Stream()
    for i in range(n):
        stream.put(UnitType.NDU, ndu(f"layer.{i}", tensor_dimensions=(3, 4 + i % 3)), bytes([i]) * (i % 5))
    return stream


def test_most_headers_of_a_large_model_are_recognised(monkeypatch):
    found, find = [], RepeatedHeaders.find
    monkeypatch.setattr(RepeatedHeaders, "find", lambda *args: found.append(find(*args)) or found[-1])
    many().units()
    assert sum(item is not None for item in found) == 40 - 3


def test_every_prefix_and_every_changed_byte_gives_the_same(monkeypatch):
    data = many(6).data
    for at in range(len(data)):
        cut, changed = data[:at], bytearray(data)
        changed[at] ^= 1 << at % 8
        for damaged in (cut, bytes(changed)):
            assert outcome(damaged) == read_without(monkeypatch, damaged)


def test_a_name_that_is_known_is_read_in_full(monkeypatch):
    stream = many(3)
    stream.put(UnitType.NDU, ndu("layer.0", device_id=1, parameter_id=0, put_node_depth=1), b"x")
    stream.put(UnitType.NDU, ndu("layer.1", device_id=1, parameter_id=0, put_node_depth=1), b"x")
    assert outcome(stream.data) == read_without(monkeypatch, stream.data)


@pytest.mark.parametrize("name", [b"\xff", b"\xc3(", b"n" * 65536])
def test_names_that_are_none_are_refused_alike(name, monkeypatch):
    stream = many(3)
    unit = stream.pieces[-1]
    data = stream.data + unit.replace(b"layer.2", name).replace(
        unit[:2], (len(unit) + len(name) - 7 & 0x7FFF).to_bytes(2, "big"), 1
    )
    assert outcome(data) == read_without(monkeypatch, data)
    assert outcome(data)[1]
