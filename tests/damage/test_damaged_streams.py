"""Damaged bytes give arrays or a BitstreamError that says what and where: nothing else, soon, in bounded memory."""

import random

import numpy as np
import pytest
from damage.damaging import damaged, memory_below, no_hang
from damage.streams import VECTORS, UpdateMaker, random_stream
from oracle.units import split

import nncjit
from nncjit.errors import BitstreamError

MAX_BYTES = 1 << 20
CASES = 40
"""Damaged copies of each stream."""
SMALL = [path for path in VECTORS if path.stat().st_size < 6000]


def decode_or_refuse(data, **options):
    """True where arrays come out. A refusal must say what, where and in which element."""
    with no_hang():
        try:
            arrays = nncjit.decode(data, max_bytes=MAX_BYTES, **options)
        except BitstreamError as error:
            check(error, data)
            return False
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert sum(array.nbytes for array in arrays.values()) <= MAX_BYTES
    return True


def check(error, data):
    assert error.reason
    assert error.path
    assert 0 <= error.bit <= 8 * len(data)
    assert "\n" not in str(error)


def own_streams():
    """Streams of our encoder, without the closing checksum, so that damage gets past it."""
    rng = np.random.default_rng(5)
    model = {
        "encoder.weight": rng.standard_normal((70, 20)).astype(np.float32),
        "encoder.bias": rng.standard_normal(20).astype(np.float32),
        "half": rng.standard_normal((9, 9)).astype(np.float16),
        "ids": rng.integers(-(2**40), 2**40, 12),
        "flags": np.array([True, False, True]),
        "scalar": np.float32(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "odd": np.array([1.0, np.nan, np.inf], np.float32),
    }
    with pytest.warns(nncjit.NncWarning):
        whole = nncjit.encode(model, scan_order=1)
    return [whole, whole[: list(split(whole))[-1].offset]]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_damaged_vectors_decode_or_are_refused(path):
    rng = random.Random(path.stem)
    data, other = path.read_bytes(), rng.choice(VECTORS).read_bytes()
    for _ in range(CASES):
        decode_or_refuse(damaged(rng, data, other), threads=rng.choice([1, 2]))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_streams_of_all_kinds_decode_or_are_refused(seed):
    rng = random.Random(seed)
    data, other = random_stream(rng), random_stream(rng)
    for _ in range(CASES):
        decode_or_refuse(damaged(rng, data, other), parts=rng.random() < 0.5, lenient=rng.random() < 0.5)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_updates_decode_or_are_refused(seed):
    rng = random.Random(seed)
    maker, state = UpdateMaker(rng), nncjit.UpdateState()
    streams = [maker.stream() for _ in range(3)]
    for _ in range(CASES):
        decode_or_refuse(damaged(rng, rng.choice(streams), rng.choice(streams)), state=state)


@pytest.mark.parametrize("closed", [True, False])
def test_our_own_streams_damaged_decode_or_are_refused(closed):
    rng = random.Random(closed)
    data = own_streams()[0 if closed else 1]
    for _ in range(10 * CASES):
        decode_or_refuse(damaged(rng, data, data))


def test_every_proper_prefix_of_our_own_stream_is_refused():
    data, _ = own_streams()
    nncjit.decode(data)
    for length in range(len(data)):
        with no_hang(), pytest.raises(BitstreamError) as caught:
            nncjit.decode(data[:length])
        check(caught.value, data)


@pytest.mark.parametrize("name", ["e1-unicode", "e2-lowrank-block-scan1", "e2-zeros", "e2-onedim"])
def test_a_prefix_of_a_foreign_stream_is_refused_unless_it_ends_between_units(name):
    data = next(path for path in VECTORS if path.stem == name).read_bytes()
    ends = {unit.offset + unit.size for unit in split(data)}
    for length in range(len(data)):
        assert decode_or_refuse(data[:length]) <= (length in ends)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_refused(seed):
    rng = random.Random(seed)
    for _ in range(50):
        assert not decode_or_refuse(rng.randbytes(rng.randint(0, 200)))


def test_damage_asks_for_no_more_memory_than_allowed():
    rng = random.Random(7)
    streams = [path.read_bytes() for path in SMALL] + [random_stream(rng) for _ in range(30)]
    nncjit.decode(streams[0])
    for _ in range(150):
        data = damaged(rng, rng.choice(streams), rng.choice(streams))
        with memory_below(6 * MAX_BYTES):
            decode_or_refuse(data, threads=1)


@pytest.mark.parametrize("verb", [nncjit.inspect, nncjit.verify])
def test_other_readers_refuse_damage_the_same_way(verb, tmp_path):
    rng = random.Random(11)
    for _ in range(150):
        path = rng.choice(SMALL)
        data = damaged(rng, path.read_bytes(), rng.choice(SMALL).read_bytes())
        file = tmp_path / "damaged.nnc"
        file.write_bytes(data)
        with no_hang():
            try:
                verb(file)
            except BitstreamError as error:
                check(error, data)
