"""Networks, batches and callers of unusual kinds: calibrate finds what a backward pass of each weight finds, or refuses
with one error of ours, and changes nothing that is not its own.
"""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils.rnn import pack_sequence  # noqa: E402

from nncjit import ModelError, OptionError  # noqa: E402
from nncjit.torch import calibrate, compensate, finetune  # noqa: E402
from nncjit.torch.calibration_outputs import probe_of  # noqa: E402

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


def scaled(net, x):
    hidden = torch.addmm(torch.zeros(5), x, net.a.weight.T, alpha=3)
    return net.b(hidden.tanh())


def mapped(net, x):
    return net.b(torch.vmap(lambda row: functional.linear(row, net.a.weight).tanh())(x))


def energy(net, x):
    return net.b(net.a(x).flatten(1)[:, :5].tanh()).tanh().sum()


def transformed(net, x):
    return torch.func.grad(lambda x: energy(net, x))(x).flatten(1)


def forces(net, x):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(energy(net, x), x, create_graph=True)[0].flatten(1)


def both(net, x):
    x = x.detach().clone().requires_grad_()
    found = energy(net, x)
    return torch.cat([torch.autograd.grad(found, x, create_graph=True)[0], found[None, None]], 1)


@pytest.mark.parametrize(
    ("run", "first"),
    [
        (scaled, None),
        (mapped, None),
        (transformed, None),
        (forces, None),
        (forces, nn.Conv1d(1, 2, 3)),
        (both, None),
    ],
)
def test_a_metric_has_the_energy_of_the_weight_s_own_gradients(run, first):
    """However the network uses the weight: by a scaled product, in a transform of functions, or in a gradient that it
    takes itself.
    """
    model = Net(run, first)
    batches = [torch.randn(1, 6) if first is None else torch.randn(1, 1, 6) for _ in range(8)]
    stats = calibrate(model, batches, output=itself).statistics()
    for name in ("a.weight", "b.weight"):
        energies = []
        for k, x in enumerate(batches, 1):
            y = model(x)
            probe = probe_of(y.detach(), 1, torch.Generator().manual_seed(k), fisher=False)
            (gradient,) = torch.autograd.grad((y * probe).sum(), dict(model.named_parameters())[name])
            energies.append(gradient.square().sum().item())
        found, outputs = stats[name], len(gradient)
        if found.record.kind == "rows":
            total = found.metric().sum() * gradient[0].numel()
        else:
            total = np.trace(found.metric()[0]) * outputs
        assert total == pytest.approx(np.mean(energies), rel=1e-3), name


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(120.0).reshape(20, 6) / 100)


def test_loaders_that_do_not_know_their_length():
    loader, told = torch.utils.data.DataLoader(Endless(), batch_size=N), []
    assert calibrate(Net(energy_of_each), loader, progress=lambda *said: told.append(said[:2])).samples == 20
    assert told == [(k, 0) for k in range(1, 5)]
    assert finetune(Net(energy_of_each), loader, qp=-20).steps == 4


def energy_of_each(net, x):
    return net.b(net.a(x).tanh())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_inputs_count_as_the_dense_ones_that_they_stand_for():
    x = torch.eye(6)[[0, 2, 2, 5]]
    dense, *others = (
        calibrate(Net(energy_of_each), [form]).statistics() for form in (x, x.to_sparse(), x.to_sparse_csr())
    )
    for name in dense:
        for other in others:
            np.testing.assert_allclose(other[name].metric(), dense[name].metric(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("alone", [True, False])
def test_packed_sequences_are_one_argument(alone):
    packed = pack_sequence([torch.randn(n, 6) for n in (3, 7, 5)], enforce_sorted=False)

    def run(net, x):
        return net.b(net.a(x)[1][0])

    batches = [packed if alone else (packed,)] * 2
    assert calibrate(Net(run, nn.GRU(6, 5)), batches).samples == 6


def test_no_gradient_runs_into_what_the_batches_come_from():
    before = nn.Linear(6, 6)
    held = torch.randn(N, 6, requires_grad=True)
    computed = before(held)  # a graph that two batches share, and that can be run through once
    calibrate(Net(energy_of_each), [computed, computed[:3], {"x": held}], probes=2)
    assert all(tensor.grad is None for tensor in (held, before.weight, before.bias))
    # networks that need gradients of their inputs still get them
    calibrate(Net(lambda net, x: torch.autograd.grad(energy(net, x), x, create_graph=True)[0]), [held], output=itself)
    assert held.grad is None


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
        y = net(x) if isinstance(net, nn.Module) else torch.func.functional_call(Net(energy_of_each), net, x)
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


def lazy():
    return nn.Sequential(nn.LazyLinear(5), nn.LazyLinear(3))


def computed():
    return {"a": 2 * torch.randn(3, 6, requires_grad=True)}


@pytest.mark.parametrize(
    ("model", "keywords", "kind", "said"),
    [
        (lazy(), {}, ModelError, r"0\.weight: has no values yet: run the network once"),
        (
            computed(),
            {"forward": lambda w, x: x @ w["a"].T},
            ModelError,
            "a: is computed from other tensors: detach it",
        ),
        (nn.Linear(6, 3), {"forward": torch.inference_mode()(lambda m, x: m(x))}, ModelError, "batch 1: .*inference"),
        (
            nn.Linear(6, 1),
            {"forward": lambda m, x: m(x)[:, 0], "output": "embedding"},
            ModelError,
            r"\[5\], must be emb",
        ),
        (nn.Linear(6, 3), {"fisher": "no"}, OptionError, "fisher is 'no', must be True or False"),
    ],
)
def test_what_cannot_be_calibrated_is_told(model, keywords, kind, said):
    before = copy.deepcopy({k: v.detach() for k, v in model.items()} if isinstance(model, dict) else None)
    with pytest.raises(kind, match=said):
        calibrate(model, [torch.randn(N, 6)], **keywords)
    assert before is None or torch.equal(before["a"], model["a"])


def test_sparse_weights_are_left_out():
    weights = {"a": torch.randn(3, 6), "mix": torch.eye(6).to_sparse()}
    stats = calibrate(weights, [torch.randn(N, 6)], forward=lambda w, x: (w["mix"] @ x.T).T @ w["a"].T).statistics()
    assert list(stats) == ["a"]
