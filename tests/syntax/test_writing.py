"""What the writer refuses, and the forms that it chooses."""

import subprocess
import sys
import tracemalloc

import pytest
from syntax.builders import Stream, ndu, started

from nncjit.bits.bit_reader import MAX_TEXT
from nncjit.errors import OptionError
from nncjit.syntax import (
    AggHeader,
    CodebookSyntax,
    Context,
    DataUnitWriter,
    LpsHeader,
    LpsPayload,
    MpsPayload,
    NduHeader,
    PayloadType,
    ReferenceList,
    StrHeader,
    TopologyFormat,
    TplHeader,
    UnitType,
    aggregate_units,
    read_units,
    split_unit,
    unit_head,
    write_unit,
)
from nncjit.syntax.codebook_syntax import MAX_CODEBOOK_SIZE

REFLIST = TplHeader(topology_storage_format=TopologyFormat.REFLIST)
BLOCK = {"nnr_compressed_data_unit_payload_type": PayloadType.BLOCK}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (ndu(tensor_dimensions=(3, -4)), "-4 does not fit"),
        (ndu(tensor_dimensions=(1 << 40, 2)), "more than"),
        (ndu(tensor_dimensions=(2,) * 33), "more than 32"),
        (ndu(tensor_dimensions=(2, None)), "NduHeader"),
        (ndu(tensor_dimensions=7), "not of the right kind"),
        (ndu(tensor_dimensions=None), "neither in the stream nor given"),
        (ndu(scan_order=5), "is 5, at most 4"),
        (ndu(scan_order=-1), "does not fit"),
        (ndu(tensor_dimensions=(90,), scan_order=1), "has no place here"),
        (ndu(tensor_dimensions=(90, 2), scan_order=1), "has 0 entry points.* ask for 11"),
        (ndu(entry_points=((1, 1, 1),)), "has no place here"),
        (ndu(tensor_dimensions=(9, 2), scan_order=1, entry_points=((256, 0, 1),)), "256 does not fit"),
        (ndu(tensor_dimensions=(9, 2), scan_order=1, dq_flag=1, entry_points=((1, 8, 1),)), "8 does not fit"),
        (ndu(tensor_dimensions=(9, 2), scan_order=1, entry_points=((1, 0, -1),)), "-1 does not fit"),
        (ndu(tensor_dimensions=(9, 2), scan_order=1, entry_points=(5,)), "not of the right kind"),
        (ndu(cabac_unary_length_minus1=256), "256 does not fit"),
        (ndu(dq_flag=2), "2 does not fit"),
        (ndu(nnr_decompressed_data_format=10), "reserved"),
        (ndu(nnr_decompressed_data_format=128), "128 does not fit"),
        (ndu("a\0b"), "zero byte"),
        (ndu(None), "no element is named"),
        (ndu(topology_elem_id_index=3), "topology_elem_id"),
        (ndu(topology_elem_ids=("a", "a"), concatenation_axis_index=0, split_index=(1,)), "twice"),
        (ndu(topology_elem_ids=("a",)), "does not fit|elements"),
        (ndu(topology_elem_ids=("a", "b"), count_topology_elements_minus2=1), "the count says so"),
        (ndu(topology_elem_ids=("a", "b")), "concatenation_axis_index: is missing"),
        (ndu(topology_elem_ids=("a", "b"), concatenation_axis_index=0, split_index=()), "0 values, 1 are announced"),
        (ndu(topology_elem_ids=("a", "b"), **BLOCK), "lists 2 elements"),
        (ndu(compressed_parameter_types=16), "16 does not fit"),
        (ndu(**BLOCK, topology_elem_ids=("g", "h"), compressed_parameter_types=1), "rank"),
        (ndu(device_id=1), "parameter_id: is missing"),
        (ndu(parameter_id=1), "has no place here"),
        (ndu(parent_node_id_type=0, parent_device_id=0), "has no place here"),
        (ndu(first_tensor_dimension_shift=2), "moves the first"),
        (ndu(codebook=CodebookSyntax((1, 1), 0)), "grow strictly"),
        (ndu(codebook=CodebookSyntax((2, 1), 0)), "grow strictly"),
        (ndu(codebook=CodebookSyntax((), 0)), "its zero is at 0 of 0"),
        (ndu(codebook=CodebookSyntax((1, 2), 2)), "its zero is at 2 of 2"),
        (ndu(codebook=CodebookSyntax((1, 2), 0, 16)), "16 does not fit"),
        (ndu(codebook=CodebookSyntax((0, 1 << 31), 0)), "beyond"),
        (ndu(codebook=CodebookSyntax(tuple(range(MAX_CODEBOOK_SIZE + 1)), 0)), "values are allowed"),
        (ndu(codebook=(1, 2)), "not of the right kind"),
        (ndu(nnr_compressed_data_unit_payload_type=PayloadType.INT, codebook=CodebookSyntax((0, 1), 0)), "no place"),
        (ndu(nnr_compressed_data_unit_payload_type=PayloadType.RAW_FLOAT, dq_flag=1), "no place"),
        (ndu(nnr_compressed_data_unit_payload_type=4), "reserved"),
        (ndu(nnr_compressed_data_unit_payload_type=None), "missing"),
        (ndu(input_parameters_present_flag=0), "has no place|neither"),
        (StrHeader(general_profile_idc=1), "needs a NduHeader"),
        (None, "needs a NduHeader"),
    ],
)
def test_headers_that_cannot_be_written(header, reason):
    with pytest.raises(OptionError, match=reason):
        write_unit(UnitType.NDU, header, b"", started())


