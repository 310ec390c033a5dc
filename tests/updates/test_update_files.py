"""The verbs `update` and `apply` on files and sessions, and what `inspect` says of updates."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nncjit
from nncjit import formats
from nncjit.cli.main import main
from nncjit.model import Model, Tensor
from nncjit.updates import UpdateOptions
from nncjit.updates.chain_state import ChainState
from nncjit.updates.update_decoder import opened_updates
from nncjit.updates.update_encoder import encode_update


@pytest.fixture
def models(tmp_path, monkeypatch):
    """week0..week3.safetensors in the current folder; each differs a little from the one before."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    model = {"w": rng.standard_normal((50, 30)).astype(np.float32), "b": np.ones(4, np.float32), "n": np.arange(3)}
    found = []
    for week in range(4):
        save_file(model, f"week{week}.safetensors", {"week": str(week)})
        found.append(model)
        model = {
            name: (a + 0.01 * rng.standard_normal(a.shape)).astype(a.dtype) if a.dtype == np.float32 else a + 1
            for name, a in model.items()
        }
    return found


def same(path, wanted):
    found = load_file(path)
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes(), name


def run(line):
    return main(line.split())


def test_files_to_files(models, capsys):
    assert run("update week0.safetensors week1.safetensors -o u1.nnc --tensors") == 0
    assert "update" in capsys.readouterr().out
    assert run("apply week0.safetensors u1.nnc -o back1.safetensors -q") == 0
    same("back1.safetensors", nncjit.apply(models[0], "u1.nnc"))
    assert run("update back1.safetensors week2.safetensors -o u2.nnc --lossless -q") == 0
    assert run("apply week0.safetensors u1.nnc u2.nnc -o back2.safetensors --json") == 0
    assert json.loads(capsys.readouterr().out)["target"] == "back2.safetensors"
    same("back2.safetensors", models[2])
    with formats.open_model("back2.safetensors") as model:
        assert model.metadata == {"week": "2"}


def test_a_base_may_be_compressed(models):
    nncjit.compress("week0.safetensors", "week0.nnc")
    assert run("update week0.nnc week1.safetensors -o u.nnc --lossless -q") == 0
    assert run("apply week0.nnc u.nnc -o back.npz -q") == 0
    with np.load("back.npz") as found:
        assert all(found[name].tobytes() == array.tobytes() for name, array in models[1].items())


def test_sessions(models, capsys):
    assert run("update week0.safetensors week1.safetensors -o u1.nnc --keep sender --qp -40 -q") == 0
    assert run("apply week0.safetensors u1.nnc --keep receiver -o back1.safetensors -q") == 0
    for week in (2, 3):
        assert run(f"update sender week{week}.safetensors -o u{week}.nnc -q") == 0
        assert run(f"apply receiver -o back{week}.safetensors u{week}.nnc -q") == 0
    same("back3.safetensors", nncjit.apply(models[0], "u1.nnc", "u2.nnc", "u3.nnc"))
    assert run("inspect u3.nnc") == 0
    assert "update 3 of a chain, follows on update 2" in capsys.readouterr().out
    assert nncjit.inspect("u3.nnc").update.number == 3
    assert nncjit.inspect("week1.safetensors").update is None


def test_a_refusal_leaves_files_and_sessions_as_they_were(models, tmp_path, capsys):
    run("update week0.safetensors week1.safetensors -o u1.nnc --keep sender -q")
    run("update sender week2.safetensors -o u2.nnc -q")
    run("apply week0.safetensors --keep receiver u1.nnc -q")
    for path in ("out.safetensors", "again.nnc"):
        (tmp_path / path).write_bytes(b"old")
    for line, said in (
        ("apply week1.safetensors u1.nnc -o out.safetensors", "has other values than in the base of the update"),
        ("apply week0.safetensors u2.nnc -o out.safetensors", "this is update 2 of its chain"),
        ("apply receiver u1.nnc -o out.safetensors", "has other values"),
        ("apply week0.safetensors missing.nnc -o out.safetensors", "missing.nnc"),
        ("apply week0.safetensors u1.nnc", "no target is given"),
        ("apply sender u1.nnc -o out.safetensors", "is the session of a sender"),
        ("apply week0.safetensors u1.nnc --base-model-id x -o out.safetensors", "base_model_id is None"),
        ("update receiver week1.safetensors -o again.nnc", "is the session of a receiver"),
        ("update sender missing.npz -o again.nnc", "missing.npz"),
        ("update week0.safetensors week1.safetensors -o again.nnc --renamed w", "must be NEW=OLD"),
        ("update week0.safetensors week1.safetensors -o again.nnc --renamed w=b --renamed w=n", "renamed already"),
        ("update week0.safetensors week1.safetensors -o again.nnc --rank 3", "rank: an update has no use for it"),
        ("update week0.safetensors week1.safetensors -o again.npz", "the target is an update"),
        ("update sender week1.safetensors -o again.nnc --keep more", "keep is for a base that is a file"),
    ):
        capsys.readouterr()
        assert run(line) in (1, 2), line
        assert said in capsys.readouterr().err, line
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "again.nnc").read_bytes() == b"old"
    assert run("apply receiver u2.nnc -q") == 0


