"""What the kernels deliver is bit for bit what NumPy and `nncjit.dtypes` make of the levels, in every element type."""

from __future__ import annotations

import numpy as np
import pytest
from cabac.decoding import FLOATS, floats
from codec.builder import Builder, string
from hypothesis import given, settings
from hypothesis import strategies as st

import nncjit
from nncjit import dtypes
from nncjit.cabac import delivery
from nncjit.cabac.delivery_kernels import to_bfloat16, to_float16
from nncjit.cabac.entry_points import as_array
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob, decode_payloads
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import to_scan
from nncjit.errors import BitstreamError, OptionError
from nncjit.jit import JIT, address, kernel, load_u32, store_16
from nncjit.quant.steps import step
from nncjit.syntax import CodebookSyntax, PayloadType

pytestmark = pytest.mark.kernel

MANY = settings(max_examples=150 if JIT else 10)
INTEGERS = [name for name, dtype in dtypes.DTYPES.items() if dtype.kind in "iub"]
LOWER_HALVES = np.uint32([0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xF000, 0xFFFF])
STEPS = st.one_of(
    st.floats(width=32, min_value=0, allow_nan=False),
    st.sampled_from([2.0**-149, 2.0**-133, 6e-8, 2.0**-25, 0.05, 1.0, 65504.0, 65520.0, 3.3e38, np.inf]),
).map(np.float32)
LEVELS = st.lists(st.one_of(st.integers(-9, 9), st.integers(-(2**30) + 1, 2**30 - 1)), min_size=12, max_size=12)


@kernel
def bfloat16_of(source, target, count):
    for i in range(count):
        store_16(target, i, to_bfloat16(load_u32(source, i)))


@kernel
def float16_of(source, target, count):
    for i in range(count):
        store_16(target, i, to_float16(load_u32(source, i)))


@pytest.mark.parametrize(("convert", "name"), [(bfloat16_of, "bfloat16"), (float16_of, "float16")])
def test_all_kinds_of_float32_are_rounded_as_elsewhere(convert, name):
    halves = np.arange(0, 1 << 16, 1 if JIT else 97, dtype=np.uint32) << 16
    bits = (halves[:, None] | LOWER_HALVES).reshape(-1)
    signalling = np.isnan(bits.view(np.float32)) & (bits & 0x400000 == 0)  # no product is
    bits = bits[~signalling]
    found = np.empty(bits.size, np.uint16)
    convert(address(bits), address(found, writes=True), bits.size)
    expected = dtypes.from_float32(bits.view(np.float32), name).view(np.uint16)
    np.testing.assert_array_equal(found, expected)


