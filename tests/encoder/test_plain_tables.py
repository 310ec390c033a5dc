"""Tables without statistics: turned to their own axes on request."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.errors import OptionError

ROWS, COLUMNS = 1024, 64


@pytest.fixture(scope="module")
def table():
    """Its columns go together."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((COLUMNS, COLUMNS)) * np.geomspace(1, 0.02, COLUMNS)[:, None]
    return (rng.standard_normal((ROWS, COLUMNS)) @ mixing).astype(np.float32)


def report_of(tmp_path, weights, **options):
    return nncjit.compress(weights, tmp_path / "m.nnc", **options)


def test_at_equal_bits_the_error_is_smaller(table, tmp_path):
    plain = report_of(tmp_path, {"t": table}, bits=2.5)
    turned = report_of(tmp_path, {"t": table}, bits=2.5, transform_tables=True)
    assert turned.bits_per_weight == pytest.approx(2.5, rel=0.02)
    assert turned.snr > plain.snr + 4
    assert turned.tensors[0].tool == "feedback + DC"


def test_what_the_report_says_is_what_is_decoded(table, tmp_path):
    report = report_of(tmp_path, {"t": table}, transform_tables=True)
    found = nncjit.decode((tmp_path / "m.nnc").read_bytes())["t"]
    snr = 10 * np.log10(np.square(table).sum() / np.square(found - table).sum())
    assert report.snr == pytest.approx(snr, abs=0.01)
    assert report.loss is None


@pytest.mark.parametrize("target", [{"snr": 20.0}, {"ratio": 6.0}, {"bits": 4.0}])
def test_targets_are_met(table, tmp_path, target):
    weights = {"t": table, "w": np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)}
    report = report_of(tmp_path, weights, transform_tables=True, **target)
    ((kind, wanted),) = target.items()
    found = {"snr": report.snr, "ratio": report.ratio, "bits": report.bits_per_weight}[kind]
    assert found == pytest.approx(wanted, rel=0.02)


def test_a_table_whose_columns_are_alike_stays_as_it_is(tmp_path):
    noise = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    report = report_of(tmp_path, {"t": noise}, transform_tables=True)
    assert report.tensors[0].tool == "trellis"
    assert report.tensors[0].note == "not transformed: a transform of this table would not be smaller"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantizer": "uniform"}, "another quantiser was asked for"),
        ({"qp": -24}, "its step was given"),
        ({"zeros": 0.5}, "weights are changed first"),
        ({"first_dimension": 1}, "another first dimension was asked for"),
    ],
)
def test_what_contradicts_a_transform_is_told(table, tmp_path, options, reason):
    report = report_of(tmp_path, {"t": table}, transform_tables=True, **options)
    assert report.tensors[0].note == f"not transformed: {reason}"
    assert nncjit.encode({"t": table}, **options) == nncjit.encode({"t": table}, transform_tables=True, **options)


def test_a_table_far_from_zero_keeps_its_fine_steps(tmp_path):
    weights = {"t": 100 + np.random.default_rng(4).standard_normal((ROWS, COLUMNS)).astype(np.float32)}
    report = report_of(tmp_path, weights, transform_tables=True)
    assert report.tensors[0].note == "not transformed: its mean is larger than its spread"


def test_other_tensors_do_not_change(table):
    rng = np.random.default_rng(3)
    weights = {
        "square": rng.standard_normal((48, 48)).astype(np.float32),
        "kernel": rng.standard_normal((96, 4, 3, 3)).astype(np.float32),
        "vector": rng.standard_normal(300).astype(np.float32),
        "numbers": np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS),
        "empty": np.zeros((0, 8), np.float32),
        "constant": np.full((ROWS, COLUMNS), 2.0, np.float32),
    }
    data = nncjit.encode(weights)
    turned = nncjit.encode(weights, transform_tables=True)
    plain, found = nncjit.decode(data), nncjit.decode(turned)
    assert all(np.array_equal(plain[name], found[name]) for name in weights)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_tables_of_other_types_and_of_nothing_but_a_few_rows(table, dtype, tmp_path):
    sparse = np.zeros_like(table)
    sparse[3] = table[3]
    weights = {"t": table.astype(dtype), "zero": np.zeros((ROWS, COLUMNS), dtype), "sparse": sparse.astype(dtype)}
    report = report_of(tmp_path, weights, transform_tables=True, profile=0)
    found = nncjit.decode((tmp_path / "m.nnc").read_bytes())
    assert found["t"].dtype == dtype
    assert not found["zero"].any()
    assert report.tensors[0].tool == "feedback + DC"
    assert np.allclose(found["sparse"], sparse, atol=0.2 * np.abs(sparse).max())


def test_who_cannot_read_or_use_it_is_named(table):
    with pytest.raises(OptionError, match="t: transform_tables cannot be used: nncodec could not read it"):
        nncjit.encode({"t": table}, transform_tables=True, compatible="nncodec")
    with pytest.raises(OptionError, match="transform_tables: an update has no use for it"):
        nncjit.update({"t": table}, {"t": table + 1}, transform_tables=True)
