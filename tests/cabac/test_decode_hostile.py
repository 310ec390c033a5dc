"""Whatever the bytes say: a result or a BitstreamError with its place, soon, and no access outside any buffer."""

import time

import numpy as np
import pytest
from cabac.decoding import coded, decode, take_way
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LayerShape
from oracle.write import EngineOut, encode_layer

from nncjit.cabac.entry_points import EntryPoint, as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.errors import BitstreamError
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

MANY = settings(max_examples=300 if JIT else 10)
SMALL = coded((9, 20), seed=1, scan=1, dq=True)
BLOCKS = coded((70, 66), seed=2, scan=2, dq=True) if JIT else SMALL


@pytest.fixture(scope="module", autouse=True, params=["solo", "lanes"] if JIT else ["solo"])
def way(request):
    with pytest.MonkeyPatch.context() as patch:
        take_way(patch, request.param)
        yield


def decode_bytes(payload, layer, points=SMALL.points[:0], threads=1, bit=0):
    out = np.zeros(layer.size, np.int32)
    job = LayerJob(layer, out, points=points, history=np.ones(layer.size, np.int8))
    decode_payloads([PayloadJob(np.frombuffer(payload, np.uint8), (job,), "conv.weight", bit)], threads)
    return out


@pytest.mark.parametrize("points", [SMALL.points, SMALL.points[:0]], ids=["points", "serial"])
def test_every_proper_prefix_is_refused_and_the_error_points_into_it(points):
    payload = SMALL.payload.tobytes()
    for size in range(len(payload)):
        with pytest.raises(BitstreamError) as caught:
            decode_bytes(payload[:size], SMALL.layer, points, bit=1000)
        assert 1000 <= caught.value.bit <= 1000 + 8 * size
        assert caught.value.path == "conv.weight"


@pytest.mark.parametrize("tail", [b"\0", b"\x80", b"more"])
def test_bytes_behind_the_end_are_refused(tail):
    with pytest.raises(BitstreamError, match="follow the end"):
        decode_bytes(SMALL.payload.tobytes() + tail, SMALL.layer)


def test_a_wrong_stop_bit_or_padding_is_refused():
    payload = bytearray(SMALL.payload.tobytes())
    stop = payload[-1] & -payload[-1]
    assert stop > 1, "the sample needs padding behind its stop bit"
    payload[-1] |= 1
    with pytest.raises(BitstreamError, match="end"):
        decode_bytes(bytes(payload), SMALL.layer)


