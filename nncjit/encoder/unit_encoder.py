"""One unit: its contents quantised, then coded or estimated, and the header that says how.

Every unit holds one payload of one or more matrices and vectors. A plain tensor is one; a block is local scaling, bias
and batch norm, then the weight or its two factors (spec, section 2, in the coding order of the payload).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from operator import or_
from typing import Any

import numpy as np

from nncjit import dtypes
from nncjit.cabac.lane_encoder import RowQueue
from nncjit.cabac.layer import Layer
from nncjit.cabac.payload_encoder import PayloadEncoder
from nncjit.encoder import huge_tensors, unit_payloads
from nncjit.encoder.code import NOTHING_KNOWN, Reference, code, smaller_with_codebooks
from nncjit.encoder.compatibility import refuse
from nncjit.encoder.decide import UnfitStepError, decide
from nncjit.encoder.grouping import Item
from nncjit.encoder.huge_tensors import HugeTensor, as_stored
from nncjit.encoder.integer_coding import integer_matrix, level_matrix
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import QuantisedMatrix, energy, quantise
from nncjit.encoder.unit_contents import NOT_SMALLER, contents_alone, contents_of
from nncjit.encoder.unit_layout import (
    Contents,
    ExactContents,
    FloatContents,
    IntegerContents,
    Lost,
    RawContents,
    UnitLayout,
)
from nncjit.encoder.unit_payloads import Payload, StoredPayload, little_endian
from nncjit.errors import OptionError
from nncjit.jit.freed_memory import give_back
from nncjit.model import Tensor, TensorInfo
from nncjit.quant.codebook import Codebook
from nncjit.reduce import Block
from nncjit.stream import float_planes, integer_limbs
from nncjit.stream.integer_limbs import Limbs
from nncjit.syntax import CodebookSyntax, DataFormat, NduHeader, ParameterTypes, PayloadType

_ROLES = {
    "LS": ParameterTypes.LS,
    "BI": ParameterTypes.BI,
    "BN_beta": ParameterTypes.BN,
    "G": ParameterTypes.DC,
}
"""What a part's presence says in compressed_parameter_types."""


WORTH_LOSING = 0.99
"""A unit must be smaller than so much of its tensors' own bytes; else these are stored, and nothing is lost."""

NO_BOOK = "a codebook would not be smaller"
"""Why a tensor is quantised uniformly that was to have a codebook."""

FEW_BYTES = 128
"""That integers may take more than their own: coded, other readers know them; their raw bytes they take for floats."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one tensor, for the report."""

    info: TensorInfo
    tool: str
    step: float | None = None
    """None where nothing was lost."""
    power: float = 0.0
    """Sum of squares of the original values."""
    error: float = 0.0
    """Sum of squared differences to them."""
    reason: str = ""
    """Why it is coded otherwise than asked for."""
    loss: float = 0.0
    """What its errors cost in the metric of a calibration."""


@dataclass(frozen=True, slots=True)
class QuantisedUnit:
    """A unit whose levels are known."""

    layout: UnitLayout
    payload_type: PayloadType
    roles: tuple[str, ...]
    """Of the matrices."""
    matrices: tuple[QuantisedMatrix, ...]
    """In coding order."""
    outcomes: tuple[Outcome, ...]
    limbs: Limbs | None = None
    """How integers are split into limbs, which are the leading dimension; None where they are not."""
    tail: bytes | bytearray = b""
    """What follows the coded exponents of floats, or high bits of integers, of which no bit is lost."""
    tail_code: int | None = None
    """nnr_decompressed_data_format of what has a tail."""

    @property
    def qp(self) -> int | None:
        """Of its first part; None where nothing is quantised."""
        return self.matrices[0].qp


@dataclass(frozen=True, slots=True)
class RawUnit:
    """A unit that holds a tensor's own bytes."""

    contents: RawContents

    @property
    def qp(self) -> None:
        """Nothing is quantised."""


