"""What a stream may not do, one test a rule; each error says what and where."""

import time
from dataclasses import replace

import pytest
from syntax.builders import Stream, ndu, started, unit_bytes

from nncjit.bits import BitReader, BitWriter, MemorySource
from nncjit.errors import BitstreamError
from nncjit.syntax import (
    AggregateType,
    Context,
    InputParameters,
    LpsHeader,
    LpsPayload,
    MpsPayload,
    NduHeader,
    ParameterTypes,
    ParentNodeIdType,
    PayloadType,
    QntHeader,
    ReferenceList,
    TopologyFormat,
    TplHeader,
    UnitType,
    aggregate_units,
    read_units,
    split_unit,
    write_unit,
)
from nncjit.syntax.syntax_tables import read, write


def refused(data, reason, **options):
    with pytest.raises(BitstreamError, match=reason) as caught:
        list(read_units(data, **options))
    return caught.value


def start_units(profile=1, **mps):
    return Stream(profile, **mps).pieces


# order of units


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"PK\x03\x04" + bytes(30), b"\x93NUMPY\x01\x00v\x00", bytes(40), b"{}" * 40]
)
def test_what_is_no_stream_is_refused(data):
    refused(data, "not an NNC bitstream|ends before NNR_MPS|needs|less than its header|goes on|comes in parts")


def test_first_unit_must_be_the_start_unit():
    error = refused(start_units()[1], "not an NNC bitstream")
    assert error.bit == 0


def test_second_start_unit_is_refused():
    stream = Stream()
    error = refused(stream.data + stream.pieces[0], "second NNR_STR")
    assert error.bit == 8 * len(stream.data)


def test_second_parameter_set_is_refused():
    stream = Stream()
    refused(stream.data + stream.pieces[1], "second NNR_MPS")


def test_data_unit_before_the_parameter_set_is_refused():
    stream = Stream().put(UnitType.NDU, ndu(), b"x")
    refused(stream.pieces[0] + stream.pieces[2], "before NNR_MPS")


def test_stream_without_parameter_set_is_refused():
    refused(start_units()[0], "ends before NNR_MPS")


def test_announced_topology_must_come():
    first, mps, _ = start_units(topology_carriage_flag=1)
    refused(first + mps, "ends before NNR_TPL")
    refused(first + mps + Stream().put(UnitType.NDU, ndu(), b"x").pieces[-1], "NNR_NDU before NNR_TPL")


def test_topology_that_was_not_announced_is_refused():
    topology = start_units(topology_carriage_flag=1)[2]
    refused(Stream().data + topology, "although topology_carriage_flag is 0")
    assert len(list(read_units(Stream().data + topology, lenient=True))) == 3


def test_unknown_profile_is_refused_unless_lenient():
    data = b"\x00\x04\x02\x07" + start_units()[1]
    assert refused(data, "profile 7 is not known").path == "StrHeader.general_profile_idc"
    assert [u.context.profile for u in read_units(data, lenient=True)] == [None, 7]


@pytest.mark.parametrize(("kind", "word"), [(7, "reserved"), (31, "reserved"), (32, "private"), (63, "private")])
def test_unknown_unit_types_are_refused_or_skipped(kind, word):
    stream = Stream().raw(unit_bytes(kind, b"anything")).put(UnitType.NDU, ndu(), b"x")
    error = refused(stream.data, f"unit type {kind} is {word}")
    assert error.bit == 8 * len(b"".join(stream.pieces[:2]))
    assert [u.type for u in stream.units(lenient=True)] == [UnitType.STR, UnitType.MPS, UnitType.NDU]


# sizes


@pytest.mark.parametrize("size", [0, 1, 2])
def test_unit_smaller_than_its_header_is_refused(size):
    refused(Stream().raw(unit_bytes(5, b"abc", size=size)).data, "less than its header")


def test_unit_that_leaves_the_stream_is_refused_without_reading_on():
    stream = Stream().raw(unit_bytes(5, bytes(100_000), size=4)[:2])
    huge = Stream().data + b"\xff\xff\xff\xff\x16" + bytes(1_000_000)
    source = Counting(huge)
    refused(source, "the unit has 2147483647 bytes")
    assert source.n_read < 20_000
    refused(stream.data, "needs|less")


def test_start_unit_that_goes_on_is_refused():
    refused(b"\x00\x05\x02\x01\x00", "goes on for 1 bytes")


