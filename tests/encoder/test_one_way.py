"""One way through the encoder: whatever asks for a tensor's levels or size gets what encoding it would give."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import pytest

import nncjit
from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.encoder.code import Reference, code, estimate
from nncjit.encoder.decision import Decision
from nncjit.encoder.execution import Data
from nncjit.encoder.model_encoder import encode_model, estimate_model
from nncjit.encoder.options import Options
from nncjit.encoder.quantise import QuantisedMatrix
from nncjit.model import Model
from nncjit.reduce import Axis, Group, channel_scores, plan_pruning

PACKAGE = Path(nncjit.__file__).parent
RNG = np.random.default_rng(0)


def floats(*shape: int, spread: float = 0.1) -> np.ndarray:
    return (RNG.standard_normal(shape) * spread).astype(np.float32)


def network() -> dict[str, np.ndarray]:
    """Matrices large enough for their own sizes to count, of little rank, with a bias and integers."""
    low = (floats(240, 12) @ floats(12, 200) + floats(240, 200, spread=0.002)).astype(np.float32)
    return {"a.weight": floats(128, 256), "a.bias": floats(128), "low.weight": low, "n": np.arange(300)}


WAYS = [
    {},
    {"qp": -28},
    {"zeros": 0.7},
    {"pattern": "2:4"},
    {"unify": 0.3},
    {"rank": "auto"},
    {"rank": 8},
    {"scale_rows": True},
    {"blocks": True},
    {"blocks": True, "scale_rows": True, "rank": 0.95},
    {"quantizer": "codebook", "qp": -16},
    {"quantizer": "auto"},
    {"unary_length": "auto"},
    {"rules": {"a.weight": "raw"}},
    {"first_dimension": 1},
    {"rate_weight": 0.3},
]


@pytest.mark.filterwarnings("ignore:.*would not be smaller:nncjit.NncWarning")
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_dry_run_tells_the_size_and_quality_of_the_encoding(options: dict) -> None:
    model = Model.from_mapping(network())
    told, made = estimate_model(model, Options(**options)), encode_model(model, io.BytesIO(), Options(**options))
    assert told.size == pytest.approx(made.size, rel=0.05)
    assert told.snr == pytest.approx(made.snr, abs=0.7)


@pytest.mark.parametrize("reduction", [{}, *WAYS[2:10]], ids=str)
@pytest.mark.parametrize("target", [{"bits": 0.7}, {"ratio": 2.5}])
def test_targets_know_what_reductions_do(target: dict, reduction: dict) -> None:
    arrays = network() | {"n": np.arange(3)}
    data = nncjit.encode(arrays, **target, **reduction)
    weights, n_bytes = sum(a.size for a in arrays.values()), sum(a.nbytes for a in arrays.values())
    reached = 8 * len(data) / weights if "bits" in target else 100 * len(data) / n_bytes
    assert reached == pytest.approx(next(iter(target.values())), rel=0.01)


@pytest.mark.filterwarnings("ignore:.*would not be smaller:nncjit.NncWarning")
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_what_was_reached_is_measured_against_the_original(options: dict, tmp_path: Path) -> None:
    arrays = network()
    encoded = encode_model(Model.from_mapping(arrays), file := io.BytesIO(), Options(**options))
    back = nncjit.decode(file.getvalue())
    for row in encoded.tensors:
        if row.step is not None:
            error = np.square(arrays[row.name].astype(np.float64) - back[row.name]).sum()
            snr = 10 * np.log10(np.square(arrays[row.name].astype(np.float64)).sum() / error)
            assert row.snr == pytest.approx(snr, abs=0.05), row.name


def test_a_dry_run_knows_what_is_pruned() -> None:
    arrays = {"a.weight": floats(64, 100), "a.bias": floats(64), "b.weight": floats(40, 64)}
    group = Group("hidden", 64, (Axis("a.weight", 0), Axis("a.bias", 0), Axis("b.weight", 1)))
    pruning = plan_pruning(arrays, [group], channel_scores(arrays, [group], "l2"), share=0.5)
    model, data = Model.from_mapping(arrays), Data(pruning=pruning)
    told = estimate_model(model, Options(), data=data)
    made = encode_model(model, io.BytesIO(), Options(), data=data)
    assert told.size == pytest.approx(made.size, rel=0.15)
    assert told.size < 0.7 * estimate_model(model, Options()).size


def test_codebooks_work_in_blocks() -> None:
    values = RNG.choice([-0.9, -0.31, 0.0, 0.05, 0.77], (64, 300)).astype(np.float32)
    arrays = {"fc.weight": values, "fc.bias": floats(64)}
    data = nncjit.encode(arrays, blocks=True, quantizer="codebook", qp=-40)
    tools = {tensor.name: tensor.tools for tensor in nncjit.inspect(data).tensors}
    assert "codebook of 5" in tools["fc.weight"]
    plain = nncjit.encode(arrays, blocks=True, quantizer="uniform", qp=-40)
    assert len(data) < len(plain)
    back, same = nncjit.decode(data), nncjit.decode(plain)
    np.testing.assert_array_equal(back["fc.weight"], same["fc.weight"])


def test_a_rule_counts_where_its_value_is_the_models() -> None:
    arrays = {"w": floats(40, 50), "b": floats(300, spread=30.0)}
    fine, ruled = nncjit.encode(arrays, qp=-4), nncjit.encode(arrays, qp=-4, rules={"b": "qp:-4"})
    assert len(ruled) < len(fine)
    error = np.abs(nncjit.decode(ruled)["b"] - arrays["b"]).max()
    assert error == pytest.approx(0.25, rel=0.05), "half of the step of qp -4"


def test_an_incomplete_batch_norm_is_kept_beside_the_block() -> None:
    arrays = {
        "conv.weight": floats(16, 8, 3, 3),
        "conv.bias": floats(16),
        "bn.running_mean": floats(16),
        "bn.running_var": floats(16) ** 2 + 1,
    }
    block = nncjit.reduce.Block(weight="conv.weight", bias="conv.bias", mean="bn.running_mean", var="bn.running_var")
    back = nncjit.decode(nncjit.encode(arrays, given_blocks=[block]))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert np.corrcoef(back[name].ravel(), array.ravel())[0, 1] > 0.99, name


def test_levels_can_be_coded_with_a_reference() -> None:
    layer = Layer.of((40, 60), parent=True, temporal=True)
    base = RNG.integers(-2, 3, layer.size).astype(np.int32)
    levels = (base * (RNG.random(layer.size) < 0.9)).astype(np.int32)
    history = (base != 0).astype(np.uint8)
    decision = Decision(
        quantizer="uniform", qp=-8, density=2, keeps="qp", rate_weight=0.0, exact=False, unary_length=10,
        scan_order=0, initialisation="fast", profile=1,
    )  # fmt: skip
    known = Reference(base, history)
    with_reference = QuantisedMatrix(levels, layer, decision, -8, 0.0, 0.0)
    alone = QuantisedMatrix(levels, layer._replace(temporal=0), decision, -8, 0.0, 0.0)
    encoder = PayloadEncoder()
    code(with_reference, encoder, 0, reference=known)
    payload = encoder.finish()
    assert 8 * len(payload) == pytest.approx(estimate(with_reference, reference=known), rel=0.05)
    assert 8 * len(payload) < 0.8 * estimate(alone)
    out = np.empty(layer.size, np.int32)
    job = LayerJob(layer, out, qp_bits=8, points=as_array([]), base=base, history=history)
    assert decode_payloads([PayloadJob(np.frombuffer(payload, np.uint8), (job,))]) == [[-8]]
    np.testing.assert_array_equal(out, levels)


@pytest.mark.parametrize(("made", "home"), [("NduHeader", "unit_encoder.py"), ("Decision", "decide.py")])
def test_each_thing_is_made_in_one_place(made: str, home: str) -> None:
    makers = {
        path.name
        for path in (PACKAGE / "encoder").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == made
    }
    assert makers == {home}
