"""What `status` and `inspect` say of a session's folder."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import nncjit
from nncjit.cli.main import main
from nncjit.updates import Receiver, Sender, inspect_session

BASE = {"w": np.linspace(-1, 1, 600, dtype=np.float32).reshape(30, 20), "n": np.arange(4)}


def later(model, seed):
    rng = np.random.default_rng(seed)
    change = (0.01 * rng.standard_normal(model["w"].shape)).astype(np.float32)
    return {"w": model["w"] + change, "n": model["n"] + 1, "v": model["w"]}


@pytest.fixture
def sides(tmp_path):
    sender = Sender(BASE, folder=tmp_path / "s", carry=True, zeros=0.5, base_model_id="net")
    receiver = Receiver(BASE, folder=tmp_path / "r", base_model_id="net")
    for seed in (1, 2):
        receiver.apply(sender.update(later(BASE, seed)))
    return sender, receiver


def test_a_session_shows_its_place_and_what_it_keeps(sides, tmp_path):
    sender, receiver = sides
    ours, theirs = inspect_session(tmp_path / "s"), inspect_session(tmp_path / "r")
    assert (ours.kind, ours.number, theirs.kind, theirs.number) == ("sender", 2, "receiver", 2)
    assert ours.model == theirs.model
    assert ours.base_model_id == theirs.base_model_id == "net"
    assert ours.options == {"rate_weight": 1.0, "zeros": 0.5, "carry": True}
    w = theirs.tensors[0]
    assert (w.name, w.shape, w.dtype, w.parameter_id, w.depth) == ("w", (30, 20), "float32", 1, 2)
    assert w.value_sha256 == hashlib.sha256(receiver.arrays()["w"].tobytes()).hexdigest()
    assert w.unit_sha256 == ours.tensors[0].unit_sha256 != ""
    assert w.bytes["values"] == 2400
    assert ours.bytes["left over"] == 2400 + 2400
    assert "left over" not in theirs.bytes
    third = sender.update(later(BASE, 3))
    assert nncjit.inspect(third).update.base.hex() == ours.model
    receiver.apply(third)
    assert json.loads(json.dumps(theirs.to_dict()))["tensors"][0]["depth"] == 2
    assert "update 3 comes next" in str(ours)
    assert "parameter_id" in ours._repr_html_()


def test_a_restart_knows_that_other_values_were_taken(sides, tmp_path):
    """What was left over goes into the update after a `rebase`, also where another process makes it."""
    sender, receiver = sides
    for side in sides:
        side.rebase(side.arrays() | {"n": np.arange(4) + 7})
    assert inspect_session(tmp_path / "s").rebased
    again = Sender.open(tmp_path / "s").update(later(BASE, 3))
    receiver.apply(again)
    assert receiver.number == 3
    with pytest.raises(nncjit.ModelError, match="another process has worked"):
        sender.update(later(BASE, 3))


def test_tied_tensors_are_named(tmp_path):
    w = BASE["w"]
    Receiver({"w": w, "twin": w}, folder=tmp_path / "r")
    found = inspect_session(tmp_path / "r")
    assert [tensor.tied_to for tensor in found.tensors] == [None, "w"]
    assert found.bytes == {"values": 2400}


@pytest.mark.parametrize("verb", ["status", "inspect"])
def test_the_verbs_show_it(sides, tmp_path, capsys, verb):
    assert main([verb, str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "of a receiver, after update 2; update 3 comes next" in said
    assert ("parameter_id" in said) == (verb == "inspect")
    assert main([verb, str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["number"] == 2


def test_a_session_is_no_model_and_the_error_says_what_to_do(sides, tmp_path, capsys):
    with pytest.raises(nncjit.ModelError, match=r"a session of updates: `nncjit apply FOLDER -o MODEL`"):
        nncjit.inspect(tmp_path / "r")
    assert main(["apply", str(tmp_path / "r"), "-o", str(tmp_path / "m.npz"), "-q"]) == 0
    with np.load(tmp_path / "m.npz") as found:
        assert found["w"].tobytes() == sides[1].arrays()["w"].tobytes()
    assert main(["apply", str(tmp_path / "r")]) == 2
    assert "no updates are given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"order": ["w"]},
        {"tied": {"x": "y"}},
        {"parameters": [{}]},
        {"graphs": [{"format": "onnx"}]},
        {"format": 2},
        {"number": "many"},
    ],
    ids=str,
)
def test_damaged_facts_are_refused(sides, tmp_path, change):
    facts = json.loads((tmp_path / "r" / "chain.json").read_bytes())
    (tmp_path / "r" / "chain.json").write_text(json.dumps(facts | change))
    for look in (inspect_session, Receiver.open):
        with pytest.raises(nncjit.ModelError, match=r"damaged|of format 2"):
            look(tmp_path / "r")


@pytest.mark.parametrize("field", ["dtype", "shape", "name"])
def test_files_that_cannot_be_what_they_are_said_to_be_are_refused(sides, tmp_path, field):
    path = tmp_path / "r" / "chain.json"
    facts = json.loads(path.read_bytes())
    row = next(row for row in facts["parameters"] if row["name"] == "w")
    row["files"]["read"][field] = {"dtype": "|O4", "shape": [20, 30], "name": "../w.array"}[field]
    path.write_text(json.dumps(facts))
    with pytest.raises(nncjit.ModelError, match=r"w: |damaged"):
        Receiver.open(tmp_path / "r")
