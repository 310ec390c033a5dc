"""The reader composes what other writers may have taken apart: every tool of the standard, alone and with others."""

from __future__ import annotations

import numpy as np
import pytest

import nncjit
from codec.builder import Builder, string
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.syntax import (
    AggregateType,
    CodebookSyntax,
    LpsHeader,
    LpsPayload,
    NduHeader,
    ParameterTypes,
    PayloadType,
    ReferenceList,
    TopologyFormat,
    TplHeader,
    UnitType,
    aggregate_units,
    split_unit,
)

RNG = np.random.default_rng(0)
MATRIX = RNG.integers(-5, 6, (6, 8)).astype(np.float32)


def floats(**more: object) -> dict[str, object]:
    return {"nnr_compressed_data_unit_payload_type": PayloadType.FLOAT, "cabac_unary_length_minus1": 9} | more


def test_the_first_dimension_moves_to_its_place() -> None:
    coded = RNG.integers(-5, 6, (4, 2, 3)).astype(np.float32)
    b = Builder()
    b.tensor(string(coded), **floats(topology_elem_id="k", tensor_dimensions=(4, 2, 3), first_tensor_dimension_shift=2))
    back = nncjit.decode(b.data)["k"]
    assert np.array_equal(back, np.moveaxis(coded, 0, 2))
    assert back.flags.c_contiguous
    assert nncjit.inspect(b.data).tensors[0].shape == (2, 3, 4)
    assert nncjit.open(b.data).get_slice("k").get_shape() == [2, 3, 4]


def test_several_tensors_in_one_come_apart() -> None:
    header = floats(
        topology_elem_ids=("a", "b", "c"),
        tensor_dimensions=(6, 8),
        concatenation_axis_index=1,
        split_index=(2, 5),
        shifts=((), ((1, 1),), ()),
    )
    b = Builder()
    b.tensor(string(MATRIX), **header)
    data = b.data
    back = nncjit.decode(data)
    assert list(back) == ["a", "b", "c"]
    assert np.array_equal(back["a"], MATRIX[:, :2])
    assert np.array_equal(back["b"], MATRIX[:, 2:5].T)
    assert np.array_equal(back["c"], MATRIX[:, 5:])
    assert {row.name: row.shape for row in nncjit.inspect(data).tensors} == {"a": (6, 2), "b": (3, 6), "c": (6, 3)}
    assert list(nncjit.decode(data, names=["b"])) == ["b"]


def test_names_by_index_in_a_list() -> None:
    b = Builder(topology_carriage_flag=1, mps_topology_indexed_reference_flag=1)
    names = ReferenceList(topology_elem_ids=("x.weight", "y.weight", "z"))
    b.put(UnitType.TPL, TplHeader(topology_storage_format=TopologyFormat.REFLIST), names)
    for index in (2, 0):
        b.tensor(string(MATRIX + index), **floats(topology_elem_id_index=index, tensor_dimensions=(6, 8)))
    back = nncjit.decode(b.data)
    assert list(back) == ["z", "x.weight"]
    assert np.array_equal(back["z"], MATRIX + 2)


def test_a_parameter_set_of_its_own_for_a_group() -> None:
    b = Builder()
    b.tensor(string(MATRIX), **floats(topology_elem_id="before", tensor_dimensions=(6, 8)))
    b.put(UnitType.LPS, LpsHeader(), LpsPayload(lps_qp_density=3, lps_quantization_parameter=-16))
    b.tensor(string(MATRIX, density=3), **floats(topology_elem_id="after", tensor_dimensions=(6, 8)))
    back = nncjit.decode(b.data)
    assert np.array_equal(back["before"], MATRIX)
    assert np.array_equal(back["after"], MATRIX / 4)


@pytest.mark.parametrize("entry_points", [False, True])
def test_units_in_an_aggregate(entry_points: bool) -> None:
    b = Builder()
    outside = b.context
    b.context = outside.inside(AggregateType.GENERIC)
    units = [
        b.unit(UnitType.LPS, LpsHeader(), LpsPayload(lps_qp_density=2, lps_quantization_parameter=4)),
        b.unit(UnitType.NDU, NduHeader(**floats(topology_elem_id="in", tensor_dimensions=(6, 8))), string(MATRIX)),
    ]
    b.context = b.context.outside(outside)
    b.data += aggregate_units(units, aggregate_type=AggregateType.GENERIC, entry_points=entry_points)
    b.tensor(string(MATRIX), **floats(topology_elem_id="out", tensor_dimensions=(6, 8)))
    back = nncjit.decode(b.data)
    assert np.array_equal(back["in"], 2 * MATRIX)
    assert np.array_equal(back["out"], MATRIX)


