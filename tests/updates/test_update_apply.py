"""`nncjit.update` and `nncjit.apply`: what one writes, the other makes of the base."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.updates import Sender

RNG = np.random.default_rng(5)


def moved(arrays, by=0.01, seed=0):
    """The arrays after a step of training: floats moved by a share of their spread, integers counted on."""
    rng = np.random.default_rng(seed)
    return {
        name: (a + by * rng.standard_normal(a.shape)).astype(a.dtype)
        if a.dtype.kind == "f"
        else (a + 3).astype(a.dtype)
        for name, a in arrays.items()
    }


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(1)
    return {
        "w": rng.standard_normal((70, 40)).astype(np.float32),
        "blocks": rng.standard_normal((520, 520)).astype(np.float32),
        "bias": rng.standard_normal(70).astype(np.float32),
        "half": rng.standard_normal((30, 20)).astype(np.float16),
        "double": rng.standard_normal((9, 7)),
        "steps": np.array(12, np.int64),
        "mask": rng.random((6, 5)) < 0.5,
        "empty": np.zeros((0, 4), np.float32),
    }


def same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


def test_an_update_is_near_to_the_new_model_and_much_smaller_than_it(base):
    new = moved(base)
    data = nncjit.update(base, new)
    assert len(data) < 0.8 * len(nncjit.encode(new))
    found = nncjit.apply(base, data)
    assert list(found) == list(new)
    for name, array in new.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if array.dtype.kind != "f":
            assert np.array_equal(found[name], array)
        elif array.size:
            was, left = (np.square(np.float64(array) - other).sum() for other in (base[name], found[name]))
            assert left < 0.2 * was, name


def test_nothing_changed_takes_no_unit(base):
    data = nncjit.update(base, base)
    assert not nncjit.inspect(data).tensors
    same(nncjit.apply(base, data), base)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_a_lossless_update_is_bit_equal_for_floats(dtype):
    import ml_dtypes

    kind = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else dtype
    a = RNG.standard_normal((40, 30)).astype(kind)
    b = (a.astype(np.float64) * (1 + 0.01 * RNG.standard_normal(a.shape))).astype(kind)
    b[0, :7] = np.array([np.nan, np.inf if dtype != "float8_e4m3fn" else 1, -0.0, 0.0, 1e-3, -1.5, -b[0, 6]], kind)
    data = nncjit.update({"w": a}, {"w": b}, lossless=True)
    same(nncjit.apply({"w": a}, data), {"w": b})
    if a.dtype.itemsize < 8:
        assert len(data) < 0.95 * b.nbytes + 250


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"])
def test_integers_are_exact_over_their_whole_range(dtype):
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    a = RNG.integers(low, high, (13, 11), np.int64 if dtype == "bool" else dtype, endpoint=True).astype(dtype)
    near = a.copy()
    near[0, 0] = low
    near[3] = high
    for b in (near, a[::-1].copy(), np.full_like(a, high)):
        same(nncjit.apply({"n": a}, nncjit.update({"n": a}, {"n": b})), {"n": b})


@pytest.mark.parametrize("new", [3.5, [3.3], [-5.123, 1e-3, 99.1], [3.3] * 4, [[2.7]]], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tiny_tensors_are_exact(new, dtype):
    b = np.array(new, dtype)
    a = np.full_like(b, 3)
    for options in ({}, {"rules": "t=qp:-8"}, {"compact": True}, {"parents": "sha256"}):
        data = nncjit.update({"t": a}, {"t": b}, **options)
        same(nncjit.apply({"t": a}, data), {"t": b})
    assert len(data) <= 6 + len(nncjit.update({"t": a}, {"t": b}, compatible="nncodec", history=False))


def test_a_tiny_tensor_gets_what_was_left_over_too():
    first, second = RNG.standard_normal((2, 3)).astype(np.float32)
    sender = Sender({"t": np.zeros(3, np.float32)}, carry=True)
    sender.update({"t": first}, compatible="nncodec", history=False)  # which keeps no tensor whole
    has = sender.arrays()
    assert (has["t"] != first).any()
    sender.rebase(has)
    sender.update({"t": second})
    assert np.allclose(sender.arrays()["t"], second + (first - has["t"]), atol=1e-6, rtol=0)


def test_what_moves_as_one_takes_next_to_nothing():
    a = RNG.standard_normal((64, 64)).astype(np.float32)
    for base, new in ((a, a + np.float32(0.3)), (np.full_like(a, 3), np.full_like(a, 3.3)), (a[0], a[0] + 1)):
        data = nncjit.update({"t": base}, {"t": new})
        assert len(data) < 250
        assert np.allclose(nncjit.apply({"t": base}, data)["t"], new, atol=0.01, rtol=0)


def test_what_no_step_can_say_is_exact():
    a, b = np.full(9, 1e38, np.float32), np.full(9, 2.9e38, np.float32)
    same(nncjit.apply({"t": a}, nncjit.update({"t": a}, {"t": b})), {"t": b})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-300, 1e-42, 1e-30, 1e-14, 1e-11, 1e-9, 1e-8, 1e-3, 1e9, 1e20, 1e30])
@pytest.mark.parametrize("shape", [(300,), (64, 48)])
def test_the_change_of_values_of_any_magnitude_is_said(scale, dtype, shape):
    arrays = {f"w{k}": (scale * (1 + RNG.random(shape))).astype(dtype) for k in range(6)}
    new = {name: (a * (1 + 0.1 * RNG.standard_normal(shape))).astype(dtype) for name, a in arrays.items()}
    back = nncjit.apply(arrays, nncjit.update(arrays, new))
    for name, values in new.items():
        missed, moved = ((values - np.float64(a[name])) / scale for a in (back, arrays))
        assert np.square(missed).sum() <= 0.05 * np.square(moved).sum()


def test_what_hardly_moves_beside_its_values_costs_next_to_nothing():
    arrays = {"w": RNG.standard_normal((64, 48)).astype(np.float32)}
    new = {"w": arrays["w"] + np.float64(1e-11) * RNG.standard_normal((64, 48))}
    arrays["w"] = arrays["w"].astype(np.float64)
    assert len(nncjit.update(arrays, new)) < 300


def test_a_tensor_of_which_nothing_is_left_is_coded_whole():
    a, b = (RNG.standard_normal((90, 80)).astype(np.float32) for _ in range(2))
    (whole,) = nncjit.inspect(nncjit.update({"w": 100 * a}, {"w": b})).tensors
    assert "update" not in whole.tools
    (difference,) = nncjit.inspect(nncjit.update({"w": a}, {"w": a + 0.01 * b})).tensors
    assert "update" in difference.tools


def test_tensors_come_go_are_renamed_grow_and_shrink(base):
    rng = np.random.default_rng(3)
    new = moved(base)
    new["heads"] = rng.standard_normal((5, 6)).astype(np.float32)
    new["renamed"] = new.pop("half")
    del new["double"]
    new["w"] = np.pad(new["w"], ((0, 9), (0, 3)), constant_values=0.5)
    new["bias"] = new["bias"][:50]
    renamed = {"renamed": "half"}
    data = nncjit.update(base, new, lossless=True, renamed=renamed)
    same(nncjit.apply(base, data), new)
    lossy = nncjit.apply(base, nncjit.update(base, new, renamed=renamed))
    for name, array in new.items():
        assert lossy[name].shape == array.shape
        assert np.allclose(np.float64(lossy[name]), array, atol=0.2), name


def test_ties_and_order_come_along(base):
    new = moved(base)
    new = {"tied": new["w"], **dict(reversed(new.items()))}
    new = {"w": new["w"]} | new
    found = nncjit.apply(base, nncjit.update(base, new))
    assert list(found) == list(new)
    assert found["tied"] is found["w"]
    again = nncjit.apply(found, nncjit.update(found, base))
    assert list(again) == list(base)


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_and_values_do_not_depend_on_threads(base, threads):
    new = moved(base)
    data = nncjit.update(base, new, threads=threads)
    assert data == nncjit.update(base, new, threads=2)
    same(nncjit.apply(base, data, threads=threads), nncjit.apply(base, data))


def test_updates_follow_each_other(base):
    first = moved(base, seed=1)
    one = nncjit.update(base, first)
    middle = nncjit.apply(base, one)
    two = nncjit.update(middle, moved(middle, seed=2))
    same(nncjit.apply(base, one, two), nncjit.apply(middle, two))


@pytest.mark.parametrize("parents", ["sha256", "sha512"])
def test_parents_may_be_named_by_hashes(base, parents):
    new = moved(base)
    data = nncjit.update(base, new, parents=parents)
    same(nncjit.apply(base, data), nncjit.apply(base, nncjit.update(base, new)))
    other = base | {"blocks": base["blocks"] + 1}
    with pytest.raises(nncjit.UpdateError, match=f"^blocks: builds on {parents} [0-9a-f]+, .* is [0-9a-f]+"):
        nncjit.apply(other, data)


def test_a_size_is_met(base):
    new = moved(base)
    size = 60_000
    assert 0.95 * size <= len(nncjit.update(base, new, size=size)) <= size
    with pytest.warns(nncjit.NncWarning, match="reached"):
        nncjit.update(base, new, size=100)


@pytest.mark.parametrize("shapes", [{"w": (60, 50), "b": (30,)}, {"b": (3,)}, {}])
def test_a_size_that_is_too_small_gives_no_more_than_no_size_does(shapes):
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    new = {name: a + np.float32(0.01) * rng.standard_normal(a.shape, np.float32) for name, a in base.items()}
    with pytest.warns(nncjit.NncWarning, match="reached"):
        small = nncjit.update(base, new, size=1)
    assert len(small) == len(nncjit.update(base, base))
    assert nncjit.apply(base, small).keys() == base.keys()


@pytest.mark.parametrize("share", [0.003, 0.03, 0.1])
def test_a_size_is_met_where_one_matrix_is_the_model(share):
    """Steps are powers of 2^(1/4): from one to the next the size jumps, and the weight of bits fills the gap."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200, 150)).astype(np.float32)
    b = {"w": (a + 0.01 * rng.laplace(size=a.shape)).astype(np.float32)}
    size = int(share * a.nbytes)
    assert 0.94 * size <= len(nncjit.update({"w": a}, b, size=size)) <= size


