"""Pruning: a network without channels is the network with these channels zeroed, and its full size comes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nncjit.errors import ModelError, OptionError
from nncjit.reduce import (
    Axis,
    Group,
    channel_scores,
    check_groups,
    kept_positions,
    plan_pruning,
    rebuild_from_mask,
)

A, B, SIDE = 6, 5, 4  # channels of the two convolutions; the picture


def network(seed=0):
    """conv1 - bn1 - relu - conv2 - (+ conv1x1 of the same) - relu - flatten - fc: float32, from a seed."""
    rng = np.random.default_rng(seed)
    shapes = {
        "conv1.weight": (A, 3, 3, 3), "conv1.bias": (A,),
        "bn1.weight": (A,), "bn1.bias": (A,), "bn1.running_mean": (A,), "bn1.running_var": (A,),
        "conv2.weight": (B, A, 3, 3), "conv2.bias": (B,), "skip.weight": (B, A, 1, 1),
        "fc.weight": (7, B * SIDE * SIDE), "fc.bias": (7,),
    }  # fmt: skip
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["bn1.running_var"] = np.abs(tensors["bn1.running_var"]) + 0.1
    return tensors


BN1 = tuple(Axis(f"bn1.{leaf}", 0) for leaf in ("weight", "bias", "running_mean", "running_var"))
FIRST = Group(
    "first",
    A,
    (Axis("conv1.weight", 0), Axis("conv1.bias", 0), *BN1, Axis("conv2.weight", 1), Axis("skip.weight", 1)),
    gamma=("bn1.weight",),
)
SECOND = Group(
    "second",
    B,
    (Axis("conv2.weight", 0), Axis("conv2.bias", 0), Axis("skip.weight", 0), Axis("fc.weight", 1, repeat=SIDE**2)),
)
GROUPS = (FIRST, SECOND)


def conv(x, w):
    pad = w.shape[2] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(1, 2))
    return np.einsum("ihwkl,oikl->ohw", windows, w.astype(np.float64))


def forward(t, x):
    y = conv(x, t["conv1.weight"]) + t["conv1.bias"][:, None, None]
    y = (y - t["bn1.running_mean"][:, None, None]) / np.sqrt(t["bn1.running_var"] + 1e-5)[:, None, None]
    y = np.maximum(y * t["bn1.weight"][:, None, None] + t["bn1.bias"][:, None, None], 0)
    y = np.maximum(conv(y, t["conv2.weight"]) + t["conv2.bias"][:, None, None] + conv(y, t["skip.weight"]), 0)
    return t["fc.weight"] @ y.ravel() + t["fc.bias"]


@settings(max_examples=40)
@given(st.integers(0, 99), st.floats(0, 1), st.sampled_from(["group", "model"]), st.sampled_from(["l1", "l2"]))
def test_removing_channels_is_zeroing_them(seed, share, scope, by):
    tensors = network(seed)
    plan = plan_pruning(tensors, GROUPS, channel_scores(tensors, GROUPS, by), share=share, scope=scope)
    small = {name: plan.shrink(name, values) for name, values in tensors.items()}
    full = {name: plan.rebuild(name, values) for name, values in small.items()}
    x = np.random.default_rng(seed).standard_normal((3, SIDE, SIDE))
    assert forward(small, x) == pytest.approx(forward(full, x), rel=1e-9, abs=1e-9)
    for name, values in tensors.items():
        mask = plan.mask(name)
        assert small[name].shape == plan.shapes[name]
        assert (full[name] == np.where(mask, 0, values)).all()
        assert (rebuild_from_mask(small[name], mask) == full[name]).all()
        assert (small[name].ravel() == values[~mask]).all()


@settings(max_examples=60)
@given(st.floats(0, 1), st.integers(1, 3), st.data())
def test_shares_and_minimum_are_met_by_the_least_scores(share, minimum, data):
    tensors = network()
    scores = {g.name: data.draw(hnp.arrays(np.int8, g.size, elements=st.integers(0, 3))) for g in GROUPS}
    plan = plan_pruning(tensors, GROUPS, scores, share=share, minimum=minimum)
    for group in GROUPS:
        kept = plan.kept[group.name]
        assert kept.size == group.size - min(round(share * group.size), group.size - minimum)
        gone = np.setdiff1d(np.arange(group.size), kept)
        assert max(scores[group.name][gone], default=0) <= min(scores[group.name][kept])
    every = plan_pruning(tensors, GROUPS, scores, share=share, minimum=minimum, scope="model")
    assert sum(kept.size for kept in every.kept.values()) == max(A + B - round(share * (A + B)), 2 * minimum)
    assert min(kept.size for kept in every.kept.values()) >= minimum


def test_a_global_choice_compares_groups():
    scores = {"first": np.arange(A) + 10.0, "second": np.arange(B)}
    plan = plan_pruning(network(), GROUPS, scores, count=3, scope="model")
    assert plan.kept["first"].size == A
    assert plan.kept["second"].tolist() == [3, 4]


def test_targets_can_be_given_by_group():
    tensors = network()
    plan = plan_pruning(tensors, GROUPS, channel_scores(tensors, GROUPS), count={"second": 2})
    assert plan.kept["first"].size == A
    assert plan.kept["second"].size == B - 2
    assert plan.shapes["fc.weight"] == (7, 3 * SIDE * SIDE)
    assert plan.shapes["conv1.weight"] == (A, 3, 3, 3)
    assert plan.shrink("conv1.weight", tensors["conv1.weight"]) is tensors["conv1.weight"]


def test_scores_are_mean_norms_of_the_producers():
    t = network()
    w = [t["conv2.weight"].reshape(B, -1), t["skip.weight"].reshape(B, -1)]
    both = np.concatenate(w, axis=1).astype(np.float64)
    assert channel_scores(t, GROUPS, "l1")["second"] == pytest.approx(np.abs(both).mean(axis=1))
    assert channel_scores(t, GROUPS, "l2")["second"] == pytest.approx(np.sqrt((both**2).mean(axis=1)))
    assert channel_scores(t, [FIRST], "gamma")["first"] == pytest.approx(np.abs(t["bn1.weight"]))


def test_flattened_features_channels_last_and_kernels_with_outputs_last():
    """Keras: kernel (k, k, in, out), Dense kernel (height * width * channels, out) with the channel fastest."""
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype(np.float32)
    dense = np.arange(4 * 6, dtype=np.float32).repeat(5).reshape(4 * 6, 5)
    group = Group("conv", 4, (Axis("k", -1, producer=True), Axis("d", 0, repeat=6, fastest=True, producer=False)))
    tensors = {"k": kernel, "d": dense}
    scores = channel_scores(tensors, [group])
    assert scores["conv"] == pytest.approx(np.sqrt((kernel.astype(np.float64) ** 2).mean(axis=(0, 1, 2))))
    plan = plan_pruning(tensors, [group], {"conv": np.array([3, 0, 2, 1])}, count=1)
    assert plan.shrink("k", kernel).shape == (3, 3, 2, 3)
    assert plan.shrink("d", dense).reshape(6, 3, 5).tolist() == dense.reshape(6, 4, 5)[:, [0, 2, 3]].tolist()


def test_parts_of_an_axis_belong_to_different_groups():
    """Two branches concatenated, and the fused q, k, v of three heads of two."""
    cat = {"a": np.ones((2, 1)), "b": np.ones((3, 1)), "next": np.arange(10.0).reshape(2, 5)}
    groups = (
        Group("a", 2, (Axis("a", 0), Axis("next", 1, offset=0))),
        Group("b", 3, (Axis("b", 0), Axis("next", 1, offset=2))),
    )
    plan = plan_pruning(cat, groups, {"a": [1, 0], "b": [1, 0, 1]}, count=1)
    assert plan.shrink("next", cat["next"]).tolist() == [[0, 2, 4], [5, 7, 9]]
    qkv = np.arange(18.0)
    heads = Group("heads", 3, tuple(Axis("qkv", 0, repeat=2, offset=at) for at in (0, 6, 12)))
    plan = plan_pruning({"qkv": qkv}, [heads], {"heads": [1, 0, 2]}, count=1)
    assert plan.shrink("qkv", qkv).tolist() == [0, 1, 4, 5, 6, 7, 10, 11, 12, 13, 16, 17]


@given(hnp.array_shapes(max_dims=4, max_side=5), st.data())
def test_a_mask_of_whole_channels_tells_the_positions(shape, data):
    kept = [np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))) for n in shape]
    mask = np.ones(shape, np.bool_)
    mask[np.ix_(*kept)] = False
    assert [k.tolist() for k in kept_positions(mask)] == [k.tolist() for k in kept]


def test_no_groups_remove_nothing():
    plan = plan_pruning({"w": np.ones(3)}, [], {}, share=0.5, scope="model")
    assert plan.shapes == {"w": (3,)}
    assert not plan.mask("w").any()


def group(*members, size=A, name="g"):
    return Group(name, size, members)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([group(Axis("conv9.weight", 0))], "group g: there is no tensor conv9.weight"),
        ([group(Axis("conv1.bias", 1))], r"group g: conv1.bias of shape \(6,\) has no axis 1"),
        ([group(Axis("conv2.weight", 0))], "group g: 6 channels x 1 do not fit axis 0 of conv2.weight, which has 5"),
        ([group(Axis("fc.weight", 1, repeat=16))], "group g: 6 channels x 16 do not fit axis 1 of fc.weight"),
        ([group(Axis("fc.weight", 1, offset=75))], "group g: 6 channels x 1 from position 75 do not fit axis 1"),
        ([group(Axis("conv1.bias", 0)), group(Axis("bn1.bias", 0))], "group g: there are two"),
        ([group(Axis("conv1.bias", 0)), group(Axis("conv1.bias", -1), name="h")], "group h: axis 0 of conv1.bias"),
        ([group(Axis("fc.weight", 1, offset=0), Axis("fc.weight", 1, offset=5))], "belongs to two members"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_before_any_work(groups, words):
    tensors = network()
    with pytest.raises(ModelError, match=words):
        check_groups(groups, {name: values.shape for name, values in tensors.items()})
    with pytest.raises(ModelError, match=words):
        plan_pruning(tensors, groups, {}, share=0.5)
    with pytest.raises(ModelError, match=words):
        channel_scores(tensors, groups)


SCORES = {"first": np.arange(A), "second": np.arange(B)}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda t: Group("g", 0, (Axis("w", 0),)), OptionError, "group g: size is 0"),
        (lambda t: Group("g", 1, ()), OptionError, "group g: needs members"),
        (lambda t: Group("g", 1, (Axis("w", 0, repeat=0),)), OptionError, "repeat of w is 0"),
        (lambda t: Group("g", 1, (Axis("w", 0),), gamma=("v",)), OptionError, "group g: gamma v"),
        (lambda t: channel_scores(t, GROUPS, "l3"), OptionError, "by is 'l3'"),
        (lambda t: channel_scores(t, GROUPS, "gamma"), OptionError, "group second: has no gamma"),
        (lambda t: channel_scores(t, [group(Axis("conv1.bias", 0))]), OptionError, "group g: has no producer"),
        (lambda t: channel_scores(t | {"skip.weight": t["skip.weight"] * np.inf}, GROUPS), ModelError, "skip.weight"),
        (lambda t: plan_pruning(t, GROUPS, {"first": SCORES["first"]}, share=0.5), OptionError, "second: has no sc"),
        (lambda t: plan_pruning(t, GROUPS, SCORES | {"second": [1]}, share=0.5), OptionError, "second: needs 5"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, share=1.1), OptionError, "first: share is 1.1"),
        (lambda t: plan_pruning(t, GROUPS, SCORES), OptionError, "first: pruning needs"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, share=0.5, count=1), OptionError, "first: pruning needs"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, count=5), OptionError, "second: cannot remove 5 channels, 4"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, count=10, scope="model"), OptionError, "all groups: cannot"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, count={"third": 1}), OptionError, "third"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, share={"first": 0.5}, scope="model"), OptionError, "by group"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, share=0.5, scope="net"), OptionError, "scope"),
        (lambda t: plan_pruning(t, GROUPS, SCORES, share=0.5, minimum=0), OptionError, "minimum"),
        (lambda t: kept_positions(np.eye(3, dtype=bool), name="w"), ModelError, "w: the pruning mask"),
        (lambda t: rebuild_from_mask(np.ones(3), np.eye(3, dtype=bool), name="w"), ModelError, "w: the mask leaves 6"),
        (
            lambda t: plan_pruning(t, GROUPS, SCORES, count=1).rebuild("conv1.bias", t["conv1.bias"]),
            ModelError,
            "conv1.bias: has shape",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call(network())
