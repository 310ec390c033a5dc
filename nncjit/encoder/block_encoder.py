"""Several tensors in one unit: blocks, and tensors of one shape joined. Spec, sections 2, 9 and 11.

A block's parts are coded as LS, BI, BN, then W or its factors G and H. LS is quantised first and divided out of the
weights as the decoder will find it, so that its rounding is not lost but taken up by the weights.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from nncjit import dtypes
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.encoder.candidates import resolve
from nncjit.encoder.choices import Choices
from nncjit.encoder.matrix import Matrix, estimated_bits, quantise_matrix
from nncjit.encoder.plan import Plan
from nncjit.encoder.reduction import reduced
from nncjit.encoder.unit_encoder import (
    CodedUnit,
    Fact,
    coded_matrix,
    entry_points,
    float_code,
    layer_of,
    syntax_codebook,
)
from nncjit.errors import OptionError
from nncjit.model import Tensor
from nncjit.quant.moments import moments
from nncjit.reduce import Block, LowRank, compose, decompose, divide_rows, fold_batchnorm, multiply_rows, scale_rows
from nncjit.stages import stage
from nncjit.syntax import NduHeader, ParameterTypes, PayloadType

SHARE_OF_NOISE = 0.7
"""Relative error of automatic factors, as a share of the noise that quantising may add."""

NORM_ROLES = ("beta", "gamma", "mean", "var")


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of a block as they will be coded, float32; None for what it does not have."""

    scale: np.ndarray | None
    bias: np.ndarray | None
    norm: tuple[np.ndarray, ...]
    """beta, gamma, mean, var, or none."""


def wants_block(tensor: Tensor, plan: Plan) -> bool:
    """Whether a tensor that stands alone needs a block: for its factors or its local scaling."""
    choices = plan.choices[tensor.name]
    matrix = len(tensor.shape) > 1 and plan.is_lossy(tensor.info)
    return matrix and (choices.reducing.rank is not None or choices.reducing.scale_rows)


def encode_block(
    tensors: tuple[Tensor, ...], block: Block, plan: Plan, *, base_qp: int = 0, workers: Executor | None = None
) -> CodedUnit | None:
    """Code a weight and its vectors as one BLOCK; None where values that are not finite forbid it or it has no use.

    Raises
    ------
    OptionError
        A rank above the matrix, or a reduction that does not fit the weight.
    """
    with stage("read"):
        arrays = {t.name: dtypes.to_float32(t.read(), t.dtype) for t in tensors}
    if any(plan.raw_reason(t.info, moments(arrays[t.name])) for t in tensors):
        return None
    weight = tensors[0]
    choices = resolve(plan.choices[weight.name])
    original = arrays[weight.name]
    rows_first = np.asarray(np.moveaxis(reduced(weight.info, original, plan), block.axis, 0), order="C")
    vectors = _vectors(arrays, block, plan)
    coder = _PartCoder(plan, choices, workers)

    scale_matrix: Matrix | None = None
    inner = rows_first
    if vectors.scale is not None or choices.reducing.scale_rows:
        wanted = rows_first if vectors.scale is None else multiply_rows(rows_first, vectors.scale, name=weight.name)
        factors = scale_rows(wanted, name=weight.name).scale if choices.reducing.scale_rows else _safe(vectors.scale)
        scale_matrix = coder.vector(block.scale or weight.name, factors)
        inner = divide_rows(wanted, _safe(scale_matrix.values(factors.shape)), name=weight.name)
    else:
        wanted = rows_first
    bias = None if vectors.bias is None else coder.vector(block.bias or block.beta or weight.name, vectors.bias)
    norm = [
        coder.vector(name or weight.name, v)
        for name, v in zip((block.beta, block.gamma, block.mean, block.var), vectors.norm, strict=False)
    ]
    matrices, rank, composed = coder.weights(weight.name, inner)
    if not rank and scale_matrix is None and not block.vectors:
        return None  # nothing is left that needs a block
    if scale_matrix is not None:
        composed = multiply_rows(composed, scale_matrix.values(composed.shape[:1]), name=weight.name)
    error = float(np.square(composed - wanted, dtype=np.float64).sum())
    vectors_coded = [matrix for matrix in (scale_matrix, bias, *norm) if matrix is not None]
    encoder = PayloadEncoder()
    for part in (*vectors_coded, *matrices):
        part.code(encoder, plan.density, base_qp, choices, workers)
    payload = encoder.finish()
    types = (
        (ParameterTypes.DC if rank else ParameterTypes(0))
        | (ParameterTypes.LS if scale_matrix is not None else ParameterTypes(0))
        | (ParameterTypes.BN if norm else ParameterTypes(0))
        | (ParameterTypes.BI if bias is not None else ParameterTypes(0))
    )
    last = matrices[-1]
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.BLOCK,
        topology_elem_ids=_names(weight.name, block, types),
        nnr_decompressed_data_format=float_code(weight.dtype, *matrices),
        compressed_parameter_types=types,
        decomposition_rank=rank or None,
        g_number_of_rows=rows_first.shape[0] if rank else None,
        tensor_dimensions=rows_first.shape,
        cabac_unary_length_minus1=last.layer.unary_length - 1,
        dq_flag=last.layer.dq,
        codebook=syntax_codebook(matrices[0].book),
        first_tensor_dimension_shift=block.axis,
        scan_order=coder.scan,
        entry_points=entry_points(encoder),
    )
    tool = " + ".join(["trellis" if last.layer.dq else "uniform", *(t.name or "" for t in ParameterTypes if t & types)])
    facts = [Fact(weight.info, tool, last.step, float(np.square(wanted, dtype=np.float64).sum()), error)]
    facts += [Fact(t.info, "in the block") for t in tensors[1:]]
    return CodedUnit(header, payload, tuple(facts))


