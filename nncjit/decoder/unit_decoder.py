"""One data unit on its way back: what is decoded into which arrays.

`prepare_unit` allocates the arrays of a unit whose sizes were checked and makes its job, which is decoded together with
others. The kernels leave the values in the very arrays that are handed out, in their own types. Two rare kinds are
converted afterwards: integers in limbs, and integers that a foreign stream codes with a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.cabac import delivery
from nncjit.cabac.delivery import Delivery
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob
from nncjit.decoder.float_joining import exponents_in_words, join_floats
from nncjit.decoder.float_piece_decoder import PiecesJob
from nncjit.decoder.memory_budget import BINS_PER_BYTE
from nncjit.decoder.update_state import LevelStore
from nncjit.errors import ModelError
from nncjit.quant import steps
from nncjit.stream import float_pieces, integer_limbs
from nncjit.stream.data_units import DataUnit
from nncjit.stream.float_pieces import FloatPieces
from nncjit.stream.float_planes import FloatPlanes
from nncjit.stream.integer_pieces import IntegerPieces, IntegerSymbols
from nncjit.stream.integer_planes import IntegerPlanes
from nncjit.stream.unit_parts import Part
from nncjit.syntax import CodebookSyntax, PayloadType

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class UnitDecoding:
    """A data unit with its arrays, waiting to be decoded."""

    opened: DataUnit
    arrays: list[Array]
    """Storage arrays of the parts; instead int32 limbs of integers in limbs, float32 values of integers with a step."""
    job: PayloadJob | None = None
    """None for RAW_FLOAT, and for tensors in pieces."""
    pieces: PiecesJob | None = None
    """Instead of a job, for tensors in pieces."""
    symbols: IntegerPieces | None = None
    """What makes integers of the words of these pieces, which are bytes."""
    planes: FloatPlanes | IntegerPlanes | None = None
    """The other bits of floats whose exponents are coded, or of integers whose high bits are."""
    levels: list[Array | None] = field(default_factory=list)
    """int32 levels of each part, raster order, where the state of updates wants them."""

    def results(self) -> list[tuple[Part, Array]]:
        """The parts with their values, after the job was decoded."""
        pairs = zip(self.opened.parts, self.arrays, strict=True)
        if self.opened.limbs is not None:
            return [(part, integer_limbs.join(array, self.opened.limbs)) for part, array in pairs]
        if self.symbols is not None:
            with _told(self.opened):
                return [(part, self.symbols.join(array)) for part, array in pairs]
        if self.pieces is not None:
            return [(part, array.view(dtypes.find(part.dtype).storage)) for part, array in pairs]
        if isinstance(self.planes, FloatPlanes):
            return [(part, join_floats(self.planes, array)) for part, array in pairs]
        if self.planes is not None:
            return [(part, self.planes.join(array)) for part, array in pairs]
        return [(part, self._in_storage_dtype(array, part.dtype)) for part, array in pairs]

    @staticmethod
    def _in_storage_dtype(array: Array, dtype: str) -> Array:
        """The array as it is, but for integers that the stream codes with a step."""
        return array if array.dtype == dtypes.find(dtype).storage else dtypes.from_float32(array, dtype)

    @property
    def is_final(self) -> bool:
        """Whether the kernels leave the unit's one tensor as it is handed out, so that nothing is left to do for rows
        that are decoded.
        """
        opened, plain = self.opened, self.job is not None and self.planes is None
        if not plain or opened.limbs is not None or not opened.is_one_as_coded:
            return False
        return bool(self.arrays[0].dtype == dtypes.find(opened.parts[0].dtype).storage)

    def leave_levels(self, state: LevelStore) -> None:
        """Let the next stream of updates build on the levels of this unit."""
        for part, levels in zip(self.opened.parts, self.levels, strict=False):
            if levels is not None:
                state.record(self.opened.unit, part, levels)


def prepare_unit(opened: DataUnit, state: LevelStore | None = None, *, levels: bool = False) -> UnitDecoding:
    """Allocate the arrays of a unit and make its job.

    Parameters
    ----------
    opened : DataUnit
        Its sizes were checked against the caller's limit.
    state : LevelStore, optional
        What the updates before left: base levels and history of each part. The levels that it wants are kept for it.
    levels : bool
        Whether the array of the weight matrix gets its levels, int32, instead of its values.

    Raises
    ------
    BitstreamError
        A raw payload has not the size that the dimensions ask for, or no parameter set gives a qp_density.
    """
    unit = opened.unit
    if opened.pieces is not None:
        kept = state is not None and state.wants(unit, opened.parts[0])
        return _in_pieces(opened, None, opened.parts[0].shape, kept=kept)
    if is_raw(opened):
        part = opened.parts[0]
        return UnitDecoding(opened, [_raw(opened, part, range(part.size)).reshape(part.shape)])
    payload = np.frombuffer(unit.payload(), np.uint8)
    layers = [_layer(opened, part) for part in opened.parts]
    decoding, jobs = UnitDecoding(opened, []), []
    decoding.planes = _planes(opened, payload)
    if decoding.planes is not None:
        payload = payload[: decoding.planes.coded_bytes]
    _check_earned(opened, layers, payload.size)
    for part, layer, points in zip(opened.parts, layers, _points(opened, layers), strict=True):
        as_levels = levels and part.role == "W"
        made = delivery.LEVELS if as_levels else _delivery(opened, part, decoding.planes)
        array = np.empty(part.coded_shape, made.dtype)
        decoding.arrays.append(array)
        base = history = left = None
        if state is not None:
            if layer.temporal or layer.has_hdsp_flag:
                base, history = state.base_of(unit, part)
            left = np.empty(part.size, np.int32) if state.wants(unit, part) else None
            decoding.levels.append(left)
        jobs.append(LayerJob(layer, array, _qp_bits(opened), made, points, base, history, left))
    decoding.job = _payload_job(opened, payload, jobs)
    return decoding


def _in_pieces(opened: DataUnit, chosen: range | None, shape: tuple[int, ...], *, kept: bool = False) -> UnitDecoding:
    """A tensor in pieces, or some of them, and no others are read; its levels are zeros."""
    unit, size, symbols = opened.unit, opened.parts[0].size, None
    with _told(opened):
        if isinstance(opened.pieces, IntegerSymbols):
            symbols = IntegerPieces.read(unit.payload, unit.payload_size, opened.pieces, size, chosen)
            pieces, words = symbols.pieces, np.empty((*shape, opened.pieces.per_value), np.uint8)
        else:
            assert opened.pieces is not None
            pieces = FloatPieces.read(unit.payload, unit.payload_size, opened.pieces, size, chosen)
            words = np.empty(shape, pieces.fields.words)
    levels: list[Array | None] = [np.zeros(math.prod(shape), np.int32)] if kept else []
    return UnitDecoding(opened, [words], pieces=PiecesJob(pieces, words), symbols=symbols, levels=levels)


def decoded_with(opened: DataUnit, elements: range) -> range | None:
    """The elements that must be decoded for some elements of a unit's tensor: those of their block rows or pieces.

    Parameters
    ----------
    opened : DataUnit
    elements : range
        In raster order, not empty, step 1.

    Returns
    -------
    range
        None where the unit has neither entry points nor pieces nor a tensor's own bytes, or is more than one tensor.
    """
    grain = _elements_together(opened)
    if grain is None:
        return None
    return range(elements.start // grain * grain, min(-(-elements.stop // grain) * grain, opened.weights))


def _elements_together(opened: DataUnit) -> int | None:
    """Elements of a block row or of a piece; a tensor's own bytes can be had one by one."""
    if not opened.is_one_as_coded:
        return None
    (part,) = opened.parts
    if opened.pieces is not None:
        return float_pieces.PIECE // _symbols_of_a_value(opened)
    if is_raw(opened):
        return 1
    if opened.limbs or opened.floats or opened.integers:
        return None
    layer = _layer(opened, part)
    return layer.block_side * (layer.size // layer.rows) if layer.scan and layer.block_rows > 1 else None


def prepare_elements(opened: DataUnit, elements: range, coded: bytes | memoryview | None = None) -> UnitDecoding:
    """Like `prepare_unit`, for elements that `decoded_with` gave; the array holds these only. `coded` is the payload of
    block rows where it was read already. Of pieces and of a tensor's own bytes, no others are read.
    """
    (part,) = opened.parts
    if is_raw(opened):
        return UnitDecoding(opened, [_raw(opened, part, elements)])
    if opened.pieces is not None:
        first, stop = (_symbols_of_a_value(opened) * end for end in (elements.start, elements.stop))
        chosen = range(first // float_pieces.PIECE, float_pieces.count_pieces(stop))
        return _in_pieces(opened, chosen, (len(elements),))
    layer = _layer(opened, part)
    width = layer.size // layer.rows
    rows = range(elements.start // width, elements.stop // width)
    (points,) = _points(opened, [layer])
    payload = np.frombuffer(opened.unit.payload() if coded is None else coded, np.uint8)
    _check_earned(opened, [layer], payload.size)
    made = _delivery(opened, part)
    array = np.empty((len(rows), *part.shape[1:]), made.dtype)
    block_rows = range(rows.start // layer.block_side, -(-rows.stop // layer.block_side))
    job = LayerJob(layer, array, _qp_bits(opened), made, points, block_rows=block_rows)
    return UnitDecoding(opened, [array], _payload_job(opened, payload, [job]))


def _symbols_of_a_value(opened: DataUnit) -> int:
    """That stand in pieces."""
    return opened.pieces.per_value if isinstance(opened.pieces, IntegerSymbols) else 1


def _payload_job(opened: DataUnit, payload: Array, jobs: list[LayerJob]) -> PayloadJob:
    return PayloadJob(payload, tuple(jobs), opened.path, 8 * opened.unit.payload_start)


def is_raw(opened: DataUnit) -> bool:
    """Whether a unit holds a tensor's own bytes."""
    return bool(opened.unit.header.nnr_compressed_data_unit_payload_type == PayloadType.RAW_FLOAT)


def _raw(opened: DataUnit, part: Part, elements: range) -> Array:
    """RAW_FLOAT: some of the tensor's own values, little-endian, 1-D. Spec, section 2."""
    storage, unit = dtypes.find(part.dtype).storage, opened.unit
    expected = part.size * storage.itemsize
    if unit.payload_size != expected:
        raise opened.error(f"has {unit.payload_size} bytes of raw values, its dimensions ask for {expected}")
    data = unit.payload(elements.start * storage.itemsize, elements.stop * storage.itemsize)
    return np.frombuffer(data, storage.newbyteorder("<")).astype(storage)


def _check_earned(opened: DataUnit, layers: list[Layer], n_bytes: int) -> None:
    """Refuse dimensions that no payload of this size can fill, before anything is allocated for them.

    The cheapest bin takes 2 of a range of 511, so a byte holds no more than BINS_PER_BYTE of them; each element takes
    one, unless whole rows are skipped, which takes one a row, or the codebook has one value only.
    """
    for part, layer in zip(opened.parts, layers, strict=True):
        least = 0 if layer.codebook_size == 1 else layer.rows if layer.has_row_flags else layer.size
        if least > BINS_PER_BYTE * (n_bytes + 8):
            raise opened.error(f"{list(part.coded_shape)} is more than {n_bytes} bytes of payload can hold")


def _layer(opened: DataUnit, part: Part) -> Layer:
    unit, book = opened.unit, part.codebook
    header = unit.header
    return Layer.of(
        part.coded_shape,
        dq=bool(header.dq_flag),
        unary_length=unit.inputs.cabac_unary_length_minus1 + 1,
        scan=header.scan_order or 0,
        profile=unit.place.edition,
        parent=bool(header.parent_node_id_present_flag),
        temporal=bool(header.temporal_context_modeling_flag),
        codebook_size=len(book.values) if book is not None else 0,
        codebook_zero=book.codebook_zero_offset if book is not None else 0,
    )


def _points(opened: DataUnit, layers: list[Layer]) -> list[Array]:
    """The entry points of each part, int64[n, 3]."""
    listed = np.array(opened.unit.header.entry_points or (), np.int64).reshape(-1, 3)
    points, first = [], 0
    for part, layer in zip(opened.parts, layers, strict=True):
        count = _count_listed(opened, part)
        points.append(listed[first : first + count] if layer.scan else listed[:0])
        first += count
    return points


def _count_listed(opened: DataUnit, part: Part) -> int:
    """How many entry points the header lists for a part, whether or not its layer uses them. Spec, section 2."""
    scan: int = opened.unit.header.scan_order or 0
    if not scan or part.role not in ("W", "G", "H"):
        return 0
    return max(-(-part.coded_shape[0] // (4 << scan)) - 1, 0)


def _density(opened: DataUnit) -> int:
    density: int | None = opened.unit.place.qp_density
    if density is None:
        raise opened.error("holds floats, but no parameter set gives a qp_density")
    return density


def _qp_bits(opened: DataUnit) -> int:
    integer = opened.unit.header.nnr_compressed_data_unit_payload_type == PayloadType.INT
    return 0 if integer else int(6 + _density(opened))


def step_of(opened: DataUnit) -> Callable[[int], np.float32]:
    """What gives the step of a layer of a unit from its qp_delta."""
    density, base = _density(opened), opened.unit.place.quantization_parameter or 0
    return lambda delta: steps.step(delta + base, density)


def _planes(opened: DataUnit, payload: Array) -> FloatPlanes | IntegerPlanes | None:
    """The bits that follow the coded ones, where the data format says that there are some."""
    size = opened.parts[0].size
    with _told(opened):
        if opened.floats is not None:
            return FloatPlanes.parse(payload, opened.floats, size)
        return None if opened.integers is None else IntegerPlanes.parse(payload, opened.integers, size)


@contextmanager
def _told(opened: DataUnit) -> Iterator[None]:
    """Say in which unit something is wrong."""
    try:
        yield
    except ModelError as error:
        raise opened.error(str(error)) from None


def _delivery(opened: DataUnit, part: Part, planes: FloatPlanes | IntegerPlanes | None = None) -> Delivery:
    """What the levels of a part become. Spec, section 8."""
    if isinstance(planes, FloatPlanes):
        return exponents_in_words(planes)
    if planes is not None:
        return delivery.integers(np.dtype(np.int16), planes.lowest, planes.highest)
    dtype = dtypes.find(part.dtype)
    if opened.unit.header.nnr_compressed_data_unit_payload_type == PayloadType.INT:
        if opened.limbs is not None:
            return delivery.LEVELS
        if dtype.kind == "f":
            return _floats(part.dtype, lambda _: np.float32(1))
        lowest = 0 if dtype.kind in "ub" else -(2 ** (dtype.bits - 1))
        return delivery.integers(dtype.storage, lowest, lowest + 2**dtype.bits - 1)
    steps_of_layer = step_of(opened)
    if part.codebook is None:
        return _floats(part.dtype if dtype.kind == "f" else "float32", steps_of_layer)
    book = part.codebook
    values_of = partial(_codebook_values, book, part.dtype, steps_of_layer)
    return delivery.looked_up(values_of, dtype.storage, len(book.values), book.codebook_zero_offset)


def _floats(dtype: str, step_of: Callable[[int], np.float32]) -> Delivery:
    codes = dtypes.float8_codes(dtype) if dtype.startswith("float8") else None
    return delivery.floats(dtype, step_of, codes)


def _codebook_values(book: CodebookSyntax, dtype: str, step_of: Callable[[int], np.float32], qp_delta: int) -> Array:
    """The values of a codebook, in the storage dtype."""
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged stream may have any step
        # the float64 product, rounded to float32 where that is wanted, is the float32 product
        values = np.array(book.values, np.float64) * np.float64(step_of(qp_delta))
        if dtypes.find(dtype).kind != "f":
            return dtypes.nearest_integers(values, dtype)
        return values if dtype == "float64" else dtypes.from_float32(values.astype(np.float32), dtype)
