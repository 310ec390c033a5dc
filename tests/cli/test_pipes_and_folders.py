"""Pipes, folders, patterns and files of rules, as users give them on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nncjit

RNG = np.random.default_rng(0)
WEIGHTS = {"a.weight": RNG.standard_normal((60, 50), dtype=np.float32), "b": np.arange(5)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(line, folder):
    line = line.replace("nncjit ", f"{sys.executable} -m nncjit ")
    return subprocess.run(["sh", "-c", f"set -e; {line}"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
def test_a_model_goes_through_pipes_and_back(folder):
    done = shell(
        "cat m.safetensors | nncjit compress - -o - --preset lossless | nncjit decompress - -o - > back.safetensors;"
        "nncjit compress m.safetensors -o - -q > m.nnc; nncjit -q verify - < m.nnc; nncjit inspect - < m.nnc",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert "a.weight" in done.stdout
    assert done.stderr.count("-> -") == 2  # reports go to stderr where stdout has the data
    back = load_file("back.safetensors")
    assert all((back[name] == array).all() for name, array in WEIGHTS.items())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_named_pipes_are_read(folder, run):
    nncjit.compress("m.safetensors", "m.nnc")
    for fifo, content, line in (
        ("p1", "m.safetensors", "compress p1 -o x.nnc"),
        ("p2", "m.nnc", "verify p2"),
        ("p3", "m.nnc", "decompress p3 -o x.npz"),
        ("p4", "m.nnc", "inspect p4"),
        ("p5", "m.nnc", "report p5 --against m.safetensors -o p5.html"),
        ("p6", "m.safetensors", "diff p6 m.nnc"),
        ("p7", "m.safetensors", "inspect p7"),
    ):
        os.mkfifo(fifo)
        data = (folder / content).read_bytes()
        writer = threading.Thread(target=(folder / fifo).write_bytes, args=(data,))
        writer.start()
        code, _, err = run(line)
        writer.join()
        assert (code, err) == (0, "")
    assert nncjit.diff("x.npz", "x.nnc").equal


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_pipes_and_devices_are_written(folder, run):
    os.mkfifo("p")
    found = []
    for line in ("compress m.safetensors -o p", "decompress m.nnc -o p", "report m.nnc -o p"):
        nncjit.compress("m.safetensors", "m.nnc")
        reader = threading.Thread(target=lambda: found.append((folder / "p").read_bytes()))
        reader.start()
        code, out, err = run(line)
        reader.join()
        assert (code, err) == (0, "")
        assert " -> p" in out
        assert found.pop()
    assert run("compress m.safetensors -q -o /dev/null") == (0, "", "")
    if os.path.exists("/dev/full"):  # noqa: PTH110
        assert run("compress m.safetensors -q -o /dev/full") == (
            1,
            "",
            "nncjit: error: /dev/full: no space left on device\n",
        )
    assert run("compress m.safetensors --dry-run -q -o /dev/null") == (0, "", "")


def test_one_pipe_is_one_model(folder, run):
    assert run("diff - -") == (2, "", "nncjit: error: standard input holds one model: name the other one\n")
    assert run("report - --against - -o x.html")[0] == 2
    assert "-o PAGE.html" in run("report -")[2]


def test_two_models_do_not_go_to_one_file(folder, run):
    for name in ("a", "b"):
        (folder / name).mkdir()
        save_file(WEIGHTS, folder / name / "m.safetensors")
    code, _, err = run("compress a/m.safetensors b/m.safetensors -o out")
    assert (code, err.count("\n")) == (2, 1)
    assert "would both become m.nnc" in err
    assert not (folder / "out").exists()


def test_a_missing_file_is_told_with_the_one_that_may_be_meant(folder, run):
    nncjit.compress("m.safetensors", "model.nnc")
    for line, meant in (
        ("compress mm.safetensors", "m.safetensors"),
        ("compress m.safetensor -o x.nnc", "m.safetensors"),
        ("inspect modell.nnc", "model.nnc"),
        ("decompress modell.nnc -o x.npz", "model.nnc"),
    ):
        code, _, err = run(line)
        assert code == 1
        assert f"no such file or directory (did you mean {meant!r}?)" in err


@pytest.mark.parametrize(
    "line",
    [
        "compress m.safetensors -o x.nnc --prune-by l1",
        "compress m.safetensors -o x.nnc --prune-share 0.3",
        "compress m.safetensors -o x.nnc --metadata a=1 --metadata a=2",
        "eval --demo --task other.py",
        "eval m.safetensors --rival none --rival-qp -20",
        "profile m.nnc --bits 4",
        "profile m.nnc --calibration x.safetensors",
    ],
)
def test_what_would_be_ignored_is_refused(folder, run, line):
    nncjit.compress("m.safetensors", "m.nnc")
    code, _, err = run(line)
    assert code == 2
    assert err.splitlines()[-1].startswith("nncjit: error: ")


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("content", "words"), [("printf ''", "standard input is"), ("echo no model", "standard input is")]
)
def test_what_is_no_model_is_refused_in_one_line(folder, content, words):
    done = shell(f"{content} | nncjit compress - -o x.nnc", folder)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def hugging_face(folder):
    """A folder as `save_pretrained` leaves it, in two shards."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / ".hidden").touch()
    (folder / "extra").mkdir()
    (folder / "extra" / "tokenizer.txt").write_text("words")
    save_file({"a.weight": WEIGHTS["a.weight"]}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": WEIGHTS["b"]}, folder / "model-00002-of-00002.safetensors")
    shard_of = {"a.weight": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shard_of}))


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_a_folder_and_comes_back(folder, run):
    hugging_face(folder / "llama")
    code, out, err = run("compress llama/ -o llama-nnc/ --preset lossless")
    assert (code, err) == (0, "")
    assert out.startswith("llama -> llama-nnc\n")
    assert tree(folder / "llama-nnc") == ["config.json", "extra/tokenizer.txt", "model.nnc"]
    assert run("decompress llama-nnc -o back -q") == (0, "", "")
    assert tree(folder / "back") == [name for name in tree(folder / "llama") if name != ".hidden"]
    assert nncjit.diff("llama/model.safetensors.index.json", "back/model.safetensors.index.json").equal
    assert run("compress llama -q")[0] == 2  # llama-nnc is there already
    assert nncjit.compress("llama", "other", bits=4).target == "other"