@dataclass(frozen=True, slots=True)
class CodedUnit:
    """A data unit that only needs to be written."""

    header: NduHeader
    payload: Payload
    outcomes: tuple[Outcome, ...]

    def in_memory(self) -> CodedUnit:
        """The same with a payload of bytes."""
        return replace(self, payload=unit_payloads.in_memory(self.payload))

    @property
    def n_bytes(self) -> int:
        """Of the payload and of what its coding adds to the header, about."""
        books = (self.header.codebook, self.header.codebook_h)
        entries = sum(len(book.values) for book in books if book is not None)
        return len(self.payload) + entries // 2 + 4 * len(self.header.entry_points or ())


def quantised_units(item: Item, plan: Plan, workers: Executor | None) -> Iterator[QuantisedUnit | RawUnit]:
    """The units of an item that is not an aggregate, one after another, their levels known.

    The tensors of a block stand alone where their parts have no steps that its header can signal, and a tensor that has
    none after its reduction is stored as it is.
    """
    for contents in contents_of(item, plan, workers):
        try:
            unit = quantise_unit(contents, plan, workers)
        except UnfitStepError as error:
            if item.joined:
                raise OptionError(f"{item.tensors[0].name}: cannot be joined: {error}") from None
            assert isinstance(contents, FloatContents)
            inside = {info.name for info in contents.layout.infos}
            for tensor in (tensor for tensor in item.tensors if tensor.name in inside):
                yield _unit_alone(tensor, plan, workers, str(error))
        else:
            del contents  # the values are not needed any more
            yield unit


def _unit_alone(tensor: Tensor, plan: Plan, workers: Executor | None, reason: str) -> QuantisedUnit | RawUnit:
    try:
        return quantise_unit(contents_alone(tensor, plan, workers), plan, workers)
    except UnfitStepError:
        return quantise_unit(RawContents(tensor.info, as_stored(tensor), reason), plan, workers)


def quantise_unit(contents: Contents, plan: Plan, workers: Executor | None) -> QuantisedUnit | RawUnit:
    """The levels of a unit's parts, each quantised as it is decided for it."""
    if isinstance(contents, RawContents):
        if plan.options.stream.compatible is not None:
            refuse(contents.info, f"it must be stored as it is ({contents.reason or 'it is empty'})", plan.options)
        return RawUnit(contents)
    if isinstance(contents, IntegerContents):
        return _integer_levels(contents, plan, workers)
    if isinstance(contents, ExactContents):
        return _split_levels(contents, plan, workers)
    roles, matrices, composed = _quantise_parts(contents, plan, workers)
    weights = slice(next(k for k, role in enumerate(roles) if role in ("W", "G")), None)
    original = contents.original
    calibrated = any(matrix.fed_back for matrix in matrices)
    if (
        isinstance(composed, np.ndarray)
        and original is not None
        and not calibrated
        and energy(original - composed) > energy(original)
    ):  # worse than nothing
        matrices[weights] = [matrix.zeros() for matrix in matrices[weights]]
        composed = np.zeros_like(composed)
    reason = contents.reason
    layout = contents.layout
    if layout.settled.quantizer == "codebook":
        matrices[weights] = smaller_with_codebooks(matrices[weights], workers)
        asked = plan.choices[layout.infos[0].name].quantising.quantizer == "codebook"
        if asked and matrices[-1].book is None:
            reason = f"{reason}; {NO_BOOK}" if reason else NO_BOOK
    payload_type = PayloadType.BLOCK if layout.block is not None else PayloadType.FLOAT
    outcomes = tuple(_outcomes(contents, roles, matrices, composed, reason))
    return QuantisedUnit(layout, payload_type, tuple(roles), tuple(matrices), outcomes)


