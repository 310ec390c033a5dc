"""Strings of several layers, steps, shapes, rates: what the encoder writes reads back, whichever way kernels take."""

import numpy as np
import pytest
from cabac.decoding import WAYS, Coded, coded, decode, dependent, take_way
from hypothesis import given, settings
from hypothesis import strategies as st

from nncjit.cabac import lane_supply
from nncjit.cabac.decoder_records import LONGEST_UNARY
from nncjit.cabac.delivery import floats
from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.pair_decoder_kernels import state_machine
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.jit import JIT

pytestmark = pytest.mark.kernel

MANY = settings(max_examples=100 if JIT else 5)


@st.composite
def layers(draw, most=300):
    """A layer with entry points or without, and levels that fit it."""
    shape = draw(st.sampled_from([(), (7,), (1, 40), (40, 1), (33, 5), (9, 2, 3), (70, 66), (130, 9)]))
    layer = Layer.of(
        shape,
        dq=draw(st.booleans()),
        unary_length=draw(st.sampled_from([1, 2, 5, 11, LONGEST_UNARY, LONGEST_UNARY + 1, 40])),
        scan=draw(st.integers(0, 4)),
        profile=draw(st.integers(0, 1)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.1, 0.8, 3.0, 40.0, 1e4, 1e8]))
    values = np.clip(np.rint(rng.normal(0, spread, layer.size)), -(2**28), 2**28).astype(np.int32)
    if draw(st.booleans()):
        values.reshape(layer.rows, layer.width)[:: draw(st.integers(1, 3))] = 0
    return layer, dependent(values) if layer.dq else values


@MANY
@given(st.lists(layers(), min_size=1, max_size=4), st.sampled_from(sorted(WAYS)), st.sampled_from([1, 3]))
def test_layers_of_one_string_read_back(chosen, way, threads):
    encoder = PayloadEncoder()
    for n, (layer, levels) in enumerate(chosen):
        encoder.number(n - 2, 8)
        encoder.layer(levels, layer, row_skip="auto")
    payload = np.frombuffer(encoder.finish(), np.uint8)
    outs = [np.empty(layer.size, np.int32) for layer, _ in chosen]
    jobs = tuple(
        LayerJob(layer, out, qp_bits=8, points=as_array(points))
        for (layer, _), out, points in zip(chosen, outs, encoder.entry_points, strict=True)
    )
    with pytest.MonkeyPatch.context() as patch:
        take_way(patch, way)
        numbers = decode_payloads([PayloadJob(payload, jobs)], threads)
    assert numbers == [[n - 2 for n in range(len(chosen))]]
    for (layer, levels), out in zip(chosen, outs, strict=True):
        np.testing.assert_array_equal(out, from_scan(levels, layer))


def test_only_block_rows_with_skipped_rows_are_kept_from_the_lanes(monkeypatch):
    """NNCodec sets row_skip_flag in all layers."""
    layer, jobs, wanted = Layer.of((70, 5), scan=4), [], []
    for zero_rows in ((), (3,), (63,), (64,), (3, 69)):
        levels = np.random.default_rng(0).integers(1, 5, (70, 5), np.int32)
        levels[list(zero_rows)] = 0
        encoder = PayloadEncoder()
        encoder.layer(to_scan(levels.reshape(-1), layer), layer, row_skip=True)
        payload, points = np.frombuffer(encoder.finish(), np.uint8), as_array(encoder.entry_points[0])
        jobs.append(PayloadJob(payload, (LayerJob(layer, np.empty(70 * 5, np.int32), points=points),)))
        wanted.append(levels.reshape(-1))
    plain: list[bool] = []

    def no_lanes(_layers, _segments, _size, _bits, regular, *_, **_options):
        plain.extend(regular)

    monkeypatch.setattr(lane_supply, "jobs_for_lanes", no_lanes)
    decode_payloads(jobs)
    assert plain == [True, True, False, True, False, True, True, False, False, False]
    for job, levels in zip(jobs, wanted, strict=True):
        np.testing.assert_array_equal(job.layers[0].out, levels)