@dataclass(slots=True)
class _PartCoder:
    """Quantises the parts of a block: one flag for the trellis, one scan order and one unary length hold for all."""

    plan: Plan
    choices: Choices
    workers: Executor | None
    scan: int = 0

    @property
    def dependent(self) -> bool:
        return self.choices.quantising.quantizer == "trellis"

    def vector(self, name: str, values: np.ndarray) -> Matrix:
        values = np.ascontiguousarray(values, np.float32)
        return self._matrix(name, values)

    def weights(self, name: str, values: np.ndarray) -> tuple[list[Matrix], int, np.ndarray]:
        """W, or G and H with their rank; and what the decoder will make of them."""
        self.scan = self.plan.scan(values.shape, self.choices)
        rank = self.choices.reducing.rank
        if rank is None:
            matrix = self._matrix(name, values)
            return [matrix], 0, matrix.values(values.shape)
        if rank == "auto":
            return self._cheaper(name, values)
        if isinstance(rank, float):
            found = decompose(values, energy=rank, name=name)
        else:
            found = decompose(values, rank=int(rank), name=name)
        return self._factors(name, found)

    def _factors(self, name: str, found: LowRank) -> tuple[list[Matrix], int, np.ndarray]:
        g, h = self._matrix(name, found.g), self._matrix(name, found.h)
        return [g, h], found.rank, compose(g.values(found.g.shape), h.values(found.h.shape), found.shape, name=name)

    def _cheaper(self, name: str, values: np.ndarray) -> tuple[list[Matrix], int, np.ndarray]:
        """W, or factors that leave out less than half of the noise power allowed, if they are smaller by estimate."""
        plain = self._matrix(name, values)
        noise = self.plan.relative_noise(name, values.shape, moments(values))
        found = decompose(values, error=min(SHARE_OF_NOISE * noise, 1.0), name=name)
        if found.saves():
            matrices, rank, whole = self._factors(name, found)
            if sum(map(estimated_bits, matrices)) < estimated_bits(plain):
                return matrices, rank, whole
        return [plain], 0, plain.values(values.shape)

    def _matrix(self, name: str, values: np.ndarray) -> Matrix:
        measured = moments(values)
        qp = self.plan.qp(name, values.shape, measured, dependent=self.dependent)
        layer = layer_of(values.shape, self.plan, self.choices, dependent=self.dependent)
        if values.ndim > 1:
            layer = type(layer).of(
                values.shape,
                dq=self.dependent,
                unary_length=layer.unary_length,
                scan=self.scan,
                profile=layer.profile,
            )
        unbiased = self.plan.is_unbiased(name, values.shape)
        return quantise_matrix(
            values, measured.peak, qp, self.plan.density, self.choices, layer, workers=self.workers, unbiased=unbiased
        )


