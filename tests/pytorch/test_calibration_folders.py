"""`nncjit calibrate` on small Hugging Face folders: which networks, which texts, which names, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import nncjit  # noqa: E402
from nncjit import ModelError, OptionError  # noqa: E402
from nncjit.calibrate import Statistics  # noqa: E402
from nncjit.cli.main import main  # noqa: E402
from nncjit.torch.calibration_folders import calibrate_folder  # noqa: E402
from nncjit.torch.calibration_partial import Partial  # noqa: E402
from nncjit.torch.calibration_texts import passages, random_tokens  # noqa: E402

TEXTS = ["the quick brown fox", "jumps over a lazy dog again", "the dog", "a fox jumps", "lazy lazy dog over the fox"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for text in TEXTS for word in text.split()})]


def save_tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def folder_of(network, config, tmp_path_factory, **keywords):
    """A folder of a network with random weights, and a tokenizer."""
    folder = tmp_path_factory.mktemp("folder")
    torch.manual_seed(0)
    network(config, **keywords).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12,
    )  # fmt: skip
    return folder_of(transformers.BertModel, config, tmp_path_factory, add_pooling_layer=False)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=3
    )
    return folder_of(transformers.GPT2LMHeadModel, config, tmp_path_factory)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Its file has a matrix for each expert, the network has them in stacks."""
    config = transformers.MixtralConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=1, max_position_embeddings=16,
    )  # fmt: skip
    return folder_of(transformers.MixtralForCausalLM, config, tmp_path_factory)


def weights(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def test_an_encoder_has_statistics_of_all_its_weights(bert):
    stats = calibrate_folder(bert, TEXTS, batch=2).statistics()
    assert {name: stats[name].record.shape for name in stats} == weights(bert)
    assert stats.loss == "1 - cosine of the embedding"
    assert stats.samples == len(TEXTS)
    assert stats["embeddings.position_embeddings.weight"].positions


def test_a_language_model_has_statistics_under_the_names_of_its_file(gpt):
    stats = calibrate_folder(gpt, TEXTS, batch=2).statistics()
    assert {name: stats[name].record.shape for name in stats} == weights(gpt)
    assert stats.loss == "divergence of the outputs, in nats"
    blocks = [name for name in stats if name.endswith("c_fc.weight")]
    assert [stats[name].record.axis for name in blocks] == [0]


@pytest.mark.filterwarnings("ignore:.*nothing is left:nncjit.NncWarning")
def test_each_expert_has_statistics_under_its_name_in_the_file(mixture, tmp_path):
    calibration = calibrate_folder(mixture, TEXTS * 4, batch=4)
    stats = calibration.statistics()
    assert {name: stats[name].record.shape for name in stats} == weights(mixture)
    experts = [name for name in stats if ".experts." in name]
    assert len(experts) == 12
    tokens = {name.split(".")[-3]: stats[name].record.tokens for name in experts}
    assert len(set(tokens.values())) > 1
    assert all(stats[name].record.tokens == tokens[name.split(".")[-3]] for name in experts)
    calibration.save(tmp_path / "s.safetensors")
    report = nncjit.compress(mixture / "model.safetensors", tmp_path / "m.nnc", calibration=tmp_path / "s.safetensors")
    coded = {row.name: row for row in report.tensors}
    assert {coded[name].tool for name in experts if tokens[name.split(".")[-3]]} == {"feedback + LS"}


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return folder_of(transformers.T5ForConditionalGeneration, config, tmp_path_factory)


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    config = transformers.BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=14,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, forced_eos_token_id=3,
    )  # fmt: skip
    return folder_of(transformers.BartForConditionalGeneration, config, tmp_path_factory)


@pytest.mark.parametrize(("texts", "output"), [(TEXTS, "auto"), (None, "auto"), (TEXTS, "embedding")])
def test_the_decoder_of_an_encoder_decoder_reads_what_it_writes(translator, texts, output):
    found = calibrate_folder(translator, texts, output=output, samples=5, length=6, batch=2)
    stats = found.statistics()
    assert {name: stats[name].record.shape for name in stats} == weights(translator)
    assert all(found.record.samples for found in stats.values())
    assert stats.loss.startswith("1 - cosine" if output == "embedding" else "divergence")


