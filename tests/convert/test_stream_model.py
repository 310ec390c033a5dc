"""A stream as a model: tensors that are decoded when they are read, small ones some at a time."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import nncjit
from nncjit.convert import stream_model
from nncjit.convert.stream_model import open_any

RNG = np.random.default_rng(3)
MODEL = {f"t{k}": RNG.standard_normal((3, 1 + k % 5)).astype(np.float32) for k in range(40)}
MODEL["t7"] = MODEL["t3"]  # tied
MODEL["large"] = RNG.standard_normal((70, 60)).astype(np.float32)


@pytest.fixture(scope="module")
def stream():
    return nncjit.encode(MODEL, blocks=False)


@pytest.fixture
def calls(monkeypatch):
    """How many units each call of the decoder had."""
    found = []

    def decode_units(units, *args, **keywords):
        found.append(len(units))
        return decoder(units, *args, **keywords)

    decoder = stream_model.decode_units
    monkeypatch.setattr(stream_model, "decode_units", decode_units)
    monkeypatch.setattr(stream_model, "AHEAD_UNITS", 16)
    monkeypatch.setattr(stream_model, "AHEAD_WEIGHTS", 1000)
    return found


def test_tensors_that_are_read_in_order_are_decoded_some_at_a_time(stream, calls):
    wanted = nncjit.decode(stream)
    with open_any(stream) as model:
        found = {tensor.name: tensor.read() for tensor in model}
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())
    assert max(calls) == 16
    assert len(calls) < 10


def test_in_any_order_and_twice_they_are_the_same(stream, calls):
    wanted = nncjit.decode(stream)
    names = RNG.permutation([*wanted, *wanted])
    with open_any(stream) as model:
        for name in names:
            assert np.array_equal(model[name].read(), wanted[name]), name
        first, second = model["t1"].read(), model["t1"].read()
    assert not np.shares_memory(first, second)


def test_threads_may_read_at_once(stream, calls):
    wanted, wrong = nncjit.decode(stream), []
    with open_any(stream, threads=1) as model:

        def read():
            wrong.extend(name for name in model.names if not np.array_equal(model[name].read(), wanted[name]))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