@pytest.mark.parametrize("name", ["device_id", "first_tensor_dimension_shift", "parent_node_id_type"])
def test_the_first_edition_has_no_place_for_the_seconds(name):
    more = {"parameter_id": 0, "put_node_depth": 0} if name == "device_id" else {}
    with pytest.raises(OptionError, match="no place"):
        write_unit(UnitType.NDU, ndu(**{name: 1, **more}), b"", started(profile=0))


@pytest.mark.parametrize(
    ("kind", "header", "body", "context", "reason"),
    [
        (UnitType.STR, StrHeader(general_profile_idc=2), None, Context(), "profile 2 is not known"),
        (UnitType.STR, StrHeader(), None, Context(), "missing"),
        (UnitType.STR, StrHeader(general_profile_idc=1), None, started(), "second NNR_STR"),
        (UnitType.MPS, None, MpsPayload(), Context(), "not an NNC bitstream"),
        (UnitType.MPS, None, MpsPayload(), started(), "second NNR_MPS"),
        (UnitType.MPS, None, None, Context(profile=1), "not MpsPayload"),
        (UnitType.MPS, LpsHeader(), MpsPayload(), Context(profile=1), "has no header"),
        (UnitType.MPS, None, MpsPayload(mps_qp_density=8), Context(profile=1), "8 does not fit"),
        (UnitType.MPS, None, MpsPayload(mps_qp_density=2), Context(profile=1), "missing"),
        (UnitType.MPS, None, MpsPayload(base_model_id="m"), Context(profile=0), "no place"),
        (UnitType.MPS, None, MpsPayload(nnr_pre_flag=1), Context(profile=1), "no place"),
        (UnitType.MPS, None, MpsPayload(validation_set_performance=float("nan"), performance_metric_type=""),
         Context(profile=1), "finite"),
        (UnitType.NDU, ndu(), b"", Context(profile=1), "before NNR_MPS"),
        (UnitType.NDU, ndu(), b"", started(topology_carriage_flag=1), "before NNR_TPL"),
        (UnitType.NDU, ndu(), 5, started(), "not bytes"),
        (UnitType.NDU, ndu(), b"", started().after(UnitType.NDU, ndu()), "already"),
        (UnitType.TPL, TplHeader(), b"", started(), "although topology_carriage_flag is 0"),
        (UnitType.TPL, REFLIST, b"", started(topology_carriage_flag=1), "not ReferenceList"),
        (UnitType.TPL, REFLIST, ReferenceList(topology_elem_ids=("a",)), started(topology_carriage_flag=1), "not fit"),
        (UnitType.LPS, LpsHeader(), LpsPayload(lps_qp_density=1, lps_quantization_parameter=4096), started(), "4096"),
        (UnitType.LPS, LpsHeader(nnr_reserved_zero_7bits=1), LpsPayload(), started(), "reserved"),
        (UnitType.AGG, AggHeader(num_of_nnr_units_minus2=1 << 16), b"", started(), "does not fit"),
        (UnitType.AGG, AggHeader(num_of_nnr_units_minus2=0, entry_points=((5, 3),)), b"", started(), "1 values, 2"),
    ],
)  # fmt: skip
def test_units_that_cannot_be_written(kind, header, body, context, reason):
    with pytest.raises(OptionError, match=reason):
        write_unit(kind, header, body, context)


@pytest.mark.parametrize("payload", [32767, 32768, 32769])
def test_size_field_is_short_below_32768_bytes(payload):
    body = bytes(payload - len(write_unit(UnitType.NDU, ndu(), b"", started())))
    stream = Stream().put(UnitType.NDU, ndu(), body)
    unit = stream.units()[-1]
    assert unit.unit_header.nnr_unit_size_flag == (payload >= 32768)
    assert unit.size == payload + 2 * (payload >= 32768)
    assert unit.payload_size == len(body)


