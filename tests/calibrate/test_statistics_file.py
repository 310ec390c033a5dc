"""Statistics files: what is saved is found again, and nothing else is taken for one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rewritten_statistics import rewritten

from nncjit import ModelError, NncWarning, OptionError
from nncjit.calibrate import Calibration, Statistics, TableSums, fisher_probe, gaussian_probe
from nncjit.calibrate.statistics_file import FORMAT


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def collected(seed=0, samples=20, **settings):
    """One weight of each kind."""
    rng = np.random.default_rng(seed)
    calibration = Calibration(**settings)
    for _ in range(samples):
        calibration.linear("fc", (4, 6)).add(draw(rng, 5, 6), draw(rng, 5, 4))
        calibration.linear("keras", (6, 4), axis=0).add(1e-5 * draw(rng, 5, 6), draw(rng, 5, 4))
        calibration.convolution("conv", (8, 3, 3, 3), groups=2).add(draw(rng, 7, 54), draw(rng, 7, 8))
        calibration.table("words", (9, 5)).add(rng.integers(0, 4, 6), draw(rng, 6, 5))
        calibration.table("places", (7, 5), positions=True).add(np.arange(3), draw(rng, 3, 5))
        calibration.end_samples(1, output_power=2.0)
    return calibration


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-6), ("float16", 1e-3)])
@pytest.mark.parametrize("widest_block", [0, 4, 4096])
def test_what_is_saved_is_found_again(tmp_path, precision, error, widest_block):
    calibration = collected(widest_block=widest_block)
    kept = calibration.statistics()
    path = tmp_path / "s.safetensors"
    calibration.save(path, precision=precision)
    with Statistics.open(path) as found:
        assert list(found) == list(kept) == ["fc", "keras", "conv", "words", "places"]
        assert (found.samples, found.output_power, found.loss) == (20, 2.0, kept.loss)
        for name in found:
            assert found[name].record == kept[name].record
            wanted = kept[name].metric()
            scale = np.abs(wanted).max()
            assert np.allclose(found[name].metric(), wanted, rtol=0, atol=error * scale)
        assert np.array_equal(found["words"].energy(), kept["words"].energy())
        assert found["words"].uses().sum() <= 20 * 6
        assert found["places"].record.kind == "linear"
        assert found["fc"].record.samples == 20
        assert found["fc"].record.tokens == 100


def test_going_on_is_as_if_it_had_never_stopped(tmp_path):
    path = tmp_path / "s.safetensors"
    collected(seed=1).save(path, precision="float32")
    with Statistics.open(path) as earlier:
        resumed = collected(seed=2)
        resumed.merge(earlier)
    found = resumed.statistics()
    first, second = (collected(seed=seed).statistics() for seed in (1, 2))
    assert found.samples == 40
    assert found.output_power == pytest.approx(2.0)
    for name in found:
        wanted = (first[name].metric() + second[name].metric()) / 2
        if name == "fc":  # the two parts are mixed, and their ratio is that of all samples
            assert np.allclose(found[name].metric(), wanted, rtol=0.2, atol=0.05 * wanted.max())
            assert np.trace(found[name].metric()[0]) == pytest.approx(np.trace(wanted[0]), rel=1e-4)
        elif name != "keras":
            assert np.allclose(found[name].metric(), wanted, rtol=1e-4, atol=1e-5 * wanted.max())
    assert np.allclose(found["words"].energy(), (first["words"].energy() + second["words"].energy()) / 2)
    assert np.array_equal(found["words"].uses(), first["words"].uses() + second["words"].uses())


def test_layers_in_one_tensor_share_the_mean_of_their_metrics(tmp_path):
    rng = np.random.default_rng(3)
    calibration, alone = Calibration(), [Calibration(), Calibration()]
    for k in (0, 1, 1):
        x, g = draw(rng, 5, 6), draw(rng, 5, 4)
        calibration.linear("w", (2, 4, 6), axis=2).add(x, g)
        alone[k].linear("w", (4, 6)).add(x, g)
    for each in (calibration, *alone):
        each.end_samples(3)
    calibration.save(tmp_path / "s.safetensors", precision="float32")
    with Statistics.open(tmp_path / "s.safetensors") as found:
        record = found["w"].record
        assert (record.inputs, record.outputs, record.layers, record.taps) == (6, 4, 2, 1)
        one, two = (each.statistics()["w"].metric() for each in alone)
        assert np.trace(found["w"].metric()[0]) == pytest.approx(np.trace((one + two)[0]) / 2, rel=1e-4)
        going_on = Calibration()
        going_on.merge(found)
    again, whole = (each.statistics()["w"].metric() for each in (going_on, calibration))
    assert np.allclose(again, whole, rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="contradicts itself"):
        calibration.linear("v", (2, 4, 6), axis=0)


def test_a_layer_that_few_tokens_reached_leans_on_those_that_are_alike():
    rng = np.random.default_rng(4)
    mixing = draw(rng, 24, 24)
    calibration = Calibration()
    for name, tokens in (("a", 4000), ("b", 4000), ("few", 6), ("none", 0)):
        layer = calibration.linear(name, (8, 24))
        for _ in range(tokens // 2):
            layer.add(draw(rng, 2, 24) @ mixing, draw(rng, 2, 8))
    calibration.end_samples(4003)
    own = {name: found.metric()[0] for name, found in calibration.statistics().items()}
    calibration.alike(["a", "b", "few", "none"])
    mixed = {name: found.metric()[0] for name, found in calibration.statistics().items()}
    true = 2 * mixing.T @ mixing / 4003

    def off(metric):
        return np.linalg.norm(metric / np.trace(metric) - true / np.trace(true))

    assert off(mixed["few"]) < off(own["few"]) / 3
    assert np.allclose(mixed["a"], own["a"], rtol=0, atol=0.02 * own["a"].max())
    assert np.trace(mixed["few"]) < 2 * np.trace(own["few"])
    assert not mixed["none"].any()


def test_a_table_sums_the_gradients_of_a_sample_by_row():
    rng = np.random.default_rng(3)
    sums = TableSums.of("t", (5, 3))
    ids, g = np.array([1, 4, 1, 1]), draw(rng, 4, 3)
    sums.add(ids, g)
    one, four = g[[0, 2, 3]].sum(0), g[1]
    assert np.allclose(sums.metric[0], np.outer(one, one) + np.outer(four, four), atol=1e-5)
    assert np.allclose(sums.energy, [0, one @ one, 0, 0, four @ four], atol=1e-5)
    assert sums.uses.tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ModelError, match=r"outside 0\.\.4"):
        sums.add(np.array([5]), g[:1])


def test_a_model_that_does_not_fit_is_refused_and_a_part_of_it_told():
    statistics = collected().statistics()
    shapes = {name: statistics[name].record.shape for name in statistics}
    assert statistics.check(shapes | {"more": (3, 3)}) == []
    assert statistics.check({"fc": (4, 6)}) == ["keras", "conv", "words", "places"]
    with pytest.raises(ModelError, match=r"is \[6, 4\] in the model .* dimensions in another order; compress the"):
        statistics.check({**shapes, "fc": (6, 4)})
    with pytest.raises(ModelError, match="of another model"):
        statistics.check({**shapes, "fc": (6, 5)})
    with pytest.raises(ModelError, match="of another model"):
        statistics.check({"else": (4, 6)})


def test_samples_left_out_are_told():
    calibration = collected()
    calibration.linear("fc", (4, 6)).add(np.full((1, 6), np.nan), np.ones((1, 4)))
    with pytest.warns(NncWarning, match="fc: 1 samples had numbers that are not finite"):
        calibration.statistics()


@pytest.mark.parametrize("widest", [0, 4, 100])
@pytest.mark.parametrize("kind", ["linear", "convolution", "rows", "table"])
def test_sums_beyond_float32_are_told(kind, widest, tmp_path):
    calibration = Calibration(widest_block=widest)
    big = np.float32(1e30)
    if kind == "table":
        calibration.table("w", (5, 6)).add(np.array([1, 3]), np.full((2, 6), big))
    else:
        sums = getattr(calibration, kind)("w", (5, 6))
        sums.add(np.full((3, sums.record.inputs), big), np.full((3, sums.record.outputs), big))
    calibration.end_samples(1)
    for work in (calibration.statistics, lambda: calibration.save(tmp_path / "s.safetensors")):
        with pytest.raises(ModelError, match="w: the sums are not finite"):
            work()
    assert not list(tmp_path.iterdir())


def test_one_name_is_one_weight():
    calibration = collected()
    with pytest.raises(ModelError, match="fc: is collected for already"):
        calibration.linear("fc", (6, 4))
    with pytest.raises(ModelError, match="fc: is collected for already"):
        calibration.table("fc", (4, 6))
    with pytest.raises(ModelError, match="no samples"):
        Calibration().statistics()


def _described(key, value):
    def change(_, metadata):
        facts = json.loads(metadata["statistics"])
        target = facts["tensors"][0] if key in facts["tensors"][0] else facts
        target[key] = value
        metadata["statistics"] = json.dumps(facts)

    return change


def _replaced(old, new):
    return lambda _, metadata: metadata.update(statistics=metadata["statistics"].replace(old, new))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _, m: m.clear(), "is no statistics file"),
        (lambda _, m: m.update(version="9"), "version '9'"),
        (lambda _, m: m.update(statistics="{"), "not JSON"),
        (lambda _, m: m.update(statistics="[]"), "lacks one of"),
        (_described("tensors", {}), "lacks one of"),
        (_described("tensors", [3]), "not the record"),
        (_described("output_power", -1), "no samples"),
        (_described("kind", "other"), "contradicts itself"),
        (_described("name", 5), "contradicts itself"),
        (_described("shape", [4]), "contradicts itself"),
        (_described("axis", 7), "contradicts itself"),
        (_described("block", True), "contradicts itself"),
        (_described("samples", 10**30), "contradicts itself"),
        (_described("tokens", -1), "contradicts itself"),
        (_described("ratio", -1.0), "contradicts itself"),
        (_described("output_power", True), "lacks one of"),
        (_described("output_power", 10**400), "a power that is not one"),
        (_described("output_power", float("inf")), "a power that is not one"),
        (
            lambda _, m: m.update(statistics=m["statistics"].replace('"positions":true', '"positions":"yes"')),
            "positions",
        ),
        (lambda _, m: m.update(statistics=m["statistics"].replace('"name":"keras"', '"name":"fc"')), "two weights"),
    ],
)
def test_a_damaged_description_is_refused_when_opened(tmp_path, change, said):
    path = tmp_path / "s.safetensors"
    collected().save(path)
    with pytest.raises(ModelError, match=said) as caught:
        Statistics.open(rewritten(path, change))
    assert "damaged.safetensors" in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.safetensors"):
        Statistics.open(tmp_path / "s.npz")
    with pytest.raises(ModelError, match="no such file"):
        Statistics.open(tmp_path / "s.safetensors")
    with pytest.raises(OptionError, match="precision"):
        collected().save(tmp_path / "s.safetensors", precision="int8")
    assert FORMAT == "nncjit statistics"


def test_probes_have_the_covariance_of_their_loss():
    rng = np.random.default_rng(5)
    logits = np.array([1.0, 0.0, -2.0, 3.0])
    p = 0.5 * np.exp(logits) / np.exp(logits).sum() + 0.5 / 4
    drawn = fisher_probe(np.tile(logits, (40000, 1)), rng, probes=2)
    assert np.allclose(2 * drawn.T @ drawn / len(drawn), np.diag(p) - np.outer(p, p), atol=0.01)
    flat = gaussian_probe(np.zeros((40000, 2)), rng, probes=4)
    assert np.allclose(4 * flat.T @ flat / len(flat), np.eye(2), atol=0.03)
