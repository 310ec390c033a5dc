"""Training with the codec in the loop, and batch norms after coding: both repair what compression spoils."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import nncjit  # noqa: E402
from nncjit import ModelError, OptionError  # noqa: E402
from nncjit.torch import finetune, match_biases, match_norms, merge_norms  # noqa: E402
from nncjit.torch.weights_in_training import CodedWeights  # noqa: E402

COARSE = {"quality": 0.04}


def blobs(n, seed=0):
    """Points round four centres, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    points = np.random.default_rng(99).normal(0, 2, (4, 8))[labels] + rng.normal(0, 1, (n, 8))
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels)


def difference(a, b, x):
    """Mean squared difference of two networks' outputs."""
    with torch.no_grad():
        return float((a(x) - b(x)).square().mean())


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for k in range(150):
        x, y = blobs(64, k)
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def decoded(model, **options):
    """The network as it comes back, and the size of its file."""
    data = nncjit.encode(model.state_dict(), **options)
    back = copy.deepcopy(model)
    back.load_state_dict({name: torch.from_numpy(array) for name, array in nncjit.decode(data).items()})
    return back, len(data)


def unlike(model, other):
    """Mean divergence of the outputs on inputs that no training saw."""
    x, _ = blobs(500, 12345)
    with torch.no_grad():
        a, b = (net(x).log_softmax(1) for net in (model, other))
    return float((b.exp() * (b - a)).sum(1).mean())


def test_a_network_learns_to_live_with_its_compression(trained):
    plain, size = decoded(trained, **COARSE)
    model = copy.deepcopy(trained)
    batches = [blobs(64, 1000 + k)[0] for k in range(40)]
    report = finetune(model, batches, rate=0.03, refresh=8, settle=0, **COARSE)
    tuned, tuned_size = decoded(model, **COARSE)
    assert report.steps == 40
    assert len(report.losses) == len(report.sizes) == 5
    assert unlike(tuned, trained) < 0.5 * unlike(plain, trained)
    assert tuned_size < 1.1 * size


def test_vectors_anew_cost_no_byte_and_leave_the_matrices_as_they_were(trained):
    plain, size = decoded(trained, **COARSE)
    model = copy.deepcopy(trained)
    report = finetune(model, [blobs(64, 1000 + k)[0] for k in range(40)], train="vectors", rate=0.03, **COARSE)
    tuned, tuned_size = decoded(model, **COARSE)
    assert len(report.sizes) == 1
    assert abs(tuned_size - size) < 12
    assert unlike(tuned, trained) < unlike(plain, trained)
    for name, tensor in model.named_parameters():
        same = torch.equal(tensor, dict(trained.named_parameters())[name])
        assert same == (tensor.ndim > 1), name
        if tensor.ndim > 1:
            assert torch.equal(dict(tuned.named_parameters())[name], dict(plain.named_parameters())[name])


def test_labels_and_pruning(trained):
    model = copy.deepcopy(trained)
    batches = [blobs(64, 2000 + k) for k in range(40)]
    finetune(
        model,
        batches,
        objective=lambda result, batch: functional.cross_entropy(result, batch[1]),
        forward=lambda model, batch: model(batch[0]),
        sparsity=0.6,
        quality=1,
    )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    zeros = sum(int((p == 0).sum()) for p in matrices) / sum(p.numel() for p in matrices)
    assert zeros == pytest.approx(0.6, abs=0.01)
    assert right(decoded(model, quality=1)[0]) > right(trained) - 0.03


def test_of_equal_weights_the_wanted_share_is_pruned():
    weights = {"signs": torch.randn(8, 8).sign(), "zeros": torch.zeros(4, 4), "bias": torch.ones(5)}
    coded = CodedWeights(weights, nncjit.Options(), None, 0.5, 0.0, ())
    coded.prune()
    assert sum(int((w == 0).sum()) for w in weights.values()) == 40


