"""The encoder's tools: each alone, each in the stream as it should be, and random ones together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import nncjit
from nncjit.jit import JIT
from nncjit.reduce import Axis, Block, Group, channel_scores, plan_pruning
from nncjit.syntax import UnitType

EXAMPLES = 60 if JIT else 4


def network(seed: int = 0) -> dict[str, np.ndarray]:
    """A small convolutional network with batch norm and a linear layer."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * rng.lognormal(0, 0.7, (shape[0], *[1] * (len(shape) - 1)))).astype(
            np.float32
        )

    return {
        "conv1.weight": weights(16, 3, 3, 3),
        "conv1.bias": weights(16, 1)[:, 0],
        "bn1.weight": 1 + 0.1 * weights(16, 1)[:, 0],
        "bn1.bias": weights(16, 1)[:, 0],
        "bn1.running_mean": weights(16, 1)[:, 0],
        "bn1.running_var": np.abs(weights(16, 1)[:, 0]) + np.float32(0.1),
        "bn1.num_batches_tracked": np.array(7),
        "conv2.weight": weights(24, 16, 3, 3),
        "bn2.weight": 1 + 0.1 * weights(24, 1)[:, 0],
        "bn2.bias": weights(24, 1)[:, 0],
        "bn2.running_mean": weights(24, 1)[:, 0],
        "bn2.running_var": np.abs(weights(24, 1)[:, 0]) + np.float32(0.1),
        "fc.weight": weights(40, 24),
        "fc.bias": weights(40, 1)[:, 0],
    }


def tools(data: bytes) -> dict[str, tuple[str, ...]]:
    return {row.name: row.tools for row in nncjit.inspect(data).tensors}


def near(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return float(np.abs(a - b).max()) <= tolerance * float(np.abs(b).max())


def conv_bn(x: np.ndarray, m: dict[str, np.ndarray], conv: str, bn: str) -> np.ndarray:
    """A layer and its batch norm on patches, float64."""
    w = m[f"{conv}.weight"].reshape(m[f"{conv}.weight"].shape[0], -1).astype(np.float64)
    y = x @ w.T + m.get(f"{conv}.bias", 0.0)
    scale = m[f"{bn}.weight"] / np.sqrt(m[f"{bn}.running_var"].astype(np.float64) + 1e-5)
    return (y - m[f"{bn}.running_mean"]) * scale + m[f"{bn}.bias"]


@pytest.mark.parametrize("quantizer", ["trellis", "uniform"])
@pytest.mark.parametrize("fold", [False, True])
def test_batch_norms_in_blocks_compute_the_same(fold: bool, quantizer: str) -> None:
    model = network()
    data = nncjit.encode(model, blocks=True, fold_batchnorm=fold, snr=50, quantizer=quantizer)
    back = nncjit.decode(data)
    assert list(back) == list(model)
    assert {n: a.shape for n, a in back.items()} == {n: a.shape for n, a in model.items()}
    assert "block" in tools(data)["conv1.weight"]
    rng = np.random.default_rng(1)
    for conv, bn, width in (("conv1", "bn1", 27), ("conv2", "bn2", 144)):
        x = rng.standard_normal((50, width))
        assert near(conv_bn(x, back, conv, bn), conv_bn(x, model, conv, bn), 0.03)
    if fold:
        assert np.array_equal(back["bn1.running_var"], np.ones(16, np.float32))
        assert not back["bn1.running_mean"].any()
        assert back["conv2.weight"].std() != pytest.approx(model["conv2.weight"].std(), rel=0.02)
    with nncjit.open(data) as f:
        assert np.array_equal(f.get_tensor("bn2.bias"), back["bn2.bias"])


def test_blocks_can_be_given() -> None:
    model = {"a": network()["fc.weight"], "b": network()["fc.bias"], "x": np.zeros(3, np.float32)}
    data = nncjit.encode(model, given_blocks=[Block(weight="a", bias="b")], snr=40)
    assert "block" in tools(data)["a"]
    back = nncjit.decode(data)
    assert list(back) == ["a", "b", "x"]
    assert near(back["b"], model["b"], 0.05)
    with pytest.raises(nncjit.ModelError, match="x"):
        nncjit.encode(model, given_blocks=[Block(weight="a", bias="x")])


def test_factors_are_coded_and_multiplied() -> None:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((60, 5)) @ rng.standard_normal((5, 80))).astype(np.float32).reshape(60, 8, 10)
    for rank in (5, 0.999, "auto"):
        data = nncjit.encode({"w": w}, rank=rank, snr=45)
        assert "G" in {t for name in tools(data).values() for t in name}
        back = nncjit.decode(data)
        assert list(back) == ["w"]
        assert back["w"].shape == w.shape
        assert near(back["w"], w, 0.05)
        assert list(nncjit.decode(data, parts=True)) == ["w_G", "w_H"]
    assert len(nncjit.encode({"w": w}, rank=5, snr=30)) < 0.4 * len(nncjit.encode({"w": w}, snr=30))
    with pytest.raises(nncjit.OptionError, match="w"):
        nncjit.encode({"w": w}, rank=61)
    full = np.random.default_rng(1).standard_normal((60, 80)).astype(np.float32)
    assert "G" not in {t for row in tools(nncjit.encode({"w": full}, rank="auto")).values() for t in row}
    assert len(nncjit.encode({"w": full}, rank="auto")) <= len(nncjit.encode({"w": full}))


