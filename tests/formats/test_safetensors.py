"""safetensors: the rules of the header one by one, and agreement with the safetensors library."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import OF_NUMPY, WIDTHS, assert_same_bits, every_kind, load, save

from nncjit.errors import ModelError, NncError
from nncjit.formats import create, open_model
from nncjit.formats.safetensors_header import build, parse
from nncjit.model import TensorInfo


def blob(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


infos = st.builds(
    TensorInfo,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.sampled_from(WIDTHS),
)
models = st.lists(infos, unique_by=lambda info: info.name, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(models, st.dictionaries(texts, texts, max_size=4))
def test_what_is_built_is_parsed(tensors, metadata):
    head, places = build(tensors, metadata)
    length = int.from_bytes(head[:8], "little")
    entries, texts = parse(head[8:], sum(info.nbytes for info in tensors))
    assert (length, len(head) % 8) == (len(head) - 8, 0)
    assert [e.info for e in entries] == tensors
    assert entries == places
    assert texts == metadata
    assert all(e.start % e.info.itemsize == 0 for e in entries)


@given(models, st.dictionaries(texts, texts, max_size=4))
def test_the_library_accepts_every_header(tensors, metadata):
    library = pytest.importorskip("safetensors")
    head, _ = build(tensors, metadata)
    got = dict(library.deserialize(head + bytes(sum(info.nbytes for info in tensors))))
    assert {name: tuple(value["shape"]) for name, value in got.items()} == {i.name: i.shape for i in tensors}


@given(st.binary(max_size=200))
def test_any_bytes_give_a_header_or_our_error(text):
    with contextlib.suppress(NncError):
        parse(text, 8)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
near_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "", 3]) | json_values,
        "shape": st.lists(st.integers(-1, 4) | st.just(1 << 62) | json_values, max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 16) | json_values, max_size=3) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), near_entries | json_values, max_size=4))
def test_any_json_gives_a_header_or_our_error(table):
    try:
        entries, metadata = parse(json.dumps(table).encode(), 8)
    except NncError:
        return
    assert sum(e.info.nbytes for e in entries) == 8
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"1234567", "7 bytes are too few"),
        (b"PK\x03\x04" + bytes(40), "a zip archive"),
        (struct.pack("<Q", 100_000_001) + bytes(99), "a header of 100000001 bytes is more than"),
        (struct.pack("<Q", (1 << 64) - 1) + bytes(99), "more than"),
        (struct.pack("<Q", 50) + b"{" + bytes(9), "ends early: 10 of 50 bytes of the header"),
        (blob(b""), "does not start with {"),
        (blob(b"[]"), "does not start with {"),
        (blob(b" {}"), "does not start with {"),
        (blob(b"{"), "not JSON"),
        (blob(b"{} {}"), "not JSON"),
        (blob(b'{"\xff": 1}'), "not JSON"),
        (blob(b'{"a": NaN}'), "NaN is not JSON"),
        (blob(b'{"a": ' + b"[" * 100_000), "not JSON"),
        (blob(b'{"a": ' + b"9" * 10_000 + b"}"), "not JSON"),
        (blob(json.dumps({"a": 1, "b": 2}).replace("b", "a").encode()), "'a' occurs twice"),
        (blob(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "'dtype' occurs twice"),
        (blob(b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", bytes(8)), "not valid Unicode"),
        (blob({"a": 3}), "a: needs dtype, shape and data_offsets"),
        (blob({"a": {"dtype": "F32", "shape": [2]}}), "a: needs dtype"),
        (blob({"a": entry("F5")}, bytes(8)), "a: dtype F5 is not one that nncjit handles"),
        (blob({"a": entry("F4", (3, 5))}, bytes(8)), r"a: F4\[3, 5\] does not end at a byte"),
        (blob({"a": entry("F4", ())}, bytes(8)), r"a: F4\[\] does not end at a byte"),
        (blob({"a": entry("F4", (2, 3), (0, 3))}, bytes(3)), r"a: the rows of F4\[2, 3\] do not end at bytes"),
        (blob({"a": entry("F6_E2M3", (6,))}, bytes(8)), r"a: F6_E2M3\[6\] does not end at a byte"),
        (blob({"a": entry("F6_E3M2", (8,))}, bytes(8)), r"a: 8 bytes for F6_E3M2\[8\], which needs 6"),
        (blob({"a": entry([])}, bytes(8)), r"a: dtype \[\] is not"),
        (blob({"a": entry(shape=[-2])}, bytes(8)), "a: shape"),
        (blob({"a": entry(shape=[2.0])}, bytes(8)), "a: shape"),
        (blob({"a": entry(shape=[True])}, bytes(8)), "a: shape"),
        (blob({"a": entry() | {"shape": 2}}, bytes(8)), "a: shape 2"),
        (blob({"a": entry(shape=[1 << 64])}, bytes(8)), "a: shape"),
        (blob({"a": entry(shape=[1 << 40, 1 << 40])}, bytes(8)), "a: shape .* is too large"),
        (blob({"a": entry(shape=[1 << 62, 0], offsets=(0, 0))}), "a: shape .* is too large"),
        (blob({"a": entry(shape=[1] * 65, offsets=(0, 4))}, bytes(4)), "a: 65 dimensions"),
        (blob({"a": entry(offsets=(0, 8, 8))}, bytes(8)), "a: data_offsets"),
        (blob({"a": entry(offsets=(-8, 0))}, bytes(8)), "a: data_offsets"),
        (blob({"a": entry(offsets=(8, 0))}, bytes(8)), "a: -8 bytes for F32"),
        (blob({"a": entry(offsets=(0, 4))}, bytes(4)), r"a: 4 bytes for F32\[2\], which needs 8"),
        (blob({"a": entry(offsets=(4, 12))}, bytes(12)), "a: starts at 4, where the tensor before it ends at 0"),
        (blob({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "b: starts at 4, .* ends at 8"),
        (blob({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "b: starts at 12, .* ends at 8"),
        (blob({"a": entry(), "b": entry()}, bytes(8)), "b: starts at 0, .* ends at 8"),
        (blob({"a": entry()}, bytes(7)), "ends early: 7 of 8 bytes of values"),
        (blob({"a": entry()}, bytes(9)), "1 bytes follow the last tensor"),
        (blob({}, b"x"), "1 bytes follow"),
        (blob({"__metadata__": {"a": 1}}), "__metadata__ is not a table of texts"),
        (blob({"__metadata__": []}), "__metadata__ is not a table of texts"),
    ],
)
def test_each_rule_of_the_format_has_its_line(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        open_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_every_proper_prefix_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, [TensorInfo("a", (3,), "float32"), TensorInfo("b", (), "int8")])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError):
            open_model(path)


def test_a_file_that_shrinks_while_it_is_open_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, [TensorInfo("a", (300,), "float32")])
    with open_model(path) as model:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 100)
        with pytest.raises(ModelError, match="a: ends early, 1100 of 1200 bytes"):
            model["a"].read()


@pytest.mark.parametrize("mmap", [False, True])
def test_a_closed_model_cannot_be_read(tmp_path, mmap):
    save(tmp_path / "model.safetensors", [TensorInfo("a", (3,), "float32")])
    model = open_model(tmp_path / "model.safetensors", mmap=mmap)
    model.close()
    with pytest.raises(ModelError, match="is closed"):
        model["a"].read()


def test_a_memory_map_gives_read_only_views(tmp_path):
    path = tmp_path / "model.safetensors"
    written = save(path, every_kind())
    with open_model(path, mmap=True) as model:
        tensor = model["odd.float32"].read()
        assert not tensor.flags.writeable
        assert not tensor.flags.owndata
    assert (tensor == tensor).any()  # a view outlives the model
    infos, arrays, _ = load(path, mmap=True)
    assert_same_bits(arrays, {info.name: written[info.name] for info in infos})


@pytest.mark.parametrize("mmap", [False, True])
def test_values_need_not_be_aligned(tmp_path, mmap):
    header = {"a": entry("U8", (3,), (0, 3)), "b": entry("F64", (1,), (3, 11)), "c": entry("BF16", (1,), (11, 13))}
    text = json.dumps(header).encode() + b" "
    values = b"\1\2\3" + np.float64([0.1]).tobytes() + np.uint16([0x3F80]).tobytes()
    (tmp_path / "model.safetensors").write_bytes(blob(text, values))
    with open_model(tmp_path / "model.safetensors", mmap=mmap) as model:
        arrays = [tensor.read() for tensor in model]
    assert [array.tolist() for array in arrays] == [[1, 2, 3], [0.1], [0x3F80]]
    assert all(array.flags.aligned for array in arrays)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_bool_is_0_or_1_whatever_the_byte(tmp_path, mmap):
    (tmp_path / "model.safetensors").write_bytes(blob({"a": entry("BOOL", (3,), (0, 3))}, b"\0\1\2"))
    array = load(tmp_path / "model.safetensors", mmap=mmap)[1]["a"]
    assert array.view(np.uint8).tolist() == [0, 1, 1]


def test_metadata_and_the_order_of_names_survive(tmp_path):
    metadata = {"format": "pt", "é": "\u4e2d", "": ""}
    tensors = [TensorInfo(name, (2,), dtype) for name, dtype in zip("zaybx", WIDTHS, strict=False)]
    save(tmp_path / "model.safetensors", tensors, metadata)
    infos, _, texts = load(tmp_path / "model.safetensors")
    assert infos == tensors
    assert texts == metadata


def test_order_is_that_of_the_header_not_of_the_values(tmp_path):
    header = {"b": entry(offsets=(8, 16)), "a": entry(offsets=(0, 8))}
    (tmp_path / "model.safetensors").write_bytes(blob(header, np.float32([1, 1, 2, 2]).tobytes()))
    arrays = load(tmp_path / "model.safetensors")[1]
    assert {name: array.tolist() for name, array in arrays.items()} == {"b": [2, 2], "a": [1, 1]}


def test_a_tensor_cannot_take_the_name_of_the_metadata(tmp_path):
    with (
        pytest.raises(ModelError, match=r"model\.safetensors: __metadata__ cannot be the name"),
        create(tmp_path / "model.safetensors", [TensorInfo("__metadata__", (), "int8")]),
    ):
        pytest.fail("was opened for writing")


def test_metadata_are_texts(tmp_path):
    with (
        pytest.raises(ModelError, match="__metadata__ is not a table of texts"),
        create(tmp_path / "model.safetensors", [], {"epoch": 3}),
    ):
        pytest.fail("was opened for writing")


@pytest.mark.parametrize("name", ["int2", "int3", "int4"])
def test_small_integers_are_written_as_int8(tmp_path, name):
    save(tmp_path / "model.safetensors", [TensorInfo("a", (2,), name)], arrays={"a": np.int8([-2, 1])})
    infos, arrays, _ = load(tmp_path / "model.safetensors")
    assert infos[0].dtype == "int8"
    assert arrays["a"].tolist() == [-2, 1]


def test_the_library_reads_what_we_write(tmp_path):
    library = pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    tensors = every_kind()
    written = save(path, tensors, {"format": "np"})
    raw = dict(library.deserialize(path.read_bytes()))
    assert {name: bytes(value["data"]) for name, value in raw.items()} == {n: a.tobytes() for n, a in written.items()}
    with library.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "np"}
        for info in tensors:
            if info.dtype in OF_NUMPY:
                got = file.get_tensor(info.name)
                assert (got.dtype, got.shape) == (written[info.name].dtype, info.shape)
                assert got.tobytes() == written[info.name].tobytes()


def test_we_read_what_the_library_writes(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}{list(shape)}": np.array(rng.random(shape) * 100).astype(name)
        for name in OF_NUMPY
        for shape in [(), (0,), (3, 0, 2), (7, 5)]
    }
    numpy.save_file(arrays, tmp_path / "model.safetensors", {"made by": "the library"})
    _, got, metadata = load(tmp_path / "model.safetensors")
    assert metadata == {"made by": "the library"}
    assert_same_bits({name: got[name] for name in arrays}, arrays)
    assert got.keys() == arrays.keys()


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_we_read_the_narrow_floats_that_the_library_writes(tmp_path, name):
    numpy = pytest.importorskip("safetensors.numpy")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.linspace(-3, 3, 35).reshape(7, 5).astype(getattr(ml_dtypes, name))
    numpy.save_file({"a": array}, tmp_path / "model.safetensors")
    infos, got, _ = load(tmp_path / "model.safetensors")
    assert infos == [TensorInfo("a", (7, 5), name)]
    assert got["a"].tobytes() == array.tobytes()