def test_a_payload_in_parts_is_joined() -> None:
    b = Builder()
    header = NduHeader(**floats(topology_elem_id="w", tensor_dimensions=(40, 50)))
    matrix = RNG.integers(-9, 10, (40, 50)).astype(np.float32)
    parts = split_unit(UnitType.NDU, header, string(matrix), b.context, 300)
    assert len(parts) > 3
    b.context = b.context.after(UnitType.NDU, header)
    b.data += b"".join(parts[:2])
    b.tensor(string(MATRIX), **floats(topology_elem_id="between", tensor_dimensions=(6, 8)))
    b.data += b"".join(parts[2:])
    back = nncjit.decode(b.data)
    assert np.array_equal(back["w"], matrix)
    assert np.array_equal(back["between"], MATRIX)


def block(types: ParameterTypes, names: tuple[str, ...], *matrices: np.ndarray, **more: object) -> bytes:
    b = Builder()
    b.tensor(
        string(*matrices),
        nnr_compressed_data_unit_payload_type=PayloadType.BLOCK,
        topology_elem_ids=names,
        compressed_parameter_types=types,
        cabac_unary_length_minus1=9,
        **more,
    )
    return b.data


def test_a_block_of_everything_is_put_together() -> None:
    scale, bias = RNG.integers(1, 4, 6).astype(np.float32), RNG.integers(-9, 9, 6).astype(np.float32)
    norm = [RNG.integers(1, 9, 6).astype(np.float32) for _ in range(4)]
    g, h = RNG.integers(-3, 4, (6, 2)).astype(np.float32), RNG.integers(-3, 4, (2, 8)).astype(np.float32)
    names = ("w_G", "w_H", "w_scaling", "beta", "gamma", "mean", "var", "bias")
    data = block(
        ParameterTypes.DC | ParameterTypes.LS | ParameterTypes.BN | ParameterTypes.BI,
        names,
        *(scale, bias, *norm, g, h),
        tensor_dimensions=(6, 4, 2),
        decomposition_rank=2,
        g_number_of_rows=6,
    )
    back = nncjit.decode(data)
    assert list(back) == ["bias", "beta", "gamma", "mean", "var", "w"]
    assert np.array_equal(back["w"], ((g * scale[:, None]) @ h).reshape(6, 4, 2))
    assert np.array_equal(back["mean"], norm[2])
    apart = nncjit.decode(data, parts=True)
    assert list(apart) == ["w_scaling", "bias", "beta", "gamma", "mean", "var", "w_G", "w_H"]
    assert np.array_equal(apart["w_H"], h)
    with nncjit.open(data) as f:
        assert np.array_equal(f.get_tensor("w"), back["w"])


def test_both_factors_may_have_codebooks() -> None:
    book_g, book_h = CodebookSyntax((-4, 0, 3), 1), CodebookSyntax((-1, 0, 2, 7), 1)
    g, h = RNG.integers(-1, 2, (6, 2)), RNG.integers(-1, 3, (2, 8))
    encoder = PayloadEncoder()
    for matrix, book in ((g, book_g), (h, book_h)):
        encoder.number(0, 8)
        layer = Layer.of(matrix.shape, codebook_size=len(book.values), codebook_zero=1)
        encoder.layer(matrix.astype(np.int32).reshape(-1), layer)
    b = Builder()
    b.tensor(
        encoder.finish(),
        nnr_compressed_data_unit_payload_type=PayloadType.BLOCK,
        topology_elem_ids=("w_G", "w_H"),
        compressed_parameter_types=ParameterTypes.DC,
        decomposition_rank=2,
        g_number_of_rows=6,
        codebook=book_g,
        codebook_h=book_h,
        tensor_dimensions=(6, 8),
        cabac_unary_length_minus1=9,
    )
    want = np.array(book_g.values)[g + 1] @ np.array(book_h.values)[h + 1]
    assert np.array_equal(nncjit.decode(b.data)["w"], want)


def test_dimensions_that_no_payload_could_fill_are_refused() -> None:
    b = Builder()
    b.tensor(string(MATRIX), **floats(topology_elem_id="w", tensor_dimensions=(1 << 30,)))
    with pytest.raises(nncjit.BitstreamError, match="do not earn"):
        nncjit.decode(b.data)


def test_a_raw_payload_of_the_wrong_size_is_refused() -> None:
    b = Builder()
    b.tensor(
        b"\0" * 11,
        nnr_compressed_data_unit_payload_type=PayloadType.RAW_FLOAT,
        topology_elem_id="w",
        tensor_dimensions=(3,),
    )
    with pytest.raises(nncjit.BitstreamError, match="11 bytes"):
        nncjit.decode(b.data)
