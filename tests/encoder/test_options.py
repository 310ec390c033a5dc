"""Options are checked when they are made; rules change single tensors; targets are hit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nncjit
from nncjit.encoder.rules import Rule
from nncjit.jit import JIT
from nncjit.quant import steps


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
    data = nncjit.encode(arrays, rules=[".*bias=raw", r"enc\..*=qp:-20", ".*weight=uniform"])
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
        ({"rules": {".*": {"bits": 3, "snr": 20}}}, "bits and snr"),
        ({"rules": {".*": "profile:0"}}, "no rule can change it"),
        ({"rules": {".*": 5}}, "5 must be options by name"),
        ({"rules": 5}, "rules is 5"),
        ({"bits": 3, "quality": 2}, "bits and quality"),
        ({"bitz": 4}, "did you mean 'bits'"),
        ({"options": 4}, "options is 4, must be nncjit.Options"),
        ({"scale_rows": "no"}, "scale_rows is 'no', must be True or False"),
        ({"pattern": "4:2"}, "pattern is '4:2', must be n:m"),
        ({"pattern": (2, 4, 8)}, "pattern is"),
        ({"block_shape": "4"}, "block_shape is '4', must be two or more sides"),
        ({"rank": 0}, "rank is 0"),
        ({"max_unit_bytes": 3}, "a whole number in 256..2147483648"),
        ({"threads": 10**6}, "threads is 1000000, must be a whole number in 1..4096"),
        ({"sensitivity": 3}, "sensitivity is 3"),
        ({"pruning": 3}, "pruning is 3"),
        ({"progress": 3}, "progress is 3"),
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


def test_what_is_no_option_is_refused_with_a_hint() -> None:
    with pytest.raises(nncjit.OptionError, match="threads is no option of a stream: give it to encode or compress"):
        nncjit.Options(threads=2)


def test_a_new_kind_of_fineness_takes_the_place_of_the_old_one() -> None:
    options = nncjit.Options(qp=-20, zeros=0.5)
    assert options.replace(bits=3) == nncjit.Options(bits=3, zeros=0.5)
    assert options.replace(bits=None) == options
    assert options.replace(qp=None) == nncjit.Options(zeros=0.5)


@pytest.mark.parametrize(
    ("text", "number"),
    [({"pattern": "2:4"}, {"pattern": (2, 4)}), ({"zeros": 0.5, "block_shape": "1x4"}, {"block_shape": [1, 4]})],
)
def test_text_and_numbers_spell_the_same(
    arrays: dict[str, np.ndarray], text: dict[str, object], number: dict[str, object]
) -> None:
    assert nncjit.encode(arrays, **text) == nncjit.encode(arrays, **(text | number))


@pytest.mark.parametrize("qp", [-33, -20, -6])
@pytest.mark.parametrize("quantizer", ["trellis", "uniform"])
def test_a_rule_counts_also_where_it_says_what_the_model_says(
    arrays: dict[str, np.ndarray], qp: int, quantizer: str
) -> None:
    both = nncjit.encode(arrays, qp=qp, quantizer=quantizer, rules={".*bias": f"qp:{qp}"})
    decoded = nncjit.decode(both)["enc.bias"]
    step = float(steps.step(qp, 2))
    assert np.array_equal(decoded, (np.rint(arrays["enc.bias"] / step) * step).astype(np.float32))
    rule_alone = nncjit.encode(arrays, quantizer=quantizer, rules={".*bias": f"qp:{qp}"})
    assert np.array_equal(nncjit.decode(rule_alone)["enc.bias"], decoded)


def test_the_number_of_threads_and_a_progress_never_change_the_stream(arrays: dict[str, np.ndarray]) -> None:
    told: list[tuple[int, int, str]] = []
    with_three = nncjit.encode(arrays, threads=3, progress=lambda *args: told.append(args))
    assert with_three == nncjit.encode(arrays, threads=1)
    total = sum(a.size for a in arrays.values())
    assert [name for _, _, name in told] == list(arrays)
    assert told[-1][:2] == (total, total)


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
