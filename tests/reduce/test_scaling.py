"""Local scaling: rows of like size, composed back, and what it gains on rows of unlike size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import multiply_rows, scale_rows

MEASURES = {
    "rms": lambda w: np.sqrt((w.astype(np.float64) ** 2).mean(axis=1)),
    "mean": lambda w: np.abs(w.astype(np.float64)).mean(axis=1),
    "max": lambda w: np.abs(w).max(axis=1),
}
TENSORS = hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.floats(-8, 8, width=16))


@given(TENSORS, st.sampled_from(sorted(MEASURES)), st.floats(0, 1))
def test_scaled_rows_compose_to_the_tensor(w, measure, strength):
    before = w.copy()
    done = scale_rows(w, measure=measure, strength=strength)
    assert done.values.dtype == done.scale.dtype == np.float32
    assert (done.scale > 0).all()
    assert multiply_rows(done.values, done.scale) == pytest.approx(w, rel=3e-7, abs=1e-30)
    assert (w == before).all()


@given(TENSORS, st.sampled_from(sorted(MEASURES)))
def test_full_strength_gives_all_rows_one_size_and_factors_of_mean_one(w, measure):
    done = scale_rows(w, measure=measure)
    used = w.any(axis=1)
    sizes = MEASURES[measure](done.values)[used]
    assert sizes == pytest.approx(sizes.mean() if used.any() else 0, rel=1e-4)
    assert np.log(done.scale[used].astype(np.float64)).sum() == pytest.approx(0, abs=1e-5)
    assert (done.scale[~used] == 1).all()


def test_no_strength_changes_nothing():
    w = np.random.default_rng(0).standard_normal((5, 7), dtype=np.float32)
    done = scale_rows(w, strength=0.0)
    assert (done.values == w).all()
    assert (done.scale == 1).all()


def test_the_first_dimension_has_the_rows():
    assert scale_rows(np.ones((3, 2, 2, 2), np.float32)).scale.shape == (3,)
    assert scale_rows(np.ones(3, np.float16)).scale.shape == (3,)
    assert scale_rows(np.float32(3)).values.shape == ()
    assert scale_rows(np.zeros((3, 0), np.float32)).values.shape == (3, 0)


def entropy(levels):
    """Bits a weight of an ideal coder without contexts."""
    p = np.unique(levels, return_counts=True)[1] / levels.size
    return float(-(p * np.log2(p)).sum())


def test_rows_of_unlike_size_cost_fewer_bits_at_the_same_relative_error():
    """What the module claims for p = 1, on rows of log-normal width, with steps of the same mean relative row error."""
    rng = np.random.default_rng(1)
    w = rng.standard_normal((128, 512)) * np.exp(rng.standard_normal((128, 1)))
    w = w.astype(np.float32)

    def bits(values, scale, step):
        levels = np.rint(values / step)
        lost = ((levels * step * scale[:, None] - w) ** 2).mean(axis=1) / (w**2).mean(axis=1)
        return entropy(levels), lost.mean()

    done = scale_rows(w)
    with_scaling, target = bits(done.values, done.scale, 0.1 * done.values.std())
    step = 0.1 * w.std()
    while bits(w, np.ones(128), step)[1] > target:
        step *= 0.97
    without, _ = bits(w, np.ones(128), step)
    assert with_scaling < 0.85 * without


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"measure": "median"}, OptionError, "w: measure"),
        ({"strength": 1.1}, OptionError, "w: strength"),
        ({"values": np.full((2, 2), np.inf)}, ModelError, "w: holds NaN"),
        ({"values": np.ones((2, 2), np.int8)}, ModelError, "w: reduction needs float"),
    ],
)
def test_bad_input_is_refused_by_name(options, error, words):
    with pytest.raises(error, match=words):
        scale_rows(options.pop("values", np.ones((2, 2))), **options, name="w")
