"""The PyTorch adapter's statistics are what one backward pass for each sample and weight gives, for all layers."""

from __future__ import annotations

import copy
import tracemalloc
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import nncjit  # noqa: E402
from nncjit import ModelError, NncWarning, OptionError  # noqa: E402
from nncjit.torch import calibrate, calibration_moments, compensate, finetune  # noqa: E402
from nncjit.torch.calibration_outputs import probe_of, select  # noqa: E402

N = 5


def itself(y):
    return y


def net(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers)


def sample_gradients(model, name, x, output, seed=0):
    """Gradients [samples, *weight] of each sample's probe, one backward pass each."""
    model = copy.deepcopy(model).eval()
    weight = dict(model.named_parameters())[name]
    whole = select(output, model(x)).detach().float()
    v = probe_of(whole, 1, torch.Generator().manual_seed(seed + 1), fisher=False)
    rows = [select(output, model(x[i : i + 1])) * v[i : i + 1] for i in range(len(x))]
    return torch.stack([torch.autograd.grad(row.sum(), weight)[0] for row in rows])


def metric(stats, name):
    return torch.from_numpy(stats[name].metric())


def coherent(gradients, groups=1):
    """Mean over the samples of D' D / outputs, by group: gradients [samples, out, ...]."""
    flat = gradients.flatten(2)
    n, out, inputs = flat.shape
    by_group = flat.reshape(n, groups, out // groups, inputs).transpose(0, 1)
    return torch.einsum("gnoi,gnoj->gij", by_group, by_group) / (out // groups) / n


CONVOLUTIONS = [
    (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
    (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (3, 9, 6)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2), (4, 7, 7)),
    (nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (3, 6, 6)),
    (nn.Conv2d(3, 2, 1), (3, 40, 40)),
    (nn.Conv1d(3, 4, 5, stride=2, dilation=2, padding=3), (3, 20)),
    (nn.Conv1d(6, 6, 3, groups=6), (6, 9)),
    (nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)), (2, 4, 5, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_convolutions(layer, shape):
    torch.manual_seed(0)
    x = torch.randn(N, *shape)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(layer(x)[0].numel(), 5))
    stats = calibrate(model, [x], output=itself).statistics()
    record = stats["0.weight"].record
    assert (record.kind, record.groups, record.shape) == ("convolution", layer.groups, tuple(layer.weight.shape))
    expected = coherent(sample_gradients(model, "0.weight", x, itself), layer.groups)
    torch.testing.assert_close(metric(stats, "0.weight"), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2),
        nn.ConvTranspose1d(4, 2, 5, stride=3, padding=2),
    ],
)
def test_transposed_convolutions(layer):
    torch.manual_seed(0)
    x = torch.randn(N, 4, *((5, 4) if layer.weight.ndim == 4 else (7,)))
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(layer(x)[0].numel(), 5))
    stats = calibrate(model, [x], output=itself).statistics()
    record = stats["0.weight"].record
    assert (record.kind, record.axis, record.groups) == ("convolution", 0, layer.groups)
    g = sample_gradients(model, "0.weight", x, itself)  # samples, in, out / groups, taps
    groups, taps = layer.groups, layer.weight[0, 0].numel()
    by_group = g.reshape(N, groups, 4 // groups, -1, taps).permute(1, 0, 3, 2, 4).flatten(3)
    expected = torch.einsum("gnoi,gnoj->gij", by_group, by_group) / by_group.shape[2] / N
    torch.testing.assert_close(metric(stats, "0.weight"), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("places", [1, 2, 30])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3)])
def test_linear_layers_over_places(places, inputs, outputs):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh(), nn.Linear(outputs, 4))
    x = torch.randn(N, places, inputs)
    stats = calibrate(model, [x], output=lambda y: y.sum(1)).statistics()
    whole = coherent(sample_gradients(model, "0.weight", x, lambda y: y.sum(1)))[0]
    first, second = model[0], model[2]
    spread = first.weight.detach().expand(N, places, outputs, inputs).clone().requires_grad_()  # one for each token
    y = second(torch.tanh(torch.einsum("ntoi,nti->nto", spread, x) + first.bias)).sum(1)
    v = probe_of(y.detach(), 1, torch.Generator().manual_seed(1), fisher=False)
    (g,) = torch.autograd.grad((y * v).sum(), spread)
    tokenwise = torch.einsum("ntoi,ntoj->ij", g, g) / outputs / N
    mixed = whole / 2 + tokenwise / 2 * whole.trace() / tokenwise.trace()
    torch.testing.assert_close(metric(stats, "0.weight")[0], mixed, rtol=1e-3, atol=1e-6)
    assert stats["0.weight"].record.tokens == N * places


