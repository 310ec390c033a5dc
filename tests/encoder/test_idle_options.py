"""Whatever option is given changes the stream, or it is said that it does not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import nncjit
from nncjit.encoder.choices import TABLE
from nncjit.encoder.rules import CHANGEABLE
from nncjit.errors import ModelError, NncError, NncWarning
from nncjit.reduce import Block

OTHER: dict[str, Any] = {
    "ratio": 5.0,
    "bits": 3.0,
    "snr": 12.0,
    "loss": 0.1,
    "qp": -20,
    "quality": 2.0,
    "quantizer": "uniform",
    "rate_weight": 1.0,
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
    "rank": 4,
    "transform_tables": True,
    "scale_rows": True,
    "first_dimension": 1,
    "join": "j",
    "group": "g",
    "only": "a.*",
    "blocks": True,
    "fold_batchnorm": True,
    "given_blocks": (Block(weight="a.weight", bias="a.bias"),),
    "zeros_scope": "model",
    "profile": 0,
    "references": "index",
    "compatible": "nncodec",
    "max_unit_bytes": 256,
}
"""A value of each option that changes what it can."""

MAY_AGREE = {"exact", "transform_tables", "compatible", "only", "references", "max_unit_bytes"}
"""Options whose result may be the same: a search that finds the same, a limit that is kept anyway."""


def _drawn(*shape: int, seed: int = 1) -> np.ndarray[Any, Any]:
    return 0.05 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MODELS: dict[str, dict[str, Any]] = {
    "matrices": {"a.weight": _drawn(200, 8), "a.bias": _drawn(200), "b": _drawn(8, 4, 3, 3), "n": np.arange(10)},
    "vectors": {"a.bias": _drawn(200), "b": _drawn(8)},
    "integers": {"n": np.arange(100).reshape(10, 10)},
}


def _encoded(model: dict[str, Any], **options: Any) -> tuple[bytes, bool]:
    """The stream, and whether anything was said; of what is refused no bytes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            stream = bytes(nncjit.encode(model, threads=1, **options))
        except NncError:
            return b"", True
    return stream, any(warning.category is NncWarning for warning in caught)


def test_each_option_has_another_value_here():
    assert set(OTHER) == set(TABLE)


@pytest.mark.parametrize("quantizer", ["trellis", "lossless", "raw"])
@pytest.mark.parametrize("kind", MODELS)
def test_an_option_changes_the_stream_or_it_is_said_that_it_does_not(kind, quantizer):
    by_default, _ = _encoded(MODELS[kind], quantizer=quantizer)
    for name, value in OTHER.items():
        if name == "quantizer":
            continue
        stream, told = _encoded(MODELS[kind], **{"quantizer": quantizer, name: value})
        assert told or stream != by_default or name in MAY_AGREE, name


@pytest.mark.parametrize("quantizer", ["trellis", "lossless"])
def test_the_same_holds_for_rules(quantizer):
    model = MODELS["matrices"]
    for pattern in ("a.weight", "a.bias", "n"):
        by_default, _ = _encoded(model, quantizer=quantizer)
        for name in CHANGEABLE.keys() - {"quantizer"}:
            stream, told = _encoded(model, quantizer=quantizer, rules={pattern: {name: OTHER[name]}})
            assert told or stream != by_default or name in MAY_AGREE, (pattern, name)


def test_what_an_option_lacks_is_named():
    for options, said in (
        ({"block_shape": "2x2"}, "block_shape has no effect without zeros or unify"),
        ({"qp_density": 3}, "qp_density has no effect without qp"),
        ({"rules": "a.bias=zeros:0.5"}, "rule 'a.bias': zeros has no effect without a matrix that is quantised"),
    ):
        with pytest.warns(NncWarning, match=said):
            nncjit.encode(MODELS["matrices"], **options)


def test_a_dry_run_says_it_too(tmp_path):
    with pytest.warns(NncWarning, match="only 'x' matches no tensor"):
        nncjit.compress(MODELS["matrices"], tmp_path / "x.nnc", dry_run=True, only="x")
    with pytest.warns(NncWarning, match="qp_density has no effect without qp"):
        nncjit.compress(MODELS["matrices"], tmp_path / "x.nnc", dry_run=True, qp_density=3)


def test_a_rule_that_another_one_hides_changes_nothing():
    with pytest.warns(NncWarning, match=r"rule 'a\.w.*': zeros has no effect"):
        nncjit.encode(MODELS["matrices"], rules=["a.*=qp:-20", "a.w.*=zeros:0.5"])


def test_a_sensitivity_that_changes_nothing_is_told():
    model = MODELS["matrices"]
    ones = {name: np.ones_like(array) for name, array in model.items() if array.dtype == np.float32}
    for options, given, said in (
        ({}, ones, "sensitivity has no effect without zeros or pattern"),
        ({"zeros": 0.5}, ones | {"a.weigth": ones["b"]}, r"1 tensors more than the model has, 'a.weigth' .*a.weight"),
        ({"zeros": 0.5}, {"b": ones["b"]}, "tells nothing of 1 matrices, 'a.weight' among them"),
    ):
        with pytest.warns(NncWarning, match=said):
            nncjit.encode(model, sensitivity=given, **options)
    with pytest.raises(ModelError, match=r"is of another model: it has no 'a\.weigth' \(did you mean 'a\.weight'"):
        nncjit.encode(model, zeros=0.5, sensitivity={"a.weigth": ones["b"]})
    nncjit.encode(model, zeros=0.5, sensitivity=ones)  # nothing to be said
