"""Modules and state dicts through `nncjit.torch`: names, dtypes, ties, buffers, devices, and what does not fit."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pytest

import nncjit

torch = pytest.importorskip("torch")


class Tied(torch.nn.Module):
    """A word table that is the output layer too, a buffer that is saved and one that is not."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(40, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.head = torch.nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("made", torch.ones(2), persistent=False)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Tied()


@pytest.fixture
def file(module, tmp_path):
    path = tmp_path / "model.nnc"
    nncjit.torch.save_file(module, path, snr=40)
    return path


def close(a, b):
    return torch.allclose(a.float(), b.float(), atol=0.05)


def test_importing_nncjit_imports_no_torch():
    code = "import nncjit, sys; nncjit.torch.__all__; assert 'torch' not in sys.modules; nncjit.torch.save_file"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_state_dict_comes_back_with_its_names_shapes_dtypes_and_ties(module, file):
    back = nncjit.torch.load_file(file)
    want = module.state_dict()
    assert list(back) == list(want)
    assert all(back[k].dtype == v.dtype and back[k].shape == v.shape and close(back[k], v) for k, v in want.items())
    assert back["head.weight"] is back["embed.weight"]


DTYPES = [*map("float{}".format, ("64", "32", "16", "8_e4m3fn", "8_e5m2")), "bfloat16", "bool"]
DTYPES += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
OPAQUE = ["complex64", "complex128", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 9)])
def test_every_dtype_of_torch_comes_back_as_such(name, shape):
    dtype = getattr(torch, name)
    tensor = (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype)
    data = io.BytesIO()
    nncjit.torch.save_file({"w": tensor}, data, quantizer="raw")
    back = nncjit.torch.load_file(data.getvalue())["w"]
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert torch.equal(back.to(torch.float64), tensor.to(torch.float64))


@pytest.mark.parametrize("name", OPAQUE)
@pytest.mark.parametrize("shape", [(), (0, 3), (7, 9)])
def test_what_is_not_quantised_comes_back_bit_for_bit(tmp_path, name, shape):
    dtype = getattr(torch, name)
    size = dtype.itemsize * math.prod(shape)
    tensor = (torch.arange(size) * 37 % 251).to(torch.uint8).view(dtype).reshape(shape)
    torch.save({"w": tensor}, tmp_path / "model.pt")
    nncjit.compress(tmp_path / "model.pt", tmp_path / "model.nnc")
    nncjit.decompress(tmp_path / "model.nnc", tmp_path / "back.pt")
    for back in (nncjit.torch.load_file(tmp_path / "model.nnc"), torch.load(tmp_path / "back.pt", weights_only=True)):
        assert (back["w"].dtype, back["w"].shape) == (dtype, tensor.shape)
        assert back["w"].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_conjugates_are_resolved_and_no_twins():
    tensor = torch.tensor([1 + 2j, 3 - 1j])
    data = io.BytesIO()
    nncjit.torch.save_file({"a": tensor, "b": tensor.conj(), "c": tensor.conj().imag}, data, quantizer="raw")
    back = nncjit.torch.load_file(data.getvalue())
    assert [back[name].tolist() for name in "abc"] == [[1 + 2j, 3 - 1j], [1 - 2j, 3 + 1j], [-2.0, 1.0]]


def test_a_module_is_filled_where_it_is(module, file):
    twin = Tied()
    weight = twin.embed.weight
    assert nncjit.torch.load_model(twin, file) == ([], [])
    assert twin.embed.weight is weight
    assert twin.head.weight is weight
    assert close(weight, module.embed.weight)
    assert twin.norm.num_batches_tracked == 0


def test_a_module_on_the_meta_device_is_made_and_stays_tied(module, file):
    with torch.device("meta"):
        twin = Tied()
    with pytest.warns(nncjit.NncWarning, match="made"):
        assert nncjit.torch.load_model(twin, file) == ([], [])
    assert isinstance(twin.embed.weight, torch.nn.Parameter)
    assert twin.embed.weight is twin.head.weight
    assert close(twin.embed.weight, module.embed.weight)
    assert twin.kept.tolist() == [0, 1, 2]
    assert not any(p.is_meta for p in twin.parameters())


def test_a_module_keeps_its_own_dtype(module, file):
    twin = Tied().half()
    nncjit.torch.load_model(twin, file)
    assert twin.embed.weight.dtype == torch.float16
    assert close(twin.embed.weight, module.embed.weight)


def test_what_the_file_ties_the_module_may_hold_apart(file):
    twin = Tied()
    twin.head = torch.nn.Linear(16, 40, bias=False, device="meta")
    nncjit.torch.load_model(twin, file)
    assert torch.equal(twin.head.weight, twin.embed.weight)
    assert twin.head.weight.data_ptr() != twin.embed.weight.data_ptr()


def test_what_the_module_ties_the_file_may_hold_once(module, tmp_path):
    state = module.state_dict()
    del state["embed.weight"]
    nncjit.torch.save_file(state, tmp_path / "m.nnc", snr=40)
    twin = Tied()
    assert nncjit.torch.load_model(twin, tmp_path / "m.nnc") == ([], [])
    assert close(twin.embed.weight, module.embed.weight)


def test_what_does_not_fit_is_told_before_the_module_changes(module, file):
    other = torch.nn.Sequential(torch.nn.Linear(3, 3))
    before = other[0].weight.clone()
    with pytest.raises(nncjit.ModelError, match=r"lacks 0\.weight, 0\.bias and adds kept, embed\.weight"):
        nncjit.torch.load_model(other, file)
    loaded = nncjit.torch.load_model(other, file, strict=False)
    assert loaded.missing == ["0.weight", "0.bias"]
    assert "embed.weight" in loaded.unexpected
    assert torch.equal(other[0].weight, before)
    other = Tied()
    other.kept = torch.zeros(4)
    with pytest.raises(nncjit.ModelError, match=r"kept: the file has shape \[3\], the module \[4\]"):
        nncjit.torch.load_model(other, file, strict=False)


def test_wrong_arguments_are_our_errors(module, file):
    for call in (
        lambda: nncjit.torch.load_file(file, device="nonsense"),
        lambda: nncjit.torch.load_file(file, device=[]),
        lambda: nncjit.torch.load_model({}, file),
        lambda: nncjit.torch.save_file(module, 5),
        lambda: nncjit.torch.save_file(5, file),
        lambda: nncjit.torch.save_file(module, file, metadata={"a": 1}),
        lambda: nncjit.torch.save_file({"w": torch.zeros(3, device="meta")}, file),
        lambda: nncjit.torch.save_file({"w": torch.eye(3).to_sparse()}, file),
    ):
        with pytest.raises(nncjit.NncError):
            call()


def test_metadata_are_kept(module, tmp_path):
    nncjit.torch.save_file(module, tmp_path / "m.nnc", metadata={"format": "pt"})
    with nncjit.open(tmp_path / "m.nnc") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_an_open_file_gives_tensors_of_torch(file):
    with nncjit.open(file, framework="pt") as opened:
        assert isinstance(opened.get_tensor("embed.weight"), torch.Tensor)
        assert opened.get_slice("embed.weight")[3:5].shape == (2, 16)
    with pytest.raises(nncjit.OptionError, match="framework"):
        nncjit.open(file, framework="tf")