def _quantise_parts(
    contents: FloatContents, plan: Plan, workers: Executor | None
) -> tuple[list[str], list[QuantisedMatrix], np.ndarray | Lost | None]:
    """The roles of the parts in coding order, the parts, and what they compose, or what that loses."""
    roles, matrices = [], []
    try:
        part = next(contents.parts)
        while True:
            settled = contents.layout.settled
            decision = decide(part.name, part.values.shape, part.measured, plan, settled, part.given)
            matrix = quantise(
                part.values,
                decision,
                reference=part.reference,
                metric=part.metric,
                workers=workers,
                overwrite=part.overwrite,
            )
            if not part.is_felt:
                matrix = replace(matrix, loss=None)
            elif part.loss_weight and contents.table is None:
                matrix = replace(matrix, loss=part.loss_weight * matrix.error)
            roles.append(part.role)
            matrices.append(matrix)
            part = contents.parts.send(matrix)
    except StopIteration as end:
        return roles, matrices, end.value


def _integer_levels(contents: IntegerContents, plan: Plan, workers: Executor | None) -> QuantisedUnit:
    layout = contents.layout
    (info,) = layout.infos
    matrix = integer_matrix(info.name, contents.levels, contents.limbs, plan, layout.settled, workers)
    payload_type = PayloadType.INT if matrix.book is None else PayloadType.FLOAT
    outcome = Outcome(info, "integer", reason=contents.reason)
    return QuantisedUnit(layout, payload_type, ("W",), (matrix,), (outcome,), contents.limbs)


def _split_levels(contents: ExactContents, plan: Plan, workers: Executor | None) -> QuantisedUnit:
    layout, (levels, tail, code) = contents.layout, contents.split
    (info,) = layout.infos
    matrix = level_matrix(info.name, levels, plan, layout.settled, workers)
    tool = "lossless" if info.dtype in float_planes.CODES else "integer"
    outcome = Outcome(info, tool, reason=contents.reason)
    return QuantisedUnit(layout, PayloadType.INT, ("W",), (matrix,), (outcome,), tail=tail, tail_code=code)


def _outcomes(
    contents: FloatContents,
    roles: list[str],
    matrices: list[QuantisedMatrix],
    composed: np.ndarray | Lost | None,
    reason: str,
) -> Iterator[Outcome]:
    """What became of each tensor: measured against its original values."""
    layout, last = contents.layout, matrices[-1]
    if composed is None:
        (info,) = layout.infos
        yield Outcome(info, tool_of(last), last.step, last.power, last.error, reason, last.loss or 0.0)
        return
    original = contents.original
    tool = "joined"
    if layout.block is not None:
        types = _types(roles)
        tool = " + ".join([tool_of(last), *(t.name or "" for t in ParameterTypes if t & types)])
        loss = sum(matrix.loss or 0.0 for matrix in matrices)
        if isinstance(composed, Lost):
            power, error = composed
        else:
            assert original is not None
            missed = original - composed
            power, error = energy(original), energy(missed)
            loss = loss if contents.table is None else contents.table.loss(missed)
        yield Outcome(layout.infos[0], tool, last.step, power, error, reason, loss)
        yield from (Outcome(info, "in the block") for info in layout.infos[1:])
        return
    assert original is not None
    assert isinstance(composed, np.ndarray)
    start = 0
    for info in layout.infos:
        here = slice(start, start + info.shape[0])
        start += info.shape[0]
        yield Outcome(info, tool, last.step, energy(original[here]), energy(original[here] - composed[here]))


def tool_of(matrix: QuantisedMatrix) -> str:
    """What a report calls the quantiser of a matrix."""
    if matrix.fed_back:
        return "feedback"
    return "codebook" if matrix.book is not None else "trellis" if matrix.layer.dq else "uniform"


def code_unit(
    unit: QuantisedUnit | RawUnit,
    base_qp: int,
    workers: Executor | None,
    references: Sequence[Reference] = (),
) -> CodedUnit:
    """The payload and the header of a unit; see `UnitInCoding`."""
    return UnitInCoding(unit, base_qp, workers, references).finish()