def test_blocks_of_wide_layers_are_those_of_the_whole():
    model = net(nn.Linear(50, 6), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(N, 4, 50)
    whole = calibrate(model, [x], output=itself).statistics()["0.weight"]
    cut = calibrate(model, [x], output=itself, widest_block=16).statistics()["0.weight"]
    assert (whole.record.blocks, cut.record.blocks, cut.record.block) == (1, 4, 13)
    padded = np.zeros((52, 52), np.float32)
    padded[:50, :50] = whole.metric()[0]
    for k, block in enumerate(cut.metric()):
        np.testing.assert_allclose(block, padded[13 * k : 13 * k + 13, 13 * k : 13 * k + 13], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("widest", [16, 4096])
def test_strips_of_a_metric_meet(widest, monkeypatch):
    model = net(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Flatten(2), nn.Linear(25, 7))
    x = torch.randn(N, 4, 7, 7)
    known = calibrate(model, [x], output=itself, widest_block=widest).statistics()
    monkeypatch.setattr(calibration_moments, "STRIP", 5)
    found = calibrate(model, [x], output=itself, widest_block=widest).statistics()
    for name in ("0.weight", "3.weight"):
        whole = metric(found, name)
        torch.testing.assert_close(whole, metric(known, name))
        torch.testing.assert_close(whole, whole.mT.contiguous())


def test_the_probes_of_logits_measure_divergence():
    model = net(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    x = torch.randn(400, 6)
    calibration = calibrate(model, [x], probes=8)
    r = metric(calibration.statistics(), "2.weight")[0]
    found, true = 0.0, 0.0
    with torch.no_grad():
        hidden = torch.relu(model[0](x))
        p = model[2](hidden).softmax(1) / 2 + 1 / 10  # the distribution that is probed
        for _ in range(50):
            change = torch.randn(5, 8)
            moved = hidden @ change.T
            true += 0.5 * float(((p * moved**2).sum(1) - (p * moved).sum(1) ** 2).mean())
            found += 0.5 * float((change @ r * change).sum())
    assert found == pytest.approx(true, rel=0.15)
    assert calibration.output_power == 400


class Tables(nn.Module):
    """A word table that is the output layer too, one of positions, one that is indexed, and a free parameter."""

    def __init__(self, *, tied):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(20, 6), nn.Embedding(9, 6)
        self.kinds, self.free = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(9, 6))
        self.join, self.tied = nn.Linear(6, 6, bias=False), tied

    def forward(self, ids):
        where = torch.arange(ids.shape[1])
        x = self.words(ids) + self.positions(where)[None] + self.kinds[ids % 3] + self.free[: ids.shape[1]]
        x = torch.tanh(self.join(x)).sum(1)
        return functional.linear(x, self.words.weight) if self.tied else x


def test_tables():
    model = Tables(tied=False)
    ids = torch.randint(0, 20, (N, 7))
    stats = calibrate(model, [ids], output=itself).statistics()
    kinds = {"words.weight": "table", "positions.weight": "linear", "kinds": "table", "free": "linear"}
    assert {name: stats[name].record.kind for name in stats} == kinds | {"join.weight": "linear"}
    for name in ("words.weight", "kinds"):
        g = sample_gradients(model, name, ids, itself)
        torch.testing.assert_close(metric(stats, name)[0], torch.einsum("nti,ntj->ij", g, g) / N, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(stats[name].energy(), g.square().sum((0, 2)) / N, rtol=1e-4)
        np.testing.assert_array_equal(stats[name].uses(), (g.abs().sum(2) > 0).sum(0))
    assert stats["positions.weight"].positions
    assert stats["positions.weight"].uses().tolist() == [N] * 7 + [0, 0]


def test_a_tied_table_has_the_sums_of_both_uses():
    model = Tables(tied=True)
    ids = torch.randint(0, 20, (N, 7))
    stats = calibrate(model, [ids], output=itself).statistics()
    untied, head = Tables(tied=False), model.words.weight.detach().clone().requires_grad_()
    v = probe_of(model(ids).detach(), 1, torch.Generator().manual_seed(1), fisher=False)
    expected = torch.zeros(6, 6)
    for i in range(N):
        y = functional.linear(untied(ids[i : i + 1]), head)
        for g in torch.autograd.grad((y * v[i]).sum(), (untied.words.weight, head)):
            expected += g.T @ g / N
    torch.testing.assert_close(metric(stats, "words.weight")[0], expected, rtol=1e-3, atol=1e-4)


class Attention(nn.Module):
    def __init__(self, *, batch_first, cross):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.batch_first, self.cross = batch_first, cross

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, *((2 * x + 1,) * 2 if self.cross else (x, x)), need_weights=False)
        return (y if self.batch_first else y.transpose(0, 1)).sum(1)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_fused_projections_of_attention(batch_first, cross):
    model = Attention(batch_first=batch_first, cross=cross)
    batches = [torch.randn(N, 4, 8) for _ in range(40)]
    stats = calibrate(model, batches, output=itself).statistics()
    for name in ("attention.in_proj_weight", "attention.out_proj.weight"):
        rows = [sample_gradients(model, name, x, itself, seed=k) for k, x in enumerate(batches)]
        expected = coherent(torch.cat(rows))[0]
        found = metric(stats, name)[0]
        assert float(found.trace()) == pytest.approx(float(expected.trace()), rel=0.25), name  # right in the mean
        assert stats[name].record.samples == 40 * N


def test_transformer_layers_are_seen_where_pytorch_would_take_its_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    stats = calibrate(layer, [torch.randn(N, 4, 8)], output=lambda y: y.sum(1)).statistics()
    assert set(stats) == {name for name, p in layer.named_parameters()}


def test_vectors():
    model = net(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4))
    batches = [torch.randn(1, 3) for _ in range(20)]
    stats = calibrate(model, batches, output=itself).statistics()
    assert set(stats) == {name for name, _ in model.named_parameters()}
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        rows = torch.cat([sample_gradients(model, name, x, itself, seed=k) for k, x in enumerate(batches)])
        assert (stats[name].record.kind, stats[name].record.samples) == ("rows", 20)
        torch.testing.assert_close(metric(stats, name), rows.square().mean(0), rtol=1e-3, atol=1e-6)


class Bag(nn.Module):
    """A table of which each sample takes the sum or mean of some rows."""

    def __init__(self, mode, *, sparse=False):
        super().__init__()
        self.words = nn.EmbeddingBag(9, 4, mode=mode, sparse=sparse)

    def forward(self, ids):
        return self.words(ids)


@pytest.mark.parametrize(("mode", "sparse"), [("mean", False), ("max", False), ("sum", True)])
def test_bags_of_rows_are_tables(mode, sparse):
    model = Bag(mode, sparse=sparse)
    batches = [torch.tensor([[k % 3, 3]]) for k in range(12)]
    stats = calibrate(model, batches, output=itself).statistics()
    dense = Bag(mode)
    dense.load_state_dict(model.state_dict())
    rows = torch.cat([sample_gradients(dense, "words.weight", x, itself, seed=k) for k, x in enumerate(batches)])
    assert stats["words.weight"].record.kind == "table"
    np.testing.assert_allclose(stats["words.weight"].energy(), rows.square().sum(2).mean(0).numpy(), rtol=1e-4)
    np.testing.assert_allclose(
        metric(stats, "words.weight")[0], torch.einsum("nri,nrj->ij", rows, rows) / 12, rtol=1e-3
    )
    assert stats["words.weight"].uses()[4:].sum() == 0


class Stacked(nn.Module):
    """Experts in one tensor, of which only two are used, and a product that is not understood."""

    def __init__(self, *, inputs_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.mix = nn.Parameter(torch.randn(3, 5, 4)), nn.Bilinear(5, 5, 2)
        if inputs_first:
            self.up = nn.Parameter(self.up.detach().mT.contiguous())
        self.inputs_first = inputs_first

    def forward(self, x):
        if self.inputs_first:
            y = sum(x @ self.up[k] for k in range(2)).tanh()
        else:
            y = sum(functional.linear(x, self.up[k]) for k in range(2)).tanh()
        return self.mix(y, y)


@pytest.mark.parametrize("inputs_first", [False, True])
def test_experts_in_one_tensor_have_a_metric_each_while_there_is_room(inputs_first, monkeypatch):
    model, x = Stacked(inputs_first=inputs_first), torch.randn(N, 4)
    g = sample_gradients(model, "up", x, itself)
    g = g.mT if inputs_first else g
    own = torch.einsum("neoi,neoj->eij", g, g) / 5 / N
    own[2] = own.sum(0) / 3  # no token reached it
    token = own[:2].sum(0) / (2 * N)
    leant = own + torch.tensor([4.0, 4.0, 0.0])[:, None, None] * token  # as many tokens more as inputs
    traces = (own.diagonal(dim1=1, dim2=2).sum(1) + torch.tensor([1.0, 1.0, 0.0]) * token.trace())[:, None, None]
    leant *= traces / leant.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    stats = calibrate(model, [x], output=itself).statistics()
    assert (stats["up"].record.apart, stats["up"].record.tokens) == (True, 2 * N)
    torch.testing.assert_close(metric(stats, "up"), leant, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr("nncjit.torch.calibration_moments.MOST_APART", 40)
    stats = calibrate(model, [x], output=itself).statistics()
    record = stats["up"].record
    assert (record.kind, record.axis) == ("linear", 2 - inputs_first)
    assert (record.inputs, record.outputs, record.layers) == (4, 5, 3)
    expected = torch.einsum("neoi,neoj->ij", g, g) / 5 / N / 3
    torch.testing.assert_close(metric(stats, "up")[0], expected, rtol=1e-3, atol=1e-6)


def test_of_other_weights_the_cost_of_each_row_is_known():
    model, batches = Stacked(), [torch.randn(1, 4) for _ in range(10)]
    stats = calibrate(model, batches, output=itself).statistics()
    rows = torch.cat([sample_gradients(model, "mix.weight", x, itself, seed=k) for k, x in enumerate(batches)])
    assert stats["mix.weight"].record.kind == "rows"
    torch.testing.assert_close(metric(stats, "mix.weight"), rows.square().mean((0, 2, 3)), rtol=1e-3, atol=1e-9)


def test_parts_of_a_weight_have_statistics_of_their_own():
    model, x = Stacked(), torch.randn(N, 4)
    up = model.up.detach()
    parts = {f"{k}.{half}": up[k, rows] for k in range(3) for half, rows in (("a", slice(2)), ("b", slice(2, 5)))}
    with pytest.warns(NncWarning, match="no statistics of 2.a and 1 more"):
        stats = calibrate(model, [x], output=itself, parts=parts).statistics()
    assert "up" not in stats
    assert (stats["2.a"].record.samples, stats["1.b"].record.samples, stats["1.b"].record.tokens) == (0, N, N)
    g = sample_gradients(model, "up", x, itself)
    for k, half, rows in ((0, "a", slice(2)), (0, "b", slice(2, 5)), (1, "b", slice(2, 5))):
        both = [torch.einsum("noi,noj->ij", *(2 * [g[:, e, rows]])) / g[:, e, rows].shape[1] / N for e in (0, 1)]
        wanted = both[k] + 4 * (both[0] + both[1]) / (2 * N)  # as many tokens more as inputs, all alike
        wanted *= (both[k].trace() + (both[0] + both[1]).trace() / (2 * N)) / wanted.trace()
        torch.testing.assert_close(metric(stats, f"{k}.{half}")[0], wanted, rtol=1e-3, atol=1e-6)
    with pytest.raises(ModelError, match="x: is no matrix of rows"):
        calibrate(model, [x], output=itself, parts={"x": torch.zeros(2, 4)})
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="this PyTorch has no such product")
def test_products_of_sorted_rows_and_a_stack():
    x, ends = torch.randn(N, 4), torch.tensor([2, 2, N], dtype=torch.int32)

    def grouped(w, x):
        return torch._grouped_mm(x, w["up"].mT, offs=ends)

    def one_by_one(w, x):
        return torch.cat([functional.linear(x[:2], w["up"][0]), functional.linear(x[2:], w["up"][2])])

    weights = {"up": torch.randn(3, 8, 4)}
    one, other = (calibrate(weights, [x], output=itself, forward=f).statistics() for f in (grouped, one_by_one))
    torch.testing.assert_close(metric(one, "up"), metric(other, "up"), rtol=1e-4, atol=1e-6)
    assert one["up"].record == other["up"].record


@pytest.mark.parametrize("product", [torch.bmm, torch.matmul])
def test_products_of_a_batch_for_each_matrix_of_a_stack(product):
    x = torch.randn(4 * N, 4)
    weights = {"up": torch.randn(4, 4, 8)}

    def together(w, x):
        return product(x.reshape(4, N, 4), w["up"]).flatten(0, 1)

    def one_by_one(w, x):
        return torch.cat([rows @ w["up"][k] for k, rows in enumerate(x.reshape(4, N, 4))])

    one, other = (calibrate(weights, [x], output=itself, forward=f).statistics() for f in (together, one_by_one))
    torch.testing.assert_close(metric(one, "up"), metric(other, "up"), rtol=1e-4, atol=1e-6)
    assert one["up"].record == other["up"].record


def test_layers_that_checkpoints_run_again_are_seen_once():
    model = net(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(N, 6)

    def forward(model, x):
        return model[4:](checkpoint(model[:4], x, use_reentrant=False))

    plain = calibrate(model, [x], output=itself).statistics()
    found = calibrate(model, [x], output=itself, forward=forward).statistics()
    for name in ("0.weight", "2.weight", "4.weight", "2.bias"):
        assert found[name].record.tokens == plain[name].record.tokens
        np.testing.assert_allclose(found[name].metric(), plain[name].metric(), rtol=1e-5, atol=1e-7)


def test_inference_mode_around_it_changes_nothing():
    model, x = net(nn.Linear(6, 3)), torch.randn(N, 6)
    with torch.inference_mode():
        found = calibrate(model, [x.clone()], output=itself).statistics()
        assert torch.is_inference_mode_enabled()
    wanted = calibrate(model, [x], output=itself).statistics()
    torch.testing.assert_close(metric(found, "0.weight"), metric(wanted, "0.weight"))


def test_what_wrappers_add_to_names_parts_no_statistics_from_their_weights():
    model, x = net(nn.Linear(16, 16), nn.Linear(16, 16)), torch.randn(40, 16)
    plain = calibrate(model, [x], output=itself).statistics()
    wrapped = calibrate(nn.DataParallel(model), [x], output=itself).statistics()
    compiled = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    wanted = nncjit.decode(nncjit.encode(model, calibration=plain))
    cases = ((nn.DataParallel(model).state_dict(), wrapped), (compiled, plain), (compiled, wrapped))
    for weights, stats in cases:
        found = nncjit.decode(nncjit.encode(weights, calibration=stats))
        for a, b in zip(found.values(), wanted.values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_logits_of_many_places_count_each():
    x = torch.randn(N, 7, 3)
    one, many = (calibrate(net(nn.Linear(3, 4)), [batch]).statistics() for batch in (x[:, 0], x))
    assert (one.output_power, many.output_power) == (1.0, 7.0)


def test_weights_stored_as_inputs_by_outputs():
    weights = {"a": torch.randn(6, 4), "b": torch.randn(4, 3)}
    swapped = {name: w.T.contiguous() for name, w in weights.items()}
    x = torch.randn(N, 6)

    def forward(w, x):
        return torch.addmm(torch.zeros(3), torch.tanh(x @ w["a"]), w["b"])

    def other_way(w, x):
        return functional.linear(torch.tanh(x @ w["a"].T), w["b"])

    one = calibrate(weights, [x], output=itself, forward=forward).statistics()
    other = calibrate(swapped, [x], output=itself, forward=other_way).statistics()
    for name in "ab":
        assert (one[name].record.axis, other[name].record.axis) == (0, 1)
        np.testing.assert_allclose(one[name].metric(), other[name].metric(), rtol=1e-4, atol=1e-6)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, x):
        rows, y = x.flatten(0, 1), torch.zeros(x.shape[0] * x.shape[1], 4)
        for k, expert in enumerate(self.experts):
            mine = (rows[:, 0] * 10).long() % 4 == k
            if mine.any():
                y = y.index_add(0, mine.nonzero()[:, 0], expert(rows[mine]))
        return y.reshape(x.shape).sum(1)


def test_experts_that_few_tokens_reach():
    batches = [torch.rand(N, 3, 4) * torch.tensor([0.19, 1, 1, 1]), torch.rand(N, 30, 4)]
    stats = calibrate(Experts(), batches, output=itself).statistics()
    assert set(stats) == {"experts.0.weight", "experts.1.weight", "experts.2.weight"}
    assert stats["experts.2.weight"].record.samples == N  # not in the first batch
    assert all(np.isfinite(stats[name].metric()).all() for name in stats)


class Changing(nn.Module):
    """A network that overwrites the input of a layer after its use."""

    def __init__(self, *, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.inplace = nn.Conv2d(2, 3, 3), nn.Linear(4, 2), inplace

    def forward(self, x):
        x = x + 0
        y = self.a(x)
        y = functional.relu(y, inplace=self.inplace)
        if self.inplace:
            x.zero_()
        return self.b(y.flatten(2)).flatten(1)


def test_changes_in_place_do_not_spoil_the_inputs():
    x = torch.randn(N, 2, 4, 4)
    plain, changed = (calibrate(Changing(inplace=k), [x], output=itself).statistics() for k in (False, True))
    assert set(plain) - set(changed) == {"a.bias"}
    for name in changed:
        np.testing.assert_array_equal(plain[name].metric(), changed[name].metric())


@pytest.mark.parametrize("kind", ["autocast", "bfloat16", "float16"])
def test_mixed_and_half_precision(kind):
    model = net(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 6))
    x = torch.randn(64, 3, 16)
    exact = calibrate(model, [x], output=itself).statistics()
    if kind == "autocast":
        found = calibrate(model, [x], output=itself, autocast=torch.bfloat16).statistics()
    else:
        dtype = getattr(torch, kind)
        found = calibrate(copy.deepcopy(model).to(dtype), [x.to(dtype)], output=itself).statistics()
    for name in exact:
        a, b = exact[name].metric(), found[name].metric()
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    model = net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    batches = [torch.randn(N, 6) for _ in range(6)]
    whole = calibrate(model, batches).statistics()
    path = tmp_path / "part.safetensors"

    def stop(done, total, what):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, batches, resume=path, save_every=2, progress=stop)
    assert path.exists()
    with pytest.raises(ModelError, match="other settings"):
        calibrate(model, batches, resume=path, probes=2)
    with pytest.raises(ModelError, match="of another model"):
        calibrate(net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), seed=1), batches, resume=path)
    seen = []
    again = calibrate(model, batches, resume=path, probes=np.int64(1), progress=lambda *said: seen.append(said))
    assert seen[-1] == (6, 6, "30 samples")
    assert not path.exists()
    assert again.samples == 30
    for name in whole:
        np.testing.assert_array_equal(whole[name].metric(), again.statistics()[name].metric())
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="interrupted"):
        calibrate(model, batches, resume=path)
    with pytest.raises(ModelError, match=f"{tmp_path}: is a folder"):
        calibrate(model, batches, resume=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "header", "zeros", "bit", "tail"])