def test_rows_are_scaled_one_by_one() -> None:
    w = network()["fc.weight"] * np.logspace(0, -3, 40, dtype=np.float32)[:, None]
    plain, scaled = (nncjit.decode(nncjit.encode({"w": w}, bits=4, scale_rows=s))["w"] for s in (False, True))
    assert "LS" in {t for row in tools(nncjit.encode({"w": w}, scale_rows=True)).values() for t in row}

    def worst(back: np.ndarray) -> float:
        return float((np.square(back - w).sum(1) / np.square(w).sum(1)).max())

    assert worst(scaled) < 0.1 * worst(plain)


def test_the_share_of_zeros_is_met() -> None:
    w = network()["conv2.weight"]
    back = nncjit.decode(nncjit.encode({"w": w}, zeros=0.7, quantizer="uniform", quality=8))["w"]
    assert np.count_nonzero(back == 0) >= round(0.7 * w.size)
    largest = np.abs(w) > np.quantile(np.abs(w), 0.72)
    assert np.all(back[largest] != 0)


def test_one_ranking_for_the_whole_model() -> None:
    small, large = network()["fc.weight"] * np.float32(0.01), network(1)["fc.weight"]
    data = nncjit.encode({"s": small, "l": large}, zeros=0.5, zeros_scope="model", quantizer="uniform", quality=8)
    back = nncjit.decode(data)
    zeros = {name: int(np.count_nonzero(a == 0)) for name, a in back.items()}
    assert zeros["s"] > 0.8 * small.size
    assert zeros["l"] < 0.3 * large.size


def test_sensitivity_decides_what_is_zeroed() -> None:
    w = np.ones((8, 8), np.float32)
    keep = np.zeros((8, 8), np.float32)
    keep[:4] = 1
    data = nncjit.encode({"w": w}, zeros=0.5, sensitivity={"w": keep}, quantizer="uniform")
    assert np.array_equal(nncjit.decode(data)["w"] != 0, keep != 0)


def test_n_of_m_stay() -> None:
    w = network()["conv2.weight"]
    back = nncjit.decode(nncjit.encode({"w": w}, pattern="2:4", quantizer="uniform", quality=16))["w"]
    assert (np.count_nonzero(back.reshape(-1, 4), axis=1) <= 2).all()
    with pytest.raises(nncjit.OptionError, match="conv1"):
        nncjit.encode({"conv1": network()["conv1.weight"]}, pattern="2:4")


