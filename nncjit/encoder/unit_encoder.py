"""One item through the encoder: reduce, quantise, code, and the header that says how.

Every unit holds one string of one or more matrices. A plain tensor is one matrix; a block is local scaling, bias and
batch norm, then the weight or its two factors (spec, section 2, in the coding order of the payload).
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.cabac.scan import to_scan
from nncjit.encoder.candidates import resolve
from nncjit.encoder.choices import Choices
from nncjit.encoder.matrix import Matrix, quantise_matrix, with_codebook
from nncjit.encoder.plan import Plan
from nncjit.encoder.reduction import reduced
from nncjit.model import Tensor, TensorInfo
from nncjit.quant import codebook
from nncjit.quant.moments import Moments, moments
from nncjit.stages import stage
from nncjit.stream import integer_limbs as integers
from nncjit.syntax import Codebook, DataFormat, NduHeader, PayloadType


@dataclass(frozen=True, slots=True)
class Fact:
    """What became of one tensor, for the report."""

    info: TensorInfo
    tool: str
    step: float | None = None
    """None where nothing was lost."""
    power: float = 0.0
    """Sum of squares of the values."""
    error: float = 0.0
    """Sum of squared errors."""
    reason: str = ""
    """Why it is coded otherwise than asked for."""


@dataclass(frozen=True, slots=True)
class CodedUnit:
    """A data unit that only needs to be written."""

    header: NduHeader
    payload: bytes
    facts: tuple[Fact, ...]


def encode_tensor(tensor: Tensor, plan: Plan, *, base_qp: int = 0, workers: Executor | None = None) -> CodedUnit:
    """Code a tensor that stands alone in its unit.

    Parameters
    ----------
    tensor : Tensor
        Read here.
    plan : Plan
        The plan of the model.
    base_qp : int
        quantization_parameter of the parameter set in force.
    workers : Executor, optional
        Threads for the pieces of this tensor.
    """
    info = tensor.info
    with stage("read"):
        storage = tensor.read()
    if dtypes.find(info.dtype).kind != "f":
        return encode_integers(info, storage, plan, workers)
    if not storage.size:
        return encode_raw(info, storage, "")
    values = dtypes.to_float32(storage, info.dtype)
    measured = moments(values, workers)
    reason = plan.raw_reason(info, measured)
    if reason:
        return encode_raw(info, storage, reason)
    overwrite = tensor.fresh or not np.may_share_memory(values, storage)
    del storage
    return encode_floats(info, values, measured, plan, base_qp, workers, overwrite=overwrite)


def encode_raw(info: TensorInfo, storage: np.ndarray, reason: str) -> CodedUnit:
    """RAW_FLOAT, or an empty tensor of any type."""
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.RAW_FLOAT,
        topology_elem_id=info.name,
        nnr_decompressed_data_format=format_code(info.dtype, DataFormat.FLOAT32),
        tensor_dimensions=info.shape,
    )
    payload = storage.astype(storage.dtype.newbyteorder("<"), copy=False).tobytes()
    return CodedUnit(header, payload, (Fact(info, "raw", reason=reason),))


def encode_integers(info: TensorInfo, storage: np.ndarray, plan: Plan, workers: Executor | None) -> CodedUnit:
    """INT: the values are the levels, or their 16-bit limbs are."""
    if not storage.size:
        return encode_raw(info, storage, "")
    choices = resolve(plan.choices[info.name])
    peak = integers.peak(storage)
    limbs = plan.limbs(info, peak)
    levels = integers.split(storage) if limbs else storage.astype(np.int32, copy=False)
    layer = layer_of(levels.shape, plan, choices, dependent=False)
    encoder = PayloadEncoder()
    encoder.layer(to_scan(levels, layer, workers=workers), layer, selection=choices.coding.selection, workers=workers)
    payload = encoder.finish()
    code = integers.LIMB_CODES[info.dtype] if limbs else format_code(info.dtype, DataFormat.INT32)
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.INT,
        topology_elem_id=info.name,
        nnr_decompressed_data_format=code,
        tensor_dimensions=levels.shape,
        cabac_unary_length_minus1=layer.unary_length - 1,
        dq_flag=0,
        scan_order=layer.scan,
        entry_points=entry_points(encoder),
    )
    reason = f"values up to {peak} are split into {limbs} limbs" if limbs else ""
    return CodedUnit(header, payload, (Fact(info, "integer", reason=reason),))


def encode_floats(
    info: TensorInfo,
    values: np.ndarray,
    measured: Moments,
    plan: Plan,
    base_qp: int,
    workers: Executor | None,
    *,
    overwrite: bool = False,
) -> CodedUnit:
    """FLOAT: one matrix, its first dimension where the choices want it. With `overwrite`, the values may be lost."""
    choices = plan.choices[info.name]
    power = measured.power * measured.size
    change = reduced(info, values, plan)
    first = plan.first_dimension(info.name, info.shape)
    coded_values = np.moveaxis(change, first, 0) if first else change
    coded_values = np.asarray(coded_values, order="C")
    if change is not values:
        measured = moments(coded_values, workers)
    overwrite = overwrite and coded_values is values
    matrix, choices = coded_matrix(info.name, coded_values, measured, plan, workers, overwrite=overwrite)
    error = matrix.error if change is values else _error(values, matrix, coded_values.shape, first)
    del values, change, coded_values
    encoder = PayloadEncoder()
    matrix.code(encoder, plan.density, base_qp, choices, workers)
    payload = encoder.finish()
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id=info.name,
        nnr_decompressed_data_format=float_code(info.dtype, matrix),
        tensor_dimensions=_moved(info.shape, first),
        cabac_unary_length_minus1=matrix.layer.unary_length - 1,
        dq_flag=matrix.layer.dq,
        codebook=syntax_codebook(matrix.book),
        first_tensor_dimension_shift=first,
        scan_order=matrix.layer.scan,
        entry_points=entry_points(encoder),
    )
    tool = "codebook" if matrix.book is not None else "trellis" if matrix.layer.dq else "uniform"
    wanted = plan.quantizer(info.name, info.shape)
    reason = "a codebook would not be smaller" if wanted == "codebook" and tool != "codebook" else ""
    return CodedUnit(header, payload, (Fact(info, tool, matrix.step, power, error, reason),))


def coded_matrix(
    name: str,
    values: np.ndarray,
    measured: Moments,
    plan: Plan,
    workers: Executor | None,
    *,
    overwrite: bool = False,
) -> tuple[Matrix, Choices]:
    """The matrix of a plain tensor by the quantiser that its choices name, and the choices with all "auto" decided."""
    choices = resolve(plan.choices[name], name, values, measured, plan)
    quantizer = choices.quantising.quantizer if plan.quantizer(name, values.shape) != "uniform" else "uniform"
    dependent = quantizer == "trellis"
    qp = plan.qp(name, values.shape, measured, dependent=dependent)
    layer = layer_of(values.shape, plan, choices, dependent=dependent)
    unbiased = plan.is_unbiased(name, values.shape)
    matrix = quantise_matrix(
        values, measured.peak, qp, plan.density, choices, layer, workers=workers, unbiased=unbiased, overwrite=overwrite
    )
    if quantizer == "codebook":
        matrix = _smaller_with_codebook(matrix, plan, choices, workers)
    return matrix, choices


def _smaller_with_codebook(matrix: Matrix, plan: Plan, choices: Choices, workers: Executor | None) -> Matrix:
    """The matrix with a codebook where that is smaller, measured by coding both."""
    other = with_codebook(matrix)
    if other is None or other.book is None:
        return matrix
    sizes = []
    for candidate in (matrix, other):
        encoder = PayloadEncoder()
        candidate.code(encoder, plan.density, 0, choices, workers)
        sizes.append(8 * len(encoder.finish()))
    return other if sizes[1] + other.book.header_bits() < sizes[0] else matrix


def _error(values: np.ndarray, matrix: Matrix, shape: tuple[int, ...], first: int) -> float:
    decoded = np.moveaxis(matrix.values(shape), 0, first) if first else matrix.values(shape)
    return float(np.square(values - decoded, dtype=np.float64).sum())


def layer_of(shape: tuple[int, ...], plan: Plan, choices: Choices, *, dependent: bool) -> Layer:
    """The layer that codes a tensor of this shape."""
    return Layer.of(
        shape,
        dq=dependent,
        unary_length=int(choices.coding.unary_length),
        scan=plan.scan(shape, choices),
        profile=plan.options.stream.profile,
    )


def entry_points(encoder: PayloadEncoder) -> tuple[tuple[int, int, int], ...]:
    """The entry points of all layers of a finished string, as the header lists them."""
    return tuple((p.value, p.state, p.offset) for points in encoder.entry_points for p in points)


def format_code(dtype: str, implied: DataFormat) -> int | None:
    """nnr_decompressed_data_format; None where readers take this type without it."""
    code = dtypes.find(dtype).code
    return None if code == implied else code


def float_code(dtype: str, *matrices: Matrix) -> int | None:
    """nnr_decompressed_data_format of floats: readers take codebooks for float64 without one."""
    if any(matrix.book is not None for matrix in matrices):
        return dtypes.find(dtype).code
    return format_code(dtype, DataFormat.FLOAT32)


def syntax_codebook(book: codebook.Codebook | None) -> Codebook | None:
    """A codebook as the header has it."""
    return None if book is None else Codebook(tuple(int(v) for v in book.values), book.zero, book.egk)


def _moved(shape: tuple[int, ...], first: int) -> tuple[int, ...]:
    return (shape[first], *shape[:first], *shape[first + 1 :]) if first else shape
