"""One data unit on its way back: what is decoded into which arrays, and what becomes of them.

`start` allocates the arrays of a unit whose sizes were checked and makes its job; it is decoded together with others;
`finish` turns levels into numbers of the right type. Plain float32 tensors need nothing at the end: the kernel leaves
their values in the very array that is handed out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_decoder import LayerJob, PayloadJob
from nncjit.quant import steps
from nncjit.stream import integer_limbs
from nncjit.stream.data_units import DataUnit
from nncjit.stream.unit_parts import Part
from nncjit.syntax import Codebook, PayloadType

Array = np.ndarray[Any, Any]

BINS_PER_BYTE = 1416
"""Most bins that a byte of payload can hold: 8 / log2(511 / 509)."""


@dataclass(slots=True)
class Started:
    """A data unit with its arrays, waiting to be decoded."""

    opened: DataUnit
    outputs: list[Array]
    """Storage arrays of the parts."""
    job: PayloadJob | None
    """None for RAW_FLOAT."""
    levels: list[Array] = field(default_factory=list)
    """int32 levels of each part in raster order; of plain float32 tensors the very memory of their output."""

    def finish(self, qp_deltas: list[int]) -> list[tuple[Part, Array]]:
        """The parts with their values, after the string was decoded."""
        for part, out, levels, delta in zip(self.opened.parts, self.outputs, self.levels, qp_deltas, strict=False):
            if not np.may_share_memory(out, levels):
                _fill(self.opened, part, out, levels, delta)
        return list(zip(self.opened.parts, self.outputs, strict=True))


def start(
    opened: DataUnit, *, base: Array | None = None, history: Array | None = None, keep_levels: bool = False
) -> Started:
    """Allocate the arrays of a unit and make its job.

    Parameters
    ----------
    opened : DataUnit
        Its sizes were checked against the caller's limit.
    base, history : ndarray, optional
        Levels of the parent and places of earlier updates, raster order (incremental updates).
    keep_levels : bool
        Decode into arrays of levels even where the values could be made in place.

    Raises
    ------
    BitstreamError
        A raw payload has not the size that the dimensions ask for, or no parameter set gives a qp_density.
    """
    unit = opened.unit
    payload = np.frombuffer(unit.payload(), np.uint8)
    if unit.header.nnr_compressed_data_unit_payload_type == PayloadType.RAW_FLOAT:
        return Started(opened, [_raw(opened, opened.parts[0], payload)], None)
    _check_earned(opened, payload.size)
    outputs = [np.empty(part.shape, dtypes.find(part.dtype).storage) for part in opened.parts]
    direct = [not keep_levels and part.dtype == "float32" and part.codebook is None for part in opened.parts]
    if unit.header.nnr_compressed_data_unit_payload_type == PayloadType.INT:
        direct = [False]
    levels = [
        out.reshape(-1).view(np.int32) if in_place else np.empty(part.size, np.int32)
        for part, out, in_place in zip(opened.parts, outputs, direct, strict=True)
    ]
    points = np.array(unit.header.entry_points or (), np.int64).reshape(-1, 3)
    layers, first = [], 0
    for part, out, in_place in zip(opened.parts, levels, direct, strict=True):
        layer, count = _layer(opened, part), _listed_points(opened, part)
        mine = np.ascontiguousarray(points[first : first + count] if layer.scan else points[:0])
        first += count
        step_of = _step_of(opened) if in_place else None
        layers.append(LayerJob(layer, out, _qp_bits(opened), step_of, mine, base, history))
    job = PayloadJob(payload, tuple(layers), opened.path, 8 * unit.payload_start)
    return Started(opened, outputs, job, levels)


def _raw(opened: DataUnit, part: Part, payload: Array) -> Array:
    """RAW_FLOAT: the tensor's own values, little-endian. Spec, section 2."""
    storage = dtypes.find(part.dtype).storage
    expected = part.size * storage.itemsize
    if payload.size != expected:
        raise opened.error(f"has {payload.size} bytes of raw values, its dimensions ask for {expected}")
    return payload.view(storage.newbyteorder("<")).astype(storage).reshape(part.shape)


