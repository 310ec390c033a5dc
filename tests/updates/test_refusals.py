"""What does not fit is refused with one error that names tensor and rule, before anything has happened."""

from __future__ import annotations

import hashlib
import re
import zlib

import numpy as np
import pytest

import nncjit
from nncjit.syntax import read_units
from nncjit.updates import Receiver, Sender

BASE = {"w": np.linspace(-1, 1, 2000, dtype=np.float32).reshape(50, 40), "b": np.ones(5, np.float32)}
NEW = {"w": BASE["w"] + np.float32(0.01) * np.sin(np.arange(2000, dtype=np.float32)).reshape(50, 40), "b": BASE["b"]}


@pytest.fixture(scope="module")
def data():
    return nncjit.update(BASE, NEW)


def test_another_base_is_refused_by_name(data):
    with pytest.raises(nncjit.UpdateError, match=r"^w: has other values than in the base of the update"):
        nncjit.apply(BASE | {"w": BASE["w"] + 1}, data)
    with pytest.raises(nncjit.UpdateError, match=r"^b: has other values"):
        nncjit.apply(BASE | {"b": BASE["b"] + 1}, data)


OTHER_BASES = {
    "missing": ({"b": BASE["b"]}, "^w: is missing, it is in the base of the update: the update is for the model"),
    "missing, untouched": ({"w": BASE["w"]}, "^a tensor is missing that the base of the update has first in the order"),
    "renamed": ({"v": BASE["w"], "b": BASE["b"]}, "^w: is missing"),
    "renamed, untouched": ({"w": BASE["w"], "c": BASE["b"]}, "^c: has other values, or another name or shape,"),
    "unexpected, first": (
        BASE | {"a": BASE["b"].copy()},
        "^a: is unexpected, the base of the update has 2 tensors",
    ),
    "unexpected, between": (BASE | {"more": BASE["b"].copy()}, "^more: is unexpected"),
    "unexpected, last": (BASE | {"x": BASE["b"].copy()}, "^x: is unexpected"),
    "shape": (BASE | {"w": BASE["w"].T.copy()}, r"^w: has shape \[40, 50\], in the base of the update \[50, 40\]"),
    "rank": (BASE | {"w": BASE["w"].reshape(-1)}, r"^w: has shape \[2000\], in the base of the update \[50, 40\]"),
    "shape, untouched": (BASE | {"b": BASE["b"].reshape(5, 1)}, "^b: has other values, or another name or shape,"),
    "integers": (BASE | {"w": np.zeros((50, 40), np.int32)}, "^w: has dtype int32, in the base of the update float32"),
    "half": (BASE | {"w": BASE["w"].astype(np.float16)}, "^w: has dtype float16, in the base of the update float32"),
    "dtype, untouched": (BASE | {"b": BASE["b"].astype(np.int8)}, "^b: has dtype int8, in the base of the update flo"),
    "tied": (BASE | {"x": BASE["w"]}, "^other tensors share their memory than in the base of the update"),
    "all": ({}, "^w: is missing"),
}


@pytest.mark.parametrize(("base", "said"), OTHER_BASES.values(), ids=OTHER_BASES)
def test_another_base_is_refused_by_tensor_and_rule(data, base, said):
    with pytest.raises(nncjit.UpdateError, match=said):
        nncjit.apply(base, data)
    with pytest.raises(nncjit.UpdateError, match=said):
        Receiver(base).apply(data)


@pytest.mark.parametrize(("base", "said"), OTHER_BASES.values(), ids=OTHER_BASES)
def test_a_compact_update_refuses_another_base_too(base, said):
    data = nncjit.update(BASE, NEW, compact=True)
    with pytest.raises(nncjit.UpdateError, match=r"the update is for the model|has more tensors than this model"):
        nncjit.apply(base, data)


def test_tied_tensors_are_told_from_tensors_of_their_own():
    twins, apart = BASE | {"x": BASE["w"]}, BASE | {"x": BASE["w"].copy()}
    data = nncjit.update(twins, {"w": NEW["w"], "b": NEW["b"], "x": NEW["w"]})
    with pytest.raises(nncjit.UpdateError, match=r"^x: is a tensor of its own, in the base .* it is tied to w"):
        nncjit.apply(apart, data)
    data = nncjit.update(apart, {"w": NEW["w"], "b": NEW["b"], "x": NEW["w"] + 1})
    with pytest.raises(nncjit.UpdateError, match=r"^x: is tied to w, in the base .* it is a tensor of its own"):
        nncjit.apply(twins, data)


def test_types_of_a_base_are_told_where_they_are_not_float32():
    base = {f"t{k}": np.ones(40, dtype) * k for k, dtype in enumerate((np.float16, np.float16, np.int64, np.float32))}
    data = nncjit.update(base, {name: array + array.dtype.type(1) for name, array in base.items()})
    said = nncjit.inspect(data).update
    assert said.types == (("float16", 2), ("int64", 1), ("float32", 1))
    assert [said.dtype_of(k) for k in range(5)] == ["float16", "float16", "int64", "float32", None]
    with pytest.raises(nncjit.UpdateError, match=r"^t1: has dtype float32, in the base of the update float16"):
        nncjit.apply(base | {"t1": np.ones(40, np.float32)}, data)


