"""Options are checked when they are made; rules change single tensors; targets are hit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nncjit
from nncjit.encoder.rules import Rule
from nncjit.jit import JIT


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    side = 400 if JIT else 60
    return {
        "enc.weight": rng.standard_t(6, (side, 300)).astype(np.float32) * 0.05,
        "enc.bias": rng.standard_normal(side).astype(np.float32),
        "dec.weight": rng.laplace(size=(side // 2, 512)).astype(np.float32),
        "steps": np.arange(5),
    }


def bits(data: bytes, arrays: dict[str, np.ndarray]) -> float:
    return 8 * len(data) / sum(a.size for a in arrays.values())


def snr(arrays: dict[str, np.ndarray], data: bytes) -> float:
    back = nncjit.decode(data)
    floats = [name for name, a in arrays.items() if a.dtype.kind == "f"]
    power = sum(float(np.square(arrays[n].astype(np.float64)).sum()) for n in floats)
    error = sum(float(np.square(arrays[n].astype(np.float64) - back[n]).sum()) for n in floats)
    return 10 * math.log10(power / error)


@pytest.mark.parametrize("quantizer", ["trellis", "uniform"])
@pytest.mark.parametrize("target", [1.5, 3.0, 5.0])
def test_bits_a_weight_are_hit_within_one_percent(arrays: dict[str, np.ndarray], target: float, quantizer: str) -> None:
    reached = bits(nncjit.encode(arrays, bits=target, quantizer=quantizer), arrays)
    assert reached == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("target", [6.0, 12.0])
def test_percent_of_the_size_are_hit_within_one_percent(arrays: dict[str, np.ndarray], target: float) -> None:
    reached = 100 * len(nncjit.encode(arrays, ratio=target)) / sum(a.nbytes for a in arrays.values())
    assert reached == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("target", [12.0, 25.0, 45.0])
def test_decibels_are_hit_within_one_percent(arrays: dict[str, np.ndarray], target: float) -> None:
    assert snr(arrays, nncjit.encode(arrays, snr=target)) == pytest.approx(target, rel=0.01)


def test_a_target_of_one_tensor_is_its_own(arrays: dict[str, np.ndarray]) -> None:
    data = nncjit.encode(arrays, rules={"enc.weight": {"snr": 40.0}})
    only = {"enc.weight": arrays["enc.weight"]}
    error = only["enc.weight"] - nncjit.decode(data)["enc.weight"]
    reached = 10 * math.log10(float(np.square(only["enc.weight"]).sum() / np.square(error).sum()))
    assert reached == pytest.approx(40, rel=0.01)


def test_the_first_rule_that_matches_wins(arrays: dict[str, np.ndarray]) -> None:
    data = nncjit.encode(arrays, rules=[".*bias=raw", r"enc\..*=qp:0", ".*weight=uniform"])
    tools = {row.name: row.tools[0] for row in nncjit.inspect(data).tensors}
    assert tools == {"enc.weight": "trellis", "enc.bias": "raw", "dec.weight": "uniform", "steps": "integer"}
    assert nncjit.decode(data)["enc.bias"].tobytes() == arrays["enc.bias"].tobytes()


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"qp": 1.5}, "qp"),
        ({"qp": 99999}, "qp"),
        ({"bits": -1}, "bits"),
        ({"bits": float("nan")}, "bits"),
        ({"bits": 3, "snr": 20}, "bits and snr"),
        ({"qp": 3, "ratio": 20}, "qp and ratio"),
        ({"ratio": 101}, "ratio"),
        ({"quantizer": "best"}, "quantizer"),
        ({"scan_order": 5}, "scan_order"),
        ({"scan_order": "rows"}, "scan_order"),
        ({"unary_length": 0}, "unary_length"),
        ({"threads": 0}, "threads"),
        ({"profile": 2}, "profile"),
        ({"selection": "slow"}, "selection"),
        ({"stepsize": 3}, "stepsize"),
        ({"rules": ["nothing=raw"]}, "matches no tensor"),
        ({"rules": ["(=raw"]}, "regular expression"),
        ({"rules": [".*"]}, "PATTERN=WHAT"),
        ({"rules": [".*=best"]}, "best"),
        ({"rules": [".*=quality:0"]}, "quality"),
        ({"rules": {".*": {"stepsize": 3}}}, "stepsize"),
    ],
)
def test_wrong_options_are_refused_by_name(
    arrays: dict[str, np.ndarray], keywords: dict[str, object], says: str
) -> None:
    with pytest.raises(nncjit.OptionError, match=says.replace("(", r"\(")):
        nncjit.encode(arrays, **keywords)


def test_options_can_be_made_once_and_changed_by_keyword(arrays: dict[str, np.ndarray]) -> None:
    options = nncjit.Options(qp=-20, rules=[".*bias=raw"])
    assert nncjit.encode(arrays, options) == nncjit.encode(arrays, qp=-20, rules=[".*bias=raw"])
    assert nncjit.encode(arrays, options, qp=-8) == nncjit.encode(arrays, qp=-8, rules=[".*bias=raw"])


def test_quality_trades_size_for_precision(arrays: dict[str, np.ndarray]) -> None:
    sizes = [len(nncjit.encode(arrays, quality=q)) for q in (0.5, 1, 2, 4)]
    assert sizes == sorted(sizes)
    assert snr(arrays, nncjit.encode(arrays, quality=4)) > snr(arrays, nncjit.encode(arrays)) + 8


def test_rules_parse_numbers_words_and_flags() -> None:
    rule = Rule.parse(r"layer\.\d+=qp:-3,rate_weight:0.5,exact:true,scan_order:auto,codebook")
    assert dict(rule.changes) == {
        "qp": -3,
        "rate_weight": 0.5,
        "exact": True,
        "scan_order": "auto",
        "quantizer": "codebook",
    }


def test_the_decoded_matrix_has_the_gain_of_the_original() -> None:
    w = np.random.default_rng(0).standard_normal((150, 200)).astype(np.float32)
    for rate_weight in (0.0, 1.0):
        back = nncjit.decode(nncjit.encode({"w": w}, bits=1.0, rate_weight=rate_weight))["w"]
        assert float((w * back).sum() / np.square(w).sum()) == pytest.approx(1.0, abs=0.01)


def test_a_given_qp_is_kept_as_it_is() -> None:
    w = np.random.default_rng(0).standard_normal((150, 200)).astype(np.float32)
    back = nncjit.decode(nncjit.encode({"w": w}, qp=0, quantizer="uniform"))["w"]
    assert np.array_equal(back, np.rint(back))
