"""Modules whose weights stay coded compute what unpacked ones do, within the budget."""

from __future__ import annotations

import threading

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