def test_parameter_set_that_goes_on_is_refused():
    first, mps = start_units()
    longer = (len(mps) + 2).to_bytes(2, "big") + mps[2:] + b"ab"
    refused(first + longer, "goes on for 2 bytes")


def test_unit_that_ends_within_its_header_is_refused():
    whole = Stream().put(UnitType.NDU, ndu(), b"").pieces[-1]
    for size in range(3, len(whole)):
        cut = size.to_bytes(2, "big") + whole[2:size]
        error = refused(Stream().data + cut, "left")
        assert error.bit <= 8 * (len(Stream().data) + size)


class Counting(MemorySource):
    """Counts the bytes that are asked for."""

    def __init__(self, data):
        super().__init__(data)
        self.n_read = 0

    def read(self, start, stop):
        self.n_read += stop - start
        return super().read(start, stop)


def test_only_heads_are_read():
    stream = Stream()
    for i in range(3):
        stream.put(UnitType.NDU, ndu(f"w{i}"), bytes(1_000_000))
    source = Counting(stream.data)
    units = list(read_units(source))
    assert source.n_read < 40_000
    assert bytes(units[-1].payload()) == bytes(1_000_000)
    assert source.n_read < 1_040_000


def test_a_head_longer_than_the_first_window_is_read_whole():
    n = 4000
    points = tuple((i % 256, 0, i) for i in range(n))
    header = ndu("long", tensor_dimensions=(8 * (n + 1), 2), scan_order=1, entry_points=points)
    source = Counting(Stream().put(UnitType.NDU, header, bytes(3_000_000)).data)
    assert list(read_units(source))[-1].header == header
    assert source.n_read < 1_000_000


# names


def test_repeated_name_is_refused():
    stream = Stream().put(UnitType.NDU, ndu(), b"x")
    error = refused(stream.data + stream.pieces[-1], "'w' is in the stream already")
    assert error.bit == 8 * len(stream.data)


def test_repeated_name_inside_a_block_is_refused():
    stream = Stream().put(UnitType.NDU, ndu("b"), b"x")
    more = Stream().put(UnitType.NDU, block("w", "b"), b"x").pieces[-1]
    with pytest.raises(BitstreamError, match="lists 'w' twice"):
        list(read_units(Stream().data + more.replace(b"b\0", b"w\0")))
    assert [u.names for u in read_units(stream.data + more)][-1] == (
        "w",
        "b",
    )  # other types: another tensor of that name


def block(*names, types=ParameterTypes.BI, **more):
    return ndu(
        nnr_compressed_data_unit_payload_type=PayloadType.BLOCK,
        topology_elem_ids=names,
        compressed_parameter_types=types,
        **more,
    )


def test_a_name_may_come_again_at_another_depth():
    stream = Stream()
    for depth in range(3):
        stream.put(UnitType.NDU, ndu(device_id=0, parameter_id=0, put_node_depth=depth), b"x")
    assert [u.header.node[2] for u in stream.units() if u.names] == [0, 1, 2]
    refused(stream.data + stream.pieces[-1], "in the stream already")


def test_a_name_may_come_again_with_another_parent():
    stream = Stream(mps_parent_signalling_enabled_flag=1)
    for digest in (bytes(32), b"\xff" * 32):
        header = ndu(parent_node_id_type=ParentNodeIdType.SHA256, parent_node_payload_sha256=digest)
        stream.put(UnitType.NDU, header, b"x")
    assert [u.header.parent for u in stream.units() if u.names] == [(bytes(32),), (b"\xff" * 32,)]


def test_the_two_factors_of_a_decomposition_may_share_a_name():
    factor = ndu(compressed_parameter_types=ParameterTypes.DC, decomposition_rank=2, g_number_of_rows=3)
    stream = Stream().put(UnitType.NDU, factor, b"G").put(UnitType.NDU, factor, b"H")
    assert len(stream.units()) == 4
    refused(stream.data + stream.pieces[-1], "in the stream already")


# shapes


def test_shape_may_come_from_an_earlier_unit_of_the_same_tensor():
    stream = Stream()
    stream.put(UnitType.NDU, ndu(device_id=0, parameter_id=0, put_node_depth=0, cabac_unary_length_minus1=4), b"x")
    later = ndu(device_id=0, parameter_id=0, put_node_depth=1, tensor_dimensions=None)
    stream.put(UnitType.NDU, later, b"x")
    inputs = stream.units()[-1].inputs
    assert (inputs.tensor_dimensions, inputs.cabac_unary_length_minus1) == ((3, 4), 4)


