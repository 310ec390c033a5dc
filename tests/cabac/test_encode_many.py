"""Thousands of tiny layers of all kinds, encoded side by side by one process, get the bytes they get one by one."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from cabac.encoding import Given, any_layer

from nncjit.cabac import block_row_pieces, short_layers
from nncjit.cabac.entry_points import EntryPoint, as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.cabac.short_layers import code_short_payloads
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

PAYLOADS = 1000 if JIT else 12
SELECTIONS = ("none", "fast", "exact", "reference")


class Work(NamedTuple):
    """Layers of one payload, and how each is coded."""

    given: list[Given]
    options: list[dict]

    def code(self, workers: ThreadPoolExecutor | None = None) -> tuple[bytes, list[list[EntryPoint]]]:
        encoder = PayloadEncoder()
        for case, options in zip(self.given, self.options, strict=True):
            encoder.number(len(self.given), 7)
            arrays = {"base": case.base, "history": case.history, "hdsp": case.hdsp}
            encoder.layer(case.levels, case.layer, **arrays, **options, workers=workers)
        return encoder.finish(), encoder.entry_points


def any_work(rng: random.Random) -> Work:
    """One to five layers: more unary lengths, codebooks and scans altogether than any cache holds."""
    given, options = [], []
    for _ in range(rng.randint(1, 5)):
        row_skip = rng.choice([True, False, "auto"])
        case = any_layer(rng, skipped=row_skip is True)
        given.append(case._replace(layer=case.layer._replace(unary_length=rng.randint(1, 256))))
        options.append({"selection": rng.choice(SELECTIONS), "row_skip": row_skip})
    return Work(given, options)


@pytest.fixture(scope="module")
def work():
    rng = random.Random(8)
    return [any_work(rng) for _ in range(PAYLOADS)]


@pytest.fixture(scope="module")
def one_by_one(work):
    return [w.code() for w in work]


@pytest.mark.parametrize("piece_size", [64, 1 << 17])
def test_side_by_side_as_one_by_one(work, one_by_one, piece_size, monkeypatch):
    monkeypatch.setattr(block_row_pieces, "PIECE_SIZE", piece_size)
    with ThreadPoolExecutor(4) as payloads, ThreadPoolExecutor(2) as workers:
        assert list(payloads.map(lambda w: w.code(workers), work)) == one_by_one


def test_all_read_back_at_once(work, one_by_one):
    jobs = []
    for w, (payload, points) in zip(work, one_by_one, strict=True):
        layers = []
        for case, at in zip(w.given, points, strict=True):
            base, history = (from_scan(array, case.layer) for array in (case.base, case.history))
            out = np.zeros(case.layer.size, np.int32)
            layers.append(LayerJob(case.layer, out, qp_bits=7, points=as_array(at), base=base, history=history))
        jobs.append(PayloadJob(np.frombuffer(payload, np.uint8), tuple(layers)))
    assert decode_payloads(jobs, 2) == [[len(w.given)] * len(w.given) for w in work]
    for w, job in zip(work, jobs, strict=True):
        for case, layer in zip(w.given, job.layers, strict=True):
            assert to_scan(layer.out, case.layer).tolist() == case.levels.tolist()


def test_short_layers_take_the_bytes_of_long_ones(work, monkeypatch):
    monkeypatch.setattr(short_layers, "MOST_LEVELS", 0)
    limited = work[: 300 if JIT else 3]
    long = [w.code() for w in limited]
    monkeypatch.undo()
    assert [w.code() for w in limited] == long


@pytest.mark.parametrize("spare", [9000, 1 << 17])
@pytest.mark.parametrize("selection", ["none", "fast", "exact"])
def test_payloads_of_short_layers_take_the_bytes_of_payloads_alone(selection, spare, monkeypatch):
    monkeypatch.setattr(short_layers, "SPARE_BYTES", spare)  # the output is too small at first
    rng = np.random.default_rng(9)
    sizes = rng.integers(1, 2500 if JIT else 9, 40 if JIT else 4)
    levels = [(rng.standard_normal(n) * 10.0 ** rng.integers(-1, 9)).astype(np.int32) for n in sizes]
    numbers = rng.integers(-64, 64, len(levels)).tolist()
    layers = [Layer.of((len(part),), unary_length=4) for part in levels]

    def alone(part, layer, number):
        encoder = PayloadEncoder()
        encoder.number(number, 7)
        encoder.layer(part, layer, selection=selection)
        return encoder.finish()

    one_by_one = list(map(alone, levels, layers, numbers))
    assert code_short_payloads(levels, layers[0], numbers, 7, selection) == one_by_one


def test_a_thread_keeps_memory_for_few_kinds_of_short_layers(monkeypatch):
    monkeypatch.setattr(short_layers, "MOST_KEPT", 2)
    case = Given(Layer.of((9,)), np.arange(9, dtype=np.int32) - 4)
    cases = [case._replace(layer=case.layer._replace(unary_length=n)) for n in (3, 4, 5, 3)]
    payloads = [c.code()[0] for c in cases]
    assert payloads[0] == payloads[3]
    for given, payload in zip(cases, payloads, strict=True):
        assert (given.decode(payload, [], use_points=False) == given.levels).all()
    assert len(short_layers._kept.kinds) == 2
