"""Sides of a chain in folders: restarts, crashes, two processes, damage; and what does not fit changes nothing."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest

import nncjit
from nncjit.updates import Receiver, Sender
from nncjit.updates.chain_folder import ChainFolder


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((30, 20)).astype(np.float32), "n": np.arange(4), "s": np.float16(2.5).reshape(())}


def after(model, seed):
    rng = np.random.default_rng(seed)
    return {
        n: (a + 0.02 * rng.standard_normal(a.shape)).astype(a.dtype) if n != "n" else a + 1 for n, a in model.items()
    }


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def bits(side):
    return {name: array.tobytes() for name, array in side.arrays().items()}


def test_a_side_goes_on_from_its_folder(tmp_path, base):
    Sender(base, folder=tmp_path / "s", qp=-36, rules={"n": "raw"})
    Receiver(base, folder=tmp_path / "r", base_model_id=None)
    model = base
    for k in range(4):
        model = after(model, k)
        data = Sender.open(tmp_path / "s").update(model)
        Receiver.open(tmp_path / "r").apply(data)
    sender, receiver = Sender.open(tmp_path / "s"), Receiver.open(tmp_path / "r")
    assert sender.options.encoder.fineness.qp == -36
    assert (sender.number, receiver.number) == (4, 4)
    assert bits(sender) == bits(receiver)
    receiver.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as saved:
        assert {name: saved[name].tobytes() for name in saved} == bits(receiver)
    arrays = [name for name in files(tmp_path / "r") if name.endswith(".array")]
    assert len(arrays) <= 3 * len(base)


def test_no_pickle_is_in_a_folder(tmp_path, base):
    Sender(base, folder=tmp_path / "s").update(after(base, 1))
    assert all(name.endswith((".array", ".json")) for name in files(tmp_path / "s"))


@pytest.mark.parametrize("in_folder", [False, True])
def test_what_is_refused_changes_nothing(tmp_path, base, in_folder):
    sender = Sender(base)
    one = sender.update(after(base, 1))
    two = sender.update(after(base, 2))
    three = sender.update(after(base, 3))
    stranger = Sender({name: a + a.dtype.type(1) for name, a in base.items()})
    first = stranger.update(after(base, 5))
    receiver = Receiver(base, folder=tmp_path / "r" if in_folder else None)
    receiver.apply(one)
    state, held = bits(receiver), files(tmp_path / "r") if in_folder else {}
    damaged = bytearray(two)
    damaged[len(two) // 2] ^= 4
    for bad, said in (
        ([three], "this is update 3 of its chain, it follows on 2; the model is at update 1"),
        ([one], "has other values .* after update 1, and this update is the first"),
        ([first], "has other values .* after update 1, and this update is the first"),
        ([two, two], "the model is at update 2"),
        ([two, three, one], "has other values"),
        ([bytes(damaged)], None),
        ([two[:-40]], None),
        ([b""], None),
    ):
        with pytest.raises(nncjit.NncError, match=said):
            receiver.apply(*bad)
        assert bits(receiver) == state
        assert receiver.number == 1
        if in_folder:
            assert files(tmp_path / "r") == held
    assert bits(receiver) == state
    receiver.apply(two, three)
    assert bits(receiver) == bits(sender)


def test_a_sender_that_fails_stays_where_it_was(tmp_path, base):
    sender = Sender(base, folder=tmp_path / "s")
    state, held = bits(sender), files(tmp_path / "s")
    with pytest.raises(nncjit.ModelError):
        sender.update({"w": np.array(["text"])})
    with pytest.raises(nncjit.OptionError):
        sender.update(base, zeros=7)

    def broken(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sender.update(after(base, 1), progress=broken)
    assert (bits(sender), files(tmp_path / "s")) == (state, held)


def test_a_crash_before_the_commit_leaves_the_state_before(tmp_path, base, monkeypatch):
    sender, receiver = Sender(base), Receiver(base, folder=tmp_path / "r")
    data = sender.update(after(base, 1))
    monkeypatch.setattr(ChainFolder, "facts", lambda *_: 1 / 0)
    monkeypatch.setattr(ChainFolder, "_tidy", lambda _: None)
    with pytest.raises(ZeroDivisionError):
        receiver.apply(data)
    monkeypatch.undo()
    again = Receiver.open(tmp_path / "r")
    assert again.number == 0
    again.apply(data)
    assert bits(again) == bits(sender)


def test_a_full_disk_leaves_the_state_before(tmp_path, base, monkeypatch):
    sender, receiver = Sender(base, folder=tmp_path / "s"), Receiver(base, folder=tmp_path / "r")
    data, held = Sender(base).update(after(base, 1)), {side: files(tmp_path / side) for side in "sr"}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for work in (lambda: receiver.apply(data), lambda: sender.update(after(base, 1))):
            with pytest.raises(nncjit.ModelError, match=r"\.array: no space left on device"):
                work()
        with pytest.raises(nncjit.ModelError):
            Receiver(base, folder=tmp_path / "new")
    assert held == {side: files(tmp_path / side) for side in "sr"}
    receiver.apply(data)
    (tmp_path / "new" / "1-read-1.array").write_bytes(b"of a session whose beginning was interrupted")
    assert bits(Receiver(base, folder=tmp_path / "new")) == bits(Receiver.open(tmp_path / "new"))


def test_two_processes_do_not_work_with_one_folder(tmp_path, base):
    one = Receiver(base, folder=tmp_path / "r")
    two = Receiver.open(tmp_path / "r")
    data = Sender(base).update(after(base, 1))
    one.apply(data)
    with pytest.raises(nncjit.ModelError, match="another process has worked with this session"):
        two.apply(data)
    with one._folder.transaction(), pytest.raises(nncjit.ModelError, match="another process works"):
        Receiver.open(tmp_path / "r").apply(data)


def test_what_is_no_session_is_refused(tmp_path, base):
    with pytest.raises(nncjit.ModelError, match=r"chain\.json"):
        Sender.open(tmp_path)
    Sender(base, folder=tmp_path / "s")
    with pytest.raises(nncjit.ModelError, match="is the session of a sender, not of a receiver"):
        Receiver.open(tmp_path / "s")
    with pytest.raises(nncjit.ModelError, match="is not empty"):
        Receiver(base, folder=tmp_path / "s")
    for name in list(files(tmp_path / "s")):
        shutil.copytree(tmp_path / "s", tmp_path / "t")
        (tmp_path / "t" / name).write_bytes(b"{not}")
        with pytest.raises(nncjit.ModelError):
            Sender.open(tmp_path / "t")
        (tmp_path / "t" / name).unlink()
        with pytest.raises(nncjit.ModelError):
            Sender.open(tmp_path / "t")
        shutil.rmtree(tmp_path / "t")


def test_another_model_to_start_from_must_fit(base):
    sender = Sender(base)
    with pytest.raises(nncjit.ModelError, match=r"w: is float32\[30, 20\], the model to start from has it as"):
        sender.rebase(base | {"w": base["w"].T})
    with pytest.raises(nncjit.ModelError, match="has none"):
        sender.rebase({"w": base["w"]})
    with pytest.raises(nncjit.ModelError, match=r"^more: is in the model to start from, not in that of this sender"):
        sender.rebase(base | {"more": base["w"]})
    twins = Sender({"w": base["w"], "twin": base["w"]})
    twins.rebase({"w": base["w"], "twin": base["w"].copy()})
    with pytest.raises(nncjit.ModelError, match=r"^twin: is tied to w, the model to start from has other values in it"):
        twins.rebase({"w": base["w"], "twin": base["w"] + 1})


def test_arrays_of_a_side_cannot_be_written_to(base):
    receiver = Receiver(base)
    with pytest.raises(ValueError, match="read-only"):
        receiver.arrays()["w"][0] = 0
    base["w"][0] = 7
    assert receiver.arrays()["w"][0, 0] != 7