class UnitInCoding:
    """A unit whose payload is begun; some of it may wait in a queue to be coded together with others.

    Parameters
    ----------
    unit : QuantisedUnit or RawUnit
    base_qp : int
        quantization_parameter of the parameter set in force.
    workers : Executor or None
        Threads that share the work.
    references : sequence of Reference
        What the receiver of an update knows of each matrix; empty: nothing.
    queue : RowQueue, optional
        Where block rows may wait.
    """

    def __init__(
        self,
        unit: QuantisedUnit | RawUnit,
        base_qp: int,
        workers: Executor | None,
        references: Sequence[Reference] = (),
        queue: RowQueue | None = None,
    ) -> None:
        self._unit, self._encoder = unit, PayloadEncoder()
        if isinstance(unit, RawUnit):
            return
        for matrix, reference in zip(unit.matrices, references or [NOTHING_KNOWN] * len(unit.matrices), strict=True):
            code(matrix, self._encoder, base_qp, workers, reference, queue)
        self._is_huge = unit.matrices[-1].stored.size >= huge_tensors.HUGE
        if self._is_huge:
            self._unit = replace(unit, matrices=tuple(matrix.without_levels() for matrix in unit.matrices))

    def finish(self) -> CodedUnit:
        """The payload and the header."""
        if isinstance(self._unit, RawUnit):
            return _raw(self._unit.contents)
        if self._is_huge:
            give_back()
        payload = unit_payloads.joined(self._encoder.finish(), self._unit.tail)
        points = tuple((p.value, p.state, p.offset) for points in self._encoder.entry_points for p in points)
        return CodedUnit(_header(self._unit, points), payload, self._unit.outcomes)


def _raw(contents: RawContents) -> CodedUnit:
    """RAW_FLOAT, or an empty tensor of any type."""
    info, storage = contents.info, contents.storage
    header = NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.RAW_FLOAT,
        topology_elem_id=info.name,
        nnr_decompressed_data_format=_format_code(info.dtype, DataFormat.FLOAT32),
        tensor_dimensions=info.shape,
    )
    payload = StoredPayload(storage) if isinstance(storage, HugeTensor) else little_endian(storage).tobytes()
    return CodedUnit(header, payload, (Outcome(info, "raw", reason=contents.reason),))


def not_grown(coded: CodedUnit, item: Item, plan: Plan) -> list[CodedUnit]:
    """The unit; in its stead its tensors as they are where that is not larger, and exact."""
    infos = [outcome.info for outcome in coded.outcomes]
    raw = coded.header.nnr_compressed_data_unit_payload_type == PayloadType.RAW_FLOAT
    if raw or plan.options.stream.compatible is not None:
        return [coded]
    own_bytes = sum(info.nbytes for info in infos)
    if coded.n_bytes < _bound(coded, own_bytes):
        return [coded]
    own = {tensor.name: tensor for tensor in item.tensors}
    return [_raw(RawContents(info, as_stored(own[info.name]), NOT_SMALLER)) for info in infos]


def _bound(coded: CodedUnit, own_bytes: int) -> float:
    """The bytes that a unit must stay below to be worth its coding."""
    if any(outcome.step is not None for outcome in coded.outcomes):
        return WORTH_LOSING * own_bytes
    floats = dtypes.find(coded.outcomes[0].info.dtype).kind == "f"
    return own_bytes if floats else own_bytes + FEW_BYTES


def _header(unit: QuantisedUnit, points: tuple[tuple[int, int, int], ...]) -> NduHeader:
    """The header of a coded unit. Spec, sections 2, 9 and 11."""
    if unit.payload_type == PayloadType.FLOAT and len(unit.matrices) == len(unit.layout.infos) == 1 and not points:
        (matrix,), (info,) = unit.matrices, unit.layout.infos
        if matrix.book is None:
            return plain_header(info.dtype, unit.layout.shape, unit.layout.shift, matrix.layer).with_name(info.name)
    layout, last = unit.layout, unit.matrices[-1]
    books = [_codebook_syntax(m.book) for m in unit.matrices if m.book is not None]
    more: dict[str, Any] = {}
    if unit.payload_type != PayloadType.INT:
        more |= {"codebook": books[0] if books else None, "codebook_h": books[1] if len(books) > 1 else None}
    if layout.block is not None:
        more |= _block_fields(unit, layout.block)
    elif len(layout.infos) > 1:
        bounds = np.cumsum([info.shape[0] for info in layout.infos]).tolist()
        more["topology_elem_ids"] = tuple(info.name for info in layout.infos)
        more |= {"concatenation_axis_index": 0, "split_index": tuple(bounds[:-1])}
    else:
        more["topology_elem_id"] = layout.infos[0].name
        if unit.payload_type == PayloadType.FLOAT:
            more["first_tensor_dimension_shift"] = layout.shift
    return NduHeader(
        nnr_compressed_data_unit_payload_type=unit.payload_type,
        nnr_decompressed_data_format=_data_format(unit),
        tensor_dimensions=layout.shape,
        cabac_unary_length_minus1=last.layer.unary_length - 1,
        dq_flag=last.layer.dq,
        scan_order=layout.settled.scan_order if layout.block is not None else last.layer.scan,
        entry_points=points,
        **more,
    )


