"""zarr and numcodecs store chunks as NNC streams."""

from __future__ import annotations

import json

import numpy as np
import pytest
from model_files import refusal

from nncjit.errors import OptionError

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

import nncjit.zarr  # noqa: E402

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.standard_normal((100, 80)).astype("f4") * 0.1,
    "float64": RNG.standard_normal((9, 5, 3)),
    "big-endian": RNG.standard_normal((30, 20)).astype(">f4"),
    "int16": RNG.integers(-999, 999, (50, 40), np.int16),
    "bool": RNG.random((20, 20)) > 0.5,
    "scalar": np.array(3.5, "f4"),
    "odd values": np.array([np.nan, np.inf, -0.0, 1e-40], "f4"),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_come_back_bit_for_bit(name, zarr_format):
    array = ARRAYS[name]
    codec = {"serializer": nncjit.zarr.NncCodec()} if zarr_format == 3 else {"compressors": nncjit.zarr.NncBuffers()}
    store = zarr.storage.MemoryStore()
    chunks = tuple(max(dim // 2, 1) for dim in array.shape) or "auto"
    compressors = {"compressors": None} if zarr_format == 3 else {}
    made = zarr.create_array(
        store, shape=array.shape, dtype=array.dtype, chunks=chunks, zarr_format=zarr_format, **codec, **compressors
    )
    made[...] = array
    back = zarr.open_array(store, mode="r")[...]
    assert zarr_format == 3 or back.dtype == array.dtype  # the third format knows no order of bytes
    assert np.asarray(back, array.dtype).tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["<f4", ">i2"])
def test_memory_by_columns_comes_back_so(dtype):
    array = (ARRAYS["float32"] * 100).astype(dtype)
    made = zarr.create_array(
        store := zarr.storage.MemoryStore(),
        shape=array.shape,
        dtype=array.dtype,
        chunks=(30, 40),
        zarr_format=2,
        order="F",
        compressors=nncjit.zarr.NncBuffers(),
    )
    made[...] = array
    assert np.array_equal(zarr.open_array(store, mode="r")[...], array)
    codec = nncjit.zarr.NncBuffers()
    back = codec.decode(codec.encode(np.asfortranarray(array)))
    assert back.flags.f_contiguous
    assert np.array_equal(back, array)
    assert np.array_equal(codec.decode(codec.encode(memoryview(array[::2]))), array[::2])


def test_options_make_it_small_and_stand_in_the_metadata():
    store = zarr.storage.MemoryStore()
    codec = nncjit.zarr.NncCodec(bits=4)
    array = ARRAYS["float32"]
    made = zarr.create_array(store, shape=array.shape, dtype="f4", chunks=(100, 80), serializer=codec, compressors=None)
    made[...] = array
    told = json.loads(json.dumps(made.metadata.to_dict()["codecs"][0], default=dict))
    assert told == {"name": "nnc", "configuration": {"bits": 4.0}}
    assert made.nbytes_stored() < 0.3 * array.nbytes
    error = np.linalg.norm(zarr.open_array(store)[...] - array) / np.linalg.norm(array)
    assert 0 < error < 0.2
    assert nncjit.zarr.NncCodec.from_dict(told) == codec


def test_numcodecs_knows_the_codec():
    codec = numcodecs.get_codec({"id": "nnc", "bits": 5})
    assert numcodecs.get_codec(codec.get_config()) == codec
    out = np.empty((100, 80), "f4")
    numcodecs.get_codec({"id": "nnc"}).decode(numcodecs.get_codec({"id": "nnc"}).encode(ARRAYS["float32"]), out)
    assert np.array_equal(out, ARRAYS["float32"])
    assert (
        numcodecs.get_codec({"id": "nnc"}).decode(numcodecs.get_codec({"id": "nnc"}).encode(b"abc")).tobytes() == b"abc"
    )


def test_what_is_wrong_is_said():
    with pytest.raises(OptionError, match="bitz"):
        nncjit.zarr.NncCodec(bitz=3)
    codec = nncjit.zarr.NncBuffers()
    stream = codec.encode(ARRAYS["float32"])
    assert refusal(lambda: codec.decode(stream[:-9]))
    assert "no chunk" in refusal(lambda: codec.decode(bytes(nncjit.encode({"w": np.ones(4, "f4")}))))
    assert refusal(lambda: codec.encode(np.array(["text"])))
    for wrong in (None, 5, "text", [1, 2]):
        assert type(wrong).__name__ in refusal(lambda wrong=wrong: codec.encode(wrong))
        assert type(wrong).__name__ in refusal(lambda wrong=wrong: codec.decode(wrong))
    assert "room for 12" in refusal(lambda: codec.decode(stream, np.empty(3, "f4")))
    for wrong in ({"configuration": [1]}, 3, {"configuration": {1: 2}}):
        assert "must be a table" in refusal(lambda wrong=wrong: nncjit.zarr.NncCodec.from_dict(wrong))


def test_options_that_say_nothing_lose_nothing():
    codec = nncjit.zarr.NncBuffers(bits=None)
    assert codec == nncjit.zarr.NncBuffers()
    assert np.array_equal(codec.decode(codec.encode(ARRAYS["float32"])), ARRAYS["float32"])
    assert repr(nncjit.zarr.NncCodec(bits=3)) == "NncCodec(bits=3)"
