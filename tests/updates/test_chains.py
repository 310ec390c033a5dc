"""Random chains of updates beside a plain NumPy model of them: both sides hold the same bits at every moment."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import nncjit
from nncjit.syntax import read_units
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
DTYPES = ("float32", "float16", "float64", ml_dtypes.bfloat16, "int32", "uint8", "int64", "bool")
CHANGES = ("new", "gone", "renamed", "grown", "shrunk", "dtype", "rank", "tied", "apart", "not finite", "emptied")


def start(rng):
    return {
        "w": rng.standard_normal((40, 24)).astype(np.float32),
        "bias": rng.standard_normal(24).astype(np.float32),
        "half": rng.standard_normal((6, 5, 4)).astype(np.float16),
        "double": rng.standard_normal((5, 3)),
        "n": np.array(3, np.int64),
        "codes": rng.integers(0, 200, (9, 7), np.uint8),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.float32(0.5).reshape(()),
        "brain": rng.standard_normal((7, 6)).astype(ml_dtypes.bfloat16),
    }


def is_float(array):
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def each(model, change):
    """The arrays changed, those that are tied once."""
    found = {id(array): change(name, array) for name, array in reversed(model.items())}
    return {name: found[id(array)] for name, array in model.items()}


def copied(model):
    return each(model, lambda _, array: array.copy())


def ties(model):
    """Which tensors share their memory."""
    places = [array.__array_interface__["data"][0] if array.size else object() for array in model.values()]
    return [places.index(place) for place in places]


def trained(model, rng, *, skipped=()):
    """The model after a step: what the plain model of the chain does."""

    def step(name, array):
        if name in skipped:
            return array.copy()
        if is_float(array):
            return (np.float64(array) + 0.02 * rng.standard_normal(array.shape)).astype(array.dtype)
        if array.dtype.kind == "b":
            return array ^ (rng.random(array.shape) < 0.1)
        return (array + rng.integers(0, 3, array.shape).astype(array.dtype)).astype(array.dtype)

    return each(model, step)


def changed(model, rng, draw):
    """The model with another structure, and the renaming that leads there."""
    new, renamed = dict(model), {}
    for what in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        new = change_of_structure(new, renamed, what, rng, draw)
    return new, {name: before for name, before in renamed.items() if before in model}


def change_of_structure(model, renamed, what, rng, draw):
    """The model after one change; a renaming goes into `renamed`."""
    new = dict(model)
    names = [name for name in new if new[name].ndim]
    name = draw(st.sampled_from(names)) if names else None
    if what == "new" or name is None:
        dtype = draw(st.sampled_from(DTYPES))
        new[f"t{rng.integers(1 << 40)}"] = (3 * rng.standard_normal((3, int(rng.integers(0, 9))))).astype(dtype)
    elif what == "gone" and len(new) > 2:
        del new[name]
        renamed.pop(name, None)
    elif what == "renamed" and len(set(ties(new))) == len(new):  # of tied tensors one has no renaming of its own
        after = f"r{rng.integers(1 << 40)}"
        new = {after if key == name else key: array for key, array in new.items()}
        renamed[after] = renamed.pop(name, name)
    elif what == "tied":
        new[f"t{rng.integers(1 << 40)}"] = new[name]
    elif what == "apart":
        new[name] = new[name].copy()
    elif what == "not finite" and is_float(new[name]) and new[name].size:
        new[name] = new[name].copy()
        new[name].reshape(-1)[rng.integers(new[name].size)] = draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    elif what == "emptied":
        new[name] = new[name][:0].copy()
    elif what in ("grown", "shrunk"):
        axis = int(rng.integers(new[name].ndim))
        by = int(rng.integers(1, 4))
        if what == "grown":
            widths = [(0, by if i == axis else 0) for i in range(new[name].ndim)]
            new[name] = np.pad(new[name], widths, mode="edge" if new[name].size else "constant")
        else:
            new[name] = np.take(new[name], range(max(new[name].shape[axis] - by, 0)), axis).copy()
    elif what == "dtype":
        values = np.nan_to_num(np.float64(new[name]), posinf=9, neginf=-9)
        new[name] = np.clip(values, -6e4, 6e4).astype(draw(st.sampled_from(DTYPES)))
    elif what == "rank":
        new[name] = new[name].reshape(-1).copy()
    return new


def assert_same(a, b, what=""):
    assert list(a) == list(b), what
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), (what, name)
        assert a[name].tobytes() == b[name].tobytes(), (what, name)


def near(found, wanted, tools):
    exact = tools.get("lossless") or "rules" in tools
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        values = np.float64(array) if is_float(array) else None
        if exact or values is None or not np.isfinite(values).all():
            assert found[name].tobytes() == array.tobytes(), name
        elif array.size and not tools.keys() & {"bits", "size"}:  # which may leave no room for a change
            atol = 0.7 + 0.1 * np.abs(values).max()
            assert np.allclose(np.float64(found[name]), values, atol=atol), name


@pytest.mark.filterwarnings("ignore:size is:nncjit.NncWarning")  # of small models: no step comes nearer
@pytest.mark.filterwarnings("ignore:.*has no effect:nncjit.NncWarning")  # options are drawn, not chosen
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
        rebased = bool(updates) and data.draw(st.integers(0, 3)) == 3
        if rebased:
            start_of_round = trained(sender.arrays(), rng)
            sender.rebase(start_of_round)
            receiver.rebase(start_of_round)
            assert_same(receiver.arrays(), start_of_round, "rebased")
            since_rebase = len(updates) if since_rebase is None else since_rebase
        model = copied(sender.arrays())
        skipped = data.draw(st.sets(st.sampled_from(sorted(model))))
        new, renamed = changed(trained(model, rng, skipped=skipped), rng, data.draw)
        tools = dict(data.draw(st.sampled_from(TOOLS))) | {"renamed": renamed}
        tools["predict"] = predicts
        updates.append(sender.update(new, **tools))
        if not (rebased and tools.get("carry")):  # else what was left over is added
            near(sender.arrays(), new, tools)
        held = copied(receiver.arrays())
        returned = all(held[name].tobytes() == base[name].tobytes() for name in base if name in held)
        replayed = updates[int(returned) : -1]  # what leads on from the base fits where the model is at it
        for bad in refused(updates[-1], replayed, data.draw):
            with pytest.raises(nncjit.NncError):
                receiver.apply(bad)
            assert_same(receiver.arrays(), held, "refused")
        assert_same(receiver.apply(updates[-1]), sender.arrays(), tools)
        assert ties(receiver.arrays()) == ties(sender.arrays()) == ties(new)
        moments.append(copied(receiver.arrays()))
        if folder is not None and data.draw(st.booleans()):
            sender, receiver = Sender.open(places[0]), Receiver.open(places[1], threads=1)
            assert_same(receiver.arrays(), moments[-1])
    for i in range(len(updates) if since_rebase is None else since_rebase):
        assert_same(nncjit.apply(base, *updates[: i + 1]), moments[i], "a prefix of the chain")
        if i:
            with pytest.raises(nncjit.UpdateError):
                Receiver(base).apply(updates[i])


def refused(update, earlier, draw):
    """What must not be applied in the place of an update: earlier ones, and this one damaged or cut."""
    data, *_, closing = bytearray(update), *read_units(update)
    place = draw(st.integers(0, closing.offset - 1))
    data[place] ^= 1 << draw(st.integers(0, 7))
    return [bytes(data), update[:place], *([draw(st.sampled_from(earlier))] if earlier else [])]


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