def test_long_size_can_be_asked_for():
    data = write_unit(UnitType.NDU, ndu(), b"x", started(), long_size=True)
    unit = Stream().raw(data).units()[-1]
    assert (unit.unit_header.nnr_unit_size_flag, unit.size) == (1, len(data))


def test_too_large_a_unit_is_refused_and_the_largest_is_not():
    head = unit_head(UnitType.NDU, ndu(), 100_000, started())
    largest = (1 << 31) - 1 - len(head)
    assert len(unit_head(UnitType.NDU, ndu(), largest, started())) == len(head)
    with pytest.raises(OptionError, match="larger than 2147483647"):
        unit_head(UnitType.NDU, ndu(), largest + 1, started())


def test_head_and_payload_are_the_unit():
    whole = write_unit(UnitType.NDU, ndu(), b"payload", started())
    assert unit_head(UnitType.NDU, ndu(), 7, started()) + b"payload" == whole


def test_split_refuses_what_it_cannot_do():
    with pytest.raises(OptionError, match="no room"):
        split_unit(UnitType.NDU, ndu(), bytes(100), started(), 10)
    with pytest.raises(OptionError, match="at most 255"):
        split_unit(UnitType.NDU, ndu(), bytes(100_000), started(), 60)
    with pytest.raises(OptionError, match="cannot be split"):
        split_unit(UnitType.LPS, LpsHeader(), LpsPayload(), started(), 3)


def test_what_fits_is_not_split():
    whole = write_unit(UnitType.NDU, ndu(), bytes(100), started())
    assert split_unit(UnitType.NDU, ndu(), bytes(100), started(), len(whole)) == [whole]


@pytest.mark.parametrize("size", [40_000, 70_000])
def test_large_parts_keep_to_the_size(size):
    body = bytes(200_000)
    parts = split_unit(UnitType.NDU, ndu(), body, started(), size)
    assert max(map(len, parts)) <= size
    assert bytes(Stream().raw(*parts).units()[-1].payload()) == body


def test_aggregates_refuse_what_they_cannot_hold():
    one = write_unit(UnitType.NDU, ndu(), b"x", started())
    with pytest.raises(OptionError, match="at least 2"):
        aggregate_units([one])
    with pytest.raises(OptionError, match="not whole units"):
        aggregate_units([one, one[:-1]])
    with pytest.raises(OptionError, match="NNR_STR cannot stand inside"):
        aggregate_units([Stream().pieces[0], one])


def test_flags_and_counts_follow_from_what_is_given():
    header = ndu(topology_elem_ids=("a", "b", "c"), concatenation_axis_index=1, split_index=(1, 2))
    assert header.nnr_multiple_topology_elements_present_flag == 1
    assert header.count_topology_elements_minus2 == 1
    assert header.input_parameters_present_flag == 1
    assert header.shifts == ((), (), ())
    assert (header.scan_order, header.entry_points, header.node_id_present_flag) == (0, (), 0)


def test_units_of_thousands_take_time_in_proportion():
    """Contexts are immutable and yet nothing is copied per unit."""
    stream = Stream()
    for i in range(3000):
        stream.put(UnitType.NDU, ndu(f"w{i}"), b"x")
    tracemalloc.start()
    n = sum(1 for _ in read_units(stream.data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 3002
    assert peak < 10_000_000


def test_importing_the_syntax_needs_no_numba_and_no_numpy():
    code = "import sys, nncjit.syntax; print([m for m in ('numba', 'numpy', 'scipy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_tables_are_frozen():
    with pytest.raises(AttributeError):
        NduHeader(topology_elem_id="w").dq_flag = 1


@pytest.mark.parametrize("indexed", [False, True])
def test_data_units_one_after_another_have_the_bytes_of_single_ones(indexed):
    context = started(mps_topology_indexed_reference_flag=int(indexed))
    writer, growing = DataUnitWriter(), context.growing()
    for k in range(40):
        header = ndu(
            "n" * (k * k % 37) + str(k),
            **({"topology_elem_id_index": k} if indexed else {}),
            tensor_dimensions=((3, 4), (7,), (90, 2, 2))[k % 3],
            cabac_unary_length_minus1=10 + k % 2,
            dq_flag=int(k % 5 == 0),
        )
        head, growing = writer.head(header, k, growing)
        assert head + bytes(k) == write_unit(UnitType.NDU, header, bytes(k), context)
        context = context.after(UnitType.NDU, header)
        with pytest.raises(OptionError, match="already"):
            writer.head(header, k, growing)


def test_a_header_that_was_written_before_has_its_name_checked():
    writer, context = DataUnitWriter(), started().growing()
    writer.head(ndu("a"), 0, context)
    for name in ("b\0c", "\ud800", "d" * (MAX_TEXT + 1)):
        with pytest.raises(OptionError, match="topology_elem_id"):
            writer.head(ndu(name), 0, context)