def test_inspecting_a_folder_lists_the_model_that_compress_would_take(folder, run):
    hugging_face(folder / "llama")
    code, out, err = run("inspect llama")
    assert (code, err) == (0, "")
    assert out.startswith("llama/model.safetensors.index.json: a model file")
    assert "a.weight" in out
    nncjit.compress("llama", "llama/model.nnc")
    assert run("inspect llama")[1] == out
    nncjit.compress("llama", "only-nnc")
    assert run("inspect only-nnc/")[1].startswith("only-nnc/model.nnc: ISO")


def test_a_dry_run_of_a_folder_writes_nothing(folder, run):
    hugging_face(folder / "llama")
    assert run("compress llama -o new --dry-run -q")[0] == 0
    assert not (folder / "new").exists()


def test_folders_without_a_model_or_with_two_say_so(folder, run):
    (folder / "empty").mkdir()
    assert "holds no model file" in run("compress empty -o x")[2]
    assert "holds no model file" in run("inspect empty")[2]
    (folder / "two").mkdir()
    for name in "ab":
        np.savez(folder / "two" / f"{name}.npz", w=np.ones(3))
    assert "holds 2 models (a.npz, b.npz)" in run("compress two -o x")[2]
    assert "holds 2 models (a.npz, b.npz)" in run("inspect two")[2]
    hugging_face(folder / "llama")
    assert "the target is the source" in run("compress llama -o llama")[2]


def test_adapters_go_along_and_tensors_that_stay_behind_are_named(folder, run):
    hugging_face(folder / "llama")
    for name in ("adapter_model", "projector"):
        save_file(WEIGHTS, folder / "llama" / f"{name}.safetensors")
    (folder / "llama" / "pytorch_model.bin").write_bytes(b"the same model in another format")
    code, _, err = run("compress llama -o nnc -q")
    assert code == 0
    assert "llama: projector.safetensors: not copied, tensors that are not in model.safetensors.index.json" in err
    assert "pytorch_model" not in err
    assert tree(folder / "nnc") == ["adapter_model.safetensors", "config.json", "extra/tokenizer.txt", "model.nnc"]


def test_an_adapter_alone_keeps_its_name(folder, run):
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text("{}")
    save_file(WEIGHTS, folder / "lora" / "adapter_model.safetensors")
    assert run("compress lora -o nnc -q") == (0, "", "")
    assert tree(folder / "nnc") == ["adapter_config.json", "adapter_model.nnc"]
    assert run("decompress nnc -o back -q") == (0, "", "")
    assert tree(folder / "back") == tree(folder / "lora")


