"""Coding on several threads changes nothing: block rows coded apart and joined are the string coded at once."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from cabac.encoding import Given, plain_levels

from nncjit.cabac import block_row_pieces as pieces
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.errors import OptionError
from nncjit.jit import JIT
from nncjit.jit.threads import share

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Let small layers be cut too."""
    monkeypatch.setattr(pieces, "PIECE_SIZE", 64)


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(3) as executor:
        yield executor


class Never(Executor):
    """Threads that are busy with something else."""

    def submit(self, *args: object, **kwargs: object) -> Future:
        return Future()


CASES = [
    (shape, scan, dq, spread)
    for shape in (((70, 30), (33, 9), (64, 64)) if JIT else ((33, 9),))
    for scan in (1, 2)
    for dq in (False, True)
    for spread in ((0.02, 0.4, 3.0, 2000.0) if JIT else (0.4, 40.0))
]


@pytest.mark.parametrize(("shape", "scan", "dq", "spread"), CASES)
def test_pieces_join_to_the_bytes_of_serial_coding(shape, scan, dq, spread, pool):
    layer = Layer.of(shape, scan=scan, dq=dq)
    case = Given(layer, plain_levels(layer, spread, seed=len(CASES), empty_rows=0.2))
    for selection in ("none", "fast", "exact", "reference"):
        serial = case.code(selection=selection, row_skip=False)
        assert len(serial[1]) == layer.block_rows - 1
        assert case.code(selection=selection, row_skip=False, workers=pool) == serial
        assert case.code(selection=selection, row_skip=False, workers=Never()) == serial


def test_a_carry_runs_from_a_piece_into_the_one_before(pool):
    layer = Layer.of((400, 6), scan=1)
    for seed in range(60 if JIT else 3):
        case = Given(layer, plain_levels(layer, 0.05, seed=seed))
        assert case.code(row_skip=False, workers=pool) == case.code(row_skip=False)


def test_layers_that_are_all_zero_in_places_keep_their_state(pool):
    layer = Layer.of((80, 16), scan=1, dq=True)
    levels = plain_levels(layer, 1.0)
    levels[256:] = 0
    case = Given(layer, levels)
    assert case.code(row_skip=False, workers=pool) == case.code(row_skip=False)


def test_wrong_states_are_found_in_any_piece(pool):
    layer = Layer.of((80, 16), scan=1, dq=True)
    good = plain_levels(layer, 1.0)
    for place in np.flatnonzero(good)[:: 40 if JIT else 300]:
        levels = good.copy()
        levels[place] += 1
        with pytest.raises(OptionError, match="do not follow the states"):
            PayloadEncoder().layer(levels, layer, row_skip=False, workers=pool)


def test_a_pool_whose_threads_all_code_does_not_lock_up(pool):
    layer = Layer.of((64, 32), scan=1)
    case = Given(layer, plain_levels(layer, 1.0))
    want = case.code()
    futures = [pool.submit(case.code, workers=pool) for _ in range(12 if JIT else 4)]
    assert all(future.result(timeout=60) == want for future in futures)


def test_an_error_in_one_task_comes_out_and_stops_the_others(pool):
    ran = []
    stop = threading.Event()

    def fail() -> None:
        threading.Timer(1, stop.set).start()  # long after the error has come out
        raise OptionError("no")

    def work() -> None:
        stop.wait(60)
        ran.append(1)

    with pytest.raises(OptionError, match="no"):
        share([fail, *[work] * 50], pool)
    assert len(ran) < 50
