"""Thousands of tiny layers of all kinds, encoded side by side by one process, get the bytes they get one by one."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from cabac.encoding import Given, any_layer, plain_levels

from nncjit.cabac import block_row_pieces, short_layers
from nncjit.cabac.entry_points import EntryPoint, as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.cabac.short_layers import ShortUnit, code_short_units, fits_together
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.errors import OptionError
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


def alone(unit, number_bits, selection):
    """A payload by itself, and what its layer is estimated to take."""
    encoder = PayloadEncoder()
    if number_bits:
        encoder.number(unit.number, number_bits)
    hdsp = unit.history is not None and unit.layer.parent == 1
    given = {"base": unit.base, "history": unit.history, "hdsp": hdsp, "selection": selection, "row_skip": False}
    encoder.layer(unit.levels, unit.layer, **given)
    return encoder.finish(), estimate_bits(unit.levels, unit.layer, **given)


def any_units(rng, selection, count):
    """Layers of all kinds that can go together."""
    units = []
    while len(units) < count:
        case = any_layer(rng, skipped=False)
        if fits_together(case.layer, selection):
            history = case.history if case.hdsp else None
            units.append(ShortUnit(case.levels, case.layer, rng.randint(-64, 63), case.base, history))
    return units


@pytest.mark.parametrize("spare", [9000, 1 << 17])
@pytest.mark.parametrize(("selection", "number_bits"), [("none", 7), ("fast", 0), ("exact", 13)])
def test_short_units_take_the_bytes_of_payloads_alone(selection, number_bits, spare, monkeypatch):
    monkeypatch.setattr(short_layers, "SPARE_BYTES", spare)  # the output is too small at first
    units = any_units(random.Random(9), selection, 200 if JIT else 6)
    large = Layer.of((2500 if JIT else 9,), unary_length=4)
    units.append(ShortUnit((1e8 * np.random.default_rng(0).standard_normal(large.size)).astype(np.int32), large))
    for unit, coded in zip(units, code_short_units(units, number_bits, selection), strict=True):
        rows = unit.levels.reshape(unit.layer.rows, unit.layer.width)
        if coded is None:
            assert unit.layer.has_row_flags
            assert not rows.any(axis=1).all()
        else:
            assert coded == alone(unit, number_bits, selection)


def test_short_units_must_have_levels_that_can_be_coded():
    fine = Layer.of((4, 4), dq=True)
    units = [ShortUnit(plain_levels(fine, 3.0), fine), ShortUnit(np.ones(16, np.int32), fine)]
    with pytest.raises(OptionError, match="states of dependent quantisation"):
        code_short_units(units, 7, "fast")
    vector = Layer.of((3,))
    with pytest.raises(OptionError, match="beyond the coder's"):
        code_short_units([ShortUnit(np.full(3, 1 << 30, np.int32), vector)], 7, "fast")


def test_a_thread_keeps_memory_for_few_kinds_of_short_layers(monkeypatch):
    monkeypatch.setattr(short_layers, "MOST_KEPT", 2)
    case = Given(Layer.of((9,)), np.arange(9, dtype=np.int32) - 4)
    cases = [case._replace(layer=case.layer._replace(unary_length=n)) for n in (3, 4, 5, 3)]
    payloads = [c.code()[0] for c in cases]
    assert payloads[0] == payloads[3]
    for given, payload in zip(cases, payloads, strict=True):
        assert (given.decode(payload, [], use_points=False) == given.levels).all()
    assert len(short_layers._kept.kinds) == 2