def test_a_damaged_file_of_an_interrupted_run_is_refused(damage, tmp_path):
    model = net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    batches, path = [torch.randn(N, 6) for _ in range(4)], tmp_path / "part"

    def stop(done, total, what):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, batches, resume=path, save_every=1, progress=stop)
    whole = path.read_bytes()
    data = bytearray(whole)
    if damage == "cut":
        del data[-7:]
    elif damage == "zeros":
        data[-len(data) // 8 :] = bytes(len(data) // 8)
    else:
        data[{"header": 100, "bit": len(data) - 30, "tail": -1}[damage]] ^= 1
    assert data != whole
    path.write_bytes(data)
    with pytest.raises(ModelError, match=str(path)):
        calibrate(model, batches, resume=path)


def test_sums_are_not_copied_to_be_saved_or_handed_over(tmp_path):
    model, x = net(nn.Linear(1500, 2, bias=False), nn.Linear(2, 2, bias=False)), torch.randn(N, 1500)
    one = 1500 * 1500 * 4
    seen = []

    def watch(done, total, what):
        seen.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    try:
        calibrate(model, [x, x], output=itself, resume=tmp_path / "part", save_every=1, progress=watch)
        seen.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert max(seen[:2]) < one / 2
    assert seen[2] < 2.5 * one, "fresh sums of both parts take no memory before something is added to them"


def as_lists(batch):
    return {"x": [batch["x"].tolist()], "n": 1}


@pytest.mark.parametrize(
    "form", [dict, as_lists, lambda b: (b["x"],), lambda b: b["x"].numpy(), lambda b: b["x"].bfloat16()]
)
def test_a_run_on_other_inputs_is_not_gone_on_with(form, tmp_path):
    """Whatever holds them: sums of some inputs and others are statistics of neither."""
    model = net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs = [{"x": torch.randn(N, 6)} for _ in range(6)]
    path = tmp_path / "part.safetensors"

    def forward(model, batch):
        found = batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch, tuple) else batch
        return model(torch.as_tensor(found).float().reshape(-1, 6))

    def run(chosen, **keywords):
        return calibrate(model, [form(x) for x in chosen], forward=forward, resume=path, save_every=2, **keywords)

    def stop(done, total, what):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, progress=stop)
    kept = path.read_bytes()
    others = {
        "another first one": [{"x": torch.randn(N, 6)}, *inputs[1:]],
        "one value": [*inputs[:3], {"x": inputs[3]["x"] + torch.eye(N, 6)}, *inputs[4:]],
        "another order": [inputs[k] for k in (1, 0, 2, 3, 4, 5)],
        "other sizes": [{"x": x["x"][:3]} for x in inputs],
        "fewer": inputs[:3],
    }
    for chosen in others.values():
        with pytest.raises(ModelError, match=r"part\.safetensors: is of other inputs"):
            run(chosen)
        assert path.read_bytes() == kept
    assert run([*inputs[:5], {"x": torch.randn(N, 6)}]).samples == 6 * N


