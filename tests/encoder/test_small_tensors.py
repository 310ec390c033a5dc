"""Small tensors that are encoded together get the bytes and the report that each gets alone."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration
from nncjit.encoder import small_tensors

SIZES = (0, 1, 7, 8, 100, 3000, 8193)
KINDS = {
    "plain": lambda v: v,
    "one sign": np.abs,
    "zeros": np.zeros_like,
    "constant": lambda v: np.full_like(v, 0.37),
    "many magnitudes": lambda v: v * 10.0 ** (np.arange(len(v)) % 60 - 30),
    "not finite": lambda v: np.where(np.arange(len(v)) == 0, np.nan, v),
    "tiny": lambda v: v * 1e-38,
    "huge": lambda v: v * 1e38,
    "whole": lambda v: np.rint(5 * v),
    "one outlier": lambda v: np.where(np.arange(len(v)) == 0, 1e4, 1e-3 * v),
    "reversed": lambda v: v[::-1],
    "a column": lambda v: v.reshape(-1, 1),
}
MATRICES = {
    "square": lambda m: m,
    "rows of zeros": lambda m: m * (np.arange(len(m)) % 3 > 0).reshape(-1, *[1] * (m.ndim - 1)),
    "offset": lambda m: m + 3,
    "constant": lambda m: np.full_like(m, 0.37),
    "one outlier": lambda m: np.where(m == m.max(), 1e4, 1e-3 * m),
    "not finite": lambda m: np.where(m == m.max(), np.inf, m),
    "tiny": lambda m: m * 1e-38,
    "turned": lambda m: m.T,
    "sparse": lambda m: np.where(np.abs(m) > 1.5, m, 0),
}
SHAPES = ((2, 2), (16, 16), (4, 3, 3, 3), (1, 200), (90, 2), (128, 64))
OPTIONS = [
    {},
    {"quality": 4.0, "selection": "exact"},
    {"preset": "tiny"},
    {"exact": True, "rate_weight": 0.3, "rules": {".* tiny": {"rate_weight": 0.0}}},
    {"profile": 0, "selection": "none", "unary_length": 3},
    {"references": "index", "quantizer": "codebook", "unary_length": "auto"},
    {"rules": {"1.*": {"qp": 20}, "2.*": {"unary_length": 5}, "3.*": "raw", "4.*": {"rate_weight": 1.0}}},
    {"rules": {"1.*": {"group": "a"}, "2.*": "lossless", "3.*": {"first_dimension": 1}, "4.*": {"bits": 6}}},
    {"scan_order": 2, "quantizer": "uniform", "bits": 3.0},
    {"rules": {"1.*": {"zeros": 0.5}, "2.*": {"rank": 1}, "3.*": {"scale_rows": True}, "4.*": {"unify": 0.3}}},
    {"transform_tables": True, "rules": {"3.*": {"quantizer": "auto"}, "9 matrix.*": {"pattern": (2, 4)}}},
]
ALONE = [{"selection": "reference"}]
"""With these, no tensor goes together with others."""


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    arrays = {}
    for k, (size, (kind, change)) in enumerate(itertools.product(SIZES, KINDS.items())):
        dtype = ("float32", "float16", "float64")[k % 3]
        with np.errstate(over="ignore"):
            arrays[f"{k} {kind}"] = change(random.standard_normal(size)).astype(dtype)
    for k, (shape, (kind, change)) in enumerate(itertools.product(SHAPES, MATRICES.items())):
        dtype = ("float32", "float16")[k % 2]
        arrays[f"{k} matrix {kind}"] = np.asarray(change(random.standard_normal(shape))).astype(dtype)
    arrays |= {f"{k} scalar": np.array(value, np.float32) for k, value in enumerate((0.3, -7.0, 0.0, np.nan))}
    return arrays | {"matrix": random.standard_normal((40, 50), dtype=np.float32), "integers": np.arange(9)}


@pytest.fixture(scope="module")
def statistics(model):
    """Of the matrix and of one vector."""
    random = np.random.default_rng(1)
    calibration = Calibration()
    calibration.linear("matrix", model["matrix"].shape).add(random.standard_normal((60, 50)), np.ones((60, 40)))
    calibration.rows("48 plain", (100,)).add(random.standard_normal((1, 100)), np.ones((1, 1)))
    calibration.end_samples(1, output_power=1.0)
    return calibration.statistics()


@pytest.fixture
def together(monkeypatch):
    """How many tensors of each bundle went together."""
    counts = []

    def coded_together(bundle, plan):
        found = original(bundle, plan)
        counts.append(len(found))
        return found

    original = small_tensors.coded_together
    monkeypatch.setattr(small_tensors.PAYLOADS_KERNEL, "pays", lambda _: True)
    monkeypatch.setattr(small_tensors, "coded_together", coded_together)
    return counts


def encoded(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = nncjit.encode(model, **options)
    return stream, stream.report.tensors


@pytest.mark.parametrize("options", OPTIONS + ALONE, ids=str)
def test_together_as_alone(model, options, together, monkeypatch):
    found = encoded(model, **options)
    assert (sum(together) > 0) == (options in OPTIONS)
    monkeypatch.setattr(small_tensors, "FEWEST", math.inf)
    assert encoded(model, **options) == found


def test_vectors_with_statistics_and_all_matrices_of_such_a_model_go_alone(model, statistics, together, monkeypatch):
    found = encoded(model, calibration=statistics)
    count = sum(together)
    assert encoded(model)[0] != found[0]
    assert 0 < count < sum(together) - count
    monkeypatch.setattr(small_tensors, "FEWEST", math.inf)
    assert encoded(model, calibration=statistics) == found
