"""npz: agreement with NumPy both ways, and no pickle."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from model_files import assert_same_bits, load, save

from nncjit.dtypes import to_float32
from nncjit.errors import ModelError
from nncjit.formats import create, open_model
from nncjit.model import TensorInfo

NUMPY = ("float64", "float32", "float16", "int8", "int64", "uint16", "uint64", "bool", "complex64", "complex128")


def arrays_of_numpy():
    rng = np.random.default_rng(0)
    shapes = [(), (0, 3), (7, 5)]
    return {f"{n}{shape}": np.array(rng.random(shape) * 9).astype(n) for n in NUMPY for shape in shapes}


def member(array_bytes, name="a.npy", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr(name, array_bytes)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_we_read_what_numpy_writes(tmp_path, save_as):
    arrays = arrays_of_numpy()
    save_as(tmp_path / "model.npz", **arrays)
    assert_same_bits(load(tmp_path / "model.npz")[1], arrays)


def test_numpy_reads_what_we_write(tmp_path):
    arrays = arrays_of_numpy()
    save(tmp_path / "model.npz", [TensorInfo(n, a.shape, a.dtype.name) for n, a in arrays.items()], arrays=arrays)
    with np.load(tmp_path / "model.npz") as file:
        assert_same_bits(dict(file), arrays)
    assert zipfile.ZipFile(tmp_path / "model.npz").testzip() is None


def test_the_same_model_gives_the_same_bytes(tmp_path):
    infos = [TensorInfo("a", (3,), "float32")]
    for name in ("one.npz", "two.npz"):
        save(tmp_path / name, infos)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_fortran_order_and_other_byte_orders_are_read_as_they_look(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    np.savez(tmp_path / "model.npz", a=array)
    infos, got, _ = load(tmp_path / "model.npz")
    assert infos == [TensorInfo("a", (2, 3), "float32")]
    assert got["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_become_float32_with_a_warning(tmp_path, name):
    infos = [TensorInfo("a", (7, 5), name), TensorInfo("b", (2,), "float32")]
    values = np.linspace(-3, 3, 35, dtype=np.float32).reshape(7, 5)
    with pytest.warns(UserWarning, match=rf"model\.npz: npz has no {name}; 1 tensors are written as float32"):
        written = save(tmp_path / "model.npz", infos)
    got, arrays, _ = load(tmp_path / "model.npz")
    assert got == [TensorInfo("a", (7, 5), "float32"), infos[1]]
    np.testing.assert_array_equal(arrays["a"], to_float32(written["a"], name))
    assert values.shape == arrays["a"].shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member(npy(np.array([{}, None]), allow_pickle=True)), "a: holds Python objects, which would need a pickle"),
        (member(npy(np.zeros(3, "V2"))), "a: holds raw bytes of an unknown type"),
        (member(npy(np.zeros(3, [("x", "f4")]))), "a: dtype void32 is not one"),
        (member(npy(np.zeros(3, "M8[s]"))), "a: dtype datetime64\\[s\\] is not one"),
        (member(npy(np.array(["text"]))), "a: dtype str"),
        (member(b"not an array"), "a: is damaged"),
        (member(b""), "a: is damaged"),
        (member(npy(np.zeros(3))[:-1]), r"a: is damaged \(its size does not fit shape \[3\]\)"),
        (member(npy(np.zeros(3)) + b"x"), "a: is damaged"),
        (member(npy(np.zeros(3)).replace(b"(3,)", b"(-3,)")), "a: "),
        (member(npy(np.zeros(3)).replace(b"(3,), ", b"(1<<9)")), "a: is damaged"),
        (member(npy(np.zeros(3)).replace(b"NUMPY\x01", b"NUMPY\x07")), "a: is damaged"),
        (member(b"text", "README.txt"), "README.txt: is not an array"),
        (b"PK\x03\x04 nothing", "not an npz file"),
    ],
)
def test_what_is_no_array_gets_one_line(tmp_path, content, reason):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        open_model(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_occur_twice_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("a.npy", npy(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", npy(np.ones(3)))
    with pytest.raises(ModelError, match=r"model\.npz: two tensors are named 'a'"):
        open_model(tmp_path / "model.npz")


def test_a_size_that_deflate_cannot_reach_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(member(npy(np.zeros(100_000)), compression=zipfile.ZIP_DEFLATED))
    assert load(path)[0] == [TensorInfo("a", (100_000,), "float64")]
    size = (800_128).to_bytes(4, "little")
    vast = ((1 << 31) + 128).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, vast))
    with pytest.raises(ModelError, match="a: is damaged"):
        open_model(path)


def test_damaged_values_are_found_when_they_are_read(tmp_path):
    path = tmp_path / "model.npz"
    infos = [TensorInfo("a", (10_000,), "float32"), TensorInfo("b", (100,), "float32")]
    values = save(path, infos)["a"].tobytes()
    whole = bytearray(path.read_bytes())
    whole[whole.index(values) + 39_000] ^= 1
    path.write_bytes(whole)
    with open_model(path) as model:
        assert model["b"].read().shape == (100,)
        with pytest.raises(ModelError, match=r"a\.npy: is damaged \(Bad CRC-32"):
            model["a"].read()


def test_a_closed_model_cannot_be_read(tmp_path):
    save(tmp_path / "model.npz", [TensorInfo("a", (3,), "float32")])
    model = open_model(tmp_path / "model.npz")
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        model["a"].read()


def test_a_name_that_zip_would_cut_is_refused(tmp_path):
    infos = [TensorInfo("a\0b", (), "int8")]
    with pytest.raises(ModelError, match="cannot be the name"), create(tmp_path / "model.npz", infos):
        pytest.fail("was opened for writing")