def test_shape_may_come_from_the_caller():
    known = {"w": InputParameters(tensor_dimensions=(40, 2))}
    context = Context(profile=1, mps=started().mps, known=known)
    header = ndu(tensor_dimensions=None, scan_order=1, entry_points=tuple((i, 0, i) for i in range(4)))
    data = Stream().data + write_unit(UnitType.NDU, header, b"x", context)
    unit = list(read_units(data, context=Context(known=known)))[-1]
    assert unit.inputs.tensor_dimensions == (40, 2)
    assert unit.header.entry_points == header.entry_points
    refused(data, "dimensions of 'w' are neither in the stream nor given")


def test_a_context_can_serve_many_readers():
    context = Context(known={"w": InputParameters(tensor_dimensions=(3,))})
    data = Stream().put(UnitType.NDU, ndu(), b"x").data
    readers = [read_units(data, context=context) for _ in range(3)]
    assert [len(list(zipped)) for zipped in zip(*readers, strict=True)] == [3, 3, 3]


def test_contexts_of_earlier_units_do_not_change():
    stream = Stream().put(UnitType.NDU, ndu("a"), b"x").put(UnitType.NDU, ndu("b"), b"x")
    units = stream.units()
    for unit in units:
        seen = [
            name for name in ("a", "b") if unit.context.inputs_of(ndu(name, tensor_dimensions=None)).tensor_dimensions
        ]
        assert (
            seen
            == {UnitType.STR: [], UnitType.MPS: [], "a": [], "b": ["a"]}[unit.names[0] if unit.names else unit.type]
        )
    branch = units[2].context.after(UnitType.NDU, ndu("c"))
    assert branch.problem(UnitType.NDU, ndu("a")) is None
    assert branch.problem(UnitType.NDU, ndu("c"))


def damaged_header(**changes):
    """Bytes of a data unit header with values that the writer would refuse."""
    bits = BitWriter()
    header = ndu()
    context = started()
    for r in NduHeader.ROWS:
        value = changes.get(r.name, getattr(header, r.name))
        if r.when is None or r.when(Changed(header, changes), context):
            r.code.write(bits, value, Changed(header, changes), Loose())
    bits.align()
    return bits.getvalue()


class Changed:
    def __init__(self, header, changes):
        self.header, self.changes = header, changes

    def __getattr__(self, name):
        return self.changes[name] if name in self.changes else getattr(self.header, name)


class Loose:
    def count_entry_points(self, header):
        return len(header.entry_points)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scan_order": 5, "entry_points": ()}, "is 5, at most 4"),
        ({"scan_order": 15, "entry_points": ()}, "is 15, at most 4"),
        ({"nnr_compressed_data_unit_payload_type": 4}, "is 4, which is reserved"),
        ({"nnr_decompressed_data_format_present_flag": 1, "nnr_decompressed_data_format": 10}, "is 10, which is res"),
        ({"tensor_dimensions": (1 << 40, 2)}, "more than 1099511627776 elements"),
        ({"tensor_dimensions": (1 << 20, 1 << 20, 1 << 20)}, "more than 1099511627776 elements"),
        ({"tensor_dimensions": (1,) * 33}, "more than 32"),
        ({"first_tensor_dimension_shift": 2}, "moves the first of 2 dimensions to 2"),
        ({"compressed_parameter_types": 15, "nnr_compressed_data_unit_payload_type": 3, "decomposition_rank": 1,
          "g_number_of_rows": 1}, "lists 1 elements"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(changes, reason):
    stream = Stream().raw(unit_bytes(5, damaged_header(**changes)))
    error = refused(stream.data, reason)
    assert error.path.startswith("NduHeader")
    assert 8 * len(Stream().data) <= error.bit <= 8 * len(stream.data)


def test_private_data_formats_pass():
    stream = Stream().put(UnitType.NDU, ndu(nnr_decompressed_data_format=64), b"x")
    assert stream.units()[-1].header.nnr_decompressed_data_format == 64


@pytest.mark.parametrize(
    ("dims", "rank", "rows", "reason"),
    [
        ((4, 6), 0, 4, "rank 0"),
        ((4, 6), 2, 0, "of 0 rows"),
        ((4, 6), 2, 5, "of 5 rows"),
        ((4, 6), 1 << 39, 4, "factors"),
    ],
)
def test_factors_that_do_not_make_the_tensor_are_refused(dims, rank, rows, reason):
    fine = block("G", "H", types=1, tensor_dimensions=(4, 6), decomposition_rank=2, g_number_of_rows=4)
    context = started()
    bits = BitWriter()
    write(fine, bits, context)
    assert read(NduHeader, BitReader(bits.getvalue()), context) == fine
    inputs = InputParameters(
        tensor_dimensions=dims, compressed_parameter_types=1, decomposition_rank=rank, g_number_of_rows=rows
    )
    assert reason in inputs.problem(fine)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"concatenation_axis_index": 2, "split_index": (1,)}, "joined along axis 2"),
        ({"concatenation_axis_index": 0, "split_index": (4,)}, "split at"),
        ({"concatenation_axis_index": 0, "split_index": (1,), "shifts": (((0, 1),), ())}, "moved left"),
        ({"concatenation_axis_index": 0, "split_index": (1,), "shifts": ((), ((2, 1),))}, "moved left"),
    ],
)
def test_mapping_that_does_not_cover_its_tensor_is_refused(mapping, reason):
    inputs = InputParameters(tensor_dimensions=(3, 4))
    assert reason in inputs.problem(ndu(topology_elem_ids=("a", "b"), **mapping))