def test_a_folder_without_a_tokenizer_reads_random_tokens_alone(bert, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(bert / name, tmp_path)
    with pytest.raises(ModelError, match="holds no tokenizer for texts"):
        calibrate_folder(tmp_path, TEXTS)
    assert set(calibrate_folder(tmp_path, samples=4, length=6).statistics()) == set(weights(bert))


@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")
def test_networks_that_read_no_tokens_are_told(bert, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"reads no tokens; nncjit\.torch\.calibrate"):
        calibrate_folder(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ModelError, match=r"does not run on tokens \(.*; nncjit\.torch\.calibrate"):
        calibrate_folder(tmp_path, TEXTS)


def test_padding_changes_nothing(bert):
    one = calibrate_folder(bert, TEXTS[:1] * 6, batch=6).statistics()
    ids = calibrate_folder(bert, [*TEXTS[:1] * 6, TEXTS[4]], batch=7, samples=7).statistics()
    name = "embeddings.word_embeddings.weight"
    assert ids[name].energy()[WORDS.index("[PAD]")] == 0
    assert one[name].energy()[WORDS.index("fox")] > 0


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_without_texts_the_network_reads_what_is_made_up(kind, request):
    folder = request.getfixturevalue(kind)
    first, again = (calibrate_folder(folder, samples=8, length=10).statistics() for _ in range(2))
    assert set(first) == set(weights(folder))
    assert first.is_guess == (kind == "bert")  # the other one writes texts
    for name in first:
        np.testing.assert_array_equal(first[name].metric(), again[name].metric())


def test_random_tokens_prefer_low_numbers_and_leave_special_ones_out():
    drawn = np.concatenate(random_tokens(1000, 200, 30, seed=0, special=[0, 7]))
    assert {0, 7}.isdisjoint(drawn.tolist())
    assert (drawn < 100).sum() > 2 * (drawn >= 900).sum()


def test_passages(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree  x\n", "utf-8")
    (tmp_path / "b.txt").write_text("one\ntwo\n", "utf-8")
    (tmp_path / "c.txt").write_text("\n \n", "utf-8")
    (tmp_path / "d.txt").write_bytes(b"abc\xff")
    assert passages([tmp_path / "a.txt"]) == ["one two", "three x"]
    assert passages([tmp_path / "b.txt", tmp_path / "a.txt"]) == ["one", "two", "one two", "three x"]
    for name, said in (("c.txt", "no text"), ("d.txt", "UTF-8"), ("e.txt", "no such file")):
        with pytest.raises(ModelError, match=said):
            passages([tmp_path / name])


def test_the_verb(bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), "utf-8")
    assert main(["calibrate", str(bert), "--texts", "texts.txt", "-o", "s.safetensors", "--batch", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["tensors"]) == (5, len(weights(bert)))
    with Statistics.open("s.safetensors") as stats:
        assert set(stats) == set(weights(bert))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert main(["calibrate", str(bert), "--texts", "texts.txt", "-o", "s.safetensors"]) == 0
    assert "passages" not in (out := capsys.readouterr()).out
    assert "5" in out.out


def test_a_verb_that_was_stopped_goes_on_with_the_same_texts_alone(bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 8), "utf-8")
    (tmp_path / "others.txt").write_text("\n".join(TEXTS[:2] * 20), "utf-8")
    command = ["calibrate", str(bert), "-o", "s.safetensors", "--batch", "2", "-q", "--texts"]
    saved = []

    def stop(self, sums):
        save(self, sums)
        saved.append(self._met)
        if len(saved) == 2:
            raise KeyboardInterrupt

    save = Partial.save
    monkeypatch.setattr(Partial, "save", stop)
    assert main([*command, "texts.txt"]) == 130
    assert saved == [2, 4]
    monkeypatch.setattr(Partial, "save", save)
    for other in (
        ["others.txt"],
        ["texts.txt", "--length", "3"],
        ["texts.txt", "--batch", "4"],
        ["texts.txt", "--samples", "6"],
    ):
        assert main([*command, *other]) == 1
        assert ".s.safetensors.part: is of other inputs" in capsys.readouterr().err
    assert not (tmp_path / "s.safetensors").exists()
    assert main([*command, "texts.txt"]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_output_that_cannot_be_written_is_told_before_the_network_runs(bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nncjit.torch.calibration_folders.calibrate_folder", None)
    (tmp_path / "folder.safetensors").mkdir()
    for target in ("folder.safetensors", "none/s.safetensors"):
        assert main(["calibrate", str(bert), "-o", str(tmp_path / target)]) == 1
        assert target in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors"]


def test_a_head_that_the_files_lack_is_told_where_the_output_needs_it(bert, gpt, tmp_path):
    """transformers fills it with random numbers: what counts for the output would be random, too."""
    for folder, architecture, said in (
        (bert, "BertForSequenceClassification", r"bert\.pooler\.dense\.bias and 3 more"),
        (bert, "BertForMaskedLM", r"cls\.predictions"),
        (gpt, "GPT2ForSequenceClassification", r"score\.weight, which the output needs"),
    ):
        shutil.copytree(folder, tmp_path / architecture)
        path = tmp_path / architecture / "config.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "architectures": [architecture], "pad_token_id": 0})
        )
        with pytest.raises(ModelError, match=f"{architecture}: its files lack {said}"):
            calibrate_folder(path.parent, TEXTS)


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])