def _vectors(arrays: dict[str, np.ndarray], block: Block, plan: Plan) -> Vectors:
    """The vectors of a block, the batch norm folded into scaling and bias where the options want it."""
    scale = arrays[block.scale] if block.scale else None
    bias = arrays[block.bias] if block.bias else None
    named = (block.beta, block.gamma, block.mean, block.var)
    if not block.has_batchnorm:
        return Vectors(scale, bias, ())
    if plan.options.stream.fold_batchnorm:
        mean, var = arrays[str(block.mean)], arrays[str(block.var)]
        folded = fold_batchnorm(
            mean,
            var,
            arrays.get(block.gamma or ""),
            arrays.get(block.beta or ""),
            eps=block.eps,
            scale=scale,
            bias=bias,
            name=block.weight,
        )
        return Vectors(folded.scale, folded.bias, ())
    if None in named:
        return Vectors(scale, bias, ())
    return Vectors(scale, bias, tuple(arrays[str(name)] for name in named))


def _safe(scale: np.ndarray | None) -> np.ndarray:
    """Scaling factors that can be divided by: a row whose factor is zero is zero, whatever stands in its place."""
    assert scale is not None
    return np.where(scale == 0, np.float32(1), scale)


def _names(weight: str, block: Block, types: ParameterTypes) -> tuple[str, ...]:
    """Element names in the order of a BLOCK's header. Spec, section 2."""
    return (
        *((f"{weight}_G", f"{weight}_H") if types & ParameterTypes.DC else (weight,)),
        *((block.scale or f"{weight}_scaling",) if types & ParameterTypes.LS else ()),
        *((str(block.beta), str(block.gamma), str(block.mean), str(block.var)) if types & ParameterTypes.BN else ()),
        *((block.bias or str(block.beta),) if types & ParameterTypes.BI else ()),
    )


def encode_joined(
    tensors: tuple[Tensor, ...], plan: Plan, *, base_qp: int = 0, workers: Executor | None = None
) -> CodedUnit:
    """Code tensors that are equal but for their first dimension as one, to be split by the decoder.

    Raises
    ------
    OptionError
        A tensor has values that cannot be quantised.
    """
    first = tensors[0]
    pieces = []
    for t in tensors:
        with stage("read", t.name):
            values = dtypes.to_float32(t.read(), t.dtype)
        reason = plan.raw_reason(t.info, moments(values))
        if reason:
            raise OptionError(f"{t.name}: cannot be joined: {reason}")
        pieces.append(reduced(t.info, values, plan))
    whole = np.concatenate(pieces)
    matrix, choices = coded_matrix(first.name, whole, moments(whole, workers), plan, workers)
    encoder = PayloadEncoder()
    matrix.code(encoder, plan.density, base_qp, choices, workers)
    payload = encoder.finish()
    bounds = np.cumsum([t.shape[0] for t in tensors]).tolist()
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_ids=tuple(t.name for t in tensors),
        nnr_decompressed_data_format=float_code(first.dtype, matrix),
        tensor_dimensions=whole.shape,
        concatenation_axis_index=0,
        split_index=tuple(bounds[:-1]),
        cabac_unary_length_minus1=matrix.layer.unary_length - 1,
        dq_flag=matrix.layer.dq,
        codebook=syntax_codebook(matrix.book),
        scan_order=matrix.layer.scan,
        entry_points=entry_points(encoder),
    )
    decoded = matrix.values(whole.shape)
    facts, start = [], 0
    for t, piece in zip(tensors, pieces, strict=True):
        part = decoded[start : start + t.shape[0]]
        start += t.shape[0]
        error = float(np.square(part - piece, dtype=np.float64).sum())
        power = float(np.square(piece, dtype=np.float64).sum())
        facts.append(Fact(t.info, "joined", matrix.step, power, error))
    return CodedUnit(header, payload, tuple(facts))
