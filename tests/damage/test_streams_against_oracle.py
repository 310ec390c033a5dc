"""The package and the oracle read the same from any stream, whoever wrote it."""

import random

import numpy as np
import oracle
import pytest
from damage.damaging import damaged
from damage.streams import VECTORS, UpdateMaker, random_stream

import nncjit
from nncjit.errors import BitstreamError


def assert_equal(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("seed", range(150))
def test_what_the_oracle_writes_reads_the_same(seed):
    data = random_stream(random.Random(seed))
    apart = nncjit.decode(data, parts=True, threads=1 + seed % 2)
    assert_equal(apart, oracle.decode(data, parts=True))
    if not any(name.endswith("_G") for name in apart):
        assert_equal(nncjit.decode(data, threads=1 + seed % 2), oracle.decode(data))


@pytest.mark.parametrize("seed", range(30))
def test_updates_read_the_same(seed):
    maker, memory, state = UpdateMaker(random.Random(seed)), oracle.Memory(), nncjit.UpdateState()
    for _ in range(4):
        data = maker.stream()
        assert_equal(nncjit.decode(data, parts=True, state=state), oracle.decode(data, memory, parts=True))


@pytest.mark.parametrize("seed", range(40))
def test_damage_that_the_package_accepts_reads_the_same_in_the_oracle(seed):
    """It may refuse more than the oracle: repeated names, units out of order, reserved values."""
    rng = random.Random(seed)
    short = [path for path in VECTORS if path.stat().st_size < 1500]
    data = random_stream(rng) if seed % 2 else rng.choice(short).read_bytes()
    for _ in range(20):
        broken = damaged(rng, data, random_stream(rng))
        try:
            got = nncjit.decode(broken, parts=True, max_bytes=1 << 22)
        except BitstreamError:
            continue
        assert_equal(got, oracle.decode(broken, parts=True))


def random_model(rng):
    """A few small arrays of the dtypes that need no private format to come back."""
    arrays = {}
    for index in range(rng.randint(1, 4)):
        shape = rng.choice([(), (1,), (7,), (3, 5), (70, 9), (4, 3, 2, 2), (130, 6)])
        generator = np.random.default_rng(rng.randrange(10**6))
        if rng.random() < 0.3:
            arrays[f"i{index}"] = generator.integers(-1000, 1000, shape, np.int32)
        else:
            arrays[f"w{index}"] = generator.standard_t(4, shape).astype(np.float32) * np.float32(
                rng.choice([1e-4, 1, 50])
            )
    return arrays


def random_options(rng):
    options = {
        "quantizer": rng.choice(["trellis", "uniform", "codebook", "auto"]),
        "unary_length": rng.choice([1, 3, 11, 40]),
        "scan_order": rng.choice(["auto", 0, 1, 4]),
        "selection": rng.choice(["fast", "exact", "reference", "none"]),
        "rate_weight": rng.choice([0.0, 0.0, 0.5]),
        "qp_density": rng.choice([0, 2, 4]),
        "profile": rng.choice([0, 1, 1]),
        "threads": rng.choice([1, 2]),
    }
    goal = rng.choice([{}, {"qp": rng.randint(-30, 0)}, {"quality": 3.0}])
    return options | goal


@pytest.mark.filterwarnings("ignore:.* has no effect without:nncjit.NncWarning")  # options are drawn at random
@pytest.mark.filterwarnings("ignore:.*(nothing is left|levels would not fit|would not be smaller):nncjit.NncWarning")
@pytest.mark.parametrize("seed", range(60))
def test_the_oracle_reads_what_the_package_writes(seed):
    rng = random.Random(seed)
    model, options = random_model(rng), random_options(rng)
    data = nncjit.encode(model, **options)
    got, want = nncjit.decode(data), oracle.decode(data)
    assert list(got) == list(model)
    assert set(got) == set(want)
    raw = {tensor.name for tensor in nncjit.inspect(data).tensors if "raw" in tensor.tools}
    for name, array in got.items():
        assert (array.dtype, array.shape) == (model[name].dtype, model[name].shape)
        # the oracle takes raw values for float32, whatever data format says so
        expected = want[name].view(array.dtype) if name in raw else want[name].astype(array.dtype)
        assert array.tobytes() == expected.tobytes()