def _check_earned(opened: DataUnit, n_bytes: int) -> None:
    """Refuse dimensions that no payload of this size can fill, before anything is allocated for them.

    The cheapest bin takes 2 of a range of 511, so a byte holds no more than BINS_PER_BYTE of them; each element takes
    one, unless whole rows are skipped, which takes one a row, or the codebook has one value only.
    """
    for part in opened.parts:
        layer = _layer(opened, part)
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
        profile=unit.context.edition,
        parent=bool(header.parent_node_id_present_flag),
        temporal=bool(header.temporal_context_modeling_flag),
        codebook_size=len(book.values) if book is not None else 0,
        codebook_zero=book.codebook_zero_offset if book is not None else 0,
    )


def _listed_points(opened: DataUnit, part: Part) -> int:
    """How many entry points the header lists for a part, whether or not its layer uses them. Spec, section 2."""
    scan: int = opened.unit.header.scan_order or 0
    if not scan or part.role not in ("W", "G", "H"):
        return 0
    return max(-(-part.coded_shape[0] // (4 << scan)) - 1, 0)


def _density(opened: DataUnit) -> int:
    density: int | None = opened.unit.context.qp_density
    if density is None:
        raise opened.error("holds floats, but no parameter set gives a qp_density")
    return density


def _qp_bits(opened: DataUnit) -> int:
    integer = opened.unit.header.nnr_compressed_data_unit_payload_type == PayloadType.INT
    return 0 if integer else int(6 + _density(opened))


def _step_of(opened: DataUnit) -> Callable[[int], np.float32]:
    density, base = _density(opened), opened.unit.context.quantization_parameter or 0
    return lambda delta: steps.step(delta + base, density)


def _fill(opened: DataUnit, part: Part, out: Array, levels: Array, qp_delta: int) -> None:
    """Turn levels into the numbers that were asked for. Spec, section 8."""
    if opened.unit.header.nnr_compressed_data_unit_payload_type == PayloadType.INT:
        if opened.limbs is not None:
            out[...] = integer_limbs.join(levels.reshape(part.coded_shape), opened.limbs)
        elif dtypes.find(part.dtype).kind == "f":
            out[...] = dtypes.from_float32(levels.astype(np.float32).reshape(out.shape), part.dtype)
        else:
            _fill_integers(opened, part, out, levels)
        return
    step = _step_of(opened)(qp_delta)
    if part.codebook is not None:
        # the float64 product, rounded to float32 where that is wanted, is the float32 product
        values = np.array(part.codebook.values, np.float64) * np.float64(step)
        numbers = values[_codebook_index(opened, levels, part.codebook)]
    else:
        numbers = levels.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged stream may have any step
            numbers *= step
    if part.dtype == "float64" or dtypes.find(part.dtype).kind != "f":
        out[...] = numbers.reshape(out.shape)
    else:
        out[...] = dtypes.from_float32(numbers.astype(np.float32, copy=False).reshape(out.shape), part.dtype)


def _codebook_index(opened: DataUnit, levels: Array, book: Codebook) -> Array:
    index = levels + book.codebook_zero_offset
    # the first edition does not bound the levels by the codebook
    if index.size and (int(index.min()) < 0 or int(index.max()) >= len(book.values)):
        raise opened.error(f"has levels outside its codebook of {len(book.values)} values")
    return index


def _fill_integers(opened: DataUnit, part: Part, out: Array, levels: Array) -> None:
    dtype = dtypes.find(part.dtype)
    low, high = (0, 2**dtype.bits - 1) if dtype.kind in "ub" else (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1) - 1)
    if levels.size and (int(levels.min()) < low or int(levels.max()) > high):
        raise opened.error(f"has levels beyond the range {low}..{high} of {part.dtype}")
    out[...] = levels.reshape(out.shape)
