"""Modules whose weights stay coded compute what unpacked ones do, within the budget."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest

import nncjit
import nncjit.torch

torch = pytest.importorskip("torch")

WIDTH = 32


def network(layers: int = 6, seed: int = 0):
    torch.manual_seed(seed)
    blocks = [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.LayerNorm(WIDTH)) for _ in range(layers)]
    return torch.nn.Sequential(*blocks, torch.nn.BatchNorm1d(WIDTH), torch.nn.Linear(WIDTH, 5)).eval()


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "m.nnc"
    nncjit.torch.save_file(network(), path)
    return path


def unpacked(path, module):
    module.load_state_dict(nncjit.torch.load_file(path))
    return module


@pytest.fixture
def values():
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))


LAYER = 4 * (WIDTH * WIDTH + WIDTH)


@pytest.mark.parametrize("budget", [LAYER, 2 * LAYER + 500, 4 * LAYER, "1GB"])
def test_outputs_are_those_of_the_unpacked_model_within_the_budget(budget, stream, values):
    expected = unpacked(stream, network())(values)
    attached = network(seed=9)
    with nncjit.torch.attach(attached, stream, budget=budget) as attachment:
        for _ in range(3):
            torch.testing.assert_close(attached(values), expected, rtol=0, atol=0)
        if isinstance(budget, int):
            assert attachment.peak_bytes <= budget
        assert attachment.decoded >= 6 * 4 + 2 + 2
        assert all(p.is_meta for p in attached.parameters()), "nothing stays in the module"
        if budget == "1GB":
            assert attachment.decoded == 6 * 4 + 2 + 2


def test_part_of_a_model_that_fits_in_part_stays(stream, values):
    attached = network()
    with nncjit.torch.attach(attached, stream, budget=4 * LAYER) as attachment:
        attached(values)
        first = attachment.decoded
        for _ in range(4):
            attached(values)
        assert (attachment.decoded - first) / 4 < 0.9 * first


def test_a_module_on_the_meta_device_runs(stream, values):
    with torch.device("meta"):
        attached = network()
    with nncjit.torch.attach(attached, stream, budget="1MB"):
        assert torch.equal(attached(values), unpacked(stream, network())(values))


def test_detached_it_is_a_plain_module(stream, values):
    attached = network(seed=3)
    nncjit.torch.attach(attached, stream, budget="1MB").detach()
    assert torch.equal(attached(values), unpacked(stream, network())(values))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in attached.modules())
    for name, tensor in nncjit.torch.load_file(stream).items():
        assert torch.equal(attached.state_dict()[name], tensor)


class Attending(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, WIDTH)
        self.attention = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.head = torch.nn.Linear(WIDTH, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(self.attention(x, x, x)[0])


def test_tied_weights_and_modules_that_use_those_of_others(tmp_path):
    torch.manual_seed(0)
    model, other, tokens = Attending().eval(), Attending().eval(), torch.arange(12).reshape(3, 4)
    nncjit.torch.save_file(model, tmp_path / "m.nnc")
    model.load_state_dict(nncjit.torch.load_file(tmp_path / "m.nnc"))
    with nncjit.torch.attach(other, tmp_path / "m.nnc", budget="1MB") as attachment, torch.no_grad():
        assert torch.equal(other(tokens), model(tokens))
        assert attachment.decoded == 5, "the tied tensor once"
    attachment = nncjit.torch.attach(Attending(), tmp_path / "m.nnc", budget="1MB")
    attachment.detach()
    assert attachment.module.head.weight is attachment.module.embed.weight


def same_as_unpacked(make, inputs, path, **options):
    """Whether an attached module of random weights computes what the unpacked one does."""
    model, other = make(0).eval(), make(1).eval()
    nncjit.torch.save_file(model, path)
    model.load_state_dict(nncjit.torch.load_file(path))
    with nncjit.torch.attach(other, path, budget="1MB", **options), torch.no_grad():
        found, expected = other(*inputs), model(*inputs)
        return torch.equal(*(out[0] if isinstance(out, tuple) else out for out in (found, expected)))


def seeded(make):
    def made(seed):
        torch.manual_seed(seed)
        return make()

    return made


class Borrowing(torch.nn.Module):
    """Uses the weight of a module inside it, which is not called."""

    def __init__(self):
        super().__init__()
        self.lender = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.lender.weight)


class Listing(torch.nn.Module):
    """Has parameters in lists, which are never called."""

    def __init__(self):
        super().__init__()
        self.some = torch.nn.ParameterList([torch.randn(WIDTH), torch.nn.ParameterDict({"a": torch.randn(WIDTH)})])

    def forward(self, x):
        return x * self.some[0] + self.some[1]["a"]


def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(torch.nn.Linear(WIDTH, WIDTH))


ODD = {
    "LSTM": lambda: torch.nn.LSTM(WIDTH, WIDTH, 2, batch_first=True),
    "GRU": lambda: torch.nn.GRU(WIDTH, 8, bidirectional=True),
    "encoder layer": lambda: torch.nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True),
    "encoder": lambda: torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True), 2),
    "lists": Listing,
    "old weight norm": old_weight_norm,
    "weight norm": lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(WIDTH, WIDTH)),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_with_padding_takes_the_same_way(tmp_path):
    padding = torch.arange(5) > torch.tensor([[4], [2]])
    inputs = [torch.randn(2, 5, WIDTH), None, padding]
    assert same_as_unpacked(seeded(ODD["encoder"]), inputs, tmp_path / "m.nnc")


@pytest.mark.parametrize("kind", ODD)
def test_modules_that_reach_their_weights_in_odd_ways(kind, tmp_path):
    assert same_as_unpacked(seeded(ODD[kind]), [torch.randn(2, 5, WIDTH)], tmp_path / "m.nnc")


def test_modules_that_use_the_weights_of_others_are_named(tmp_path):
    assert same_as_unpacked(seeded(Borrowing), [torch.randn(2, WIDTH)], tmp_path / "m.nnc", whole=[Borrowing])
    with pytest.raises(nncjit.OptionError, match="whole is"):
        nncjit.torch.attach(Borrowing(), tmp_path / "m.nnc", whole=[Borrowing()])


REFUSED = {
    "copied": lambda module, _: copy.deepcopy(module),
    "pickled": lambda module, _: pickle.dumps(module),
    "saved": lambda module, _: module.state_dict(),
    "saved in part": lambda module, _: module[0][0].state_dict(),
    "attached again": nncjit.torch.attach,
    "moved": lambda module, _: module.to("cpu"),
    "used by others": lambda module, _: torch.nn.functional.linear(torch.zeros(4, WIDTH), module[0][0].weight),
    "of another type": lambda module, _: module.half()(torch.zeros(4, WIDTH)),
    "loaded": lambda module, _: (
        module.load_state_dict(network().state_dict(), assign=True),
        module(torch.zeros(4, WIDTH)),
    ),
    "replaced": lambda module, _: (
        setattr(module[0][0], "bias", torch.nn.Parameter(torch.zeros(WIDTH))),
        module(torch.zeros(4, WIDTH)),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_attached_module_cannot_do_is_told(case, stream, values):
    attached = network()
    attachment = nncjit.torch.attach(attached, stream, budget="1MB")
    with pytest.raises(nncjit.ModelError, match=r"stays? coded|attached to a stream already"):
        REFUSED[case](attached, stream)
    attachment.detach()
    assert "0.0.weight" in attached.state_dict()
    assert not any(p.is_meta for p in attached.parameters())


def test_an_error_in_a_layer_leaves_it_usable(stream, values):
    attached = network()
    with nncjit.torch.attach(attached, stream, budget=2 * LAYER):
        with pytest.raises(RuntimeError):
            attached(values[:, :5])
        assert torch.equal(attached(values), unpacked(stream, network())(values))


def test_threads_may_run_it_at_once(stream, values):
    attached, expected, found = network(), unpacked(stream, network())(values), []
    with nncjit.torch.attach(attached, stream, budget="1MB"):
        threads = [threading.Thread(target=lambda: found.append(attached(values))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4
    assert all(torch.equal(output, expected) for output in found)


def test_damage_is_told_when_a_layer_runs(stream, values):
    data = bytearray(stream.read_bytes())
    data[len(data) // 2] ^= 255
    stream.write_bytes(data)
    attached = network()
    try:
        with nncjit.torch.attach(attached, stream, budget="1MB"):
            attached(values)
    except nncjit.NncError:
        return


def test_other_modules_and_budgets_are_refused(stream):
    with pytest.raises(nncjit.ModelError, match="lacks"):
        nncjit.torch.attach(network(3), stream)
    with pytest.raises(nncjit.ModelError, match="the stream lacks"):
        nncjit.torch.attach(network(9), stream)
    with pytest.raises(nncjit.OptionError, match="alone takes"):
        nncjit.torch.attach(network(), stream, budget=LAYER - 1)
    with pytest.raises(nncjit.OptionError, match="budget"):
        nncjit.torch.attach(network(), stream, budget="much")
    with pytest.raises(nncjit.OptionError, match="must be a torch"):
        nncjit.torch.attach({}, stream)
    untouched = network()
    with pytest.raises(nncjit.OptionError):
        nncjit.torch.attach(untouched, stream, budget=1)
    assert not any(p.is_meta for p in untouched.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_generation_of_a_llama_is_that_of_the_unpacked_model(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        eos_token_id=None,
        pad_token_id=0,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    nncjit.torch.save_file(model, tmp_path / "m.nnc", bits=4)
    model.load_state_dict(nncjit.torch.load_file(tmp_path / "m.nnc"))
    prompt = torch.tensor([[1, 5, 9, 2]])
    expected = model.generate(prompt, max_new_tokens=12, do_sample=False)
    attached = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    budget = 120_000
    with nncjit.torch.attach(attached, tmp_path / "m.nnc", budget=budget) as attachment:
        assert torch.equal(attached.generate(prompt, max_new_tokens=12, do_sample=False), expected)
        assert attachment.peak_bytes <= budget < sum(2 * p.numel() for p in model.parameters())


@pytest.mark.parametrize("prefetch", [0, 5000, "1GB"])
def test_tensors_are_decoded_ahead_in_order(prefetch, stream):
    whole = nncjit.decode(stream)
    with nncjit.open(stream) as file:
        found = dict(file.iter_tensors(prefetch=prefetch))
        assert list(found) == list(whole)
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array)
        names = [*whole][::-2]
        assert [name for name, _ in file.iter_tensors(names, prefetch=prefetch)] == names
        assert next(file.iter_tensors(prefetch=prefetch))[0] == next(iter(whole))
        with pytest.raises(nncjit.ModelError, match="no tensor"):
            file.iter_tensors(["none"])
        with pytest.raises(nncjit.OptionError, match="prefetch"):
            file.iter_tensors(prefetch="much")
