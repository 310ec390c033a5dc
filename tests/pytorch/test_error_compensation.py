"""Weights that make up for what coding loses in the layers before them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import nncjit  # noqa: E402
from nncjit import ModelError, OptionError  # noqa: E402
from nncjit.torch import calibrate, compensate  # noqa: E402


def dense():
    torch.manual_seed(0)
    layers = [layer for _ in range(5) for layer in (nn.Linear(24, 24), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=1.5 / 24**0.5)
    return nn.Sequential(*layers, nn.Linear(24, 6)), torch.randn(400, 24) @ torch.randn(24, 24) / 3


def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.ReLU(inplace=True), nn.Conv2d(12, 12, 3, groups=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(12, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 6)), torch.randn(300, 3, 10, 10)


def error(model, original, x, options):
    """Of the outputs of the coded network."""
    coded = copy.deepcopy(model)
    coded.load_state_dict({
        name: torch.from_numpy(array) for name, array in nncjit.decode(nncjit.encode(model, **options)).items()
    })  # fmt: skip
    with torch.no_grad():
        return float((coded(x) - original(x)).square().mean())


def transposed():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(12, 8, 3, stride=2, groups=2), nn.Tanh()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(8, 6, 2), nn.Flatten()), torch.randn(200, 3, 9, 9)


@pytest.mark.parametrize(("build", "share"), [(dense, 0.9), (convolutional, 0.97), (transposed, 0.97)])
def test_the_outputs_of_a_coded_network_are_nearer(build, share):
    model, x = build()
    half = len(x) // 2
    stats = calibrate(model, [x[:half]], output=lambda y: y).statistics()
    options = {"calibration": stats, "quality": 0.8}
    original = copy.deepcopy(model)
    before = error(model, original, x[half:], options)
    size = len(nncjit.encode(model, **options))
    assert compensate(model, x[:half], **options) == sum(p.ndim > 1 for p in model.parameters())
    assert error(model, original, x[half:], options) < share * before
    assert len(nncjit.encode(model, **options)) < 1.03 * size
    assert torch.allclose(model[0].weight, original[0].weight, atol=1e-4)  # nothing is coded before it


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_weights_of_every_float_type_are_compensated(dtype):
    model, x = (part.to(getattr(torch, dtype)) for part in dense())
    original = copy.deepcopy(model)
    stats = calibrate(model, [x], output=lambda y: y).statistics()
    assert compensate(model, x, calibration=stats, quality=0.8) == 6
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
    assert not torch.equal(model[4].weight, original[4].weight)


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [({"bits": 3.0}, {"bits": 6.0}), ({"ratio": 10.0}, {"ratio": 20.0}), ({"loss": 0.5}, {"loss": 0.02})],
)
def test_the_steps_of_a_target_are_looked_for(coarse, fine):
    moved = []
    for target in (coarse, fine):
        model, x = dense()
        stats = calibrate(model, [x], output=lambda y: y).statistics()
        original = copy.deepcopy(model)
        assert compensate(model, x, calibration=stats, **target) == 6
        weights = zip(model.parameters(), original.parameters(), strict=True)
        moved.append(sum(float((one - other).detach().square().sum()) for one, other in weights))
    assert moved[0] > 2 * moved[1] > 0


def test_a_mapping_and_weights_with_inputs_first():
    torch.manual_seed(1)
    weights = {"a": torch.randn(20, 20) / 4, "b": torch.randn(20, 20) / 4}

    def forward(w, x):
        return (x @ w["a"]).tanh() @ w["b"].T

    x = torch.randn(200, 20)
    stats = calibrate(weights, [x], output=lambda y: y, forward=forward).statistics()
    kept = {name: weight.clone() for name, weight in weights.items()}
    assert compensate(weights, x, forward=forward, calibration=stats, quality=0.8, strength=0.0) == 2
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    compensate(weights, x, forward=forward, calibration=stats, quality=0.8)
    assert not torch.allclose(weights["b"], kept["b"], atol=1e-3)

    def found(values):
        back = nncjit.decode(nncjit.encode(values, calibration=stats, quality=0.8))
        return forward({name: torch.from_numpy(array) for name, array in back.items()}, x)

    wanted = forward(kept, x)
    assert (found(weights) - wanted).square().mean() < (found(kept) - wanted).square().mean()


def test_what_cannot_be_compensated_is_refused_and_nothing_changed():
    model, x = dense()
    stats = calibrate(model, [x], output=lambda y: y).statistics()
    kept = copy.deepcopy(model.state_dict())
    with pytest.raises(OptionError, match="follows statistics"):
        compensate(model, x, calibration=None)
    with pytest.raises(OptionError, match="strength"):
        compensate(model, x, calibration=stats, strength=2.0)
    calls = []

    def other_each_time(network, batch):
        calls.append(0)
        return network(batch) if len(calls) % 2 else network[0](batch)

    with pytest.raises(ModelError, match="does not run the same layers"):
        compensate(model, x, calibration=stats, forward=other_each_time)

    def fails(network, batch):
        raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        compensate(model, x, calibration=stats, forward=fails)
    assert compensate(model, x[:0], calibration=stats) == 0
    assert all(np.array_equal(kept[name], value) for name, value in model.state_dict().items())