def right(net):
    """Share of points that are told apart."""
    x, y = blobs(1000, 9)
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def test_bits_that_the_loss_does_not_repay_are_given_up(trained):
    sizes = []
    for price in (0.0, 1.0):
        model = copy.deepcopy(trained)
        finetune(
            model,
            [blobs(64, 3000 + k) for k in range(60)],
            objective=lambda result, batch: functional.cross_entropy(result, batch[1]),
            forward=lambda model, batch: model(batch[0]),
            bit_price=price,
            rate=0.03,
            quality=0.3,
        )
        back, size = decoded(model, quality=0.3)
        assert right(back) > right(trained) - 0.03
        sizes.append(size)
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("quantizer", ["raw", "lossless"])
def test_bits_have_no_price_where_nothing_is_lost(trained, quantizer):
    models = [copy.deepcopy(trained) for _ in range(2)]
    for model, price in zip(models, (0.0, 1.0), strict=True):
        finetune(
            model,
            [blobs(8, 1)] * 2,
            objective=lambda result, batch: functional.cross_entropy(result, batch[1]),
            forward=lambda model, batch: model(batch[0]),
            bit_price=price,
            quantizer=quantizer,
        )
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b)


def test_a_zero_matrix_has_no_price_and_is_trained(trained):
    model = copy.deepcopy(trained)
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(0.1)
    report = finetune(model, [blobs(64)[0]] * 3, bit_price=1.0, rate=0.03, **COARSE)
    assert report.steps == 3
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_in_the_end_matrices_stay_and_vectors_learn(trained):
    model = copy.deepcopy(trained)
    seen = []

    def told(done, of, words):
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})

    batches = [blobs(64, k)[0] for k in range(10)]
    report = finetune(model, batches, rate=0.03, refresh=3, settle=0.4, progress=told, **COARSE)
    assert len(report.sizes) == 3  # before steps 0, 3 and 6
    for name, tensor in seen[5].items():
        assert torch.equal(tensor, seen[-1][name]) == (tensor.ndim > 1), name
        assert not torch.equal(tensor, seen[0][name]), name


def test_weights_without_a_module(trained):
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    weights["norm.running_var"] = torch.ones(4)

    def forward(w, x):
        for k in (0, 2, 4):
            x = functional.linear(functional.relu(x) if k else x, w[f"{k}.weight"], w[f"{k}.bias"])
        return x / w["norm.running_var"]

    before = {name: tensor.clone() for name, tensor in weights.items()}
    finetune(weights, [blobs(64)[0]] * 3, forward=forward, **COARSE)
    changed = {name for name in weights if not torch.equal(before[name], weights[name])}
    assert changed == set(weights) - {"norm.running_var"}
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_the_network_is_otherwise_left_as_it_was(trained):
    model = copy.deepcopy(trained)
    model.train()
    model[0].weight.requires_grad_(False)
    finetune(model, [blobs(64)[0]], **COARSE)
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_bad_arguments_of_training_are_told(trained):
    x = blobs(8)[0]
    for wrong in (
        {"bit_price": -1.0},
        {"train": "x"},
        {"epochs": 0},
        {"refresh": 0},
        {"rate": 0.0},
        {"sparsity": 1.0},
        {"settle": 1.0},
        {"bits": -1},
    ):
        with pytest.raises(OptionError):
            finetune(copy.deepcopy(trained), [x], **wrong)
    with pytest.raises(ModelError, match="no batches"):
        finetune(copy.deepcopy(trained), [])
    with pytest.raises(ModelError, match="depend"):
        finetune(copy.deepcopy(trained), [x], objective=lambda result, batch: torch.tensor(1.0))
    with pytest.raises(ModelError, match="lower rate"):
        finetune(copy.deepcopy(trained), [x], objective=lambda result, batch: result.sum() * float("nan"))
    with pytest.raises(ModelError, match=r"the loss has the shape \[8, 4\]"):
        finetune(copy.deepcopy(trained), [x], objective=lambda result, batch: result)
    with pytest.raises(OptionError, match="epochs is 2, but batches can be run through once"):
        finetune(copy.deepcopy(trained), iter([x]), epochs=2)
    with pytest.raises(ModelError, match=r"0\.weight: is bfloat16"):
        finetune(copy.deepcopy(trained).bfloat16(), [x.bfloat16()])
    with pytest.raises(ModelError, match="no weights that need a gradient"):
        finetune(copy.deepcopy(trained).requires_grad_(False), [x])


