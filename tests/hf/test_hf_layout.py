"""Folders of Hugging Face models with NNC streams: they load as they are and hold what the streams hold; where they
cannot be made, one line says why.
"""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from model_files import refusal

import nncjit
from nncjit.cli.main import main
from nncjit.errors import OptionError
from nncjit.formats import open_model

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    import nncjit.hf
    from nncjit.hf import compress_folder, lazy_state_dict

pytestmark = pytest.mark.filterwarnings("default")

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def dense(dtype, *, tied):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config).to(dtype)


def experts(dtype):
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        **SMALL, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2, head_dim=16
    )
    return transformers.Qwen3MoeForCausalLM(config).to(dtype)


MODELS = {
    "tied bfloat16": (lambda: dense(torch.bfloat16, tied=True), {}),
    "sharded float32": (lambda: dense(torch.float32, tied=False), {"max_shard_size": "100KB"}),
    "experts bfloat16": (lambda: experts(torch.bfloat16), {"max_shard_size": "100KB"}),
}


@pytest.fixture(params=MODELS, scope="module")
def folders(request, tmp_path_factory):
    """A folder, and the compressed one."""
    folder = tmp_path_factory.mktemp("hf")
    make, options = MODELS[request.param]
    make().save_pretrained(folder / "plain", **options)
    (folder / "plain" / "tokenizer.json").write_text("{}")
    compress_folder(folder / "plain", folder / "small", quality=4)
    return folder / "plain", folder / "small"


def load(folder, **more):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **more)


def test_folders_load_without_a_missing_or_unexpected_name(folders):
    plain, small = folders
    (model, info), (original, _) = load(small), load(plain)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pairs = list(zip(model.named_parameters(), original.named_parameters(), strict=True))
    for (name, got), (wanted_name, want) in pairs:
        assert (name, got.dtype, got.shape) == (wanted_name, want.dtype, want.shape)
        assert torch.linalg.norm((got - want).float()) <= 0.03 * torch.linalg.norm(want.float())
    assert any(not torch.equal(got, want) for (_, got), (_, want) in pairs)
    tokens = torch.arange(6).reshape(1, 6)
    got, want = (m(tokens).logits for m in (model, original))
    assert torch.linalg.norm((got - want).float()) < 0.1 * torch.linalg.norm(want.float())


def test_values_are_those_of_the_streams(folders):
    _, small = folders
    model, _ = load(small)
    state = model.state_dict()
    files = sorted(small.glob("*.safetensors"))
    seen = 0
    for path in files:
        with open_model(path) as weights:
            for tensor in weights:
                name = tensor.name.removesuffix("_nnc")
                if name != tensor.name and name in state:
                    (array,) = nncjit.decode(tensor.read().tobytes()).values()
                    assert np.array_equal(array.astype(np.float32), state[name].float().numpy())
                    seen += 1
    assert seen >= 8


def test_a_loaded_model_is_saved_as_an_ordinary_one(folders, tmp_path):
    _, small = folders
    model, _ = load(small)
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    with open_model(tmp_path / "again" / "model.safetensors") as weights:
        assert not [name for name in weights.names if "nnc" in name]
    again, info = load(tmp_path / "again")
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_folder_is_decoded_without_transformers(folders, tmp_path):
    plain, small = folders
    assert main(["decompress", str(small), "-o", str(tmp_path / "again"), "-q"]) == 0
    assert sorted(p.name for p in plain.iterdir()) == sorted(p.name for p in (tmp_path / "again").iterdir())
    assert (tmp_path / "again" / "config.json").read_text() == (plain / "config.json").read_text()
    expected = load(small)[0].state_dict()
    model, info = load(tmp_path / "again")
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    nncjit.decompress(small, tmp_path / "alone.safetensors")
    with open_model(tmp_path / "alone.safetensors") as weights:
        assert not [name for name in weights.names if name.endswith("_nnc")]


