"""The parts known from drafts only, against bits written out by hand from the project's specification, section 11."""

import struct
import zlib

import pytest
from syntax.builders import Stream, error_of, ndu, started, unit_bytes

from nncjit.bits import BitReader, BitWriter
from nncjit.errors import BitstreamError, OptionError
from nncjit.syntax import (
    BitMask,
    CompressionFormat,
    Context,
    DecompositionEntry,
    DecompositionMap,
    LpsHeader,
    LpsPayload,
    MpsPayload,
    NduHeader,
    ParentNodeIdType,
    PrunedTensor,
    PruningContainer,
    PruningEntry,
    PruningMap,
    QntHeader,
    ReferenceList,
    ReshapedTensor,
    SparsificationEntry,
    SparsificationMap,
    TplHeader,
    UnificationEntry,
    UnificationMap,
    UnitType,
    aggregate_units,
    read_units,
    split_unit,
    write_unit,
)
from nncjit.syntax.payloads import inflate, read_body, write_body
from nncjit.syntax.syntax_tables import read, write


def ue(k, value):
    """Exp-Golomb as the specification's loop says it, as text."""
    text, x = "", 0
    while value - x >= 1 << k:
        x += 1 << k
        k += 1
        text += "0"
    return text + "1" + (format(value - x, f"0{k}b") if k else "")


def flt(value):
    return "".join(format(byte, "08b") for byte in struct.pack("<f", value))


def u(n, value):
    return format(value, f"0{n}b")


