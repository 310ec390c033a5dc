"""Random chains of updates beside a plain NumPy model of them: both sides hold the same bits at every moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import nncjit
from nncjit.updates import Receiver, Sender

TOOLS = (
    {},
    {"quantizer": "uniform"},
    {"qp": -36},
    {"zeros": 0.9},
    {"zero_rows": 0.5},
    {"lossless": True},
    {"temporal": True, "history": True},
    {"temporal": False, "history": False},
    {"parents": "sha256"},
    {"parents": "sha512", "temporal": True},
    {"compact": True},
    {"scan_order": 1},
    {"predict": True},
    {"rules": {".*": "raw"}},
    {"zeros": 0.5, "zeros_scope": "model"},
    {"one_step": True, "quantizer": "uniform", "rate_weight": 0.0},
    {"bits": 3.0},
    {"size": 900},
    {"carry": True},
    {"carry": True, "zeros": 0.9},
)
DTYPES = ("float32", "float16", "float64", "int32", "uint8", "int64", "bool")


def start(rng):
    return {
        "w": rng.standard_normal((40, 24)).astype(np.float32),
        "bias": rng.standard_normal(24).astype(np.float32),
        "half": rng.standard_normal((6, 5, 4)).astype(np.float16),
        "double": rng.standard_normal((5, 3)),
        "n": np.array(3, np.int64),
        "codes": rng.integers(0, 200, (9, 7), np.uint8),
    }


def trained(model, rng, *, skipped=()):
    """The model after a step: what the plain model of the chain does."""
    new = {}
    for name, array in model.items():
        if name in skipped:
            new[name] = array.copy()
        elif array.dtype.kind == "f":
            new[name] = (array + 0.02 * rng.standard_normal(array.shape)).astype(array.dtype)
        elif array.dtype.kind == "b":
            new[name] = array ^ (rng.random(array.shape) < 0.1)
        else:
            new[name] = (array + rng.integers(0, 3, array.shape).astype(array.dtype)).astype(array.dtype)
    return new


def changed(model, rng, draw):
    """The model with another structure, and the renaming that leads there."""
    new, renamed = dict(model), {}
    what = draw(st.sampled_from(("none", "none", "new", "gone", "renamed", "grown", "shrunk", "dtype", "rank")))
    names = [name for name in new if new[name].ndim]
    name = draw(st.sampled_from(names)) if names else None
    if what == "new" or name is None:
        dtype = draw(st.sampled_from(DTYPES))
        new[f"t{rng.integers(1 << 40)}"] = (3 * rng.standard_normal((3, int(rng.integers(0, 9))))).astype(dtype)
    elif what == "gone" and len(new) > 2:
        del new[name]
    elif what == "renamed":
        after = f"r{rng.integers(1 << 40)}"
        new = {after if key == name else key: array for key, array in new.items()}
        renamed[after] = name
    elif what in ("grown", "shrunk"):
        axis = int(rng.integers(new[name].ndim))
        by = int(rng.integers(1, 4))
        if what == "grown":
            widths = [(0, by if i == axis else 0) for i in range(new[name].ndim)]
            new[name] = np.pad(new[name], widths, mode="edge" if new[name].size else "constant")
        else:
            new[name] = np.take(new[name], range(max(new[name].shape[axis] - by, 0)), axis).copy()
    elif what == "dtype":
        new[name] = new[name].astype(draw(st.sampled_from(DTYPES)))
    elif what == "rank":
        new[name] = new[name].reshape(-1).copy()
    return new, renamed


def assert_same(a, b, what=""):
    assert list(a) == list(b), what
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), (what, name)
        assert a[name].tobytes() == b[name].tobytes(), (what, name)


def near(found, wanted, tools):
    exact = tools.get("lossless") or "rules" in tools
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        if exact or array.dtype.kind != "f":
            assert found[name].tobytes() == array.tobytes(), name
        elif array.size:
            atol = 0.7 + 0.1 * np.abs(np.float64(array)).max()
            assert np.allclose(np.float64(found[name]), np.float64(array), atol=atol), name


@pytest.mark.filterwarnings("ignore:size is:nncjit.NncWarning")  # of small models: no step comes nearer
@settings(max_examples=12, suppress_health_check=list(HealthCheck), phases=(Phase.generate,))
@given(st.data())
def test_both_sides_hold_the_same_bits_after_each_update(tmp_path_factory, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    base = start(rng)
    folder = tmp_path_factory.mktemp("chain") if data.draw(st.booleans()) else None
    places = (None, None) if folder is None else (folder / "sender", folder / "receiver")
    predicts = data.draw(st.booleans())
    threads = data.draw(st.sampled_from((1, 2)))
    sender, receiver = Sender(base, folder=places[0], threads=threads), Receiver(base, folder=places[1])
    updates, moments, model = [], [], base
    since_rebase = None
    for _ in range(data.draw(st.integers(1, 4))):
        if updates and data.draw(st.integers(0, 3)) == 3:
            start_of_round = trained(sender.arrays(), rng)
            sender.rebase(start_of_round)
            receiver.rebase(start_of_round)
            assert_same(receiver.arrays(), start_of_round, "rebased")
            since_rebase = len(updates) if since_rebase is None else since_rebase
        model = {name: array.copy() for name, array in sender.arrays().items()}
        skipped = data.draw(st.sets(st.sampled_from(sorted(model))))
        new, renamed = changed(trained(model, rng, skipped=skipped), rng, data.draw)
        tools = dict(data.draw(st.sampled_from(TOOLS))) | {"renamed": renamed}
        tools["predict"] = predicts
        updates.append(sender.update(new, **tools))
        near(sender.arrays(), new, tools)
        assert_same(receiver.apply(updates[-1]), sender.arrays(), tools)
        moments.append({name: array.copy() for name, array in receiver.arrays().items()})
        if folder is not None and data.draw(st.booleans()):
            sender, receiver = Sender.open(places[0]), Receiver.open(places[1], threads=1)
            assert_same(receiver.arrays(), moments[-1])
    for i in range(len(updates) if since_rebase is None else since_rebase):
        assert_same(nncjit.apply(base, *updates[: i + 1]), moments[i], "a prefix of the chain")
        if i:
            with pytest.raises(nncjit.UpdateError):
                Receiver(base).apply(updates[i])


@pytest.mark.slow
def test_no_drift_after_a_thousand_updates():
    rng = np.random.default_rng(0)
    model = {"w": rng.standard_normal((8, 6)).astype(np.float16)}
    sender, receiver = Sender(model, threads=1), Receiver(model, threads=1)
    for _ in range(1000):
        model = {name: (a + 0.01 * rng.standard_normal(a.shape)).astype(a.dtype) for name, a in model.items()}
        receiver.apply(sender.update(model))
    assert_same(receiver.arrays(), sender.arrays())
    assert receiver.number == sender.number == 1000
    for name, array in model.items():
        assert np.abs(np.float64(receiver.arrays()[name]) - array).max() < 0.03


def test_a_chain_decodes_as_a_plain_series_too():
    """`decode` with an `UpdateState` gives what each update adds."""
    rng = np.random.default_rng(4)
    base = {"w": rng.standard_normal((60, 50)).astype(np.float32), "v": rng.standard_normal(40).astype(np.float32)}
    sender, state, model = Sender(base, temporal=True, history=True), nncjit.UpdateState(), base
    total = {name: array.copy() for name, array in base.items()}
    for _ in range(4):
        model = trained(model, rng)
        for name, change in nncjit.decode(sender.update(model), state=state).items():
            total[name] += change
    assert_same(total, sender.arrays())


def test_contexts_pay_where_updates_are_alike():
    rng = np.random.default_rng(2)
    base = {"w": rng.standard_normal((128, 64)).astype(np.float32)}
    mask = rng.random(base["w"].shape) < 0.05
    sizes = {}
    for tools in ({"temporal": False, "history": False}, {}):
        sender, model, size = Sender(base, **tools, qp=-30), base, 0
        steps = np.random.default_rng(3)
        for _ in range(6):
            model = {"w": (model["w"] + 0.1 * mask * steps.standard_normal(mask.shape)).astype(np.float32)}
            size += len(sender.update(model))
        sizes[bool(tools)] = size
    assert sizes[False] < 0.8 * sizes[True]


def test_what_is_left_over_is_carried_into_the_next_round():
    rng = np.random.default_rng(1)
    zero = {"w": np.zeros((50, 40), np.float32) + 1}
    step = {"w": (0.01 * rng.standard_normal((50, 40))).astype(np.float32)}
    sums = {}
    for carry in (False, True):
        sender, receiver = (side(zero) for side in (Sender, Receiver))
        total = np.zeros((50, 40))
        for _ in range(12):
            found = receiver.apply(sender.update({"w": zero["w"] + step["w"]}, zeros=0.9, carry=carry))
            total += found["w"] - zero["w"]
            sender.rebase(zero)
            receiver.rebase(zero)
        sums[carry] = np.square(total - 12 * step["w"]).mean()
    assert sums[True] < 0.3 * sums[False]
