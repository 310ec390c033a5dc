"""Topology, quantisation and metadata units: what they become in memory is in proportion to the bytes they have."""

import json
import zlib

import numpy as np
import pytest
from damage.damaging import memory_below, no_hang
from oracle.write import BitsOut, start, unit
from oracle.write import ndu as data_unit

import nncjit
from nncjit.errors import BitstreamError, ModelError
from nncjit.stream import metadata_unit
from nncjit.syntax import CompressionFormat, read_units

TPL, QNT, PRUN, REFLIST, METADATA = 3, 4, 5, 6, 0xC0
RAW = data_unit(["w"], (3,), bytes(12), kind=2)
HUGE = zlib.compress(b"[" + b"[]," * 20_000_000 + b"[]]", 9)
"""60 MB of JSON, which would become 1.6 GB of lists, in 60 KB."""
VERBS = [nncjit.inspect, nncjit.open, nncjit.decode, nncjit.verify]


def topology(storage, body, *, deflated, kind=TPL):
    return unit(kind, bytes([storage, deflated]) + body, long_form=len(body) > 30_000)


def stream(*units):
    return start() + b"".join(units) + RAW


@pytest.fixture(scope="module", autouse=True)
def imported():
    for verb in VERBS:
        verb(stream())


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [TPL, QNT])
@pytest.mark.parametrize("storage", [0, 1, 2, 3, 4, PRUN, METADATA, 255])
def test_no_verb_inflates_what_it_does_not_need(verb, kind, storage):
    if kind == QNT and storage == PRUN:
        storage = 129
    data = stream(topology(storage, HUGE, deflated=1, kind=kind))
    with no_hang(), memory_below(1 << 20):
        verb(data)


def test_what_was_not_read_is_inflated_when_it_is_asked_for():
    body = zlib.compress(b"a graph" * 1000)
    found = list(read_units(stream(topology(2, body, deflated=1))))
    assert [u.body for u in found if u.type == TPL][-1] == b"a graph" * 1000
    told = nncjit.inspect(stream(topology(2, body, deflated=1))).units
    assert told[-2]["body"] == f"{len(body)} bytes, deflated"


def names_list(names):
    bits = BitsOut().ue(7, len(names) - 2).align()
    for name in names:
        bits.st(name)
    return bits.bytes()


@pytest.mark.parametrize("verb", VERBS)
def test_deflated_names_of_elements_may_not_explode(verb):
    text = BitsOut().ue(7, 5_000_000 - 2).align().bytes() + b"a\0" * 5_000_000
    with no_hang(), memory_below(32 << 20), pytest.raises(BitstreamError, match="inflates to more than"):
        verb(stream(topology(REFLIST, zlib.compress(text, 9), deflated=1)))


def test_the_names_of_a_large_model_may_be_deflated():
    names = [f"model.layers.{i // 100}.mlp.experts.{i % 100}.w1.weight" for i in range(3000)]
    data = stream(topology(REFLIST, zlib.compress(names_list(names), 9), deflated=CompressionFormat.DEFLATE))
    assert nncjit.inspect(data).units[3]["body"]["topology_elem_ids"] == names


def mask(count, body):
    """A container whose mask has these bits and alignment."""
    return topology(PRUN, zlib.compress(b"\x20" + count.to_bytes(4, "big") + body, 9), deflated=1)


ALL = mask(1 << 31, b"\xff" * (1 << 28) + b"\x80")
"""2^31 removed weights in 260 KB."""


def metadata(content):
    return topology(METADATA, json.dumps({"nncjit": content}, separators=(",", ":")).encode() + b"\0", deflated=0)


def test_a_mask_is_no_larger_than_the_tensors_it_runs_over():
    data = stream(metadata({"full_shapes": [["w", [4]]]}), ALL)
    for verb in VERBS:
        with no_hang(), memory_below(1 << 20):
            verb(data)
    with no_hang(), memory_below(1 << 20), pytest.raises(BitstreamError, match="inflates to more than"):
        nncjit.decode(data, full_size=True)