@MANY
@given(st.data(), st.sampled_from([(70, 66), (33, 5), (130, 9)]), st.booleans(), st.integers(0, 4))
def test_contexts_from_earlier_updates_read_back(data, shape, dq, scan):
    temporal, hdsp = data.draw(st.booleans()), data.draw(st.booleans())
    layer = Layer.of(shape, dq=dq, scan=scan, parent=True, temporal=temporal)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = np.rint(rng.normal(0, 2, layer.size)).astype(np.int32)
    levels = dependent(values) if dq else values
    base = np.rint(rng.normal(0, 2, layer.size)).astype(np.int32)
    history = rng.integers(0, 2, layer.size).astype(np.int8)
    encoder = PayloadEncoder()
    encoder.layer(levels, layer, base=to_scan(base, layer), history=to_scan(history, layer), hdsp=hdsp)
    payload = np.frombuffer(encoder.finish(), np.uint8)
    points = as_array(encoder.entry_points[0])
    one = Coded(layer, payload, points, from_scan(levels, layer), base, history)
    np.testing.assert_array_equal(decode(one, threads=2)[0], one.levels)


def test_many_small_and_large_layers_in_one_call_come_back_in_their_order():
    few = 40 if JIT else 6
    chosen = [coded((3 * k + 1, 50 - k), seed=k, spread=0.05 * 1.3**k, dq=bool(k % 2), scan=k % 5) for k in range(few)]
    for threads in (1, 2, 5):
        for one, out in zip(chosen, decode(*chosen, threads=threads), strict=True):
            np.testing.assert_array_equal(out, one.levels)


@pytest.mark.parametrize("scan", [0, 2])
def test_a_step_turns_levels_into_the_float32_products(scan):
    levels = (np.arange(-300, 300, dtype=np.int32) * 111_111).reshape(20, 30)
    layer = Layer.of(levels.shape, scan=scan)
    encoder = PayloadEncoder()
    encoder.number(-5, 7)
    encoder.layer(to_scan(levels, layer), layer)
    payload, out = np.frombuffer(encoder.finish(), np.uint8), np.empty(levels.shape, np.float32)
    step = np.float32(0.1)
    job = LayerJob(
        layer, out, 7, floats("float32", lambda qp: np.float32(step * qp)), as_array(encoder.entry_points[0])
    )
    assert decode_payloads([PayloadJob(payload, (job,))]) == [[-5]]
    np.testing.assert_array_equal(out, np.float32(step * -5) * levels.astype(np.float32))


def test_empty_layers_and_no_strings_at_all():
    assert decode_payloads([]) == []
    for shape in [(0,), (0, 4), (4, 0), (2, 0, 3)]:
        one = coded(shape)
        assert decode(one)[0].size == 0


@pytest.mark.parametrize("dq", [0, 1])
def test_each_level_ends_in_the_state_machine_once_and_every_entry_leads_to_a_node(dq):
    unary_length = 5
    table = state_machine(unary_length, dq)
    nodes = table[..., 0].size
    on = table[table["escapes"] == 0]
    assert (on["node"] % 2 == 0).all()
    assert (on["node"] // 2 < nodes).all()
    assert set(np.unique(table["ends"])) == {0, 4}
    for state in range(table.shape[0]):
        ended = table[state][table[state]["ends"] == 4]["level"].tolist()
        want = {2 * v - (state & 1) * (v > 0) - (v < 0) * -(state & 1) if dq else v for v in range(-5, 6)}
        assert set(ended) == want


@pytest.mark.parametrize(("above", "below"), [(0, 3), (3, 0), (1, 1), (2, 1), (9, 7), (1, 0)])
def test_a_level_ends_at_the_bound_of_its_codebook(above, below):
    entries = state_machine(8, 0, above, below)[0].reshape(-1)
    for negative, bound in enumerate((above, below)):
        if bound:
            entry = entries[1]  # not zero
            if above and below:
                entry = entries[entry["node"] + negative]
            while not entry["ends"]:
                assert not entry["escapes"]
                entry = entries[entry["node"] + 1]  # and greater
            assert entry["level"] == (-bound if negative else bound)