def test_all_else_is_copied_and_the_layout_kept(folders):
    plain, small = folders
    assert sorted(p.name for p in plain.iterdir()) == sorted(p.name for p in small.iterdir())
    sizes = [sum(p.stat().st_size for p in f.glob("*.safetensors")) for f in folders]
    assert sizes[1] < 0.6 * sizes[0]
    config = json.loads((small / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "nnc"
    assert "nncjit" in config["to_load"]


def test_another_dtype_can_be_asked_for(folders):
    model, _ = load(folders[1], dtype=torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_a_lazy_state_dict_needs_no_folder(folders, tmp_path):
    plain, _ = folders
    index = plain / "model.safetensors.index.json"
    source = index if index.exists() else plain / "model.safetensors"
    nncjit.compress(source, tmp_path / "m.nnc", quality=4)
    config = transformers.AutoConfig.from_pretrained(plain)
    state = lazy_state_dict(tmp_path / "m.nnc")
    kind = getattr(transformers, config.architectures[0])
    model, info = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    decoded = nncjit.decode(tmp_path / "m.nnc")
    own = model.state_dict()
    assert all(np.array_equal(decoded[n].astype("f4"), own[n].float().numpy()) for n in decoded if n in own)
    name = next(iter(state))
    assert state[name].get_shape() == list(decoded[name].shape)
    assert state[name].get_dtype() in ("BF16", "F32")
    assert "nothing" not in state
    state.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "model"
    dense(torch.float32, tied=False).save_pretrained(folder)
    return folder


def test_some_tensors_only(plain, tmp_path):
    compress_folder(plain, tmp_path / "small", rules={".*self_attn.*": "raw"})
    with open_model(tmp_path / "small" / "model.safetensors") as weights:
        names = weights.names
    told = []
    nncjit.decompress(tmp_path / "small", tmp_path / "back", progress=lambda *x: told.append(x))
    assert (len(told), told[-1][0]) == (len(names), told[-1][1])
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.0.mlp.up_proj.weight_nnc" in names
    assert not load(tmp_path / "small")[1]["missing_keys"]


def test_the_command_line_makes_a_folder(plain, tmp_path, capsys):
    assert main(["compress", str(plain), "-o", str(tmp_path / "small"), "--layout", "hf", "--bits", "4"]) == 0
    assert "per weight" in capsys.readouterr().out
    assert not load(tmp_path / "small")[1]["missing_keys"]


def test_a_damaged_stream_does_not_load(plain, tmp_path):
    compress_folder(plain, tmp_path / "small")
    path = tmp_path / "small" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2000:] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(RuntimeError):
        load(tmp_path / "small")
    assert refusal(lambda: nncjit.decompress(tmp_path / "small", tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def renamed(source, folder, name):
    shutil.copytree(source, folder)
    (folder / "model.safetensors").rename(folder / name)
    return folder


def test_variants_and_pickled_weights_load(plain, tmp_path):
    variant = renamed(plain, tmp_path / "variant", "model.fp16.safetensors")
    compress_folder(variant, tmp_path / "a")
    pickled = renamed(plain, tmp_path / "pickled", "model.fp16.safetensors")
    arrays = load_file(pickled / "model.fp16.safetensors")
    arrays["tied"] = next(iter(arrays.values()))
    torch.save(arrays, pickled / "pytorch_model.bin")
    compress_folder(pickled, tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").glob("*.*")} >= {"model.safetensors"}
    assert not list((tmp_path / "b").glob("*.bin"))
    found = [load(tmp_path / "a", variant="fp16")[1], load(tmp_path / "b")[1]]
    assert not any(info["missing_keys"] or info["unexpected_keys"] for info in found)


def test_parts_of_a_sentence_transformer_go_along(plain, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(plain, source)
    (source / "2_Dense").mkdir()
    (source / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    (source / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}, {"path": "../plain"}]')
    compress_folder(source, tmp_path / "a")
    assert (tmp_path / "a" / "2_Dense" / "model.safetensors").read_bytes() == b"weights"
    (source / "modules.json").write_text("[3]")
    with pytest.warns(nncjit.NncWarning, match="2_Dense/model.safetensors: not copied"):
        compress_folder(source, tmp_path / "b")


def test_a_name_of_the_hub_and_the_name_of_a_file_are_told(tmp_path, capsys):
    assert "hf download" in refusal(lambda: compress_folder("meta-llama/Llama-3.2-1B", tmp_path / "a"))
    assert main(["compress", str(tmp_path), "-o", str(tmp_path / "a.safetensors"), "--layout", "hf"]) == 2
    assert "is the name of a file" in capsys.readouterr().err


def without(folder, name):
    (folder / name).unlink()


def with_config(folder, **more):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


HOSTILE = {
    "there is no such folder": shutil.rmtree,
    "config.json: is missing": lambda folder: without(folder, "config.json"),
    "holds neither": lambda folder: without(folder, "model.safetensors"),
    "is quantised already": lambda folder: with_config(folder, quantization_config={"quant_method": "gptq"}),
    "config.json: is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config.json: is not a table": lambda folder: (folder / "config.json").write_text("[]"),
    "not a safetensors file": lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99),
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_what_is_no_model_is_refused(plain, tmp_path, reason):
    shutil.copytree(plain, tmp_path / "model")
    HOSTILE[reason](tmp_path / "model")
    assert reason in refusal(lambda: compress_folder(tmp_path / "model", tmp_path / "small"))
    assert sorted(p.name for p in tmp_path.iterdir()) in (["model"], [])


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": True},
        {"fold_batchnorm": True},
        {"references": "index"},
        {"max_unit_bytes": 500},
        {"rules": {".*q_proj.*": "group:a"}},
        {"rules": {".*q_proj.*": "join:a"}},
        {"rules": {".*nothing.*": "raw"}},
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(plain, tmp_path, options):
    with pytest.raises(OptionError):
        compress_folder(plain, tmp_path / "small", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(plain, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").write_text("x")
    assert "exists already" in refusal(lambda: compress_folder(plain, tmp_path / "small"))
    assert (tmp_path / "small" / "mine").read_text() == "x"