def spoil_weights(folder):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    arrays = load_file(path)
    arrays["encoder.layer.0.output.dense.weight"] *= np.nan
    save_file(arrays, path, {"format": "pt"})


def set_in_config(**said):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **said}), "utf-8")

    return change


def replace(name, text):
    return lambda folder: (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_weights, "damaged: Error while deserializing header"),
        (replace("model.safetensors", ""), "damaged: Error while deserializing header"),
        (set_in_config(hidden_size=32), "damaged: "),
        (set_in_config(hidden_size="a"), "damaged: Validation error for field 'hidden_size'"),
        (set_in_config(hidden_act="none"), "damaged: 'none'"),
        (replace("config.json", "{"), "damaged: .*not a valid JSON"),
        (replace("tokenizer.json", "{"), "damaged: holds no tokenizer for texts"),
        (replace("tokenizer.json", "{}"), "damaged: holds no tokenizer for texts"),
        (spoil_weights, "damaged: encoder.layer.0.output.dense.weight is not finite"),
    ],
)
def test_damaged_folders_are_told(damage, said, bert, tmp_path, monkeypatch, capsys):
    """Whatever the libraries raise that read them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert, "damaged")
    damage(tmp_path / "damaged")
    (tmp_path / "t.txt").write_text("\n".join(TEXTS), "utf-8")
    assert main(["calibrate", "damaged", "--texts", "t.txt", "-q", "-o", "s.safetensors"]) == 1
    err = capsys.readouterr().err
    assert re.search(f"^nncjit: error: {said}", err, re.MULTILINE)
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "t.txt"]


@pytest.mark.parametrize("texts", [None, [" ".join(TEXTS * 3)] * 4])
@pytest.mark.parametrize("kind", ["bert", "gpt", "short", "bart"])
def test_texts_are_no_longer_than_the_network_reads(kind, texts, request, tmp_path):
    """Whether they are the user's, drawn or written: by its positions, or by what its tokenizer says."""
    if kind == "short":
        path = shutil.copytree(request.getfixturevalue("bert"), tmp_path / "short") / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "model_max_length": 5}), "utf-8")
    folder = tmp_path / "short" if kind == "short" else request.getfixturevalue(kind)
    assert calibrate_folder(folder, texts, samples=4, length=1000).samples == 4
    assert kind != "bart" or calibrate_folder(folder, texts, output="embedding", samples=4, length=1000).samples == 4


@pytest.mark.parametrize("name", ["model.safetensors", "others.safetensors"])
def test_no_model_is_replaced_by_its_statistics(name, bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nncjit.torch.calibration_folders.calibrate_folder", None)
    folder = shutil.copytree(bert, tmp_path / "bert")
    if name != "model.safetensors":
        shutil.copy(folder / "model.safetensors", folder / name)
    kept = (folder / name).read_bytes()
    assert main(["calibrate", str(folder), "-o", str(folder / name)]) == 2
    assert f"{name}: exists and holds no statistics" in capsys.readouterr().err
    assert (folder / name).read_bytes() == kept


@pytest.mark.parametrize("option", ["--seed -1", "--probes 0", "--threads 0", "--threads 99999", "--loss cosine"])
def test_options_out_of_range_are_told_before_the_network_is_loaded(option, bert, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nncjit.torch.calibration_folders._Folder", None)
    command = ["calibrate", str(bert), "-q", "-o", str(tmp_path / "s.safetensors"), *option.split()]
    try:
        code = main(command)
    except SystemExit as error:
        code = error.code
    assert code == 2
    flag, value = option.split()
    assert flag.lstrip("-") in (err := capsys.readouterr().err)
    assert value in err


@pytest.mark.parametrize("name", ["samples", "length", "batch", "probes", "seed", "output"])
def test_what_is_none_of_an_arguments_values_is_refused_before_the_folder_is_read(tmp_path, name):
    for value in (None, "x", "", 1.5, -1, True, b"1", [1], float("nan")):
        with pytest.raises(OptionError, match=rf"^{name} is .*, must be (a whole number in|one of) "):
            calibrate_folder(tmp_path / "none", TEXTS, **{name: value})


@pytest.mark.parametrize("name", ["samples", "length", "batch"])
def test_sizes_may_be_numbers_of_numpy(bert, name):
    stats = [calibrate_folder(bert, TEXTS, **{name: kind(3)}).statistics() for kind in (int, np.int64)]
    assert list(stats[0]) == list(stats[1])


def test_bad_folders_are_told(bert, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelError, match=str(folder)):
            calibrate_folder(folder, TEXTS)
    with pytest.raises(ModelError, match="no head"):
        calibrate_folder(bert, TEXTS, output="logits")
    assert main(["calibrate", str(bert), "-o", str(tmp_path / "a.npz")]) == 2
    assert main(["calibrate", str(bert), "-o", str(tmp_path / "b" / "a.safetensors")]) == 1
    assert capsys.readouterr().err.count("error") == 2