def test_a_session_goes_on_only_when_its_file_is_there(models, tmp_path, capsys):
    run("update week0.safetensors week1.safetensors -o u1.nnc --keep sender -q")
    run("apply week0.safetensors u1.nnc --keep receiver -q")
    run("update sender week2.safetensors -o u2.nnc -q")
    assert run("apply receiver u2.nnc -o missing/back.safetensors") == 1
    assert "there is no folder" in capsys.readouterr().err
    assert run("apply receiver u2.nnc -o back.safetensors -q") == 0
    assert run("update sender week3.safetensors -o missing/u3.nnc") == 1
    assert run("update sender week3.safetensors -o u3.nnc -q") == 0
    assert run("apply receiver u3.nnc -o back.safetensors -q") == 0
    same("back.safetensors", nncjit.apply(models[0], "u1.nnc", "u2.nnc", "u3.nnc"))


def test_a_session_whose_first_update_fails_is_not_begun(models, capsys):
    assert run("update week0.safetensors missing.safetensors -o u1.nnc --keep sender") == 1
    assert run("update week0.safetensors week1.safetensors -o u1.nnc --keep sender -q") == 0
    for line in ("apply week1.safetensors u1.nnc", "apply week0.safetensors u1.nnc -o missing/b.safetensors"):
        assert run(f"{line} --keep receiver") == 1
        assert "is not empty" not in capsys.readouterr().err
    assert run("apply week0.safetensors u1.nnc -o back.safetensors --keep receiver -q") == 0


def test_renaming_on_the_command_line(models, tmp_path):
    save_file({"weight": models[1]["w"], "b": models[1]["b"]}, "new.safetensors")
    args = "update week0.safetensors new.safetensors -o u.nnc --renamed weight=w --base-model-id net -q"
    assert run(args) == 0
    found = nncjit.inspect("u.nnc")
    assert (found.base_model_id, found.update.renamed, found.update.gone) == ("net", {"weight": "w"}, ("n",))
    assert run("apply week0.safetensors u.nnc -o back.safetensors --base-model-id net -q") == 0
    assert sorted(load_file("back.safetensors")) == ["b", "weight"]


def test_what_is_read_is_not_written_over(models, tmp_path, capsys):
    nncjit.compress("week0.safetensors", "week0.nnc")
    run("update week0.safetensors week1.safetensors -o u1.nnc -q")
    (tmp_path / "folder").mkdir()
    (tmp_path / "week0.safetensors").rename("folder/model.safetensors")
    (tmp_path / "link.safetensors").symlink_to("folder/model.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for line in (
        "update week0.nnc week1.safetensors -o week0.nnc",
        "update week1.safetensors week0.nnc -o ./week0.nnc",
        "apply folder u1.nnc -o folder/model.safetensors",
        "apply folder/model.safetensors u1.nnc -o link.safetensors",
    ):
        assert run(line) == 2
        assert "one of the files to read, which are never changed" in capsys.readouterr().err
    assert run("update week0.nnc week1.safetensors -o -") == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_folders_and_streams_are_models_too(models, tmp_path, capsys):
    for week in (0, 1):
        (tmp_path / f"folder{week}").mkdir()
        (tmp_path / f"week{week}.safetensors").rename(f"folder{week}/model.safetensors")
    assert run("update folder0 folder1 -o u.nnc --lossless -q") == 0
    assert run("apply folder0 u.nnc -o back.safetensors -q") == 0
    same("back.safetensors", models[1])
    nncjit.compress("folder1/model.safetensors", "week1.nnc")
    assert run("update folder0 week1.nnc -o u.nnc --lossless -q") == 0
    assert run("apply folder0 u.nnc -o back.safetensors -q") == 0
    same("back.safetensors", nncjit.decode("week1.nnc"))
    (tmp_path / "cut.nnc").write_bytes((tmp_path / "week1.nnc").read_bytes()[:150])
    for line in ("apply folder0 cut.nnc -o x.npz", "apply cut.nnc u.nnc -o x.npz", "update cut.nnc folder1 -o x.nnc"):
        assert run(line) == 1
        assert "error: cut.nnc: " in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("update empty folder1 -o x.nnc") == 1
    assert "empty: holds no model file" in capsys.readouterr().err


