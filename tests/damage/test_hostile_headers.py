"""Sound syntax, absurd contents: numbers that the bytes behind them have not earned are refused before memory is."""

import pytest
from damage.damaging import memory_below, no_hang
from oracle import LayerShape
from oracle.write import BitsOut, EngineOut, encode_layer, ndu, start, unit

import nncjit
from nncjit.errors import BitstreamError

MAX_BYTES = 1 << 20


def payload(shape=(4, 5), **choices):
    layer = LayerShape(shape, unary_length=11, **choices)
    engine = EngineOut()
    engine.iae(0, 8)
    encode_layer(engine, layer, [1, 0, -2, 0] * (layer.size // 4) + [0] * (layer.size % 4))
    return engine.finish(), engine.points()


SOUND, _ = payload()


def refused(data, match=None):
    nncjit.decode(start() + ndu(["w"], (4, 5), SOUND))
    with no_hang(), memory_below(4 * MAX_BYTES), pytest.raises(BitstreamError, match=match) as caught:
        nncjit.decode(data, max_bytes=MAX_BYTES)
    assert caught.value.path
    assert 0 <= caught.value.bit <= 8 * len(data)
    return caught.value


@pytest.mark.parametrize(
    "shape",
    [
        (2**31, 2**31),
        (2**62,),
        (2**70, 0),
        (2**40, 2**40, 2**40),
        (100_000, 100_000),
        (1,) * 200,
        (2**33, 1),
        (1, 2**33),
        (2**20, 3),
    ],
    ids=lambda shape: "x".join(map(str, shape[:3])),
)
@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_dimensions_beyond_all_measure(shape, kind):
    types = {"types": 8} if kind == 3 else {}
    names = ["w", "b"] if kind == 3 else ["w"]
    refused(start() + ndu(names, shape, SOUND, kind=kind, **types))


def test_a_sound_tensor_beyond_max_bytes_is_refused_by_that_name():
    big, _ = payload((600, 600))
    data = start() + ndu(["w"], (600, 600), big)
    assert nncjit.decode(data)["w"].shape == (600, 600)
    refused(data, match="max_bytes")


def test_many_tensors_that_together_pass_max_bytes_are_refused():
    one, _ = payload((200, 100))
    data = start() + b"".join(ndu([f"w{i}"], (200, 100), one) for i in range(20))
    refused(data, match="max_bytes")


def test_a_codebook_of_more_values_than_bits():
    bits = BitsOut().u(5, 1).u(3, 1).st("w").u(1, 0).u(1, 1).u(4, 0).ue(2, 2**40).ie(2, 0).ie(7, 0).u(64, 0)
    refused(start() + unit(5, bits.align().bytes()))


@pytest.mark.parametrize("count", [2**40, 2**20, 1000])
def test_a_list_of_more_names_than_bytes(count):
    bits = BitsOut().u(5, 3).u(3, 0b101).ue(7, count).align()
    for name in ("a", "b", "c"):
        bits.st(name)
    refused(start() + unit(5, bits.bytes()))


@pytest.mark.parametrize("rank", [0, 2**31, 2**62])
def test_a_decomposition_of_absurd_rank(rank):
    refused(start() + ndu(["a_G", "a_H"], (4, 5), SOUND, kind=3, types=1, rank=rank, g_rows=4))


@pytest.mark.parametrize("g_rows", [0, 3, 7, 2**31, 2**62])
def test_a_decomposition_whose_rows_do_not_divide(g_rows):
    refused(start() + ndu(["a_G", "a_H"], (4, 5), SOUND, kind=3, types=1, rank=2, g_rows=g_rows))


@pytest.mark.parametrize("shift", [2, 3, 2**40])
def test_a_dimension_shift_beyond_the_dimensions(shift):
    assert nncjit.decode(start() + ndu(["w"], (4, 5), SOUND, shift=1))["w"].shape == (5, 4)
    refused(start() + ndu(["w"], (4, 5), SOUND, shift=shift))


@pytest.mark.parametrize("code", [72, 73, 74, 75])
@pytest.mark.parametrize("rows", [2, 4])
def test_the_limbs_of_an_integer_tensor_do_not_shift(code, rows):
    engine = EngineOut()
    encode_layer(engine, LayerShape((rows, 5), unary_length=11), [1, 0, -2, 0, 1] * rows)
    refused(start() + ndu(["w"], (rows, 5), engine.finish(), kind=0, fmt=code, shift=1))


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("part", ["value", "state", "offset"])
def test_an_entry_point_that_contradicts_the_string(at, part):
    data, points = payload((33, 5), dq=True, scan=1)
    assert len(points) == 4
    value, state, offset = points[at]
    points[at] = {
        "value": (value ^ 1, state, offset),
        "state": (value, state ^ 1, offset),
        "offset": (value, state, offset + 1),
    }[part]
    refused(start() + ndu(["w"], (33, 5), data, dq=True, scan=1, points=points))


@pytest.mark.parametrize("offset", [0, 2**20, 2**40, 2**63, 2**70])
def test_an_entry_point_out_of_range(offset):
    data, points = payload((33, 5), scan=1)
    points[2] = (points[2][0], 0, offset)
    refused(start() + ndu(["w"], (33, 5), data, scan=1, points=points))


def test_a_name_twice():
    refused(start() + 2 * ndu(["w"], (4, 5), SOUND), match="w")


def test_a_name_twice_in_a_block():
    refused(start() + ndu(["w", "w"], (4, 5), SOUND, kind=3, types=8))


def test_a_name_that_is_no_text():
    good = ndu(["w"], (4, 5), SOUND)
    refused(start() + good.replace(b"w\0", b"\xff\0"))


def test_a_payload_that_ends_early_or_late():
    refused(start() + ndu(["w"], (4, 5), SOUND[:-1]))
    refused(start() + ndu(["w"], (4, 5), SOUND + b"\0"))
    refused(start() + ndu(["w"], (4, 5), SOUND + SOUND))
    refused(start() + ndu(["w"], (4, 5), b""))
    refused(start() + ndu(["w"], (3,), bytes(13), kind=2))


@pytest.mark.parametrize("field", ["profile", "unit type", "payload type", "scan order", "size 0", "size 2^31"])
def test_values_that_the_standard_does_not_know(field):
    sound = ndu(["w"], (4, 5), SOUND)
    broken = {
        "profile": unit(0, b"\2") + start()[4:] + sound,
        "unit type": start() + unit(9, b"abc") + sound,
        "payload type": start() + unit(5, bytes([31 << 3]) + sound[4:]),
        "scan order": start() + ndu(["w"], (4, 5), SOUND, scan=5),
        "size 0": start() + unit(5, b"", size=0),
        "size 2^31": start() + unit(5, b"", size=2**31 - 1, long_form=True),
    }
    refused(broken[field])


def test_a_stream_without_its_first_units():
    sound = ndu(["w"], (4, 5), SOUND)
    head = start()
    for data in (b"", head[4:] + sound, head[:4] + sound, sound, head + head + sound, b"PK\3\4" + bytes(40)):
        refused(data)


def test_a_level_index_outside_the_codebook():
    """In profile 0 a codebook does not bound the code."""
    engine = EngineOut()
    engine.iae(0, 8)
    encode_layer(engine, LayerShape((4, 5), unary_length=11, profile=0), [0, 1, 2, 3, 40] * 4)
    data = engine.finish()
    refused(start(0) + ndu(["w"], (4, 5), data, profile=0, codebook=([-1, 0, 5], 1, 0)))


def test_temporal_contexts_without_a_base_decode_as_if_it_were_zero_or_are_refused():
    engine = EngineOut()
    engine.iae(0, 8)
    layer = LayerShape((4, 5), unary_length=11, parent=True, temporal=True, base=[0] * 20)
    levels = encode_layer(engine, layer, [1, 0, -2, 0] * 5)
    data = start(parents=True) + ndu(
        ["w"], (4, 5), engine.finish(), node=(0, 0, 1), parent_signalling=True, parent=(0,), temporal=True
    )
    try:
        got = nncjit.decode(data)["w"]
    except BitstreamError:
        return
    assert got.ravel().tolist() == levels
