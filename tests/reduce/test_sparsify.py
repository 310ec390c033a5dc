"""Sparsification: zeros where said, as many as said, and nothing else changed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import Sparsified, ranking, sparsify, sparsify_model, sparsify_n_m, views, zeros_by_rank

SHARES = st.floats(0, 1)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


@st.composite
def tensors(draw, min_dims=1, max_dims=4):
    """Tensors with many ties and zeros: small integers times a scale."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=9))
    levels = draw(hnp.arrays(np.int8, shape, elements=st.integers(-5, 5)))
    return (levels * draw(st.sampled_from([0.5, 1e-3, 3.0]))).astype(draw(DTYPES))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks and bands even for small tensors."""
    monkeypatch.setattr(views, "CHUNK", 16)


def naive_least(importance, is_zero, count):
    """Indices of the `count` least important, by a stable sort: zeros first, then by importance, then by order."""
    flat, zero = np.ravel(importance), np.ravel(is_zero)
    order = sorted(range(flat.size), key=lambda i: (not zero[i], flat[i], i))
    return np.array(order[:count], np.int64)


@given(tensors(), SHARES)
def test_the_share_of_zeros_is_exact(values, share):
    done = sparsify(values, share)
    before = int((values == 0).sum())
    assert done.zeros == int((done.values == 0).sum()) == max(round(share * values.size), before)
    assert done.share == done.zeros / values.size
    assert done.values.dtype == values.dtype
    assert done.values.shape == values.shape


@given(tensors(), SHARES)
def test_what_stays_is_unchanged_and_no_smaller_than_what_goes(values, share):
    original = values.copy()
    done = sparsify(values, share)
    stays = done.values != 0
    assert (done.values[stays] == values[stays]).all()
    gone = np.abs(values[~stays]).astype(np.float32)
    assert gone.max(initial=0) <= np.abs(values[stays]).astype(np.float32).min(initial=np.inf)
    assert done.threshold == gone.max(initial=0)
    assert (values == original).all()


@given(tensors(), SHARES, st.data())
def test_a_sensitivity_ranks_by_the_product(values, share, data):
    grades = data.draw(hnp.arrays(np.int8, values.shape, elements=st.integers(0, 4)))
    sensitivity = grades.astype(np.float32)
    done = sparsify(values, share, sensitivity=sensitivity)
    importance = np.abs(values).astype(np.float32) * sensitivity
    want = values.copy()
    want.reshape(-1)[naive_least(importance, values == 0, round(share * values.size))] = 0
    assert (done.values == want).all()


@given(tensors(max_dims=3), SHARES, st.data())
def test_whole_blocks_go_those_of_least_mean_first(values, share, data):
    sides = data.draw(st.sampled_from(sorted({2, values.ndim})))
    block = tuple(data.draw(st.lists(st.integers(1, 4), min_size=sides, max_size=sides)))
    done = sparsify(values, share, block=block)
    view = values if sides == values.ndim else values.reshape(len(values), -1)
    want, means, empty, places = view.copy(), [], [], []
    for corner in np.ndindex(*(-(-n // b) for n, b in zip(view.shape, block, strict=True))):
        place = tuple(slice(c * b, (c + 1) * b) for c, b in zip(corner, block, strict=True))
        places.append(place)
        magnitudes = np.abs(view[place]).astype(np.float32)  # importance is ranked as float32
        means.append(np.float32(magnitudes.astype(np.float64).mean()))
        empty.append(not view[place].any())
    for at in naive_least(means, empty, round(share * len(places))):
        want[places[at]] = 0
    assert (done.values == want.reshape(values.shape)).all()


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 8), st.data())
def test_at_most_n_of_m_stay_and_they_are_the_largest(rows, groups, m, data):
    n = data.draw(st.integers(1, m))
    values = data.draw(hnp.arrays(np.float32, (rows, groups, m), elements=st.integers(-4, 4).map(float)))
    done = sparsify_n_m(values.reshape(rows, groups * m), n, m)
    for before, after in zip(values.reshape(-1, m), done.values.reshape(-1, m), strict=True):
        stays = after != 0
        assert stays.sum() == min(n, (before != 0).sum())
        assert (after[stays] == before[stays]).all()
        assert np.abs(before[~stays]).max(initial=0) <= np.abs(before[stays]).min(initial=np.inf)


@given(st.lists(tensors(), min_size=1, max_size=4), SHARES, st.booleans())
def test_a_global_ranking_is_one_ranking_of_all_weights(arrays, share, in_blocks):
    model = {f"t{i}": values for i, values in enumerate(arrays)}
    block = (2, 3) if in_blocks else None
    done = sparsify_model(model, share, scope="model", block=block)
    counts = zeros_by_rank(model, share, block=block)
    if not in_blocks:
        every = np.concatenate([values.ravel().astype(np.float32) for values in arrays])
        want = every.copy()
        want[naive_least(np.abs(every), every == 0, round(share * every.size))] = 0
        got = np.concatenate([done[name].values.ravel().astype(np.float32) for name in model])
        assert (got == want).all()
        assert sum(counts.values()) == round(share * every.size)
    for name, values in model.items():
        assert (done[name].values == sparsify(values, count=counts[name], block=block).values).all()


@given(hnp.arrays(np.uint32, st.integers(1, 60), elements=st.integers(0, 2**32 - 1)), st.data())
def test_the_cut_is_the_nth_smallest_key(keys, data):
    count = data.draw(st.integers(1, keys.size))
    cut = ranking.cut_at(lambda: iter([keys[: keys.size // 2], keys[keys.size // 2 :]]), count)
    ordered = np.sort(keys)
    assert cut.key == ordered[count - 1]
    assert cut.ties == count - (keys < cut.key).sum()


def test_ties_go_in_row_major_order():
    ones = np.ones((2, 4), np.float32)
    assert sparsify(ones, 0.375).values.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    assert sparsify_n_m(ones, 1, 2).values.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]
    both = sparsify_model({"b": ones, "a": ones}, 0.5, scope="model")
    assert both["b"].zeros == 8
    assert both["a"].zeros == 0


def test_ties_in_long_groups_go_in_order_too():
    """Sorts of a few elements are stable by chance."""
    row = np.random.default_rng(0).integers(1, 4, 256).astype(np.float32)
    want = row.copy()
    want[naive_least(row, row == 0, 156)] = 0
    assert (sparsify_n_m(row[None], 100, 256).values[0] == want).all()


def test_each_tensor_gets_the_share_where_the_scope_is_a_tensor():
    model = {"small": np.full(10, 1e-3, np.float32), "large": np.full(10, 1.0, np.float32)}
    done = sparsify_model(model, 0.3, sensitivity={"small": np.ones(10, np.float32)})
    assert [d.zeros for d in done.values()] == [3, 3]


def test_infinite_sensitivity_keeps_a_weight_to_the_last():
    keep = np.array([np.inf, 1, 1, 1], np.float32)
    assert sparsify(np.array([1e-9, 5, 6, 7], np.float32), 0.75, sensitivity=keep).values[0] != 0


def test_odd_inputs_come_back_as_they_were():
    assert sparsify(np.zeros((0, 3), np.float32), 0.5).values.shape == (0, 3)
    assert sparsify(np.zeros((3, 0), np.float32), 0.5, block=(2, 2)).values.shape == (3, 0)
    assert sparsify(np.float32(2.0), 1.0).values.shape == ()
    assert sparsify(np.float32(2.0), 1.0, block=(2, 2)).zeros == 1
    transposed = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert sparsify(transposed, 0.5).values.tolist() == np.where(transposed < 6, 0, transposed).tolist()
    assert isinstance(sparsify(transposed, 0.0), Sparsified)


W = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: sparsify(W, 1.5, name="w"), OptionError, "w: share is 1.5"),
        (lambda: sparsify(W, float("nan")), OptionError, "share"),
        (lambda: sparsify(W), OptionError, "either a share or a count"),
        (lambda: sparsify(W, 0.5, count=3), OptionError, "either a share or a count"),
        (lambda: sparsify(W, count=25, name="w"), OptionError, "w: count is 25, must be a whole number in 0..24"),
        (lambda: sparsify(W, 0.5, block=(2, 2, 2), name="w"), OptionError, "w: block"),
        (lambda: sparsify(W, 0.5, block=(0, 2), name="w"), OptionError, "w: block"),
        (lambda: sparsify(W, 0.5, sensitivity=W[:2], name="w"), OptionError, r"w: the sensitivity has shape \(2, 6\)"),
        (lambda: sparsify(W, 0.5, sensitivity=-W, name="w"), OptionError, "w: a sensitivity is negative"),
        (lambda: sparsify(W * np.nan, 0.5, name="w"), ModelError, "w: holds NaN"),
        (lambda: sparsify(W.astype(np.int32), 0.5, name="w"), ModelError, "w: reduction needs float"),
        (lambda: sparsify_n_m(W, 2, 4, name="w"), OptionError, "w: 2:4 sparsity does not divide the row length 6"),
        (lambda: sparsify_n_m(W, 4, 3, name="w"), OptionError, "w: 4:3"),
        (lambda: sparsify_n_m(W, 0, 3, name="w"), OptionError, "w: 0:3"),
        (lambda: sparsify_model({"w": W}, 0.5, sensitivity={"v": W}), ModelError, "v: has a sensitivity"),
        (lambda: sparsify_model({"w": W}, 0.5, scope="layer"), OptionError, "scope"),
        (lambda: sparsify_model({"w": W}, -0.1, scope="model"), OptionError, "share"),
        (lambda: sparsify_model({"w": W}, 0.5, scope="model", sensitivity={"w": W[0]}), OptionError, "w: the sens"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()
