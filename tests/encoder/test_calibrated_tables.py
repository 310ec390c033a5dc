"""Tables with statistics: transform coding, weighted by how often rows are used."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit.calibrate import Calibration
from nncjit.encoder.execution import Data
from nncjit.encoder.grouping import items_of
from nncjit.encoder.options import Options
from nncjit.encoder.plan import Plan
from nncjit.encoder.table_transform import TableMetric
from nncjit.encoder.unit_encoder import quantised_units
from nncjit.model import Model

ROWS, COLUMNS = 600, 24


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def case():
    """A table whose columns go together and whose first rows are used most."""
    rng = np.random.default_rng(0)
    table = draw(rng, ROWS, COLUMNS) @ (draw(rng, COLUMNS, COLUMNS) * np.geomspace(1, 0.05, COLUMNS)[:, None])
    mixing = draw(rng, COLUMNS, COLUMNS) * np.geomspace(3, 0.1, COLUMNS)
    calibration = Calibration()
    for _ in range(80):
        ids = np.minimum(rng.zipf(1.5, 12) - 1, ROWS - 1)
        calibration.table("words", (ROWS, COLUMNS)).add(ids, draw(rng, 12, COLUMNS) @ mixing)
        calibration.end_samples(1, output_power=3e4)
    return {"words": table.astype(np.float32)}, calibration.statistics()


def test_factors_compose_what_the_decoder_finds(case):
    weights, statistics = case
    model = Model.from_mapping(weights)
    plan = Plan.of((t.info for t in model), Options(), Data(calibration=statistics))
    (item,) = items_of(model, plan)
    (unit,) = quantised_units(item, plan, None)
    assert unit.roles == ("LS", "G", "H")
    scale, g, h = unit.matrices
    shapes = ((ROWS, 1), (g.layer.rows, g.layer.width), (h.layer.rows, h.layer.width))
    scale, g, h = (matrix.values(shape) for matrix, shape in zip((scale, g, h), shapes, strict=True))
    found = nncjit.decode(nncjit.encode(weights, calibration=statistics))["words"]
    assert np.allclose(found, scale * (g @ h), rtol=1e-6, atol=1e-6)
    assert (scale > 0).all()
    rare, common = scale[-100:].mean(), scale[:4].mean()
    assert common < 0.5 * rare


def loss(weights, found, statistics):
    record = statistics["words"]
    shares = record.energy() / record.energy().sum()
    columns = record.metric()[0] + 1e-9 * np.eye(COLUMNS)
    metric = TableMetric(columns, np.linalg.cholesky(columns), 0.5 * shares + 0.5 / ROWS, 1.0)
    return metric.loss(found - weights["words"])


@pytest.mark.parametrize("bits", [1.7, 3.0])
def test_at_equal_bits_less_is_lost(case, bits):
    weights, statistics = case
    calibrated = nncjit.decode(nncjit.encode(weights, calibration=statistics, bits=bits))["words"]
    plain = nncjit.decode(nncjit.encode(weights, bits=bits))["words"]
    assert loss(weights, calibrated, statistics) < 0.5 * loss(weights, plain, statistics)


@pytest.mark.parametrize("target", [{"bits": 2.0}, {"loss": 0.02}])
def test_targets_are_met(case, tmp_path, target):
    weights, statistics = case
    report = nncjit.compress(weights, tmp_path / "m.nnc", calibration=statistics, **target)
    ((kind, wanted),) = target.items()
    assert (report.bits_per_weight if kind == "bits" else report.loss) == pytest.approx(wanted, rel=0.05)
    assert report.tensors[0].tool == "feedback + DC + LS"


@pytest.mark.parametrize("bits", [4.0, 5.0, 6.0])
@pytest.mark.parametrize("seed", [0, 1, 5, 7])
def test_targets_are_met_where_a_transform_pays_at_some_steps_alone(seed, bits):
    """The search and the encoding decide alike, although the transform pays by the default's lambda, or else by the
    target's.
    """
    rng = np.random.default_rng(seed)
    weights = {"t": draw(rng, 500, 8)}
    calibration = Calibration()
    for _ in range(30):
        calibration.table("t", (500, 8)).add(rng.integers(0, 100, 6), draw(rng, 6, 8))
        calibration.end_samples(1, output_power=1e3)
    data = nncjit.encode(weights, calibration=calibration.statistics(), bits=bits, frequency_weight=1.0)
    assert 8 * len(data) / weights["t"].size == pytest.approx(bits, rel=0.03)


def test_without_weight_on_frequency_all_rows_are_alike(case):
    weights, statistics = case
    errors = {}
    for beta in (0.0, 1.0):
        data = nncjit.encode(weights, calibration=statistics, bits=2.7, frequency_weight=beta)
        error = np.square(nncjit.decode(data)["words"] - weights["words"]).mean(1)
        errors[beta] = error[:4].mean() / error[-200:].mean()
    assert errors[1.0] < 0.3 * errors[0.0]
    assert 0.3 < errors[0.0] < 3


def test_few_rows_are_no_table(case, tmp_path):
    rng = np.random.default_rng(1)
    calibration = Calibration()
    calibration.table("t", (6, 8)).add(np.arange(6), draw(rng, 6, 8))
    calibration.end_samples(1, output_power=1.0)
    report = nncjit.compress({"t": draw(rng, 6, 8)}, tmp_path / "m.nnc", calibration=calibration.statistics())
    assert report.tensors[0].note == "calibrated step only: a transform of this table would not be smaller"


@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_a_table_of_zeros_and_unused_rows_do_no_harm():
    rng = np.random.default_rng(2)
    weights = {"t": np.concatenate([draw(rng, 100, 8), np.zeros((100, 8), np.float32)])}
    calibration = Calibration()
    calibration.table("t", (200, 8)).add(np.array([3]), draw(rng, 1, 8))
    calibration.end_samples(1, output_power=10.0)
    found = nncjit.decode(nncjit.encode(weights, calibration=calibration.statistics(), frequency_weight=1.0))["t"]
    assert np.isfinite(found).all()
    assert np.abs(found[100:]).max() < 0.1