def align(text):
    return (text + "1").ljust(-(-(len(text) + 1) // 8) * 8, "0")


def bits_of(table, context=None):
    bits = BitWriter()
    write(table, bits, context or Context(profile=1))
    rest = -bits.pos % 8
    if rest:
        bits.u(rest, 0)
    data = bits.getvalue()
    return "".join(format(byte, "08b") for byte in data)[: len(data) * 8 - rest]


def same(table, text, context=None):
    """The table writes these bits, and these bits read as the table."""
    context = context or Context(profile=1)
    assert bits_of(table, context) == text
    data = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    assert read(type(table), BitReader(data), context) == table


def test_the_helper_codes_as_the_standard_says():
    assert [ue(0, x) for x in range(4)] == ["1", "010", "011", "00100"]
    assert align("") == "10000000"


def test_sparsification_map():
    entry = SparsificationEntry(
        sparsification_threshold=0.5,
        non_zero_ratio=0.25,
        spm_nn_accuracy=0.75,
        spm_class_bitmask=5,
        spm_nn_class_accuracy=(1.0, 2.0),
    )
    text = u(8, 2) + flt(0.5) + flt(0.25) + flt(0.75) + u(8, 2) + ue(7, 5) + flt(1.0) + flt(2.0)
    same(SparsificationMap(entries=(entry,)), text)
    same(SparsificationMap(), u(8, 1))
    same(SparsificationMap(spm_count_thresholds=0), u(8, 0))


def test_pruning_map():
    entry = PruningEntry(pruning_ratio=0.5, ppm_nn_accuracy=0.25, ppm_class_bitmask=300, ppm_nn_class_accuracy=(1.0,))
    same(PruningMap(entries=(entry,)), u(8, 2) + flt(0.5) + flt(0.25) + u(8, 1) + ue(7, 300) + flt(1.0))


def test_unification_map():
    entry = UnificationEntry(
        reshaped_tensor=ReshapedTensor(reshaped_tensor_dimensions=(8, 300)),
        super_block_dimensions=(4, 4),
        block_dimensions=(2,),
        unification_threshold=0.5,
        upm_nn_accuracy=0.25,
    )
    text = u(8, 2)
    text = align(text + ue(1, 3) + ue(7, 8) + ue(7, 300)) + u(8, 3) + u(8, 4) * 2 + u(8, 2) + u(8, 2)
    same(UnificationMap(entries=(entry,)), text + flt(0.5) + flt(0.25) + u(8, 0) + ue(7, 0))


def test_decomposition_map():
    entry = DecompositionEntry(
        mse_threshold=0.5, dpm_nn_accuracy=0.25, nn_reduction_ratio=0.125, dpm_nn_class_accuracy=(1.0,)
    )
    text = u(8, 2) + flt(0.5) + flt(0.25) + flt(0.125) + u(16, 1) + flt(1.0)
    same(DecompositionMap(entries=(entry,)), text)


def test_model_parameter_set_with_all_it_can_hold():
    mps = MpsPayload(
        topology_carriage_flag=1,
        mps_qp_density=2,
        mps_quantization_parameter=-3,
        sparsification_map=SparsificationMap(),
        pruning_map=PruningMap(),
        unification_map=UnificationMap(),
        decomposition_map=DecompositionMap(),
        base_model_id="m",
        validation_set_performance=0.5,
        performance_metric_type="top1",
        mps_parent_signalling_enabled_flag=1,
        nnr_pre_flag=1,
    )
    text = "11111" + "001" + "0" + "110" + "11" + "00" + "01101101" + u(8, 0)
    text += "".join(u(8, byte) for byte in b"top1\0") + "010" + u(13, -3 & 0x1FFF) + u(8, 1) * 4 + flt(0.5)
    same(mps, align(text))


def test_model_parameter_set_of_the_first_edition():
    mps = MpsPayload(mps_qp_density=2, mps_quantization_parameter=1, mps_topology_indexed_reference_flag=1)
    same(mps, align("00000" + "001" + "1" + "0000000" + "010" + u(13, 1)), Context(profile=0))


def test_layer_parameter_set():
    same(LpsHeader(lps_self_contained_flag=1), "10000000")
    lps = LpsPayload(lps_qp_density=3, lps_quantization_parameter=-1, pruning_map=PruningMap())
    same(lps, align("0" + "010" + "001" + "0" + "011" + "1" * 13 + u(8, 1)))


def test_pruning_container_as_bit_mask():
    container = PruningContainer(
        order_flag=1, prune_mask=BitMask(count=3, bits=b"\xa0"), sparse_mask=BitMask(count=8, bits=b"\x0f")
    )
    text = "00" + "1" + "1" + "1" + "000" + u(32, 3) + "10110000" + u(32, 8) + "00001111" + "10000000"
    same(container, text)


def test_pruning_container_as_dictionary():
    container = PruningContainer(pruned=(PrunedTensor(topology_elem_id="w", dimensions=(3, 255)),))
    text = "01" + "1" + "0" + "0" + "000" + u(8, 1) + u(8, ord("w")) + u(8, 0) + u(8, 2) + u(8, 3) + u(8, 255)
    same(container, text)


def test_pruning_container_of_an_unknown_kind_is_refused():
    with pytest.raises(BitstreamError, match="is 2, at most 1"):
        read(PruningContainer, BitReader(b"\xa0" + bytes(9)), Context(profile=1))


def test_bit_mask_longer_than_its_data_is_refused_before_allocating():
    with pytest.raises(BitstreamError, match="needs 4294967295 bits"):
        read(BitMask, BitReader(b"\xff\xff\xff\xff\x00"), Context(profile=1))


def test_reference_list():
    text = align(ue(7, 0)) + "".join(u(8, byte) for byte in b"a\0bc\0")
    same(ReferenceList(topology_elem_ids=("a", "bc")), text)


def test_elements_by_index():
    header = ndu(topology_elem_id_indices=(2, 0), tensor_dimensions=None, scan_order=0)
    context = started(mps_topology_indexed_reference_flag=1)
    context = context.inside(0)
    known = Context(
        profile=1, mps=context.mps, known={"#2": context.inputs_of(ndu())}
    )  # the shape of the pair, by its first element
    text = "00001" + "100" + ue(7, 0) + ue(7, 2) + ue(7, 0)
    text = align(text) + "0" + "0" + "0" + ue(1, 0) + "0000"
    same(header, align(text), known)


def test_aggregate_header():
    units = Stream().put(UnitType.NDU, ndu("a"), b"x").put(UnitType.NDU, ndu("b"), b"yy").pieces[2:]
    whole = aggregate_units(units, aggregate_type=1)
    header = 3 + 4 + 2 * 5
    text = u(8, 1) + "1" + u(7, 0) + u(16, 0) + u(6, 5) + u(34, header) + u(6, 5) + u(34, header + len(units[0]))
    assert whole[3:header] == int(text, 2).to_bytes(14, "big")
    assert whole[header:] == units[0] + units[1]


def test_tensor_mapping():
    header = ndu(
        topology_elem_ids=("a", "b"),
        tensor_dimensions=(9, 4),
        concatenation_axis_index=0,
        split_index=(4,),
        shifts=(((1, 1),), ()),
    )
    text = align("00001" + "101" + ue(7, 0)) + "".join(u(8, byte) for byte in b"a\0b\0")
    text += "0" + "0" + "0" + "1" + "0" + "0000" + ue(1, 2) + ue(7, 9) + ue(7, 4)
    text += u(8, 0) + ue(7, 4) + ue(1, 1) + ue(7, 1) + ue(1, 1) + ue(1, 0) + ue(1, 0) + "0000"
    same(header, align(text), started())


def test_first_tensor_dimension_shift():
    text = "00001" + "001" + u(8, ord("w")) + u(8, 0) + "0" + "0" + "0" + "1" + "0" + "0000"
    shift = ndu(first_tensor_dimension_shift=1)
    same(shift, align(text + ue(1, 2) + ue(7, 3) + ue(7, 4) + ue(1, 1) + "0000"), started())


@pytest.mark.parametrize(("kind", "n"), [(ParentNodeIdType.SHA256, 32), (ParentNodeIdType.SHA512, 64)])
def test_parent_by_hash(kind, n):
    digest = bytes(range(n))
    header = ndu(
        tensor_dimensions=(5,),
        parent_node_id_type=kind,
        temporal_context_modeling_flag=1,
        **{f"parent_node_payload_sha{8 * n}": digest},
    )
    text = "00001" + "001" + u(8, ord("w")) + u(8, 0) + "0" + "1" + u(2, kind) + "1"
    text += "".join(u(8, byte) for byte in digest) + "0" + "0" + "1" + "0" + "0000" + ue(1, 1) + ue(7, 5)
    same(header, align(text), started(mps_parent_signalling_enabled_flag=1))


def test_parent_ids_repeat_what_the_node_does_not_say():
    context = started(mps_parent_signalling_enabled_flag=1)
    start = "00001" + "001" + u(8, ord("w")) + u(8, 0)
    rest = "0" + "0" + "1" + "0" + "0000" + ue(1, 1) + ue(7, 5)
    alone = ndu(
        tensor_dimensions=(5,),
        parent_node_id_type=0,
        parent_device_id=1,
        parent_parameter_id=2,
        parent_put_node_depth=3,
    )
    same(alone, align(start + "0" + "1" + "00" + "0" + ue(1, 1) + ue(5, 2) + ue(4, 3) + rest), context)
    node = {"device_id": 1, "parameter_id": 2, "put_node_depth": 4}
    both = ndu(tensor_dimensions=(5,), parent_node_id_type=0, parent_device_id=1, **node)
    ids = "1" + ue(1, 1) + ue(5, 2) + ue(4, 4) + "1" + "00" + "0" + ue(1, 1)
    same(both, align(start + ids + rest), context)


@pytest.mark.parametrize("bare", [False, True])
def test_deflate_with_and_without_wrapping_is_read(bare):
    plain = bytes(1000) + b"end"
    packed = zlib.compress(plain)
    if bare:
        packed = packed[2:-4]
    for kind in (UnitType.TPL, UnitType.QNT):
        data = Stream(topology_carriage_flag=1).data + unit_bytes(kind, b"\x01\x01" + packed)
        assert list(read_units(data))[-1].body == plain


@pytest.mark.parametrize("kind", [UnitType.TPL, UnitType.QNT])
@pytest.mark.parametrize("compression", CompressionFormat)
@pytest.mark.parametrize("data", [b"", b"data", bytes(50), b"\0\0"])
def test_topology_and_quantisation_data_come_back(kind, compression, data):
    header = {
        UnitType.TPL: TplHeader(topology_storage_format=2, topology_compression_format=compression),
        UnitType.QNT: QntHeader(quantization_storage_format=2, quantization_compression_format=compression),
    }[kind]
    stream = Stream(topology_carriage_flag=1).put(kind, header, data)
    assert stream.units()[-1].body == data


def test_empty_data_is_one_zero_byte():
    assert write_unit(UnitType.TPL, TplHeader(), b"", started(topology_carriage_flag=1)) == bytes.fromhex(
        "00060e000000"
    )


def test_a_lone_zero_byte_cannot_be_data():
    with pytest.raises(OptionError, match="lone zero byte"):
        write_unit(UnitType.QNT, QntHeader(), b"\0", started())


def test_compressed_data_may_not_grow_beyond_the_limit():
    packed = zlib.compress(bytes(5_000_000), 9)
    data = Stream(topology_carriage_flag=1).data + unit_bytes(UnitType.TPL, b"\x02\x01" + packed)
    unit = list(read_units(data, limit=4_999_999))[-1]
    with pytest.raises(BitstreamError, match="inflates to more than 4999999 bytes") as caught:
        _ = unit.body
    assert caught.value.bit == 8 * unit.payload_start
    assert len(list(read_units(data, limit=5_000_000))[-1].body) == 5_000_000


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"x" + d, lambda d: b""])
def test_damaged_deflate_is_refused(damage):
    assert error_of(lambda: inflate(damage(zlib.compress(b"some data " * 9)), 1000)) is not None