def test_the_network_is_left_as_it_was():
    model = net(nn.Linear(6, 5), nn.Dropout(0.5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    model[1].eval()
    calibrate(model, [torch.randn(N, 6)])
    assert [m.training for m in model] == [True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_bad_arguments_are_told():
    model, x = net(nn.Linear(3, 2)), torch.randn(N, 3)
    for wrong, said in (({"probes": 0}, "probes"), ({"widest_block": 1}, "widest_block"), ({"output": "x"}, "output")):
        with pytest.raises(OptionError, match=said):
            calibrate(model, [x], **wrong)
    for kind in ("bfloat16", torch.int8, torch.float32):
        with pytest.raises(OptionError, match=r"autocast is .*must be torch\.float16 or torch\.bfloat16"):
            calibrate(model, [x], autocast=kind)
    for names, said in (
        ({"1.weight": "a"}, "none of"),
        ({}, "none of"),
        ({"0.weight": "a", "0.bias": "a"}, "a for two"),
    ):
        with pytest.raises(OptionError, match=f"names has {said}"):
            calibrate(model, [x], names=names)
    with pytest.raises(OptionError, match="module or a mapping"):
        calibrate(3, [x])
    with pytest.raises(ModelError, match="no batches"):
        calibrate(model, [])
    for one in (x, x.numpy(), {"input": x}):
        with pytest.raises(OptionError, match="batches is one"):
            calibrate(model, one)
    with pytest.raises(OptionError, match="batches is None"):
        calibrate(model, None)
    with pytest.raises(ModelError, match="no_grad"):
        calibrate(model, [x], forward=lambda model, batch: model(batch).detach())
    with pytest.raises(ModelError, match="not finite"):
        calibrate(model, [x * float("nan")])
    with pytest.raises(ModelError, match="as `output`"):
        calibrate(model, [x], forward=lambda model, batch: {"a": model(batch)})
    with pytest.raises(ModelError, match="meta"):
        calibrate(nn.Linear(3, 2, device="meta"), [x])


@pytest.mark.parametrize(
    ("output", "keywords", "said"),
    [
        (lambda y: y[:, :1], {}, r"\[5, 1\], must be logits .* of two classes or more. One logit"),
        (lambda y: y[:, 0], {}, r"\[5\], must be logits"),
        (lambda y: y[:, :1], {"output": itself, "fisher": True}, "must be logits"),
        (lambda y: y[:, :0], {}, r"float32\[5, 0\], must be float"),
        (lambda y: y.argmax(1), {}, r"int64\[5\], must be float"),
        (lambda y: 0 * y, {}, "it is constant"),
        (lambda y: 0 * y, {"output": "embedding"}, "it is constant"),
        (lambda y: 0 * y, {"output": itself}, "it is constant"),
        (lambda y: torch.zeros_like(y, requires_grad=True), {"output": itself}, "it is constant"),
    ],
)
def test_outputs_that_say_nothing_are_refused(output, keywords, said):
    model, x = net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(N, 3)

    def forward(model, batch):
        return output(model(batch))

    with pytest.raises(ModelError, match=said):
        calibrate(model, [x], forward=forward, **keywords)
    if "logits" in said and not keywords:
        with pytest.raises(ModelError, match=said):
            finetune(model, [x], forward=forward)


def test_one_logit_has_the_metric_of_two_classes():
    model, x = net(nn.Linear(3, 1)), torch.randn(200, 3)
    stats = calibrate(model, [x], output=lambda y: torch.cat([y, 0 * y], 1), fisher=True, probes=64).statistics()
    p = model(x).sigmoid().detach().double().numpy()[:, 0]
    mixed = 0.5 * np.stack([p, 1 - p]) + 0.25  # half softmax, half uniform
    wanted = (x.double().numpy().T * mixed.prod(0)) @ x.double().numpy() / len(x)
    found = stats["0.weight"].metric()[0]
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_batch_that_is_wrong_is_named():
    model, x = net(nn.Linear(3, 2)), torch.randn(N, 3)
    for wrong, said in ((x * float("nan"), "not finite"), (x[:0], r"\[0, 2\], must be")):
        with pytest.raises(ModelError, match=f"batch 3: the output is .*{said}"):
            calibrate(model, [x, x, wrong, x])
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    model.eval()
    assert (
        calibrate(model, [{"x": x, "of": np.array(["text", None], object)}], forward=lambda m, b: m(b["x"])).samples
        == N
    )


NORMED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm by a hook": nn.utils.weight_norm,
    "spectral norm by a hook": nn.utils.spectral_norm,
    "masked": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "masked in rows": lambda layer: prune.ln_structured(layer, "weight", 0.5, n=2, dim=0),
    "masked twice": lambda layer: prune.random_unstructured(prune.identity(layer, "weight"), "weight", 0.2),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", NORMED)
def test_weights_that_are_computed_each_time_are_refused(kind):
    """What an error of those costs that they are computed from is not known: a row of zeros would divide by zero."""
    model, x = net(nn.Linear(4, 4), NORMED[kind](nn.Linear(4, 4))), torch.randn(N, 4)
    stats = calibrate(net(nn.Linear(4, 4)), [x]).statistics()
    for work in (
        lambda: calibrate(model, [x]),
        lambda: finetune(model, [x]),
        lambda: compensate(model, x, calibration=stats),
    ):
        with pytest.raises(ModelError, match=r"1\.weight: is computed from other weights each time.*remove"):
            work()


def test_a_mask_that_was_made_permanent_is_no_computation():
    layer = prune.remove(prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5), "weight")
    assert "0.weight" in calibrate(net(layer), [torch.randn(N, 4)]).statistics()


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


def test_gradients_that_are_there_stay_there():
    model = net(nn.Linear(3, 2))
    kept = model[0].bias.grad = torch.ones(2)
    calibrate(model, [torch.randn(N, 3)])
    assert model[0].bias.grad is kept
    assert kept.tolist() == [1, 1]


def test_what_no_sample_reaches_is_told():
    with pytest.warns(NncWarning, match=r"unused\.weight"):
        stats = calibrate(Deaf(), [torch.randn(N, 3)]).statistics()
    assert {name: found.record.samples for name, found in stats.items()} == {
        "used.weight": N,
        "used.bias": N,
        "unused.weight": 0,
    }


def test_warnings_are_silent_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(net(nn.Linear(3, 2)), [torch.randn(N, 3)])
