"""Unification: equal magnitudes in a unified block, signs and zeros kept, the rest untouched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import unify, views


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(views, "CHUNK", 16)


FLOATS = st.floats(-4, 4, width=16) | st.just(0.0)


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    values = draw(hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=7), elements=FLOATS)).astype(dtype)
    sides = draw(st.sampled_from(sorted({2, values.ndim})))
    return values, tuple(draw(st.lists(st.integers(1, 4), min_size=sides, max_size=sides)))


def places(view, block):
    """Each block's index in the grid and its place in the view."""
    for at in np.ndindex(*(-(-n // b) for n, b in zip(view.shape, block, strict=True))):
        yield at, tuple(slice(i * b, (i + 1) * b) for i, b in zip(at, block, strict=True))


@given(cases(), st.floats(0, 1))
def test_a_unified_block_has_one_magnitude_and_its_signs(case, threshold):
    values, block = case
    original = values.copy()
    done = unify(values, block, threshold)
    assert done.values.dtype == values.dtype
    assert done.values.shape == values.shape
    assert (values == original).all()
    shape = values.shape if len(block) == values.ndim else (len(values), values[0].size)
    before, after = values.reshape(shape), done.values.reshape(shape)
    for at, place in places(before, block):
        old, new = before[place], after[place]
        if not done.unified[at]:
            assert (new == old).all()
            continue
        assert (np.sign(new) == np.sign(old)).all()
        assert set(np.abs(new[new != 0]).tolist()) <= {float(done.magnitudes[at])}


@given(cases(), st.floats(0, 1))
def test_blocks_are_unified_where_the_loss_is_at_most_the_threshold(case, threshold):
    values, block = case
    done = unify(values, block, threshold)
    view = values.reshape(values.shape if len(block) == values.ndim else (len(values), -1)).astype(np.float64)
    lost = 0.0
    for at, place in places(view, block):
        weights = np.abs(view[place][view[place] != 0])
        energy = (weights**2).sum()
        loss = ((weights - weights.mean()) ** 2).sum() if weights.size else 0.0
        if abs(loss - threshold * energy) > 1e-9 * energy:
            assert done.unified[at] == (loss <= threshold * energy)
        lost += loss if done.unified[at] else 0.0
    total = (view**2).sum()
    assert done.loss == pytest.approx(lost / total if total else 0.0, abs=1e-12)


def test_the_whole_range_of_thresholds():
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    every, none = unify(values, (8, 8), 1.0), unify(values, (8, 8), 0.0)
    assert every.unified.all()
    assert not none.unified.any()
    assert (none.values == values).all()
    assert every.loss == pytest.approx(1 - 2 / np.pi, abs=0.02)


@pytest.mark.parametrize(
    ("values", "block", "threshold", "error", "words"),
    [
        (np.ones((2, 2)), (2, 2), 1.5, OptionError, "w: threshold is 1.5"),
        (np.ones((2, 2)), (2, 2, 2), 0.5, OptionError, "w: block"),
        (np.ones((2, 2)), (2, 0), 0.5, OptionError, "w: block"),
        (np.full((2, 2), np.inf), (2, 2), 0.5, ModelError, "w: holds NaN or inf"),
        (np.ones((2, 2), np.int8), (2, 2), 0.5, ModelError, "w: reduction needs float"),
    ],
)
def test_bad_input_is_refused_by_name(values, block, threshold, error, words):
    with pytest.raises(error, match=words):
        unify(values, block, threshold, name="w")
