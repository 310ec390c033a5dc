"""Every table reads back what it wrote, for both editions; the strategies are drawn from the tables themselves."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syntax.builders import error_of
from syntax.from_tables import OutOfBand, all_mps, ndu_headers, streams, tables, tpl_bodies

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import BitstreamError
from nncjit.syntax import (
    AggHeader,
    Context,
    LpsHeader,
    LpsPayload,
    NduHeader,
    QntHeader,
    StrHeader,
    TopologyFormat,
    TplHeader,
    UnitType,
    describe,
    read_units,
    write_unit,
)
from nncjit.syntax.payloads import read_body, write_body
from nncjit.syntax.syntax_tables import describe_table, read, write

SETTINGS = settings(suppress_health_check=[HealthCheck.data_too_large])
EDITION = st.integers(0, 1)


def to_bytes(table, context):
    bits = BitWriter()
    write(table, bits, context)
    return bits.getvalue()


def check_round_trip(table, context, data):
    """Write, read, compare; every proper prefix fails; every flipped bit gives a result or our error."""
    whole = to_bytes(table, context)
    bits = BitReader(whole)
    assert read(type(table), bits, context) == table
    assert bits.left == 0
    json.dumps(describe_table(table, context))
    if whole:
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(BitstreamError) as caught:
            read(type(table), BitReader(whole[:cut]), context)
        assert caught.value.bit <= 8 * cut
        flip = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = (int.from_bytes(whole, "big") ^ 1 << flip).to_bytes(len(whole), "big")
        error = error_of(lambda: read(type(table), BitReader(damaged), context))
        assert error is None or 0 <= error.bit <= 8 * len(whole)


@SETTINGS
@given(EDITION, st.data())
@pytest.mark.parametrize("cls", [StrHeader, LpsHeader, LpsPayload, TplHeader, QntHeader, AggHeader])
def test_tables_read_back(cls, edition, data):
    context = Context(profile=edition)
    check_round_trip(data.draw(tables(cls, context)), context, data)


@SETTINGS
@given(EDITION, st.data())
def test_model_parameter_sets_read_back(edition, data):
    check_round_trip(data.draw(all_mps(edition)), Context(profile=edition), data)


@SETTINGS
@given(EDITION, st.data())
def test_data_unit_headers_read_back(edition, data):
    context = Context(profile=edition, mps=data.draw(all_mps(edition)), known=OutOfBand())
    check_round_trip(data.draw(ndu_headers(context)), context, data)


@SETTINGS
@given(st.sampled_from(TopologyFormat), st.sampled_from([0, 1]), st.data())
def test_topology_reads_back(storage, compression, data):
    context = Context(profile=1)
    header = TplHeader(topology_storage_format=storage, topology_compression_format=compression)
    body = data.draw(tpl_bodies(header, context))
    payload = write_body(UnitType.TPL, header, body, context)
    assert read_body(UnitType.TPL, header, payload, context, limit=1 << 20) == body


@SETTINGS
@given(EDITION, st.data())
def test_a_header_rebuilt_from_its_values_alone_is_the_same(edition, data):
    """Presence flags and counts are derived: leaving them out changes nothing."""
    context = Context(profile=edition, mps=data.draw(all_mps(edition)), known=OutOfBand())
    header = data.draw(
        ndu_headers(context, compressed_parameter_types=0, input_parameters_present_flag=1, tensor_dimensions_flag=1)
    )
    values = {
        r.name: getattr(header, r.name)
        for r in NduHeader.ROWS
        if not r.name.endswith(("present_flag", "dimensions_flag", "length_flag")) and not r.name.startswith("count_")
    }
    assert NduHeader(**values) == header


@SETTINGS
@given(streams(), st.integers(0, 10**9))
def test_streams_read_back(stream, place):
    data, want = stream
    got = [u for u in read_units(data, context=Context(known=OutOfBand())) if u.type != UnitType.AGG]
    assert [(u.type, u.header) for u in got] == [(kind, header) for kind, header, _ in want]
    for unit, (kind, _, body) in zip(got, want, strict=True):
        if kind == UnitType.NDU:
            assert bytes(unit.payload()) == body
        else:
            assert unit.body == body
        json.dumps(describe(unit))
    cut = place % len(data)
    error = error_of(lambda: list(read_units(data[:cut], context=Context(known=OutOfBand()))))
    assert error.bit <= 8 * cut if error else cut in ends(data)


def ends(data):
    """Where units end; a stream cut there is a shorter stream."""
    units = read_units(data, context=Context(known=OutOfBand()))
    return {place for u in units for place in (u.offset, u.payload_stop)}


@SETTINGS
@given(streams(), st.lists(st.integers(0, 10**9), min_size=1, max_size=3))
def test_damaged_streams_give_units_or_our_error(stream, flips):
    data = bytearray(stream[0])
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    read_all(bytes(data))


@SETTINGS
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_units_or_our_error(tail, started):
    read_all((b"\x00\x04\x02\x01\x00\x08\x06\x01\x00\x40\x00\x80" if started else b"") + tail)


def read_all(data):
    for lenient in (False, True):
        error = error_of(lambda lenient=lenient: check_all(data, lenient))
        assert error is None or 0 <= error.bit <= 8 * len(data) + 8 * (1 << 20)


def check_all(data, lenient):
    for unit in read_units(data, lenient=lenient, context=Context(known=OutOfBand())):
        assert 0 <= unit.offset < unit.offset + 3 <= unit.payload_start <= unit.payload_stop <= len(data)
        json.dumps(describe(unit))


@SETTINGS
@given(streams())
def test_what_was_read_writes_the_same_bytes(stream):
    data, _ = stream
    for unit in read_units(data, context=Context(known=OutOfBand())):
        if unit.partial_data_counter is None:
            body = unit.body if unit.body is not None else unit.payload()
            again = write_unit(unit.type, unit.header, body, unit.context)
            assert again == data[unit.offset : unit.offset + unit.size]