def test_what_is_refused_is_refused_in_a_session_that_has_gone_on():
    sender, receiver = Sender(BASE), Receiver(BASE)
    receiver.apply(sender.update(NEW))
    other = Receiver(BASE | {"more": BASE["b"].copy()})
    second = sender.update(BASE)
    with pytest.raises(nncjit.UpdateError, match="this is update 2 of its chain"):
        other.apply(second)
    receiver.rebase(receiver.arrays() | {"b": BASE["b"] + 1})
    with pytest.raises(nncjit.UpdateError, match=r"^b: has other values"):
        receiver.apply(second)


def test_an_update_twice_or_out_of_order_is_refused(data):
    with pytest.raises(nncjit.UpdateError, match=r"^w: has other values"):
        nncjit.apply(BASE, data, data)
    after = nncjit.apply(BASE, data)
    second = nncjit.update(after, {"w": after["w"] * 2, "b": after["b"]})
    nncjit.apply(BASE, data, second)
    with pytest.raises(nncjit.UpdateError, match=r"^w: has other values"):
        nncjit.apply(BASE, second, data)


def test_every_cut_and_every_changed_byte_is_refused(data):
    for stop in range(0, len(data), 7):
        with pytest.raises(nncjit.NncError):
            nncjit.apply(BASE, data[:stop])
    for place in range(0, len(data), 11):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(nncjit.NncError):
            nncjit.apply(BASE, bytes(damaged))


def test_a_changed_closing_unit_is_refused_or_changes_nothing(data):
    found, end = nncjit.apply(BASE, data), list(read_units(data))[-1].offset
    accepted = 0
    for place in range(8 * end, 8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        try:
            again = nncjit.apply(BASE, bytes(damaged), threads=1)
        except nncjit.NncError:
            continue
        accepted += 1
        assert all(again[name].tobytes() == array.tobytes() for name, array in found.items())
    assert accepted < 8


def resealed(damaged, data):
    """Damaged bytes of an update with a checksum that fits them, where that has no more digits than the old one."""
    end = list(read_units(data))[-1].offset
    old, fits = (str(zlib.crc32(stream[:end])).encode() for stream in (data, damaged))
    return bytes(damaged[:end]) + data[end:].replace(old, fits.rjust(len(old)))


@pytest.mark.parametrize("parents", ["ids", "sha512"])
def test_damage_that_no_checksum_tells_gives_a_model_or_our_error(parents):
    data = nncjit.update(BASE, NEW, parents=parents)
    assert resealed(data, data) == data
    for place in range(0, len(data), 23):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        try:
            found = nncjit.apply(BASE, resealed(damaged, data), threads=1)
        except nncjit.NncError:
            continue
        assert all(array.size < 10**6 for array in found.values())


@pytest.mark.parametrize("parents", ["sha256", "sha512"])
def test_a_parent_with_another_hash_is_refused(parents):
    data, other = nncjit.update(BASE, NEW, parents=parents), BASE["w"] + 1
    said, found = (hashlib.new(parents, array.tobytes()).hexdigest() for array in (BASE["w"], other))
    with pytest.raises(nncjit.UpdateError, match=f"^w: builds on {parents} {said}, .*, whose {parents} is {found}"):
        nncjit.apply(BASE | {"w": other}, data)


def test_a_whole_model_is_no_update():
    with pytest.raises(nncjit.UpdateError, match="whole model"):
        nncjit.apply(BASE, nncjit.encode(BASE))
    with pytest.raises(nncjit.OptionError, match="no updates"):
        nncjit.apply(BASE)


def test_the_base_model_id_must_agree():
    data = nncjit.update(BASE, NEW, base_model_id="net-3")
    nncjit.apply(BASE, data, base_model_id="net-3")
    assert nncjit.inspect(data).units[1]["body"]["base_model_id"] == "net-3"
    with pytest.raises(nncjit.UpdateError, match="base_model_id is 'net-3', the model is 'net-4'"):
        nncjit.apply(BASE, data, base_model_id="net-4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"snr": 30}, "snr"),
        ({"rank": 3}, "rank"),
        ({"profile": 0}, "profile"),
        ({"lossless": 1}, "lossless is 1"),
        ({"parents": "md5"}, "parents is 'md5'"),
        ({"temporal": "yes"}, "temporal is 'yes'"),
        ({"zero_rows": 2}, "zero_rows is 2"),
        ({"size": 0}, "size is 0"),
        ({"size": 10, "bits": 2}, "bits and size contradict"),
        ({"size": "much"}, "size is 'much'"),
        ({"size": "1KB", "lossless": True}, "size and lossless contradict"),
        ({"device": -1}, "device is -1"),
        ({"base_model_id": "a\0b"}, "base_model_id"),
        ({"renamed": ["w"]}, "renamed"),
        ({"rules": {"w": "bits:2"}}, "bits: an update has no use for it"),
        ({"compatible": "nncodec", "lossless": True}, "lossless: nncodec cannot read"),
        ({"colour": "red"}, "no option 'colour'"),
        ({"carry": True}, "a Sender"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(nncjit.OptionError, match=re.escape(said)):
        nncjit.update(BASE, NEW, **options)


@pytest.mark.parametrize(
    ("renamed", "said"),
    [
        ({"v": "w"}, "the new model has no tensor 'v'"),
        ({"w": "v"}, "w: the base has no tensor 'v'"),
        ({"w": "b", "b": "b"}, "w and b both come from b"),
    ],
)
def test_a_renaming_must_fit(renamed, said):
    with pytest.raises(nncjit.ModelError, match=said):
        nncjit.update(BASE, NEW, renamed=renamed)