def test_each_flipped_bit_gives_levels_or_our_error():
    payload = SMALL.payload.tobytes()
    for bit in range(8 * len(payload)):
        broken = bytearray(payload)
        broken[bit // 8] ^= 128 >> bit % 8
        outs = []
        for points in (SMALL.points, SMALL.points[:0]):
            try:
                outs.append(decode_bytes(bytes(broken), SMALL.layer, points).tolist())
            except BitstreamError:
                outs.append(None)
        if outs[0] is not None:
            assert outs[0] == outs[1], "accepted with its entry points, so the same levels without"


@MANY
@given(st.binary(max_size=200), st.sampled_from([(), (40,), (9, 20), (40, 7)]), st.data())
def test_any_bytes_give_levels_or_our_error(payload, shape, data):
    size = data.draw(st.sampled_from([0, 0, 1, 2, 5]))
    layer = Layer.of(
        shape,
        dq=data.draw(st.booleans()),
        unary_length=data.draw(st.sampled_from([1, 11, 256])),
        scan=data.draw(st.integers(0, 4)),
        profile=data.draw(st.integers(0, 1)),
        parent=data.draw(st.booleans()),
        codebook_size=size,
        codebook_zero=data.draw(st.integers(0, max(0, size - 1))),
    )
    try:
        out = decode_bytes(payload, layer)
    except BitstreamError as error:
        assert 0 <= error.bit <= 8 * len(payload)  # noqa: PT017
        return
    if layer.codebook_size and not layer.dq:
        assert out.min(initial=0) >= -layer.codebook_zero
        assert out.max(initial=0) < layer.codebook_size - layer.codebook_zero


@pytest.mark.parametrize("field", ["value", "state", "offset"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_entry_point_is_an_error_and_not_other_levels(field, threads):
    for n in range(len(BLOCKS.points)):
        points = BLOCKS.points.copy()
        column = EntryPoint._fields.index(field)
        points[n, column] = (points[n, column] + 1) % (256, 8, 1 << 20)[column]
        with pytest.raises(BitstreamError, match=r"entry point|payload ends|does not fit"):
            decode_bytes(BLOCKS.payload.tobytes(), BLOCKS.layer, points, threads)


@pytest.mark.parametrize(
    "point",
    [EntryPoint(256, 0, 9), EntryPoint(-1, 0, 9), EntryPoint(0, 8, 9), EntryPoint(0, 0, -1), EntryPoint(0, 0, 1 << 62)],
)
def test_an_entry_point_out_of_range_is_named(point):
    points = SMALL.points.copy()
    points[-1] = point
    with pytest.raises(BitstreamError, match=f"entry point {len(points) - 1} is out of range"):
        decode_bytes(SMALL.payload.tobytes(), SMALL.layer, points)


def test_too_few_entry_points_are_refused():
    with pytest.raises(BitstreamError, match="entry points for"):
        decode_bytes(BLOCKS.payload.tobytes(), BLOCKS.layer, as_array([EntryPoint(0, 0, 5)] * 99))


@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("unary_length", [1, 11])
def test_levels_up_to_the_coders_limit_decode_and_those_beyond_int32_are_refused(dq, unary_length):
    shape = LayerShape((4,), dq=dq, unary_length=unary_length)
    layer = Layer.of((4,), dq=dq, unary_length=unary_length)

    def payload(value):
        engine = EngineOut()
        levels = encode_layer(engine, shape, [0, value, -value, 1])
        return engine.finish(), levels

    for value in (2**28, 2**29 - 1, 2**30 - 1):
        data, levels = payload(value)
        assert decode_bytes(data, layer).tolist() == levels
    for value in (2**31, 2**32 - 1, 2**32 + 99):
        with pytest.raises(BitstreamError, match="does not fit"):
            decode_bytes(payload(value)[0], layer)


def test_values_outside_the_codebook_are_refused():
    one = coded((3000,), seed=3, spread=5.0)
    refused = 0
    for cut in range(0, 200, 4):
        payload = one.payload.tobytes()[cut : cut + 400]
        with pytest.raises(BitstreamError) as caught:
            decode_bytes(payload, Layer.of((3000,), unary_length=1, codebook_size=21, codebook_zero=10))
        refused += "does not fit" in caught.value.reason
    assert refused


def test_a_promise_of_many_elements_in_few_bytes_is_refused_at_once():
    layer = Layer.of((1 << 12, 1 << 12)) if JIT else Layer.of((1 << 5, 1 << 5))
    payload = np.random.default_rng(5).bytes(100)
    decode_small = coded((3, 3))
    decode(decode_small)  # compiles
    start = time.perf_counter()
    with pytest.raises(BitstreamError, match="payload ends"):
        decode_bytes(payload, layer)
    assert time.perf_counter() - start < 2


def test_what_a_layer_needs_and_was_not_given_is_named():
    temporal = Layer.of((9, 20), parent=True, temporal=True)
    with pytest.raises(BitstreamError, match="no base levels"):
        decode_bytes(bytes(50), temporal)
    layer, encoder = Layer.of((9, 20), parent=True), PayloadEncoder()
    encoder.layer(np.ones(180, np.int32), layer, hdsp=True, history=np.ones(180, np.int8))
    job = LayerJob(layer, np.zeros(180, np.int32))
    with pytest.raises(BitstreamError, match="no history"):
        decode_payloads([PayloadJob(np.frombuffer(encoder.finish(), np.uint8), (job,))])