@lru_cache(maxsize=1 << 8)
def plain_header(dtype: str, shape: tuple[int, ...], shift: int, layer: Layer) -> NduHeader:
    """The header of a quantised tensor without entry points; it gets its name later."""
    return NduHeader(
        nnr_compressed_data_unit_payload_type=PayloadType.FLOAT,
        topology_elem_id="",
        nnr_decompressed_data_format=_format_code(dtype, DataFormat.FLOAT32),
        tensor_dimensions=shape,
        first_tensor_dimension_shift=shift,
        cabac_unary_length_minus1=layer.unary_length - 1,
        dq_flag=layer.dq,
        scan_order=layer.scan,
    )


def _block_fields(unit: QuantisedUnit, block: Block) -> dict[str, Any]:
    """What the header of a BLOCK says beside that of a plain tensor."""
    types = _types(unit.roles)
    found = dict(zip(unit.roles, unit.matrices, strict=True))
    factored = bool(types & ParameterTypes.DC)
    return {
        "topology_elem_ids": _block_names(block, types),
        "compressed_parameter_types": types,
        "decomposition_rank": found["G"].layer.width if factored else None,
        "g_number_of_rows": found["G"].layer.rows if factored else None,
        "first_tensor_dimension_shift": unit.layout.shift,
    }


def _types(roles: tuple[str, ...] | list[str]) -> ParameterTypes:
    """compressed_parameter_types of a block with these parts."""
    return reduce(or_, (_ROLES[role] for role in roles if role in _ROLES), ParameterTypes(0))


def _block_names(block: Block, types: ParameterTypes) -> tuple[str, ...]:
    """Element names in the order of a BLOCK's header. Spec, section 2."""
    weight = block.weight
    return (
        *((f"{weight}_G", f"{weight}_H") if types & ParameterTypes.DC else (weight,)),
        *((block.scale or f"{weight}_scaling",) if types & ParameterTypes.LS else ()),
        *((str(block.beta), str(block.gamma), str(block.mean), str(block.var)) if types & ParameterTypes.BN else ()),
        *((block.bias or str(block.beta),) if types & ParameterTypes.BI else ()),
    )


def _data_format(unit: QuantisedUnit) -> int | None:
    """nnr_decompressed_data_format; None where readers take this type without it."""
    dtype = unit.layout.infos[0].dtype
    if unit.tail:
        return unit.tail_code
    if unit.limbs is not None:
        return integer_limbs.CODES[integer_limbs.LimbFormat(dtype, unit.limbs)]
    if unit.payload_type == PayloadType.INT:
        return _format_code(dtype, DataFormat.INT32)
    if any(matrix.book is not None for matrix in unit.matrices):
        return dtypes.find(dtype).code  # readers take codebooks for float64 without one
    return _format_code(dtype, DataFormat.FLOAT32)


def _format_code(dtype: str, implied: DataFormat) -> int | None:
    code = dtypes.find(dtype).code
    return None if code == implied else code


def _codebook_syntax(book: Codebook) -> CodebookSyntax:
    """A codebook as the header has it."""
    return CodebookSyntax(tuple(int(v) for v in book.values), book.zero, book.egk)
