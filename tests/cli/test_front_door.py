"""What new users try: folders as targets, the wrong direction, odd links and names, nothing at all."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from nncjit import formats
from nncjit.cli.main import main
from nncjit.cli.text import paragraphs
from nncjit.model import TensorInfo


def written(path, **arrays):
    with formats.create(path, [TensorInfo(n, a.shape, a.dtype.name) for n, a in arrays.items()]) as writer:
        for name, array in arrays.items():
            writer.put(name, array)
    return path


@pytest.fixture
def model(tmp_path):
    return written(tmp_path / "m.safetensors", w=np.random.default_rng(0).normal(0, 1, (16, 16)).astype(np.float32))


def said(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_folder_as_target_gets_the_file(model, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main(["compress", str(model), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert main(["decompress", str(tmp_path / "out" / "m.nnc"), "-o", f"{tmp_path / 'out'}/", "-q"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.nnc", "m.safetensors"]


def test_the_wrong_direction_is_named(model, tmp_path, capsys):
    assert main(["decompress", str(model)]) == 2
    assert said(capsys).endswith("m.safetensors: is no NNC file")
    main(["compress", str(model), "-q"])
    assert main(["compress", str(tmp_path / "m.nnc")]) == 2
    assert said(capsys).endswith("m.nnc: is already an NNC file")


def test_a_link_that_leads_to_itself_is_one_line(model, tmp_path, capsys):
    loop = tmp_path / "loop.nnc"
    loop.symlink_to(loop.name)
    assert main(["compress", str(model), "-o", str(loop)]) == 1
    assert "levels of symbolic links" in said(capsys)
    assert loop.is_symlink()


def test_folders_with_links_in_circles_are_copied(model, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "in" / "sub" / "out"
    out.mkdir(parents=True)
    model.rename(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "sub" / "text").write_text("t")
    (folder / "dangling").symlink_to("nowhere")
    nncjit.compress(folder, out)
    nncjit.compress(folder, out)
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    assert found == ["config.json", "model.nnc", "sub", "sub/text"]


def test_a_folder_that_also_has_streams_is_compressed_and_back(model, tmp_path):
    nncjit.compress(model, tmp_path / "old.nnc")
    nncjit.compress(tmp_path, tmp_path / "new.nnc")
    assert list(nncjit.decode(tmp_path / "new.nnc")) == ["w"]


def test_metadata_comes_from_the_command_line(model, tmp_path, capsys):
    texts = ["--metadata", "licence=MIT", "--metadata", "formula=a=b"]
    assert main(["compress", str(model), "-o", str(tmp_path / "n.nnc"), "-q", *texts]) == 0
    assert nncjit.inspect(tmp_path / "n.nnc").metadata == {"licence": "MIT", "formula": "a=b"}
    assert main(["compress", str(model), "-o", str(tmp_path / "n.nnc"), "--metadata", "licence"]) == 2
    assert "must be NAME=TEXT" in said(capsys)
    assert main(["compress", str(model), "-o", str(tmp_path / "n.nnc"), "--metadata", "a=\udcff"]) == 2
    assert "must be texts by name" in said(capsys)


@pytest.mark.parametrize("size", ["0", "9" * 400 + "GB", "-1", "GB", "1e3", ""])
def test_sizes_that_are_none_are_refused(size, model, tmp_path, capsys):
    assert main(["compress", str(model), "-o", str(tmp_path / "n.nnc"), f"--shard-bytes={size}"]) == 2
    assert "shard_bytes is" in said(capsys)


@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")  # no size can be hit
@pytest.mark.parametrize("arrays", [{}, {"e": np.zeros((0, 5), np.float32), "s": np.array(3, np.float32)}])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"bits": 4, "shard_bytes": 1}, {"quantizer": "lossless"}])
def test_models_of_next_to_nothing_come_back(arrays, options, tmp_path):
    source = written(tmp_path / "m.safetensors", **arrays)
    nncjit.compress(source, tmp_path / "m.nnc", **options)
    stream = tmp_path / ("m.nnc.index.json" if "shard_bytes" in options else "m.nnc")
    nncjit.verify(stream)
    assert {t.name: t.shape for t in nncjit.inspect(stream).tensors} == {n: a.shape for n, a in arrays.items()}
    back = tmp_path / f"back.safetensors{'.index.json' if 'shard_bytes' in options else ''}"
    nncjit.decompress(stream, back)
    with formats.open_model(back) as restored:
        assert {tensor.name: tensor.read().shape for tensor in restored} == {n: a.shape for n, a in arrays.items()}


@pytest.mark.parametrize("columns", ["0", "1", "20", "5000"])
def test_any_width_of_the_terminal_will_do(columns, model, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["inspect", str(model)]) == 0
    assert paragraphs("some words of text " * 5)
    with pytest.raises(SystemExit):
        main(["compress", "--help"])