def test_entry_point_before_the_payload_is_refused():
    changes = {"tensor_dimensions": (24, 2), "scan_order": 1, "entry_points": ((1, 0, 5), (1, 0, -3))}
    refused(Stream().raw(unit_bytes(5, damaged_header(**changes))).data, "entry point 1 has the offset -3")


def test_rank_that_nobody_knows_is_refused():
    known = {"g": InputParameters(tensor_dimensions=(40, 30), compressed_parameter_types=1)}
    header = block("g", "h", types=None, tensor_dimensions=None, scan_order=1)
    given = InputParameters(
        tensor_dimensions=(40, 30), compressed_parameter_types=1, decomposition_rank=6, g_number_of_rows=40
    )
    points = replace(header, entry_points=((1, 0, 1),) * 4)
    data = Stream().data + write_unit(UnitType.NDU, points, b"x", replace(started(), known={"g": given}))
    assert list(read_units(data, context=Context(known={"g": given})))[-1].header.entry_points == points.entry_points
    refused(data, "rank and the rows of G are neither", context=Context(known=known))


@pytest.mark.parametrize(
    ("egk", "size", "zero", "rest", "reason"),
    [
        (0, 0, 0, "", "its zero is at 0 of 0"),
        (0, 4, 2, "", "its zero is at 4 of 4"),
        (0, 4, -3, "", "its zero is at -1 of 4"),
        (0, (1 << 16) + 1, 0, "", "65536 values are allowed"),
        (15, 2, 0, [(7, -(1 << 31) + 1), (15, 0)], "its values reach from -2147483648"),
    ],
)
def test_codebooks_out_of_range_are_refused(egk, size, zero, rest, reason):
    bits = BitWriter()
    bits.u(8, PayloadType.FLOAT << 3)
    bits.st("w")
    bits.u(2, 1)  # no node, a codebook
    bits.u(4, egk)
    bits.ue(2, size)
    bits.ie(2, zero)
    if rest:
        bits.ie(*rest[0])
        bits.ue(*rest[1])
    bits.u(64, 0)
    bits.align()
    error = refused(Stream().raw(unit_bytes(5, bits.getvalue())).data, reason)
    assert error.path == "NduHeader.codebook"


def test_numbers_that_are_not_finite_are_refused_unless_lenient():
    first, _ = start_units()
    mps = MpsPayload(performance_metric_type="top1", validation_set_performance=1.0)
    whole = write_unit(UnitType.MPS, None, mps, Context(profile=1))
    assert whole.count(b"\x00\x00\x80\x3f") == 1
    damaged = first + whole.replace(b"\x00\x00\x80\x3f", b"\x00\x00\xc0\x7f")
    assert refused(damaged, "is nan").path == "MpsPayload.validation_set_performance"
    assert len(list(read_units(damaged, lenient=True))) == 2


# topology and quantisation data