def test_blocks_of_one_magnitude() -> None:
    w = network()["fc.weight"]
    back = nncjit.decode(nncjit.encode({"w": w}, unify=1.0, block_shape="1x4", quantizer="uniform", quality=8))["w"]
    groups = np.abs(back.reshape(-1, 4))
    assert np.array_equal(groups.min(1), groups.max(1))


def test_output_channels_last_become_rows() -> None:
    kernel = np.moveaxis(network()["conv2.weight"], 0, 3).copy()
    data = nncjit.encode({"k": kernel}, first_dimension=3, qp=-24)
    back = nncjit.decode(data)["k"]
    assert back.shape == kernel.shape
    assert near(back, kernel, 0.05)
    with pytest.raises(nncjit.OptionError, match="k: first_dimension"):
        nncjit.encode({"k": kernel, "b": np.ones(3, np.float32)}, first_dimension=4)
    assert list(nncjit.decode(nncjit.encode({"k": kernel, "b": np.ones(3)}, first_dimension=3))) == ["k", "b"]
    plain = nncjit.decode(nncjit.encode({"k": network()["conv2.weight"]}, qp=-24))["k"]
    assert np.array_equal(np.moveaxis(back, 3, 0), plain)


def test_tensors_joined_in_one_unit_come_apart() -> None:
    rng = np.random.default_rng(0)
    model = {f"layer{i}.q": rng.standard_normal((4 + i, 6)).astype(np.float32) for i in range(3)}
    model["other"] = rng.standard_normal((4, 6)).astype(np.float32)
    data = nncjit.encode(model, rules={"layer.*": {"join": "q"}}, snr=30)
    assert len([u for u in nncjit.inspect(data).units if u["type"] == "NDU"]) == 2
    back = nncjit.decode(data)
    assert list(back) == list(model)
    assert all(near(back[name], model[name], 0.2) for name in model)
    with pytest.raises(nncjit.OptionError, match="joined"):
        nncjit.encode(model | {"layer9.q": np.zeros((4, 7), np.float32)}, rules={"layer.*": {"join": "q"}})


def test_a_group_stands_in_an_aggregate_with_its_own_parameters() -> None:
    model = network()
    data = nncjit.encode(model, rules={"conv.*": {"group": "convolutions"}, "fc.*": {"group": "head"}}, snr=30)
    units = nncjit.inspect(data).units
    kinds = [u["type"] for u in units]
    assert kinds.count("AGG") == 2
    assert kinds.count("LPS") == 2
    back = nncjit.decode(data)
    assert list(back) == list(model)
    assert np.array_equal(back["conv2.weight"], nncjit.decode(nncjit.encode(model, snr=30))["conv2.weight"])


def test_names_by_index_and_payloads_in_parts() -> None:
    model = network()
    plain = nncjit.decode(nncjit.encode(model, fold_batchnorm=True))
    data = nncjit.encode(model, fold_batchnorm=True, references="index", max_unit_bytes=500)
    assert any("partial data" in t for t in tools(data).values())
    back = nncjit.decode(data)
    assert list(back) == list(plain)
    assert all(np.array_equal(back[name], plain[name]) for name in plain)


def test_pruned_channels_travel_and_come_back_as_zeros(tmp_path: Path) -> None:
    model = {n: a for n, a in network().items() if not n.startswith("fc")}
    members = tuple(Axis(n, 0) for n in model if n.split(".")[0] in ("conv1", "bn1") and n != "bn1.num_batches_tracked")
    groups = [Group("conv1", 16, (*members, Axis("conv2.weight", 1)))]
    pruning = plan_pruning(model, groups, channel_scores(model, groups), share=0.25)
    data = nncjit.encode(model, pruning=pruning, snr=40)
    assert len(data) < len(nncjit.encode(model, snr=40))
    small = nncjit.decode(data)
    assert small["conv1.weight"].shape == (12, 3, 3, 3)
    assert small["conv2.weight"].shape == (24, 12, 3, 3)
    full = nncjit.decode(data, full_size=True)
    assert {n: a.shape for n, a in full.items()} == {n: a.shape for n, a in model.items()}
    (tmp_path / "m.nnc").write_bytes(data)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "m.safetensors", full_size=True)
    filed = load_file(tmp_path / "m.safetensors")
    assert all(np.array_equal(filed[name], full[name]) for name in full)
    removed = np.setdiff1d(np.arange(16), pruning.kept["conv1"])
    assert not full["conv2.weight"][:, removed].any()
    assert np.array_equal(full["conv2.weight"][:, pruning.kept["conv1"]], small["conv2.weight"])


