"""``--calibration`` and ``--sensitivity``: data about the model on the command line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import nncjit
from nncjit.calibrate import Calibration


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a small ``model.safetensors`` and its ``stats.safetensors``."""
    rng = np.random.default_rng(0)
    save_file({"fc": rng.standard_normal((30, 20), dtype=np.float32)}, tmp_path / "model.safetensors")
    calibration = Calibration()
    for _ in range(20):
        x, g = rng.standard_normal((4, 20)), rng.standard_normal((4, 30))
        calibration.linear("fc", (30, 20)).add(x, g)
        calibration.end_samples(1, output_power=1e3)
    calibration.save(tmp_path / "stats.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_compress_takes_statistics_and_tells_what_the_output_loses(run):
    code, out, err = run("compress model.safetensors --calibration stats.safetensors --bits 4 --tensors")
    assert (code, err) == (0, "")
    assert "feedback" in out
    assert "% of its power lost, as expected" in " ".join(out.split())
    code, out, _ = run("compress model.safetensors -o m.nnc --calibration stats.safetensors --loss 0.01 --json")
    assert code == 0
    assert json.loads(out)["loss"] == pytest.approx(0.01, rel=0.05)
    assert run("verify m.nnc")[0] == 0


@pytest.mark.usefixtures("folder")
def test_profile_shows_the_stages_of_a_calibrated_model(run):
    code, out, _ = run("profile model.safetensors --calibration stats.safetensors --json --threads 1")
    assert code == 0
    found = json.loads(out)
    assert {"factorise", "quantise"} <= {row["name"] for row in found["compress"]["stages"]}
    assert [row["name"] for row in found["tensors"]] == ["fc"]
    assert found["tensors"][0]["bytes"] > 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("verb", ["compress", "profile"])
def test_what_is_no_statistics_file_gets_one_line(run, verb):
    code, _, err = run(f"{verb} model.safetensors --calibration model.safetensors")
    assert code == 1
    assert "model.safetensors: is no statistics file" in err.splitlines()[-1]
    assert run(f"{verb} model.safetensors --calibration none.safetensors")[0] == 1


@pytest.mark.parametrize("more", ["", "--shard-bytes 2KB"])
def test_sensitivity_decides_which_weights_become_zero(folder, run, more):
    importance = np.ones((30, 20), np.float32)
    importance[:15] = 1e-6
    save_file({"fc": importance}, folder / "importance.safetensors")
    flags = f"--zeros 0.5 --sensitivity importance.safetensors --qp -30 -q {more}"
    assert run(f"compress model.safetensors {flags}")[0] == 0
    weights = nncjit.decode(folder / ("model.nnc.index.json" if more else "model.nnc"))["fc"]
    assert not weights[:15].any()
    assert np.count_nonzero(weights[15:]) > 290
    code, _, err = run("compress model.safetensors -o other.nnc --zeros 0.5 --sensitivity none.safetensors")
    assert (code, err) == (
        1,
        "nncjit: error: none.safetensors: no such file or directory (did you mean 'model.safetensors'?)\n",
    )


@pytest.mark.parametrize("flag", ["--calibration s", "--sensitivity s", "--workers 2", "--plan p", "--metadata a=b"])
def test_a_folder_for_transformers_refuses_what_it_does_not_take(flag, folder, run):
    code, _, err = run(f"compress {folder} -o out --layout hf {flag}")
    assert code != 0
    assert f"{flag.split()[0]} cannot be used with --layout hf" in err
