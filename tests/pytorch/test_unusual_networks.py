"""Networks, batches and callers of unusual kinds: calibrate finds what a backward pass of each weight finds, or refuses
with one error of ours, and changes nothing that is not its own.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402

from nncjit import ModelError  # noqa: E402
from nncjit.torch import calibrate, compensate  # noqa: E402

N = 5


def itself(y):
    return y


class Net(nn.Module):
    """Two layers, run by a function of them and the input."""

    def __init__(self, run, first=None):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.run = first or nn.Linear(6, 5), nn.Linear(5, 4), run

    def forward(self, x):
        return self.run(self, x)


def energy_of_each(net, x):
    return net.b(net.a(x).tanh())


@pytest.mark.parametrize("alone", [True, False])
def test_packed_sequences_are_one_argument(alone):
    packed = pack_sequence([torch.randn(n, 6) for n in (3, 7, 5)], enforce_sorted=False)

    def run(net, x):
        return net.b(net.a(x)[1][0])

    batches = [packed if alone else (packed,)] * 2
    assert calibrate(Net(run, nn.GRU(6, 5)), batches).samples == 6


class Merging(nn.Linear):
    """An adapter that goes into the weight in evaluation mode, and out of it again for training."""

    def __init__(self):
        super().__init__(6, 5)
        self.change, self.merged = torch.ones(5, 6), False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += -self.change if mode else self.change
            self.merged = not mode
        return super().train(mode)


@pytest.mark.parametrize("inner", [True, False])
def test_modules_go_back_to_training_by_their_own_method(inner):
    model = Net(energy_of_each, Merging())
    model.a.train(inner)
    kept = model.a.weight.detach().clone()
    stats = calibrate(model, [torch.randn(N, 6)]).statistics()
    assert (model.training, model.a.training, model.b.training, model.a.merged) == (True, inner, True, not inner)
    torch.testing.assert_close(model.a.weight.detach(), kept)
    assert "a.weight" in stats


def test_exported_networks_have_one_mode():
    plain = Net(energy_of_each).eval()
    x = torch.randn(N, 6)
    exported = torch.export.export(plain, (x[:1],)).module()
    wanted, found = (calibrate(model, x.split(1)).statistics() for model in (plain, exported))
    for name in wanted:
        np.testing.assert_allclose(found[name].metric(), wanted[name].metric(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shared", ["network", "layer", "mapping"])
def test_two_threads_cannot_run_one_network(shared):
    """Each would change the other's gradients and modes: the second is refused, and the first goes on."""
    model, inside, go_on = Net(energy_of_each), threading.Event(), threading.Event()
    other = model
    if shared == "layer":
        other = Net(energy_of_each)
        other.b = model.b
    elif shared == "mapping":
        model = other = dict(model.named_parameters())
    batches, found = [torch.randn(N, 6) for _ in range(3)], []

    def forward(net, x):
        net = (
            net
            if isinstance(net, nn.Module)
            else torch.nn.ParameterDict({k.replace(".", "_"): v for k, v in net.items()})
        )
        y = (
            energy_of_each(net, x)
            if isinstance(net, Net)
            else functional.linear(
                functional.linear(x, net["a_weight"], net["a_bias"]).tanh(), net["b_weight"], net["b_bias"]
            )
        )
        inside.set()
        go_on.wait(60)
        return y

    first = threading.Thread(target=lambda: found.append(calibrate(model, batches, forward=forward).statistics()))
    first.start()
    try:
        assert inside.wait(60)
        stats = calibrate(Net(energy_of_each), batches).statistics()  # a network of its own
        for work in (
            lambda: calibrate(other, batches),
            lambda: compensate(other, batches[0], calibration=stats),
        ):
            with pytest.raises(ModelError, match="in use by another thread"):
                work()
    finally:
        go_on.set()
        first.join()
    weights = model if shared == "mapping" else dict(model.named_parameters())
    assert all(weight.requires_grad and weight.grad is None for weight in weights.values())
    assert shared == "mapping" or model.training
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name].metric(), stats[name].metric())