@pytest.mark.filterwarnings("ignore:.*a codebook would not be smaller:nncjit.NncWarning")
def test_auto_is_no_larger_than_what_it_chose_from() -> None:
    rng = np.random.default_rng(0)
    levels = np.array([-0.5, -0.125, 0, 0.25, 1.0], np.float32)
    ternary = levels[rng.integers(0, 5, (120, 90))]
    gauss = rng.standard_normal((120, 90)).astype(np.float32)
    for w in (ternary, gauss):
        sizes = {q: len(nncjit.encode({"w": w}, quantizer=q, qp=-16)) for q in ("trellis", "uniform", "codebook")}
        auto = nncjit.encode({"w": w}, quantizer="auto", unary_length="auto", qp=-16)
        assert len(auto) <= 1.01 * min(sizes["uniform"], sizes["codebook"])
    assert "codebook of 5" in " ".join(tools(nncjit.encode({"w": ternary}, quantizer="codebook", qp=-12))["w"])


def test_the_whole_stream_is_of_known_units() -> None:
    data = nncjit.encode(network(), blocks=True, references="index")
    assert {u["type"] for u in nncjit.inspect(data).units} <= {t.name for t in UnitType}


CHOICES = {
    "quantizer": st.sampled_from(["trellis", "uniform", "codebook", "auto"]),
    "unary_length": st.sampled_from([1, 11, "auto"]),
    "scan_order": st.sampled_from(["auto", 0, 1]),
    "zeros": st.sampled_from([0.0, 0.5]),
    "unify": st.sampled_from([0.0, 0.5]),
    "rank": st.sampled_from([None, 2, 0.9, "auto"]),
    "scale_rows": st.booleans(),
    "rate_weight": st.sampled_from([0.0, 0.5]),
    "group": st.sampled_from(["", "g"]),
}
OPTIONS = {
    "blocks": st.booleans(),
    "fold_batchnorm": st.booleans(),
    "references": st.sampled_from(["name", "index"]),
    "max_unit_bytes": st.sampled_from([None, 300]),
    "zeros_scope": st.sampled_from(["tensor", "model"]),
    "profile": st.sampled_from([0, 1]),
}


@pytest.mark.filterwarnings("ignore::nncjit.errors.NncWarning")
@settings(max_examples=EXAMPLES)
@given(
    choices=st.fixed_dictionaries({}, optional=CHOICES),
    options=st.fixed_dictionaries({}, optional=OPTIONS),
    ruled=st.fixed_dictionaries({}, optional=CHOICES),
    seed=st.integers(0, 50),
)
def test_tools_combine(choices: dict, options: dict, ruled: dict, seed: int) -> None:
    model = network(seed)
    rules = {"conv2.*": ruled} if ruled else {}
    data = nncjit.encode(model, quality=4, rules=rules, **choices, **options)
    back = nncjit.decode(data, threads=2)
    assert list(back) == list(model)
    for name, array in model.items():
        assert back[name].shape == array.shape
        assert back[name].dtype == array.dtype
        assert np.isfinite(back[name]).all()
    assert nncjit.verify(data).checksum
    lossy = any(d.get(k) for d in (choices, ruled) for k in ("zeros", "unify", "rank"))
    if not lossy and not options.get("fold_batchnorm"):
        for name, array in model.items():
            assert near(back[name], array, 0.5), name
