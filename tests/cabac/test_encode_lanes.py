"""Block rows coded in lanes: the bytes, the entry points and the refusals are those of the coder of one stream."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cabac.encoding import Given, plain_levels

from nncjit.cabac import lane_encoder, short_layers
from nncjit.cabac import lane_encoder_kernels as kernels
from nncjit.cabac.lane_encoder import RowQueue
from nncjit.cabac.layer import MAX_LEVEL, Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.errors import OptionError
from nncjit.jit import JIT, CompiledLater, compiled_later
from nncjit.jit.processor import has_wide_vectors

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(JIT and not has_wide_vectors(), reason="needs vectors of 512 bits"),
]

CASES = 200 if JIT else 6
SPREADS = (0.02, 0.3, 1.0, 3.0, 10.0, 100.0, 5000.0, 1e6)


def any_rows(seed: int) -> Given:
    """A layer with block rows or none, with every choice that lanes know."""
    rng = random.Random(seed)
    shape = rng.randint(41, 200 if JIT else 48), rng.randint(2, 60 if JIT else 3)
    scan = rng.randint(0, 3) if JIT else seed % 2
    layer = Layer.of(shape, scan=scan, dq=rng.random() < 0.5, unary_length=rng.randint(1, 11))
    return Given(
        layer,
        plain_levels(layer, rng.choice(SPREADS if JIT else SPREADS[:5]), seed=seed, empty_rows=rng.choice([0.0, 0.3])),
    )


def one_stream(case: Given, **options: object) -> object:
    """What coding gives without lanes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_encoder, "lanes_here", lambda: False)
        return case.code(**options)


@pytest.fixture(autouse=True)
def lanes(monkeypatch):
    """Lanes at work wherever they can be, and a count of the layers that they have coded."""
    done = []
    append = lane_encoder.QueuedLayer.append_to

    def counted(layer, encoder):
        restarts = append(layer, encoder)
        done.append(restarts is not None)
        return restarts

    monkeypatch.setattr(lane_encoder, "lanes_here", lambda: True)
    monkeypatch.setattr(lane_encoder.ROWS_KERNEL, "pays", lambda _: True)
    monkeypatch.setattr(lane_encoder, "FEWEST_ROWS", 1)
    monkeypatch.setattr(short_layers, "MOST_LEVELS", 0)
    monkeypatch.setattr(lane_encoder.QueuedLayer, "append_to", counted)
    return done


def test_random_layers_get_the_bytes_of_one_stream(lanes):
    for seed in range(CASES):
        case = any_rows(seed)
        options = {"selection": random.Random(seed).choice(["none", "fast", "exact"])}
        assert case.code(**options) == one_stream(case, **options), seed
    assert sum(lanes) > 0.4 * CASES


