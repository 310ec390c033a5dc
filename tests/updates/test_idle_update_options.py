"""Whatever option is given changes an update, or it is said that it does not."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import nncjit
from nncjit.encoder.choices import TABLE
from nncjit.errors import NncError, NncWarning
from nncjit.updates import Sender, UpdateOptions
from nncjit.updates.update_options import UNUSED

OTHER: dict[str, Any] = {
    "lossless": True,
    "parents": "sha256",
    "temporal": True,
    "history": True,
    "predict": True,
    "zero_rows": 0.5,
    "one_step": True,
    "size": 400,
    "device": 3,
    "base_model_id": "m",
    "renamed": {"new": "old"},
    "compact": True,
    "carry": True,
}
"""A value of each option of an update that changes what it can."""
OF_ENCODER: dict[str, Any] = {
    "ratio": 5.0,
    "bits": 3.0,
    "qp": -40,
    "quality": 2.0,
    "quantizer": "uniform",
    "rate_weight": 0.5,
    "frequency_weight": 0.2,
    "unreached": "zero",
    "exact": True,
    "qp_density": 3,
    "unary_length": 2,
    "scan_order": 1,
    "selection": "none",
    "zeros": 0.5,
    "pattern": "2:4",
    "unify": 0.9,
    "block_shape": "2x2",
    "only": "a.*",
    "zeros_scope": "model",
    "compatible": "nncodec",
}
MAY_AGREE = {"exact", "only", "compatible", "quantizer", "lossless", "parents", "renamed", "carry"}
"""Options whose result may be the same: a search that finds the same, a condition that holds anyway, names of the base
where nothing is said of it, and what only the next update has."""


def _drawn(*shape: int, spread: float, seed: int) -> np.ndarray[Any, Any]:
    return spread * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


BASE = {
    "a.weight": _drawn(24, 12, spread=0.05, seed=5),
    "old": _drawn(48, 16, spread=0.05, seed=1),
    "a.bias": _drawn(200, spread=0.05, seed=2),
    "n": np.arange(300),
}
NEW = {
    "a.weight": BASE["a.weight"] + _drawn(24, 12, spread=0.001, seed=6),
    "new": BASE["old"] + _drawn(48, 16, spread=0.003, seed=3),
    "a.bias": BASE["a.bias"] + _drawn(200, spread=0.003, seed=4),
    "n": BASE["n"] * 2,
}
MODELS = {"matrices": ("a.weight", "new", "a.bias", "n"), "vectors": ("a.bias",), "integers": ("n",)}


def _pair(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A base and a new model."""
    names = MODELS[kind]
    base = {"old" if name == "new" else name: BASE["old" if name == "new" else name] for name in names}
    return base, {name: NEW[name] for name in names}


def _given(kind: str, **options: Any) -> dict[str, Any]:
    return ({"renamed": OTHER["renamed"]} if kind == "matrices" else {}) | options


def _update(kind: str, **options: Any) -> tuple[bytes, bool]:
    """The update, and whether anything was said; of what is refused no bytes."""
    base, new = _pair(kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = nncjit.update(base, new, threads=1, **_given(kind, **options))
        except NncError:
            return b"", True
    return data, any(warning.category is NncWarning for warning in caught)


def test_each_option_has_another_value_here():
    assert set(OTHER) == {field.name for field in fields(UpdateOptions)} - {"encoder"}
    assert set(OF_ENCODER) == set(TABLE) - set(UNUSED)


@pytest.mark.parametrize(
    ("kind", "given"), [("matrices", {}), ("matrices", {"lossless": True}), ("vectors", {}), ("integers", {})], ids=str
)
def test_an_option_changes_the_update_or_it_is_said_that_it_does_not(kind, given):
    by_default, _ = _update(kind, **given)
    for name, value in (OTHER | OF_ENCODER).items():
        if name not in given:
            data, told = _update(kind, **given | {name: value})
            assert told or data != by_default or name in MAY_AGREE, name


def test_nothing_is_said_of_an_update_by_default_or_without_loss():
    for kind in MODELS:
        assert not _update(kind)[1]
        assert not _update(kind, lossless=True)[1]


def test_what_an_option_lacks_is_named():
    for options, said in (
        ({"lossless": True, "qp": -30}, "^qp has no effect without a matrix that is quantised"),
        ({"lossless": True, "quality": 2}, "^quality has no effect without a tensor that is quantised"),
        ({"lossless": True, "quantizer": "uniform"}, "^quantizer uniform has no effect with lossless"),
        ({"one_step": True, "qp": -60}, "^one_step has no effect without a matrix .* that no qp is given for"),
        ({"zero_rows": 0.5, "lossless": True}, "^zero_rows has no effect without a matrix of which a difference"),
        ({"temporal": True}, "^temporal has no effect without a session"),
        ({"history": True}, "^history has no effect without a session"),
        ({"predict": True}, "^predict has no effect without a session"),
        ({"block_shape": "2x2"}, "^block_shape has no effect without zeros or unify"),
    ):
        with pytest.warns(NncWarning, match=said):
            nncjit.update(*_pair("matrices"), **_given("matrices", **options))


def test_a_session_has_what_they_lack():
    base, new = _pair("vectors")
    Sender(base, temporal=True, history=True, predict=True, carry=True).update(new)  # nothing to be said
    with pytest.warns(NncWarning, match="^carry has no effect without a tensor of which a difference is quantised"):
        Sender(base, lossless=True, carry=True).update(new)


@pytest.mark.parametrize("options", [{"quantizer": "lossless"}, {"rules": {".*": {"quantizer": "lossless"}}}], ids=str)
def test_the_lossless_quantizer_loses_nothing(options):
    base, new = _pair("matrices")
    found = nncjit.apply(base, nncjit.update(base, new, **_given("matrices", **options)))
    assert all(np.array_equal(found[name], new[name]) for name in new)


@pytest.mark.parametrize(
    "options", [{"qp": 20}, {"qp": 127}, {"quality": 1e-3}, {"rate_weight": 100.0}, {"rules": {"w.": {"qp": 100}}}]
)
def test_an_update_that_says_nothing_of_what_changed_is_told_once(options):
    rng = np.random.default_rng(4)
    base = {f"w{k}": rng.standard_normal((64, 48)).astype(np.float32) for k in range(3)}
    new = {name: (a + 0.01 * rng.standard_normal(a.shape)).astype(np.float32) for name, a in base.items()}
    with pytest.warns(nncjit.NncWarning) as told:
        update = nncjit.update(base, new, **options)
    said = [str(warning.message) for warning in told]
    assert said == ["w0 and 2 more: nothing of the change is left, the steps are too coarse for it"]
    back = nncjit.apply(base, update)
    assert all(np.array_equal(back[name], base[name]) for name in base)


def test_an_update_without_changes_is_not_told_of():
    base = {"w": np.ones((9, 8), np.float32), "n": np.arange(4)}
    nncjit.update(base, base, qp=20)
    nncjit.update(base, base | {"n": np.arange(1, 5)})