def test_a_graph_stays_that_of_the_base(models, capsys):
    onnx = pytest.importorskip("onnx")

    def write(path, weights, op="MatMul"):
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        ends = [helper.make_tensor_value_info(name, kind, [1, n]) for name, n in (("x", 50), ("y", 30))]
        node = helper.make_node(op, ["x", "w"], ["y"])
        weights = [onnx.numpy_helper.from_array(weights, "w")]
        onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights)), path)

    write("0.onnx", models[0]["w"])
    write("1.onnx", models[1]["w"])
    write("2.onnx", models[1]["w"], "Gemm")
    assert run("update 0.onnx 1.onnx -o u.nnc --lossless -q") == 0
    assert capsys.readouterr().err == ""
    assert run("apply 0.onnx u.nnc -o back.onnx -q") == 0
    assert onnx.load("back.onnx").graph == onnx.load("1.onnx").graph
    assert run("update 0.onnx 2.onnx -o u2.nnc -q") == 0
    assert "another graph than the base" in capsys.readouterr().err
    assert run("apply 0.onnx u.nnc --keep session -q") == 0  # a session keeps the graph
    assert run("update 1.onnx 0.onnx -o u3.nnc --lossless -q") == 0
    assert run("apply session u3.nnc -o back0.onnx -q") == 0
    assert onnx.load("back0.onnx").graph == onnx.load("0.onnx").graph
    assert nncjit.updates.inspect_session("session").graphs == ("onnx",)
    assert run("update 0.onnx 1.onnx --keep sender -o u4.nnc -q") == run("update sender 2.onnx -o u5.nnc -q") == 0
    assert "another graph than the base" in capsys.readouterr().err
    assert run("apply week0.safetensors u.nnc -o no.onnx") == 1
    nncjit.updates.Receiver({"w": models[0]["w"]}, folder="plain")
    assert run("apply plain u.nnc -o no.onnx") == 1
    assert "needs the ONNX graph of the network, and there is none: name a file that has it" in capsys.readouterr().err
    assert run("apply plain u.nnc -o back1.onnx --like 2.onnx -q") == 0
    back, wanted = onnx.load("back1.onnx").graph, onnx.load("2.onnx").graph
    assert (back.node, back.initializer[0].name) == (wanted.node, "w")
    assert onnx.numpy_helper.to_array(back.initializer[0]).tobytes() == models[1]["w"].tobytes()


def test_a_folder_becomes_a_folder(models, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "week0.safetensors").rename("folder/model.safetensors")
    assert run("update folder week1.safetensors -o u.nnc --lossless -q") == 0
    assert run("apply folder u.nnc -o new -q") == 0
    assert (tmp_path / "new" / "config.json").read_text() == "{}"
    same("new/model.safetensors", models[1])
    assert run("apply folder u.nnc -o new") == 1
    assert "new: exists already" in capsys.readouterr().err
    assert run("apply folder u.nnc --keep session -o second -q") == 0
    same("second/model.safetensors", models[1])
    assert run("apply session -o third") == 2
    assert "name a file of a known format, or that folder as `like`" in capsys.readouterr().err
    assert run("apply session -o third --like folder -q") == 0
    assert sorted(path.name for path in (tmp_path / "third").iterdir()) == ["config.json", "model.safetensors"]
    assert run("apply folder u.nnc -o folder") == 2
    assert not list(tmp_path.glob(".*"))


def test_what_is_hashed_of_a_base_is_what_is_built_on(models):
    """A file may change while it is read: each tensor is read once."""
    counts = dict.fromkeys(models[0], 0)

    def tensor(name, array):
        def read():
            counts[name] += 1
            return array + counts[name] - 1

        return Tensor(name, array.shape, array.dtype.name, read)

    base = Model([tensor(name, array) for name, array in models[0].items()])
    file = io.BytesIO()
    new = models[1] | {"n": models[0]["n"]}
    encode_update(ChainState.of(base), Model.from_mapping(new), file, UpdateOptions(lossless=True))
    assert set(counts.values()) == {1}
    counts.update(dict.fromkeys(counts, 0))
    with ExitStack() as files:
        found = {}

        def keep(parameter):
            found[parameter.name] = parameter.read()
            return parameter

        opened_updates(ChainState.of(base), [file.getvalue()], files).run(keep, goes_on=False)
    assert set(counts.values()) == {1}
    assert all(found[name].tobytes() == array.tobytes() for name, array in new.items())


READERS = {
    "decode": nncjit.decode,
    "open": lambda path: nncjit.open(path).close(),
    "decompress": lambda path: nncjit.decompress(path, "back.npz"),
    "diff": lambda path: nncjit.diff(path, "week0.safetensors"),
}


@pytest.mark.parametrize("reader", READERS)
def test_whoever_takes_an_update_for_a_model_is_told(models, reader):
    assert run("update week0.safetensors week1.safetensors -o u1.nnc -q") == 0
    with pytest.warns(nncjit.NncWarning, match=r"u1.nnc: is an update: .*differences, not the model"):
        READERS[reader]("u1.nnc")


def test_the_base_of_an_update_is_no_update(models, capsys):
    assert run("update week0.safetensors week1.safetensors -o u1.nnc -q") == 0
    run("update u1.nnc week2.safetensors -o u2.nnc -q")
    assert "u1.nnc: is an update" in capsys.readouterr().err
