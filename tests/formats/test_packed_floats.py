"""Floats of 4 and 6 bits in safetensors files: every byte, shape and dtype comes back."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import nncjit
from nncjit.errors import ModelError
from nncjit.formats import create, open_model
from nncjit.formats.safetensors_header import build
from nncjit.model import TensorInfo

NAMES = {"F4": "float4_e2m1fn_x2", "F6_E2M3": "float6_e2m3fn_packed", "F6_E3M2": "float6_e3m2fn_packed"}
SHAPES = [(8,), (40, 64), (0, 4), (3, 0), (2, 3, 12)]


@pytest.fixture
def file(tmp_path):
    """Any bits in tensors of all three types, beside weights."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (40, 64)).astype(np.float32)
    header, data = {"w": {"dtype": "F32", "shape": [40, 64], "data_offsets": [0, weights.nbytes]}}, weights.tobytes()
    for code in NAMES:
        for shape in SHAPES:
            size, start = int(np.prod(shape)) * int(code[1]) // 8, len(data)
            data += rng.bytes(size)
            header[f"{code}{shape}"] = {"dtype": code, "shape": list(shape), "data_offsets": [start, start + size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("options", [{}, {"bits": 3.0}, {"shard_bytes": "4KB"}], ids=str)
@pytest.mark.filterwarnings("ignore::nncjit.NncWarning")  # what stays as it is takes more than the target
def test_a_file_comes_back_with_its_bytes_shapes_and_dtypes(file, options, tmp_path):
    nncjit.compress(file, tmp_path / "m.nnc", **options)
    stream = tmp_path / ("m.nnc.index.json" if "shard_bytes" in options else "m.nnc")
    if stream.suffix == ".nnc":
        rows = {row.name: row.dtype for row in nncjit.inspect(stream).tensors}
        assert all(rows[f"{code}{shape}"] == name for code, name in NAMES.items() for shape in SHAPES)
    nncjit.decompress(stream, tmp_path / "back.safetensors")
    library = pytest.importorskip("safetensors")
    before, after = (dict(library.deserialize(p.read_bytes())) for p in (file, tmp_path / "back.safetensors"))
    assert before.keys() == after.keys()
    for name in before.keys() - {"w"}:
        assert after[name] == before[name]


def test_without_loss_the_file_is_the_same(file, tmp_path):
    nncjit.compress(file, tmp_path / "m.nnc", preset="lossless")
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("mmap", [False, True])
def test_the_model_has_them_as_bytes(file, mmap):
    with open_model(file, mmap=mmap) as model:
        assert model["F4(40, 64)"].info == TensorInfo("F4(40, 64)", (40, 32), "float4_e2m1fn_x2")
        assert model["F6_E2M3(2, 3, 12)"].read().shape == (2, 3, 9)


def test_torch_has_its_own_type_for_four_bits(file, tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("safetensors.torch")
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no such type")
    nncjit.compress(file, tmp_path / "m.nnc")
    with nncjit.open(tmp_path / "m.nnc", framework="pt") as opened, open_model(file) as model:
        got, name = opened.get_tensor("F4(40, 64)"), "F4(40, 64)"
        assert (got.dtype, got.shape) == (torch.float4_e2m1fn_x2, (40, 32))
        assert got.view(torch.uint8).numpy().tobytes() == model[name].read().tobytes()
        with pytest.raises(ModelError, match="this version of torch has no float6_e2m3fn_packed"):
            opened.get_tensor("F6_E2M3(8,)")
    theirs.save_file({"t": got}, tmp_path / "theirs.safetensors")
    with open_model(tmp_path / "theirs.safetensors") as model:
        assert model["t"].info == TensorInfo("t", (40, 32), "float4_e2m1fn_x2")
    nncjit.compress({"t": got}, tmp_path / "t.nnc")
    assert nncjit.inspect(tmp_path / "t.nnc").tensors[0].dtype == "float4_e2m1fn_x2"


def test_bytes_that_are_no_whole_number_of_floats_are_refused():
    with pytest.raises(ModelError, match=r"a: \[2, 4\] bytes are no whole number of floats of 6 bits"):
        build([TensorInfo("a", (2, 4), "float6_e3m2fn_packed")], {})


@pytest.mark.parametrize("suffix", ["pt", "npz"])
def test_other_formats_say_what_they_cannot_hold(suffix, tmp_path):
    info = TensorInfo("a", (6,), "float6_e3m2fn_packed")
    if suffix == "npz":
        with (
            pytest.warns(UserWarning, match="npz has no float6_e3m2fn_packed"),
            create(tmp_path / "m.npz", [info]) as writer,
        ):
            writer.put("a", np.arange(6, dtype=np.uint8))
        return
    pytest.importorskip("torch")
    with pytest.raises(ModelError, match="float6_e3m2fn_packed"), create(tmp_path / "m.pt", [info]) as writer:
        writer.put("a", np.arange(6, dtype=np.uint8))