def test_training_away_from_the_statistics_is_no_reason_to_warn():
    torch.manual_seed(0)
    model = nn.Linear(16, 32)
    batches = [blobs(64, k)[0].repeat(1, 2) for k in range(30)]
    known = nncjit.torch.calibrate(model, batches[:2], output=lambda y: y).statistics()
    with torch.no_grad():
        opposite = [-model(x) for x in batches]
    finetune(
        model,
        list(zip(batches, opposite, strict=True)),
        objective=lambda y, batch: functional.mse_loss(y, batch[1]),
        forward=lambda network, batch: network(batch[0]),
        calibration=known,
        rate=1.0,
        refresh=10,
    )
    with pytest.warns(nncjit.NncWarning, match="other values"):
        nncjit.encode(model.state_dict(), calibration=known)


def test_frozen_weights_stay_as_they_are(trained):
    model = copy.deepcopy(trained)
    model[0].requires_grad_(False)
    finetune(model, [blobs(64)[0]] * 4, sparsity=0.5, **COARSE)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, trained.get_parameter(name)) == name.startswith("0."), name


def test_norms_meet_what_they_met_before():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.Flatten()
    )
    model.train()
    for _ in range(20):
        model(torch.randn(32, 2, 8, 8))
    model.eval()
    coded = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (coded[0], coded[3]):
            layer.weight.mul_(1.3).add_(0.1 * torch.randn_like(layer.weight))
    x, other = torch.randn(256, 2, 8, 8), torch.randn(64, 2, 8, 8)
    before = difference(coded, model, other)
    assert match_norms(coded, model, x) == 2
    assert difference(coded, model, other) < 0.3 * before
    with torch.no_grad():
        ours, theirs = coded(x).unflatten(1, (5, -1)), model(x).unflatten(1, (5, -1))
    torch.testing.assert_close(ours.mean((0, 2)), theirs.mean((0, 2)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.var((0, 2)), theirs.var((0, 2)), atol=1e-4, rtol=1e-3)
    assert match_norms(nn.Linear(2, 2), nn.Linear(2, 2), torch.randn(3, 2)) == 0
    with pytest.raises(ModelError, match="same norms"):
        match_norms(nn.Sequential(model[0]), model, x)
    for wrong in (x[:0], x * float("nan")):
        with pytest.raises(ModelError, match="not finite, or the batch is empty"):
            match_norms(coded, model, wrong)
    assert torch.isfinite(coded[1].running_mean).all()


def test_layers_have_the_means_that_they_had_before():
    torch.manual_seed(0)
    shared = nn.Linear(7, 7)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 7), shared, shared
    )
    coded = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (coded[0], coded[2], coded[5]):
            layer.weight.mul_(1.3).add_(0.1 * torch.randn_like(layer.weight))
    x, other = torch.randn(256, 2, 8, 8), torch.randn(64, 2, 8, 8)
    before, kept = difference(coded, model, other), shared.bias.clone()
    assert match_biases(coded, model, x) == 3
    assert torch.equal(coded[6].bias, kept)  # one bias of two products
    assert difference(coded, model, other) < 0.9 * before
    with torch.no_grad():
        for k, axes in ((1, (0, 2, 3)), (3, (0, 2, 3)), (6, (0, 1))):
            torch.testing.assert_close(coded[:k](x).mean(axes), model[:k](x).mean(axes), atol=1e-5, rtol=1e-4)
    assert match_biases(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), torch.randn(3, 2)) == 0
    with pytest.raises(ModelError, match="same layers"):
        match_biases(nn.Sequential(model[0]), model, x)
    for wrong in (x[:0], x * float("nan")):
        with pytest.raises(ModelError, match="not finite, or the batch is empty"):
            match_biases(coded, model, wrong)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_norms_without_statistics_of_their_own_compute_the_same(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), kind(6, eps=1e-2), nn.ReLU(), nn.BatchNorm2d(6, affine=False))
    with torch.no_grad():
        for norm in (model[1], model[3]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0, 2)
        model[1].weight.normal_()
    model.eval()
    x = torch.randn(3, 2, 8, 8)
    merged, state = copy.deepcopy(model), {name: t.clone() for name, t in model.state_dict().items()}
    assert merge_norms(merged) == 1  # one has no weight to put them into
    torch.testing.assert_close(merged(x), model(x))
    assert merge_norms(state, eps=1e-2) == 1
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    assert len(nncjit.encode(merged.state_dict())) < len(nncjit.encode(model.state_dict()))