def test_reserved_storage_formats_are_refused_unless_lenient():
    for kind, word in ((UnitType.TPL, "topology"), (UnitType.QNT, "quantization")):
        stream = Stream(topology_carriage_flag=1)
        data = stream.data + unit_bytes(kind, b"\x0a\x00data")
        assert refused(data, "is 10, which is reserved").path.endswith(f"{word}_storage_format")
        assert list(read_units(data, lenient=True))[-1].body == b"data"
        assert list(read_units(stream.data + unit_bytes(kind, b"\x80\x00data")))[-1].body == b"data"
        refused(stream.data + unit_bytes(kind, b"\x00\x02data"), "is 2, which is reserved")


def test_indices_beyond_the_reference_list_are_refused():
    stream = Stream(topology_carriage_flag=1, mps_topology_indexed_reference_flag=1)
    header = TplHeader(topology_storage_format=TopologyFormat.REFLIST)
    stream.put(UnitType.TPL, header, ReferenceList(topology_elem_ids=("a", "b")))
    stream.put(UnitType.NDU, ndu(topology_elem_id_index=1), b"x")
    assert stream.units()[-1].names == ("b",)
    without = Stream(topology_carriage_flag=1, mps_topology_indexed_reference_flag=1)
    beyond = without.put(UnitType.NDU, ndu(topology_elem_id_index=2), b"x").pieces[-1]
    assert without.units()[-1].names == ("#2",)
    refused(stream.data + beyond, "element 2 is beyond the reference list of 2")


# partial data units