@pytest.mark.parametrize("shape", [[1 << 31], [1 << 20, 1 << 11], [1 << 40] * 30])
def test_tensors_of_full_size_count_towards_max_bytes(shape):
    data = stream(metadata({"full_shapes": [["w", shape]]}), ALL)
    with no_hang(), memory_below(1 << 20), pytest.raises(BitstreamError, match="max_bytes"):
        nncjit.decode(data, full_size=True, max_bytes=1 << 24)


def test_a_mask_gives_back_the_full_size():
    data = stream(metadata({"full_shapes": [["v", [3]], ["w", [2, 4]]]}), mask(11, b"\x1f\x10"))
    full = nncjit.decode(data, full_size=True)["w"]
    assert full.shape == (2, 4)
    assert full.tolist() == np.zeros((2, 4)).tolist()
    with pytest.raises(BitstreamError, match="mask leaves"):
        nncjit.decode(
            stream(metadata({"full_shapes": [["v", [3]], ["w", [2, 4]]]}), mask(11, b"\x1f\x30")), full_size=True
        )


@pytest.mark.parametrize(
    "text",
    [
        b'{"nncjit":' + b"[" * 100_000,
        b'{"nncjit":{"order":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"nncjit":{"crc32":' + b"9" * 5000 + b"}}",
        b'{"nncjit":[]}',
        b'{"nncjit":{}',
        b'{"nncjit":{"a":"\xff"}}',
    ],
    ids=["deep", "deep and closed", "long number", "no object", "cut", "no text"],
)
def test_a_damaged_metadata_unit_is_refused(text):
    with no_hang(), memory_below(8 << 20), pytest.raises(BitstreamError) as caught:
        nncjit.inspect(stream(topology(METADATA, text + b"\0", deflated=0)))
    assert caught.value.path == "metadata unit"


def test_metadata_of_too_many_values_is_refused_before_it_is_parsed():
    text = b'{"nncjit":{"order":[' + b"[]," * (metadata_unit.MAX_VALUES // 2) + b"[]]}}\0"
    with no_hang(), memory_below(5 * len(text)), pytest.raises(BitstreamError, match="values"):
        nncjit.inspect(stream(topology(METADATA, text, deflated=0)))


def test_a_topology_unit_of_someone_else_is_passed_over():
    for body in (b"", b"{}", b'{"other":1}', b"[" * 100_000, b'{"nncji'):
        assert nncjit.decode(stream(topology(METADATA, body or b"\0", deflated=0)))["w"].shape == (3,)


def test_shapes_of_absurd_dimensions_are_left_out():
    shapes = [["w", [10**4000]], ["v", [2] * 10_000], ["u", [-1]], ["x", ["y"]], ["z", 3]]
    full = nncjit.decode(stream(metadata({"full_shapes": shapes}), mask(0, b"\x80")), full_size=True)
    assert full["w"].shape == (3,)


def test_the_metadata_of_100_000_tensors_passes_and_what_would_be_refused_is_not_written():
    names = [f"model.layers.{i}.block_sparse_moe.experts.{i % 64}.down_proj.weight" for i in range(100_000)]
    told = metadata_unit.ModelMetadata(
        tied=dict(zip(names[::2], names[1::2], strict=True)),
        order=tuple(names),
        shards=dict.fromkeys(names, "model-00001-of-00099.safetensors"),
        full_shapes=dict.fromkeys(names, (64, 64, 3, 3)),
    )
    data = stream(topology(METADATA, told.to_bytes(), deflated=0))
    assert nncjit.inspect(data).metadata == {}
    with pytest.raises(ModelError, match="bytes"):
        metadata_unit.ModelMetadata(metadata={"a": "b" * metadata_unit.MAX_BYTES}).to_bytes()
    with pytest.raises(ModelError, match="values"):
        metadata_unit.ModelMetadata(metadata={"a": "," * metadata_unit.MAX_VALUES}).to_bytes()