class Twice(nn.Module):
    """Two norms, which may share vectors, or be one."""

    def __init__(self, share):
        super().__init__()
        self.fc1, self.bn1, self.fc2, self.bn2 = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        with torch.no_grad():
            for norm in (self.bn1, self.bn2):
                for vector, low in (
                    (norm.weight, 0.5),
                    (norm.bias, -1),
                    (norm.running_mean, -1),
                    (norm.running_var, 0.5),
                ):
                    vector.uniform_(low, 2)
        if share in ("weight", "bias", "running_mean", "running_var"):
            setattr(self.bn2, share, getattr(self.bn1, share))
        elif share == "norm":
            self.bn2 = self.bn1
        elif share == "layer's bias":
            self.fc2.bias = self.fc1.bias
        self.eval()

    def forward(self, x):
        return self.bn2(self.fc2(self.bn1(self.fc1(x)).relu()))


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("gains", [False, True])
@pytest.mark.parametrize("share", ["weight", "bias", "running_mean", "running_var", "norm", "layer's bias", ""])
def test_norms_that_share_vectors_compute_the_same_afterwards(share, gains, as_dict):
    torch.manual_seed(0)
    model, x = Twice(share), torch.randn(9, 4)
    wanted = model(x)
    count = merge_norms(model.state_dict() if as_dict else model, gains=gains)
    torch.testing.assert_close(model(x), wanted)
    assert count == {"norm": 1 + as_dict, "": 2, "layer's bias": 2}.get(share, 0)


@pytest.mark.parametrize("share", ["norm", "running_mean", ""])
def test_a_norm_that_runs_twice_is_not_matched(share):
    torch.manual_seed(0)
    model, x = Twice(share), torch.randn(64, 4)
    coded = copy.deepcopy(model)
    with torch.no_grad():
        coded.fc1.weight.add_(0.2 * torch.randn(4, 4))
    kept = copy.deepcopy(coded.state_dict())
    assert match_norms(coded, model, x) == (0 if share else 2)
    assert all(torch.equal(kept[name], t) for name, t in coded.state_dict().items()) == bool(share)


class Branches(nn.Module):
    """Layers with and without a bias, of all kinds, before their norms; and a layer that two norms follow."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.bn3 = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.conv4, self.bn4 = nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5)
        self.conv4.weight = self.conv3.weight = nn.Parameter(torch.randn(5, 5, 1, 1))
        self.conv3.in_channels = 5
        self.first = nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.bn2(self.conv2(self.bn1(self.conv1(self.first(x))).relu())).relu()[:, :5]
        return self.bn4(self.conv4(self.bn3(self.conv3(x)).relu()))


@pytest.mark.parametrize("as_dict", [False, True])
def test_gains_go_into_the_layers_before_their_norms(as_dict):
    torch.manual_seed(0)
    model = Branches()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.normal_()
            norm.bias.normal_()
        model.bn1.weight[0] = 0
    model.eval()
    x, merged = torch.randn(3, 2, 9, 9), copy.deepcopy(model)
    if as_dict:
        for norm in (model.bn1, merged.bn1):
            norm.eps = 1e-5
        state = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
        state["conv4.weight"] = state["conv3.weight"]
        assert merge_norms(state, gains=True) == 5
        merged.load_state_dict(state)
    else:
        assert merge_norms(merged, gains=True) == 5
    torch.testing.assert_close(merged(x), model(x))
    norms = {name: norm for name, norm in merged.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    moved = {name for name, norm in norms.items() if (norm.weight == 1).all()}
    assert moved == {"bn1", "bn2"}, "shared weights, and the norm before all layers, keep theirs"


def test_gains_that_are_not_finite_are_told():
    norm = nn.BatchNorm1d(2)
    norm.weight.data[1] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        merge_norms(norm, gains=True)


def test_a_norm_s_damaged_statistics_are_told():
    with pytest.raises(ModelError, match="mean and variance"):
        merge_norms(
            {"n.running_mean": torch.zeros(2), "n.running_var": torch.full((2,), -1.0)}
            | {f"n.{part}": torch.ones(2) for part in ("weight", "bias")}
        )