def delivered(
    levels: np.ndarray, how: delivery.Delivery, *, scan: int = 0, profile: int = 1, book: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """What becomes of the levels of one layer."""
    layer = Layer.of(levels.shape, scan=scan, profile=profile, codebook_size=book[0], codebook_zero=book[1])
    encoder = PayloadEncoder()
    encoder.number(3, 7)
    encoder.layer(to_scan(levels, layer), layer)
    payload = np.frombuffer(encoder.finish(), np.uint8)
    out, kept = np.empty(levels.shape, how.dtype), np.empty(levels.size, np.int32)
    job = LayerJob(layer, out, 7, how, as_array(encoder.entry_points[0]), levels=kept)
    assert decode_payloads([PayloadJob(payload, (job,))], 1) == [[3]]
    np.testing.assert_array_equal(kept, levels.reshape(-1))
    return out


@MANY
@given(st.sampled_from(FLOATS), STEPS, LEVELS)
def test_products(name, size, levels):
    levels = np.array(levels, np.int32).reshape(3, 4)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = delivered(levels, floats(name, size))
        product = size * levels.astype(np.float32)
        expected = product.astype(np.float64) if name == "float64" else dtypes.from_float32(product, name)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("scan", [0, 1])
@pytest.mark.parametrize("name", FLOATS)
def test_a_matrix_larger_than_a_chunk(name, scan):
    levels = np.random.default_rng(0).integers(-40, 40, (70, 90) if JIT else (12, 9), np.int32)
    found = delivered(levels, floats(name, np.float32(0.01)), scan=scan)
    product = np.float32(0.01) * levels.astype(np.float32)
    expected = product.astype(np.float64) if name == "float64" else dtypes.from_float32(product, name)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_up_to_the_ends_of_their_range_and_no_further(name):
    dtype = dtypes.find(name)
    low = 0 if dtype.kind in "ub" else -(2 ** (dtype.bits - 1))
    high = low + 2**dtype.bits - 1
    how, most = delivery.integers(dtype.storage, low, high), 2**30 - 1
    levels = np.array([[max(low, -most), min(high, most)], [0, min(high, 1)]], np.int32)
    assert (delivered(levels, how) == levels).all()
    for beyond in (low - 1, high + 1):
        if abs(beyond) <= most:
            with pytest.raises(BitstreamError, match=rf"outside the range {low}\.\.{high} in rows 0 to 1"):
                delivered(np.array([[0, 0], [beyond, 0]], np.int32), how)


@pytest.mark.parametrize("profile", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8", "i8"])
def test_values_of_a_codebook(dtype, profile):
    values = np.array([3, 4, 7, 90, 120]).astype(dtype)
    how = delivery.looked_up(lambda delta: values + np.array(delta, dtype), values.dtype, 5, 2)
    levels = np.array([[-2, -1, 0], [1, 2, 0]], np.int32)
    found = delivered(levels, how, profile=profile, book=(5, 2))
    assert found.tobytes() == (values[levels + 2] + np.array(3, dtype)).tobytes()


@pytest.mark.parametrize("level", [-3, 3, 2**30 - 1])
def test_the_first_edition_does_not_bound_levels_but_the_codebook_does(level):
    values = np.arange(5.0)
    how = delivery.looked_up(lambda _: values, values.dtype, 5, 2)
    with pytest.raises(BitstreamError, match="outside the codebook of 5 values"):
        delivered(np.array([[0, 1], [level, 0]], np.int32), how, profile=0)


def stream(levels: np.ndarray, dtype: str, qp: int, book: CodebookSyntax | None) -> bytes:
    """A stream of one tensor with this data format."""
    builder = Builder(mps_quantization_parameter=qp)
    sizes = {} if book is None else {"codebook_size": len(book.values), "codebook_zero": book.codebook_zero_offset}
    builder.tensor(
        string(levels, **sizes),
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id="w",
        tensor_dimensions=levels.shape,
        cabac_unary_length_minus1=9,
        nnr_decompressed_data_format=dtypes.find(dtype).code,
        codebook=book,
    )
    return builder.data


@pytest.mark.parametrize("qp", [-700, -620, -40, 0, 3, 60, 500, 700])
@pytest.mark.parametrize("with_book", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool", *FLOATS])
def test_a_stream_with_any_step_has_these_values(dtype, with_book, qp):
    """Steps from 0 to infinity, as a damaged header may say."""
    levels = np.array([[-2, -1, 0], [1, 2, 0]], np.int32)
    book = CodebookSyntax((-200, -3, 0, 5, 1000), 2) if with_book else None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = dtypes.as_storage(nncjit.decode(stream(levels, dtype, qp, book))["w"])
        if book is not None:
            values = np.array(book.values, np.float64)[levels + 2] * np.float64(step(qp, 2))
        else:
            values = (levels.astype(np.float32) * step(qp, 2)).astype(np.float64)
        if dtypes.find(dtype).kind != "f":
            expected = dtypes.nearest_integers(values, dtype)
        else:
            expected = values if dtype == "float64" else dtypes.from_float32(values.astype(np.float32), dtype)
    assert found.tobytes() == expected.tobytes()


def job(**changes: object) -> LayerJob:
    """A job for a layer of six elements, but for the changes."""
    fine = {"layer": Layer.of((2, 3)), "out": np.empty(6, np.int32)}
    return LayerJob(**fine | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"out": np.empty(5, np.int32)}, r"out must be contiguous, of 6 elements, not \(5,\)"),
        ({"out": np.empty(12, np.int32)[::2]}, "out must be contiguous"),
        ({"out": np.empty(6, np.float32)}, "out must be an array of int32, not float32"),
        ({"out": np.frombuffer(bytes(24), np.int32)}, "out must be writeable"),
        ({"delivery": floats("bfloat16", np.float32(1))}, "out must be an array of uint16, not int32"),
        ({"base": np.zeros(7, np.int32)}, r"base must be contiguous, of 6 elements, not \(7,\)"),
        ({"base": np.zeros(6)}, "base must be an array of int32, not float64"),
        ({"history": np.zeros(6, np.int32)}, "history must be an array of uint8, not int32"),
        ({"history": np.zeros(0, np.int8)}, "history must be contiguous, of 6 elements"),
        ({"levels": np.zeros(6, np.int64)}, "levels must be an array of int32, not int64"),
        ({"points": np.zeros((1, 2), np.int64)}, r"points must be contiguous, of 3 elements, not \(1, 2\)"),
        ({"points": [(0, 0, 0)]}, "points must be an array of int64, not list"),
        ({"layer": Layer.of((2, 3), unary_length=257)}, r"unary_length is 257, must be 1\.\.256"),
        ({"qp_bits": 33}, r"qp_bits is 33, must be 0\.\.32"),
        ({"block_rows": range(1, 2)}, r"range\(1, 2\) of 1 block rows"),
        ({"block_rows": range(1), "layer": Layer.of((16, 3), scan=1)}, "of 2 block rows, 0 entry points"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused_before_a_kernel_sees_them(changes, reason):
    job()
    with pytest.raises(OptionError, match=reason):
        job(**changes)


def test_payloads_of_the_wrong_kind_are_refused():
    with pytest.raises(OptionError, match="payload must be an array of uint8, not int32"):
        PayloadJob(np.zeros(9, np.int32), (job(),))
    part = Layer.of((16, 3), scan=1)
    early = LayerJob(part, np.zeros(24, np.int32), points=np.zeros((1, 3), np.int64), block_rows=range(1))
    with pytest.raises(OptionError, match="only the last layer"):
        PayloadJob(np.zeros(9, np.uint8), (early, job()))
