"""Tensors of types that are not quantised: every bit comes back, whatever happens to the rest of the model."""

from __future__ import annotations

import json
import struct
import warnings

import ml_dtypes
import numpy as np
import pytest

import nncjit
from codec.builder import Builder, string
from nncjit import dtypes
from nncjit.cli.main import main
from nncjit.formats import open_model
from nncjit.report.rival import fit_for_rival
from nncjit.report.task_run import read_arrays
from nncjit.report.tensor_page import write_page
from nncjit.syntax import PayloadType
from nncjit.updates import bit_patterns

RNG = np.random.default_rng(0)
NAMES = [name for name, dtype in dtypes.DTYPES.items() if dtype.kind == "o" and name not in dtypes.PACKED]
SHAPES = [(), (1,), (0, 3), (300,), (40, 50), (2, 3, 4, 5)]


def theirs(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def any_bits(name, shape):
    dtype = theirs(name)
    return RNG.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8).view(dtype).reshape(shape)


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.fixture(scope="module")
def model():
    """Weights, a bias, integers, and matrices of every opaque type."""
    return {
        "w": RNG.standard_normal((200, 150)).astype(np.float32),
        "v": RNG.standard_normal((60, 150)).astype(np.float32),
        "w_bias": RNG.standard_normal(200).astype(np.float32),
        "ids": np.arange(70),
    } | {name: any_bits(name, (40, 50)) for name in NAMES}


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """A safetensors file made by hand, since the library's writer does not know all types."""
    codes = {"complex64": "C64", "float8_e8m0fnu": "F8_E8M0"}
    codes |= {"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float32": "F32", "int64": "I64"}
    header, data = {}, b""
    for name in sorted((name for name in model if name != "complex128"), key=lambda name: -model[name].itemsize):
        array, start = model[name], len(data)
        data += array.tobytes()
        header[name] = {"dtype": codes[array.dtype.name], "shape": array.shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("opaque") / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", [0, 1])
def test_every_bit_comes_back(name, profile):
    model = {f"t{k}": any_bits(name, shape) for k, shape in enumerate(SHAPES)}
    data = nncjit.encode(model, profile=profile)
    back = nncjit.decode(data)
    assert all(same(back[key], array) for key, array in model.items())
    with nncjit.open(data) as opened:
        assert same(opened.get_slice("t4")[7:9, ::3], model["t4"][7:9, ::3])
    assert nncjit.verify(data)


@pytest.mark.parametrize(
    "options",
    [
        {"snr": 20},
        {"bits": 2},
        {"ratio": 40},
        {"zeros": 0.5, "zeros_scope": "model"},
        {"rank": 3, "scale_rows": True, "rules": {"complex.*": {"bits": 1}, "float8.*": {"quantizer": "trellis"}}},
        {"blocks": True},
        {"preset": "lossless"},
        {"rules": {".*": {"group": "all"}}},
        {"max_unit_bytes": 4000},
    ],
    ids=str,
)
def test_no_option_touches_them(model, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nncjit.NncWarning)  # a size target may be out of reach
        back = nncjit.decode(nncjit.encode(model, **options))
    assert all(same(back[name], model[name]) for name in [*NAMES, "ids"])


def test_they_do_not_count_where_the_weights_have_a_target(model):
    floats = {name: model[name] for name in ("w", "v")}
    alone, beside = (nncjit.encode(m, snr=20).report.tensors for m in (floats, floats | {"c": model["complex64"]}))
    assert [t.bytes for t in beside[:2]] == pytest.approx([t.bytes for t in alone], rel=0.02)


def test_reports_say_why(model):
    data = nncjit.encode(model)
    rows = {row.name: row for row in data.report.tensors}
    found = {row.name: row for row in nncjit.inspect(data).tensors}
    for name in NAMES:
        assert (rows[name].tool, rows[name].dtype, found[name].dtype) == ("raw", name, name)
        assert rows[name].note == "its type is not quantised"


def test_files_keep_every_bit(model, file, tmp_path):
    nncjit.compress(file, tmp_path / "m.nnc", quality=0.5)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors")
    with open_model(file) as before, open_model(tmp_path / "back.safetensors") as after:
        assert after.infos == before.infos
        for name in NAMES[:1] + NAMES[2:]:
            assert after[name].read().tobytes() == before[name].read().tobytes() == model[name].tobytes()
    told = nncjit.diff(file, tmp_path / "m.nnc")
    assert {row.name for row in told.tensors if row.equal} == {*NAMES, "ids"} - {"complex128"}


def test_npz_has_complex_numbers_and_the_bits_of_the_rest(model, tmp_path):
    np.savez(tmp_path / "c.npz", a=model["complex64"], b=model["complex128"])
    nncjit.compress(tmp_path / "c.npz", tmp_path / "c.nnc")
    nncjit.decompress(tmp_path / "c.nnc", tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        assert same(back["a"], model["complex64"])
        assert same(back["b"], model["complex128"])
    (tmp_path / "e.nnc").write_bytes(nncjit.encode({"e": model["float8_e8m0fnu"]}))
    with pytest.warns(UserWarning, match="npz has no float8_e8m0fnu; 1 tensors are written as uint8"):
        nncjit.decompress(tmp_path / "e.nnc", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as back:
        assert same(back["e"], model["float8_e8m0fnu"].view(np.uint8))


def test_a_format_without_the_type_says_so(model, tmp_path):
    (tmp_path / "m.nnc").write_bytes(nncjit.encode({"c": model["complex128"]}))
    with pytest.raises(nncjit.ModelError, match=r"c: safetensors has no complex128$"):
        nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors")
    assert not (tmp_path / "back.safetensors").exists()


def test_readers_without_raw_tensors_are_not_given_them(model):
    with pytest.raises(nncjit.OptionError, match=r"^complex64: .*its type is not quantised.*: nncodec could not read"):
        nncjit.encode({"complex64": model["complex64"]}, compatible="nncodec")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [PayloadType.INT, PayloadType.FLOAT])
def test_streams_that_code_them_are_refused(name, kind):
    stream = Builder()
    stream.tensor(
        string(np.ones((2, 2)), qp=None if kind == PayloadType.INT else 0),
        nnr_compressed_data_unit_payload_type=kind,
        nnr_decompressed_data_format=dtypes.find(name).code,
        topology_elem_id="t",
        tensor_dimensions=(2, 2),
    )
    for read in (nncjit.decode, nncjit.inspect, nncjit.verify):
        with pytest.raises(nncjit.BitstreamError, match=r"t: .*is for values that are stored as they are"):
            read(stream.data)
    assert not any(bit_patterns.fits(f"int{bits}", name) for bits in (8, 16, 32, 64))


@pytest.mark.parametrize("options", [{}, {"bits": 3}, {"lossless": True}], ids=str)
def test_updates_hold_what_has_changed_whole(model, options):
    new = model | {"w": model["w"] + np.float32(0.01)} | {name: any_bits(name, (40, 50)) for name in NAMES[::2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nncjit.NncWarning)  # what stays as it is may be more than a size
        back = nncjit.apply(model, nncjit.update(model, new, **options))
    assert all(same(back[name], new[name]) for name in [*NAMES, "ids"])
    grown = {"c": any_bits("complex64", (5, 9))}
    assert same(nncjit.apply({"c": grown["c"][:3]}, nncjit.update({"c": grown["c"][:3]}, grown))["c"], grown["c"])


def test_differences_are_equality(model):
    other = model | {"complex64": -model["complex64"], "complex128": model["complex128"].real.copy()}
    rows = {row.name: row for row in nncjit.diff(model, other).tensors}
    assert (rows["float8_e8m0fnu"].equal, rows["float8_e8m0fnu"].snr) == (True, np.inf)
    for name in ("complex64", "complex128"):
        assert (rows[name].equal, rows[name].snr, rows[name].largest) == (False, None, None)
    assert rows["complex128"].says == "type complex128 -> float64"


def test_the_page_and_the_evaluation_take_such_models(file, tmp_path):
    nncjit.compress(file, tmp_path / "m.nnc")
    write_page(tmp_path / "m.nnc", tmp_path / "page.html", against=file)
    assert "float8_e8m0fnu" in (tmp_path / "page.html").read_text()
    assert main(["eval", str(file), "--grid", "bits=3,4", "--quiet"]) == 0
    arrays = read_arrays(file)
    assert arrays["float8_e8m0fnu"].dtype == np.uint8
    assert list(fit_for_rival(arrays)[1]) == ["complex64"]