def test_with_one_step_the_largest_changes_of_the_model_are_coded():
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal((60, 50)).astype(np.float32) for name in ("large", "small", "still")}
    scale = {"large": 0.1, "small": 0.01, "still": 0.0}
    new = {name: a + scale[name] * rng.standard_normal(a.shape).astype(np.float32) for name, a in base.items()}
    rate = {}
    for one_step in (False, True):
        data = nncjit.update(base, new, one_step=one_step, quality=0.5)
        found = nncjit.apply(base, data)
        same({"still": found["still"]}, {"still": new["still"]})
        error = np.concatenate([(found[name] - new[name]).ravel() for name in base])
        rate[one_step] = 8 * len(data) + error.size * np.log2(np.sqrt(np.square(error).mean()))
        coded = {name: np.mean(found[name] != base[name]) for name in base}
        assert (coded["small"] < 0.1 * coded["large"]) == one_step
    assert rate[True] < rate[False]


def test_zeros_and_rows_of_zeros_are_shares_of_the_difference():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((100, 50)).astype(np.float32)
    b = a + 0.01 * rng.standard_normal(a.shape).astype(np.float32)
    found = nncjit.apply({"w": a}, nncjit.update({"w": a}, {"w": b}, zeros=0.9, quantizer="uniform"))["w"]
    assert np.count_nonzero(found != a) <= 0.1 * a.size
    found = nncjit.apply({"w": a}, nncjit.update({"w": a}, {"w": b}, zero_rows=0.75))["w"]
    assert np.count_nonzero((found != a).any(axis=1)) <= 25


def test_compact_updates_are_smaller_and_equal(base):
    new = moved(base)
    plain, compact = nncjit.update(base, new), nncjit.update(base, new, compact=True, unary_length=10)
    assert len(compact) < len(plain) - 70
    found = nncjit.apply(base, compact)
    same(found, nncjit.apply(base, nncjit.update(base, new, unary_length=10)))


def test_the_base_is_never_modified_and_shares_no_memory_with_the_result(base):
    before = {name: array.copy() for name, array in base.items()}
    found = nncjit.apply(base, nncjit.update(base, base | {"w": base["w"] + 1}))
    for array in found.values():
        if array.ndim:
            array[...] = 1
    same(base, before)


def test_rows_that_are_new_are_as_precise_as_those_of_a_whole_tensor():
    rng = np.random.default_rng(0)
    new = rng.standard_normal((60, 50)).astype(np.float32)
    found = nncjit.apply({"w": new[:40]}, nncjit.update({"w": new[:40]}, {"w": new}))["w"]
    assert found[:40].tobytes() == new[:40].tobytes()
    error = np.square(found[40:] - new[40:]).mean() / np.square(new[40:]).mean()
    assert 25 < -10 * np.log10(error) < 40