def test_shards_of_pytorch_are_read(folder, run):
    torch = pytest.importorskip("torch")
    (folder / "old").mkdir()
    torch.save({"a.weight": torch.from_numpy(WEIGHTS["a.weight"])}, folder / "old" / "pytorch_model-1.bin")
    torch.save({"b": torch.from_numpy(WEIGHTS["b"])}, folder / "old" / "pytorch_model-2.bin")
    shard_of = {"a.weight": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}
    (folder / "old" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shard_of}))
    assert run("compress old -o new --preset lossless -q") == (0, "", "")
    assert nncjit.diff("m.safetensors", "new/model.nnc").equal
    code, _, err = run("decompress new/model.nnc -o x.bin.index.json")
    assert (code, err.count("\n")) == (2, 1)


def test_one_stream_becomes_shards_of_a_size(folder, run):
    nncjit.compress("m.safetensors", "m.nnc")
    (folder / "out").mkdir()
    assert run("decompress m.nnc -o out/m.safetensors.index.json --shard-size 12KB -q") == (0, "", "")
    assert len(list((folder / "out").glob("m-*.safetensors"))) == 2


def test_several_inputs_and_patterns_go_into_a_folder(folder, run):
    save_file(WEIGHTS, "n.safetensors")
    assert run("compress m.safetensors n.safetensors -o out/ -q") == (0, "", "")
    assert tree(folder / "out") == ["m.nnc", "n.nnc"]
    assert run("compress *.safetensors -o more -q") == (0, "", "")
    assert tree(folder / "more") == ["m.nnc", "n.nnc"]
    assert "-o FOLDER/" in run("compress m.safetensors n.safetensors")[2]
    assert "-o FOLDER/" in run("compress m.safetensors n.safetensors -o both.nnc")[2]
    assert not (folder / "both.nnc").exists()
    assert "no file matches" in run("compress *.xyz -o more")[2]


def test_rules_in_a_file(folder, run):
    (folder / "rules.toml").write_text("[rules]\n'a.*' = { bits = 3, quantizer = 'uniform' }\nb = 'raw'\n")
    assert run("compress m.safetensors -o m.nnc --rules rules.toml -q") == (0, "", "")
    tools = {row.name: row.tools for row in nncjit.inspect("m.nnc").tensors}
    assert tools["a.weight"][0] == "uniform"
    (folder / "rules.toml").write_text("'a.*' = 'lossless'\n")
    assert run("compress m.safetensors -o m.nnc --rules rules.toml --rule b=raw -q") == (0, "", "")
    assert nncjit.diff("m.safetensors", "m.nnc").equal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= =", "no TOML"),
        ("a = 5", "must hold patterns"),
        ("'a.*' = {bist = 3}", "did you mean 'bits'"),
        ("", "is empty"),
    ],
)
def test_wrong_files_of_rules_are_one_line(folder, run, text, words):
    (folder / "rules.toml").write_text(text)
    code, _, err = run("compress m.safetensors -o m.nnc --rules rules.toml")
    assert code in (1, 2)
    assert words in err
    assert err.count("\n") == 1


def test_every_verb_that_reads_a_model_takes_its_folder(folder, run):
    hugging_face(folder / "llama")
    nncjit.compress("llama", "llama-nnc")
    assert run("verify llama-nnc")[1].startswith("OK: llama-nnc\n")
    assert run("diff llama llama-nnc --all")[1].splitlines()[-1].startswith("llama, llama-nnc: ")
    assert run("report llama-nnc --against llama -q") == (0, "", "")
    assert (folder / "llama-nnc.html").exists()
    assert run("eval llama --grid bits=4 --rival none -q --json found.json") == (0, "", "")
    assert json.loads((folder / "found.json").read_text())["model"] == "llama"


def test_a_folder_comes_back_in_several_files_where_that_is_asked_for(folder, run):
    (folder / "one").mkdir()
    save_file(WEIGHTS, folder / "one" / "model.safetensors")
    nncjit.compress("one", "one-nnc")
    assert run("decompress one-nnc -o back --shard-size 200 -q") == (0, "", "")
    assert len(list((folder / "back").glob("*.safetensors"))) == 2
    nncjit.compress("m.safetensors", "m.nnc")
    assert run("decompress m.nnc --shard-size 200 -q") == (0, "", "")
    assert (folder / "m.safetensors.index.json").exists()
    for target in ("x.npz", "x.safetensors"):
        code, _, err = run(f"decompress m.nnc -o {target} --shard-size 200")
        assert (code, err.count("\n")) == (0, 1)
        assert "shard_size is not used" in err
    assert run("verify m.nnc --workers 2")[0] == 2
