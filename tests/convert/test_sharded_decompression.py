"""Several streams back to a sharded model, verified and opened as one; the command line does the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from convert.models import OddExecutor, tensors, write_model

import nncjit
from nncjit import formats
from nncjit.cli.main import main
from nncjit.convert import sharded_decompression
from nncjit.convert.job_status import status_of

SHARD = 30_000


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    source = write_model(folder / "m.safetensors", tensors())
    nncjit.compress(source, folder / "m.nnc", shard_bytes=SHARD)
    return folder / "m.nnc.index.json"


@pytest.fixture(scope="module")
def whole():
    return nncjit.decode(nncjit.encode(tensors()))


def same(model, whole):
    assert list(model) == list(whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(model[name], array)


def test_streams_open_as_one(streams, whole):
    with nncjit.open(streams) as file:
        same({name: file.get_tensor(name) for name in file}, whole)
        assert file.metadata() == {"format": "np"}
        np.testing.assert_array_equal(file.get_slice("embed.weight")[3:5], whole["embed.weight"][3:5])


@pytest.mark.parametrize("executor", [None, "threads", "odd"])
def test_streams_become_a_sharded_model(executor, streams, whole, tmp_path):
    target = tmp_path / "m.safetensors.index.json"
    with ThreadPoolExecutor(2) as pool:
        given = {None: None, "threads": pool, "odd": OddExecutor()}[executor]
        report = nncjit.decompress(streams, target, executor=given)
    with formats.open_model(target) as model:
        assert model.names == list(whole)
        for tensor in model:
            np.testing.assert_array_equal(tensor.read(), whole[tensor.name])
    assert [row.name for row in report.tensors] == list(whole)
    assert status_of(target).complete


def test_decoding_goes_on_where_it_was_ended(streams, tmp_path, monkeypatch):
    target, real, made = tmp_path / "m.safetensors.index.json", sharded_decompression.decode_stream, []

    def work(task):
        made.append(task.target)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(sharded_decompression, "decode_stream", work)
    with pytest.raises(KeyboardInterrupt):
        nncjit.decompress(streams, target)
    state = status_of(target)
    assert (len(state.done), state.complete, state.at_work) == (2, False, False)
    with pytest.warns(nncjit.NncWarning, match="shard_size is not used"):
        nncjit.decompress(streams, target, shard_size="1GB")
    assert len(made) == 3 + len(state.missing)
    assert status_of(target).complete


def test_files_of_others_are_not_replaced(streams, tmp_path):
    stranger = tmp_path / "m-00001-of-00004.safetensors"
    count = len(set(json.loads(streams.read_text())["weight_map"].values()))
    stranger = tmp_path / f"m-00001-of-{count:05d}.safetensors"
    stranger.write_text("mine")
    with pytest.raises(nncjit.ModelError, match="no part of"):
        nncjit.decompress(streams, tmp_path / "m.safetensors.index.json")
    assert stranger.read_text() == "mine"


def test_verify_checks_every_stream_and_names_the_damaged_one(streams, tmp_path):
    report = nncjit.verify(streams, executor=OddExecutor())
    assert report.checksum
    assert [row.name for row in report.tensors] == list(tensors())
    for path in streams.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = sorted(tmp_path.glob("m-*.nnc"))[1]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(nncjit.BitstreamError, match=damaged.name):
        nncjit.verify(tmp_path / streams.name)


BAD_INDICES = {
    "no JSON": "{",
    "no map": "{}",
    "a path out of the folder": '{"weight_map": {"a": "../m.nnc"}}',
    "numbers": '{"weight_map": {"a": 3}}',
    "another format": '{"weight_map": {"a": "m.safetensors"}}',
    "a missing stream": '{"weight_map": {"a": "none.nnc"}}',
}


@pytest.mark.parametrize("case", BAD_INDICES)
@pytest.mark.parametrize("way", ["open", "verify", "decompress"])
def test_indices_that_are_none_are_refused(case, way, tmp_path):
    path = tmp_path / "m.nnc.index.json"
    path.write_text(BAD_INDICES[case])
    ways = {
        "open": nncjit.open,
        "verify": nncjit.verify,
        "decompress": lambda path: nncjit.decompress(path, tmp_path / "m.safetensors.index.json"),
    }
    with pytest.raises(nncjit.ModelError, match=r"m\.nnc|none\.nnc"):
        ways[way](path)


def test_a_tensor_that_no_stream_holds_is_missed(streams, tmp_path):
    for path in streams.parent.glob("m-*.nnc"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads(streams.read_text())
    content["weight_map"]["more"] = content["weight_map"]["steps"]
    (tmp_path / streams.name).write_text(json.dumps(content))
    for way in (nncjit.open, nncjit.verify):
        with pytest.raises(nncjit.ModelError, match="'more'"):
            way(tmp_path / streams.name)


def test_a_single_file_is_no_target_of_several_tasks(streams, tmp_path):
    for more in ({"full_size": True}, {"executor": OddExecutor()}):
        with pytest.raises(nncjit.OptionError, match=r"ends with \.safetensors\.index\.json"):
            nncjit.decompress(streams, tmp_path / "m.npz", **more)
    with pytest.raises(nncjit.OptionError, match="executor"):
        nncjit.decompress(b"", tmp_path / "m.npz", executor=OddExecutor())


def test_the_command_line_compresses_tells_its_state_and_decompresses(streams, tmp_path, capsys):
    source = write_model(tmp_path / "m.safetensors", tensors())
    plan = tmp_path / "plan.json"
    assert main(["compress", str(source), "--shard-bytes", "30KB", "--plan", str(plan), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["target"].endswith("m.nnc.index.json")
    assert json.loads(plan.read_text())["nncjit plan"] == 1
    assert (tmp_path / "m.nnc.index.json").read_bytes() == streams.read_bytes()
    assert main(["status", str(tmp_path / "m.nnc"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    assert main(["status", str(tmp_path / "m.nnc")]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "other.nnc")]) == 1
    out = tmp_path / "back.safetensors.index.json"
    assert main(["decompress", str(tmp_path / "m.nnc.index.json"), "-o", str(out), "-q"]) == 0
    assert main(["verify", str(tmp_path / "m.nnc.index.json"), "-q"]) == 0
    assert main(["compress", str(source), "--workers", "0", "-o", str(tmp_path / "x.nnc")]) == 2
    assert main(["compress", str(source), "--workers", "1", "--dask", "tcp://x", "-o", str(tmp_path / "x.nnc")]) == 2


def test_an_index_stands_wherever_a_stream_does(streams, whole):
    same(nncjit.decode(streams), whole)
    some = nncjit.decode(streams, names=["layers.3.norm.weight", "steps"], max_bytes="1MB")
    assert sorted(some) == ["layers.3.norm.weight", "steps"]
    with pytest.raises(nncjit.ModelError, match=r"no tensor 'stepz' in the streams \(did you mean 'steps'"):
        nncjit.decode(streams, names="stepz")
    with pytest.raises(nncjit.BitstreamError, match="max_bytes"):
        nncjit.decode(streams, max_bytes=1000)
    found = nncjit.inspect(streams)
    assert [tensor.name for tensor in found.tensors] == list(whole)
    assert found.metadata == {"format": "np"}
    assert found.bytes == sum(path.stat().st_size for path in streams.parent.glob("m-*.nnc"))
    assert {unit["file"] for unit in found.units} == {path.name for path in streams.parent.glob("m-*.nnc")}
    assert main(["inspect", str(streams), "-q"]) == 0
    with pytest.raises(nncjit.ModelError, match=r"m\.nnc\.index\.json is the model in several streams"):
        nncjit.inspect(streams.with_name("m.nnc"))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_streams_become_one_file(suffix, streams, whole, tmp_path):
    target = tmp_path / f"one.{suffix}"
    told = []
    report = nncjit.decompress(streams, target, progress=lambda *moved: told.append(moved))
    with formats.open_model(target) as model:
        assert model.names == list(whole)
        for tensor in model:
            np.testing.assert_array_equal(tensor.read(), whole[tensor.name])
    assert [row.name for row in report.tensors] == list(whole)
    assert report.compressed_bytes == sum(path.stat().st_size for path in streams.parent.glob("m-*.nnc"))
    assert told[-1][0] == told[-1][1] == report.weights
    with pytest.raises(nncjit.OptionError, match="in several files"):
        nncjit.decompress(streams, target, executor=OddExecutor())