def test_what_is_coded_is_decoded():
    for seed in range(CASES // 4):
        case = any_rows(seed)
        payload, points = case.code()
        assert (case.decode(payload, points, use_points=True) == case.levels).all()


def test_layers_of_all_kinds_share_a_queue(lanes):
    cases = [any_rows(seed) for seed in range(24 if JIT else 4)]
    with ThreadPoolExecutor(3) as workers:
        for queue in (RowQueue(), RowQueue(workers)):
            encoders = []
            for case in cases:
                encoder = PayloadEncoder()
                encoder.layer(case.levels, case.layer, queue=queue)
                encoders.append(encoder)
            assert not lanes
            found = [(encoder.finish(), encoder.entry_points[0]) for encoder in encoders]
            assert found == [one_stream(case) for case in cases]
            assert len(lanes) >= 0.5 * len(cases)  # the others skip rows
            lanes.clear()


def test_what_follows_in_the_payload_waits_for_the_rows():
    case = any_rows(3)
    payloads = []
    for queue in (None, RowQueue()):
        encoder = PayloadEncoder()
        encoder.number(5, 7)
        encoder.layer(case.levels, case.layer, queue=queue)
        assert encoder.bits > 0
        encoder.number(-3, 7)
        encoder.layer(np.arange(9, dtype=np.int32), Layer.of((9,)))
        encoder.layer(case.levels, case.layer, queue=queue)
        payloads.append((encoder.finish(), encoder.entry_points))
    assert payloads[0] == payloads[1]


def test_wrong_levels_are_refused_wherever_they_are(lanes):
    layer = Layer.of((80, 16) if JIT else (48, 3), scan=1, dq=True)
    good = plain_levels(layer, 1.0)
    for place in np.flatnonzero(good)[:: 40 if JIT else 30]:
        levels = good.copy()
        levels[place] += 1
        with pytest.raises(OptionError, match="do not follow the states"):
            Given(layer, levels).code(selection="none", row_skip=False)
    assert not lanes


@pytest.mark.parametrize("level", [MAX_LEVEL + 1, -MAX_LEVEL - 1, -(2**31), 2**31 - 1])
@pytest.mark.parametrize("dq", [False, True])
def test_levels_that_are_too_large_are_refused(level, dq):
    layer = Layer.of((64, 4), scan=1, dq=dq)
    levels = np.zeros(layer.size, np.int32)
    levels[100] = level
    with pytest.raises(OptionError) as one:
        one_stream(Given(layer, levels), selection="none")
    with pytest.raises(OptionError) as other:
        Given(layer, levels).code(selection="none")
    assert str(one.value) == str(other.value)


def test_the_largest_levels_are_coded():
    layer = Layer.of((48, 3), scan=1)
    levels = np.zeros(layer.size, np.int32)
    levels[::5], levels[1::7] = MAX_LEVEL, -MAX_LEVEL
    assert Given(layer, levels).code() == one_stream(Given(layer, levels))


def test_rows_that_outgrow_their_room_get_more(lanes, monkeypatch):
    monkeypatch.setattr(lane_encoder, "_room_of_a_level", lambda _: 0)
    rng = np.random.default_rng(0)
    layer = Layer.of((48, 60), scan=1)
    case = Given(layer, rng.integers(-(2**20), 2**20, layer.size, np.int32))
    assert case.code(selection="none") == one_stream(case, selection="none")
    assert lanes == [True]


def spoiled(case: Given, rng: random.Random) -> Given:
    """The same with one level changed, somewhere or at an end of a block row, so that perhaps it cannot be coded."""
    levels, side = case.levels.copy(), case.layer.block_side * case.layer.width
    row = rng.randrange(0, case.layer.size, side)
    place = rng.choice([rng.randrange(case.layer.size), row, min(row + side, case.layer.size) - 1])
    levels[place] = rng.choice([levels[place] + 1, MAX_LEVEL + 1, -MAX_LEVEL, -(2**31)])
    return case._replace(levels=levels)


def outcome(encoder: PayloadEncoder) -> object:
    """What an encoder ends with: bytes and points, or what it refuses."""
    try:
        return encoder.finish(), encoder.entry_points
    except OptionError as error:
        return str(error)


def side_by_side(cases: list[Given]) -> list[Given]:
    """The same, with all levels in one array: lanes reach no further than a few gigabytes."""
    joined = np.concatenate([case.levels for case in cases])
    parts = np.split(joined, np.cumsum([case.levels.size for case in cases])[:-1])
    return [case._replace(levels=part) for case, part in zip(cases, parts, strict=True)]


def test_what_is_far_away_is_coded_otherwise(lanes, monkeypatch):
    cases = side_by_side([Given(Layer.of((60, 4)), plain_levels(Layer.of((60, 4)), 1.0, seed=k)) for k in range(6)])
    monkeypatch.setattr(lane_encoder, "REACH", 4 * cases[0].levels.nbytes + 1)
    queue = RowQueue()
    encoders = [begun(cases[k], queue) for k in (5, 0, 1, 2, 3)]
    found = [encoder.finish() for encoder in encoders]
    assert lanes == [False, True, True, True, True]
    assert found == [one_stream(cases[k], selection="none", row_skip=False)[0] for k in (5, 0, 1, 2, 3)]


def begun(case: Given, queue: RowQueue | None = None) -> PayloadEncoder:
    encoder = PayloadEncoder()
    encoder.layer(case.levels, case.layer, selection="none", row_skip=False, queue=queue)
    return encoder


@pytest.mark.skipif(not JIT, reason="takes minutes as plain Python")
def test_no_row_hangs_on_what_becomes_of_another(lanes, monkeypatch):
    """In any queues, some layers with faults anywhere, outputs with any room, each layer ends as it does alone."""
    for seed in range(60):
        rng = random.Random(seed)
        cases = [any_rows(100 * seed + k) for k in range(rng.randint(1, 7))]
        cases = [spoiled(case, rng) if rng.random() < 0.4 else case for case in cases]
        room = rng.choice([0, 0, 1, 2])
        monkeypatch.setattr(lane_encoder, "_room_of_a_level", lambda _, room=room: room)
        queue = RowQueue()
        found = [outcome(encoder) for encoder in [begun(case, queue) for case in cases]]
        with monkeypatch.context() as patch:
            patch.setattr(lane_encoder, "lanes_here", lambda: False)
            wanted = []
            for case in cases:
                try:
                    wanted.append(outcome(begun(case)))
                except OptionError as error:
                    wanted.append(str(error))
        assert found == wanted, seed
    assert all(lanes)


def some_rows() -> Given:
    """A layer of four block rows, none of whose rows is skipped."""
    layer = Layer.of((32, 3), scan=1)
    return Given(layer, plain_levels(layer, 1.0))


def test_few_rows_are_coded_otherwise(lanes, monkeypatch):
    case = some_rows()
    monkeypatch.setattr(lane_encoder, "FEWEST_ROWS", 1000)
    assert case.code() == one_stream(case)
    assert lanes == [False]


def test_a_layer_that_would_keep_one_lane_busy_is_coded_otherwise(lanes, monkeypatch):
    monkeypatch.setattr(lane_encoder, "FEWEST_ROWS", 5)
    sizes = (900, 30, 30, 30, 1000, 30, 30, 30)
    cases = side_by_side(
        [Given(Layer.of((size, 4)), plain_levels(Layer.of((size, 4)), 1.0, seed=size)) for size in sizes]
    )
    queue = RowQueue()
    encoders = [begun(case, queue) for case in cases]
    found = [encoder.finish() for encoder in encoders]
    assert lanes == [size < 100 for size in sizes]
    assert found == [one_stream(case, selection="none", row_skip=False)[0] for case in cases]


def test_lanes_are_compiled_when_there_is_work_for_them(lanes, monkeypatch):
    case = some_rows()
    monkeypatch.setattr(compiled_later, "is_ready", lambda _: False)
    monkeypatch.setattr(lane_encoder, "ROWS_KERNEL", CompiledLater(kernels.encode_rows, 2 * case.layer.size))
    assert case.code() == case.code() == one_stream(case)
    assert lanes == [False, True]


def test_other_layers_never_wait():
    rows = (64, 4)
    for layer in (Layer.of(rows, scan=1, unary_length=12), Layer.of(rows, scan=1, codebook_size=9, codebook_zero=4)):
        encoder = PayloadEncoder()
        encoder.layer(plain_levels(layer, 0.5).clip(-4, 4), layer, queue=RowQueue())
        assert encoder._queued is None