def test_compressed_containers_come_back():
    header = TplHeader(topology_storage_format=5, topology_compression_format=CompressionFormat.DEFLATE)
    container = PruningContainer(prune_mask=BitMask(count=8000, bits=bytes(1000)))
    payload = write_body(UnitType.TPL, header, container, Context(profile=1))
    assert len(payload) < 100
    assert read_body(UnitType.TPL, header, payload, Context(profile=1), limit=2000) == container


def test_parts_keep_to_the_size_and_only_the_first_says_all():
    points = tuple((i, 1, 3000 + i) for i in range(9))
    coding = {"dq_flag": 1, "scan_order": 1, "entry_points": points, "cabac_unary_length_minus1": 3}
    header = ndu(tensor_dimensions=(80, 8), **coding)
    body = bytes(i % 251 for i in range(3000))
    parts = split_unit(UnitType.NDU, header, body, started(), 100)
    assert max(map(len, parts)) == 100
    n_first = 100 - parts[0].index(body[:9])
    n_second = 100 - parts[1].index(body[n_first : n_first + 9])
    assert n_second > n_first + len(points)
    units = Stream().raw(*parts).units()
    assert units[-1].header == header
    assert bytes(units[-1].payload()) == body
    assert units[-1].inputs.cabac_unary_length_minus1 == 3


def test_headers_hash_and_show_what_they_hold():
    header = ndu("w")
    assert hash(header) == hash(NduHeader(**{r.name: getattr(header, r.name) for r in NduHeader.ROWS}))
    assert "topology_elem_id='w'" in repr(header)
    assert "codebook=" not in repr(header)