def parts_of(n, name="w", **more):
    header = ndu(name, **more)
    head = len(write_unit(UnitType.NDU, header, b"", started()))
    body = bytes(range(60))
    return split_unit(UnitType.NDU, header, body, started(), head + 1 + -(-60 // n)), body


def test_parts_are_joined_and_others_may_stand_between():
    (parts, body), (others, _) = parts_of(3), parts_of(3, "v")
    assert len(parts) >= 2
    mixed = [piece for pair in zip(parts, others, strict=True) for piece in pair]
    units = Stream().raw(*mixed).units()[2:]
    assert [u.names[0] for u in units] == ["w", "v"]
    for unit in units:
        assert bytes(unit.payload()) == body
        assert unit.header.tensor_dimensions == (3, 4)
        assert unit.partial_data_counter == len(parts)
        assert unit.size == sum(len(p) for p in parts)


def test_missing_last_part_is_refused():
    parts, _ = parts_of(3)
    error = refused(Stream().raw(*parts[:-1]).data, "ends before part 1")
    assert error.path == "NDU 'w'"


def test_parts_out_of_order_are_refused():
    parts, _ = parts_of(4)
    refused(Stream().raw(parts[0], parts[2]).data, "but part .* is due")
    refused(Stream().raw(parts[0], parts[0]).data, "but part .* is due|in the stream already")


def test_part_after_the_last_is_refused():
    parts, _ = parts_of(3)
    refused(Stream().raw(*parts, parts[-1]).data, "in the stream already|neither")


def test_counter_of_zero_is_refused():
    whole = Stream().put(UnitType.NDU, ndu(), b"x").pieces[-1]
    refused(Stream().raw(unit_bytes(5, whole[3:], counter=0)).data, "counter is 0")


def test_one_part_is_a_whole():
    whole = Stream().put(UnitType.NDU, ndu(), b"x").pieces[-1]
    assert bytes(Stream().raw(unit_bytes(5, whole[3:], counter=1)).units()[-1].payload()) == b"x"


@pytest.mark.parametrize("kind", [UnitType.STR, UnitType.MPS, UnitType.LPS, UnitType.AGG])
def test_units_that_cannot_be_in_parts(kind):
    data = b"" if kind == UnitType.STR else start_units()[0] if kind == UnitType.MPS else Stream().data
    refused(data + unit_bytes(kind, b"\x01\x00\x00\x00", counter=2), "comes in parts")


# layer parameter sets and aggregates


def lps(density, parameter):
    return UnitType.LPS, LpsHeader(), LpsPayload(lps_qp_density=density, lps_quantization_parameter=parameter)


def in_force(unit):
    return unit.context.qp_density, unit.context.quantization_parameter


def test_layer_parameter_set_holds_for_the_units_after_it():
    stream = Stream().put(UnitType.NDU, ndu("a"), b"x").put(*lps(3, -9)).put(UnitType.NDU, ndu("b"), b"x")
    assert [in_force(u) for u in stream.units() if u.names] == [(2, 0), (3, -9)]
    stream.put(UnitType.LPS, LpsHeader(), LpsPayload()).put(UnitType.NDU, ndu("c"), b"x")
    assert in_force(stream.units()[-1]) == (2, 0)


@pytest.mark.parametrize(("kind", "inside"), [(AggregateType.GENERIC, (3, -9)), (AggregateType.SELF_CONTAINED, (2, 0))])
def test_layer_parameter_set_inside_an_aggregate_ends_with_it(kind, inside):
    stream = Stream().put(*lps(3, -9))
    outside = stream.context
    stream.context = outside.inside(kind)
    stream.put(UnitType.NDU, ndu("a"), b"x").put(*lps(4, 4)).put(UnitType.NDU, ndu("b"), b"x")
    stream.pieces[3:] = [aggregate_units(stream.pieces[3:], aggregate_type=kind)]
    stream.context = stream.context.outside(outside)
    stream.put(UnitType.NDU, ndu("c"), b"x")
    units = {u.names[0]: u for u in stream.units() if u.names}
    assert [in_force(units[name]) for name in "abc"] == [inside, (4, 4), (3, -9)]
    assert units["a"].aggregate.type == UnitType.AGG
    assert units["c"].aggregate is None


def aggregate(**more):
    stream = Stream().put(UnitType.NDU, ndu("a"), b"x").put(UnitType.QNT, QntHeader(), b"data")
    return aggregate_units(stream.pieces[2:], **more)


def test_aggregate_lists_its_units():
    units = Stream().raw(aggregate()).units()
    assert [u.type for u in units[2:]] == [UnitType.AGG, UnitType.NDU, UnitType.QNT]
    agg = units[2]
    assert agg.header.entry_points == tuple((u.type, u.offset - agg.offset) for u in units[3:])
    assert units[-1].body == b"data"


@pytest.mark.parametrize("place", range(10, 20))
def test_wrong_entry_points_of_an_aggregate_are_refused(place):
    whole = bytearray(aggregate())
    header = 3 + 4  # unit header; type, flags, number of units
    whole[header + place - 10] ^= 1 << (7 if place in (10, 15) else 0)
    refused(Stream().raw(bytes(whole)).data, "entry point")


@pytest.mark.parametrize("n", [1, 3])
def test_wrong_number_of_units_in_an_aggregate_is_refused(n):
    whole = bytearray(aggregate(entry_points=False))
    whole[6] = n - 2 & 0xFF
    whole[5] = 0xFF if n < 2 else 0
    refused(Stream().raw(bytes(whole)).data, "holds 2 units")


def test_aggregate_inside_an_aggregate_is_refused():
    inner = aggregate()
    outer = unit_bytes(6, b"\x00\x00\x00\x00" + inner + inner)
    refused(Stream().raw(outer).data, "NNR_AGG inside an aggregate")


def test_unit_that_leaves_its_aggregate_is_refused():
    whole = aggregate(entry_points=False)
    cut = (len(whole) - 1).to_bytes(2, "big") + whole[2:-1]
    refused(Stream().raw(cut, whole[-1:]).data, "left")


# reserved bits


@pytest.mark.parametrize(("profile", "place"), [(0, 4), (1, 4)])
def test_reserved_bits_must_be_zero_unless_lenient(profile, place):
    first, mps = start_units(profile)
    changed = bytearray(mps)
    changed[place] |= 1
    refused(first + changed, "reserved bits are 1")
    assert len(list(read_units(first + bytes(changed), lenient=True))) == 2


# time


def test_hostile_repetition_takes_time_in_proportion():
    """A list of 200,000 names whose last is a repeat, and one name at 3,000 depths."""
    names = b"".join(b"%d\0" % i for i in range(200_000)) + b"7\0"
    bits = BitWriter()
    bits.u(8, PayloadType.FLOAT << 3 | 4)
    bits.ue(7, 200_001 - 2)
    bits.align()
    content = b"\x16" + bits.getvalue() + names
    size = (len(content) + 4 | 1 << 31).to_bytes(4, "big")
    stream = Stream()
    start = time.perf_counter()
    refused(stream.data + size + content, "lists '7' twice")
    for depth in range(3000):
        stream.put(UnitType.NDU, ndu(device_id=0, parameter_id=0, put_node_depth=depth), b"x")
    assert len(stream.units()) == 3002
    assert time.perf_counter() - start < 20
