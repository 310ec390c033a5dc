"""What goes into a unit: tensors read, reduced, and taken apart into the matrices and vectors that are coded.

An item (`grouping`) becomes contents of one of three kinds. The parts of floats come from a generator, since one part
may depend on what the decoder will make of an earlier one: local scaling is divided out of the weights as it will be
decoded, so that its rounding is taken up by the weights. Whoever runs the generator sends it each part as it will be
found, quantised by the encoder, as it is by who only takes samples.

Two other ways were weighed. Lists of parts, quantised one after another, cannot express that dependence. Functions that
quantise as they go can, and were the way before: four of them, each with its own idea of what a tensor goes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from nncjit import dtypes
from nncjit.calibrate import TensorRecord
from nncjit.encoder.calibrated_parts import (
    ALONE,
    LEFT_OUT,
    OF_OTHERS,
    STEP_ONLY,
    balanced_part,
    calibrated_parts,
    default_trellis_step,
    is_left_out,
    why_no_feedback,
    why_not,
)
from nncjit.encoder.code import estimate
from nncjit.encoder.decide import (
    DEFAULT_UNARY_LENGTH,
    SAMPLE,
    Settled,
    UnfitStepError,
    decide,
    exact_reason,
    raw_reason,
    relative_noise,
    scan_order_of,
    settle,
    settle_integers,
)
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.float_piece_encoder import split_in_pieces, split_parts, takes_pieces
from nncjit.encoder.grouping import Item
from nncjit.encoder.huge_tensors import HugeTensor, as_stored, by_block_rows
from nncjit.encoder.input_metrics import is_depthwise
from nncjit.encoder.integer_coding import best_limbs, by_cost, can_hold
from nncjit.encoder.integer_splits import smaller_pieces, smaller_split
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import energy, quantise
from nncjit.encoder.reduction import reduced
from nncjit.encoder.sampling import runs
from nncjit.encoder.table_transform import (
    Transform,
    calibrated_metric,
    chosen_transform,
    plain_metric,
    transformed_table,
    why_not_transformed,
)
from nncjit.encoder.unit_layout import (
    Contents,
    ExactContents,
    FloatContents,
    FloatPart,
    IntegerContents,
    Parts,
    RawContents,
    UnitLayout,
)
from nncjit.errors import OptionError
from nncjit.model import Tensor, TensorInfo
from nncjit.quant.turning import turned_shape
from nncjit.reduce import Block, compose, decompose, divide_rows, fold_batchnorm, multiply_rows, scale_rows
from nncjit.stages import stage
from nncjit.stream import integer_limbs
from nncjit.stream.float_planes import split

NOT_SMALLER = "coded it would not be smaller"
TABLE_NOT_SMALLER = "a transform of this table would not be smaller"
NOT_QUANTISED = "its type is not quantised"

STRIP = 64
"""Rows of a matrix that are turned at a time."""
SHARE_OF_NOISE = 0.7
"""Relative error of automatic factors, as a share of the noise that quantising may add."""


def contents_of(item: Item, plan: Plan, workers: Executor | None) -> Iterator[Contents]:
    """The contents of an item's units: one, or one for each tensor where they cannot stand together.

    Raises
    ------
    OptionError
        A reduction does not fit its tensor, or a tensor that is to be joined cannot be quantised.
    """
    if item.joined:
        yield _joined(item.tensors, plan, workers)
        return
    weight = item.tensors[0]
    block = item.block
    if block is None and _needs_block(weight, plan):
        block = Block(weight=weight.name, axis=plan.first_dimension(weight.name, weight.shape))
    if block is not None:
        block = block if plan.options.stream.fold_batchnorm else _with_whole_norm(block)
        inside = tuple(t for t in item.tensors if t.name in (block.weight, *block.vectors))
        contents = _block(inside, block, plan, workers)
        if contents is not None:
            yield contents
            yield from (contents_alone(t, plan, workers) for t in item.tensors if t not in inside)
            return
    yield from (contents_alone(tensor, plan, workers) for tensor in item.tensors)


def _with_whole_norm(block: Block) -> Block:
    """The block without a batch norm that lacks gamma or beta: a BLOCK codes all four vectors or none."""
    if None in (block.gamma, block.beta, block.mean, block.var):
        return replace(block, gamma=None, beta=None, mean=None, var=None)
    return block


def _needs_block(tensor: Tensor, plan: Plan) -> bool:
    """Whether a tensor that stands alone needs a block: for its factors or its local scaling."""
    reducing = plan.choices[tensor.name].reducing
    return len(tensor.shape) > 1 and plan.is_lossy(tensor.info) and (reducing.rank is not None or reducing.scale_rows)


def contents_alone(tensor: Tensor, plan: Plan, workers: Executor | None) -> Contents:
    """A tensor that stands alone in its unit."""
    info = tensor.info
    found = _by_parts(tensor, plan, workers)
    if found is not None:
        return found
    with stage("read"):
        storage = tensor.read()
    kind = dtypes.find(info.dtype).kind
    if kind == "o":
        return _opaque(info, storage, plan, workers)
    if kind != "f":
        return _integers(info, storage, plan, workers)
    if plan.wants_lossless(info):
        settled = settle_integers(info.name, info.shape, plan)
        return ExactContents(UnitLayout(infos=(info,), shape=info.shape, settled=settled), split(storage, info.dtype))
    values = dtypes.to_float32(storage, info.dtype)
    measured = measure(values, workers)
    if is_left_out(info, plan):
        zeros = np.zeros_like(values)
        return _plain(info, values, zeros, measured, plan, workers, fresh=False, told=LEFT_OUT)
    told, known, balanced = "", False, False
    if plan.data.metrics is not None and (is_matrix(info.shape) or plan.data.metrics.record(info) is not None):
        told = why_not(info, measured, plan)
        known, balanced = not told, not told and not plan.data.metrics.is_guess
    reason = raw_reason(info, measured, plan, balanced=balanced)
    if reason:
        return RawContents(info, storage, reason)
    fresh = tensor.fresh or not np.may_share_memory(values, storage)
    del storage
    if is_matrix(info.shape):
        of_others = known and plan.data.metrics is not None and plan.data.metrics.is_of_others(info.name, values)
        if known:
            found, told = _calibrated(info, values, measured, plan)
        else:
            found, told = _transformed(info, values, measured, plan, told)
        if balanced and of_others:
            told = OF_OTHERS + (f"; {told}" if told else "")
        if found is not None:
            return replace(found, reason=told)
    changed = reduced(info, values, plan)
    return _plain(info, values, changed, measured, plan, workers, fresh=fresh, told=told, balanced=balanced)


def _huge(tensor: Tensor, values: HugeTensor, plan: Plan, workers: Executor | None) -> FloatContents | RawContents:
    """A matrix whose values are never all in memory."""
    info = tensor.info
    measured = measure(values, workers)
    reason = raw_reason(info, measured, plan)
    if reason:
        return RawContents(info, as_stored(tensor), reason)
    layout = UnitLayout(infos=(info,), shape=info.shape, settled=settle(info.name, values, measured, plan))
    return FloatContents(layout, _alone(FloatPart("W", info.name, values, measured)))


def _calibrated(
    info: TensorInfo, values: np.ndarray, measured: Measured, plan: Plan
) -> tuple[FloatContents | None, str]:
    """A weight with statistics, its inputs as rows, with local scaling, or a table's factors; else why it gets no more
    of them than its step.
    """
    told = why_no_feedback(info, plan)
    if told:
        return None, told
    choices = plan.choices[info.name]
    assert plan.data.metrics is not None
    record = plan.data.metrics.record(info)
    assert record is not None
    if record.kind == "table":
        transform = chosen_transform(info.name, values, calibrated_metric(info.name, plan), plan)
        if transform is None:
            return None, STEP_ONLY + TABLE_NOT_SMALLER
        return _factored_table(info, values, transform, plan), ""
    axis = 0 if is_depthwise(record) else record.axis
    shape = turned_shape(values.shape, axis)
    length = choices.coding.unary_length
    layout = UnitLayout(
        infos=(info,),
        shape=shape,
        settled=Settled(
            "trellis",
            DEFAULT_UNARY_LENGTH if length == "auto" else length,
            _uncut_scan(record, scan_order_of(shape, choices)),
        ),
        shift=axis,
        block=Block(weight=info.name, axis=axis),
    )
    base = default_trellis_step(info, measured, plan) if plan.data.metrics.is_guess else None
    parts = calibrated_parts(info.name, values, axis, measured.moments.energy, plan, base)
    return FloatContents(layout, parts), ""


def _uncut_scan(record: TensorRecord, scan_order: int) -> int:
    """The scan order, or raster order where blocks would cut kernels, or layers that feed back apart."""
    cut = record.taps > 1 or (record.apart and record.outputs % (4 << scan_order))
    return 0 if cut else scan_order


def _transformed(
    info: TensorInfo, values: np.ndarray, measured: Measured, plan: Plan, told: str
) -> tuple[FloatContents | None, str]:
    """The factors of a table without statistics; None, and why, where there are none. `told` was said of it before."""
    why = why_not_transformed(info, measured, plan)
    if why == "":
        transform = chosen_transform(info.name, values, plain_metric(info, measured, plan), plan)
        if transform is not None:
            return _factored_table(info, values, transform, plan, told), told
        why = "not transformed: " + TABLE_NOT_SMALLER
    return None, told or why or ""


def _factored_table(
    info: TensorInfo, wanted: np.ndarray, transform: Transform, plan: Plan, told: str = ""
) -> FloatContents:
    """A table as factors."""
    choices = plan.choices[info.name]
    length = choices.coding.unary_length
    settled = Settled(
        "trellis", DEFAULT_UNARY_LENGTH if length == "auto" else length, scan_order_of(wanted.shape, choices)
    )
    layout = UnitLayout(infos=(info,), shape=wanted.shape, settled=settled, block=Block(weight=info.name))
    metric = transform.metric
    parts = transformed_table(info.name, wanted, transform, plan)
    return FloatContents(layout, parts, wanted, told, table=metric if metric.is_felt else None)


def _plain(
    info: TensorInfo,
    values: np.ndarray,
    changed: np.ndarray,
    measured: Measured,
    plan: Plan,
    workers: Executor | None,
    *,
    fresh: bool,
    told: str = "",
    balanced: bool = False,
) -> FloatContents:
    """One matrix or vector, its first dimension where the choices want it. `measured` is of `values`."""
    first = plan.first_dimension(info.name, info.shape)
    coded = _rows_first(changed, first)
    reference = None
    if changed is not values:
        measured, reference = measure(coded, workers), _rows_first(values, first)
    settled = settle(info.name, coded, measured, plan)
    layout = UnitLayout(infos=(info,), shape=coded.shape, settled=settled, shift=first)
    part = FloatPart("W", info.name, coded, measured, reference, overwrite=fresh and changed is values)
    if balanced:
        part = balanced_part(part, plan)
    return FloatContents(layout, _alone(part), reason=told)


def _alone(part: FloatPart) -> Parts:
    yield part
    return None


def _rows_first(values: np.ndarray, axis: int) -> np.ndarray:
    """The values with this dimension in front, C-contiguous."""
    if axis == 1 and values.ndim == 2:  # NumPy's own copy of a large one takes three times as long
        turned = np.empty(values.shape[::-1], values.dtype)
        for first in range(0, len(values), STRIP):
            turned[:, first : first + STRIP] = values[first : first + STRIP].T
        return turned
    return np.asarray(np.moveaxis(values, axis, 0) if axis else values, order="C")


def _by_parts(tensor: Tensor, plan: Plan, workers: Executor | None) -> Contents | None:
    """A tensor that need not be in memory all at once; None where it must."""
    info, huge = tensor.info, by_block_rows(tensor, plan)
    kept = _kept_reason(info, plan)
    if kept is not None:
        return RawContents(info, as_stored(tensor), kept)
    if huge is not None:
        return _huge(tensor, huge, plan, workers)
    if not (plan.wants_lossless(info) and takes_pieces(info.dtype, info.size)):
        return None
    if tensor.part is not None:
        pieces = split_parts(tensor.part, info.shape, info.dtype, workers)
    else:
        with stage("read"):
            storage = tensor.read()
        pieces = split_in_pieces(storage, info.dtype, workers)
    settled = replace(settle_integers(info.name, info.shape, plan), scan_order=0)
    return ExactContents(UnitLayout(infos=(info,), shape=info.shape, settled=settled), pieces)


def _kept_reason(info: TensorInfo, plan: Plan) -> str | None:
    """Why a tensor is stored as it is, whatever its values are; None where these count."""
    if not info.size:
        return ""
    is_float = dtypes.find(info.dtype).kind == "f"
    return exact_reason(info, plan) if is_float and not plan.wants_lossless(info) else None


def _opaque(info: TensorInfo, storage: np.ndarray, plan: Plan, workers: Executor | None) -> ExactContents | RawContents:
    """Codes that nobody computes with: in pieces where they are of four bits or powers of two, else as they are."""
    as_they_are = RawContents(info, storage, NOT_QUANTISED)
    if plan.options.stream.compatible is not None:
        return as_they_are
    return smaller_pieces(info, storage, 8.0 * storage.nbytes, plan, workers) or as_they_are


def _integers(
    info: TensorInfo, storage: np.ndarray, plan: Plan, workers: Executor | None
) -> IntegerContents | ExactContents | RawContents:
    """The values themselves, their high bits, or their limbs, as levels; or in pieces."""
    limbs = None
    if not can_hold(storage):
        limbs, bits = best_limbs(info, storage, plan)
        found = smaller_pieces(info, storage, bits, plan, workers)
        if found is not None:
            return found
        if limbs is None:
            return RawContents(info, storage, NOT_SMALLER)
    levels = integer_limbs.split(storage, limbs) if limbs else storage.astype(np.int32, copy=False)
    settled = settle_integers(info.name, levels.shape, plan, limbs.bits if limbs else 0)
    if limbs is None:
        settled = by_cost(info, levels, plan, settled)
        found = smaller_split(info, storage, plan, settled, workers)
        if found is not None:
            return found
    layout = UnitLayout(infos=(info,), shape=levels.shape, settled=settled)
    reason = f"words are split into {levels.shape[0]} limbs of {limbs.bits} bits" if limbs else ""
    return IntegerContents(layout, levels, limbs, reason)


def _joined(tensors: tuple[Tensor, ...], plan: Plan, workers: Executor | None) -> FloatContents:
    """Tensors that are equal but for their first dimension as one, to be split by the decoder. Spec, section 11."""
    first = tensors[0]
    originals, pieces = [], []
    for t in tensors:
        with stage("read", t.name):
            values = dtypes.to_float32(t.read(), t.dtype)
        reason = raw_reason(t.info, measure(values), plan)
        if reason:
            raise OptionError(f"{t.name}: cannot be joined: {reason}")
        originals.append(values)
        pieces.append(reduced(t.info, values, plan))
    whole = np.concatenate(pieces)
    measured = measure(whole, workers)
    layout = UnitLayout(
        infos=tuple(t.info for t in tensors),
        shape=whole.shape,
        settled=settle(first.name, whole, measured, plan),
    )
    parts = _joined_parts(FloatPart("W", first.name, whole, measured))
    return FloatContents(layout, parts, np.concatenate(originals))


def _joined_parts(part: FloatPart) -> Parts:
    found = yield part
    return found.values(part.values.shape)


def _block(tensors: tuple[Tensor, ...], block: Block, plan: Plan, workers: Executor | None) -> FloatContents | None:
    """A weight and its vectors as one BLOCK; None where they are not all quantised.

    Raises
    ------
    OptionError
        A rank above the matrix, or a reduction that does not fit the weight.
    """
    with stage("read"):
        arrays = {t.name: dtypes.to_float32(t.read(), t.dtype) for t in tensors}
    if any(raw_reason(t.info, measure(arrays[t.name], workers), plan) for t in tensors):
        return None
    weight = tensors[0]
    values = arrays[weight.name]
    changed = reduced(weight.info, values, plan)
    wanted, original = _rows_first(changed, block.axis), _rows_first(values, block.axis)
    vectors = _vectors(arrays, block, plan)
    if vectors.scale is not None:
        wanted, original = (multiply_rows(w, vectors.scale, name=weight.name) for w in (wanted, original))
    choices = plan.choices[weight.name]
    measured = measure(wanted, workers)
    settled = settle(weight.name, wanted, measured, plan)
    scaled = vectors.scale is not None or choices.reducing.scale_rows
    inner = (
        divide_rows(wanted, _divisible(_scaling(wanted, vectors, plan, weight.name)), name=weight.name)
        if scaled
        else wanted
    )
    rank = _rank(weight.name, inner, plan, settled)
    if not rank and not scaled and not block.vectors:  # nothing is left that needs a block
        return _plain(weight.info, values, changed, measured, plan, workers, fresh=weight.fresh)
    if rank == 1:  # two vectors
        settled = replace(settled, scan_order=0)
    layout = UnitLayout(
        infos=tuple(t.info for t in tensors), shape=wanted.shape, settled=settled, shift=block.axis, block=block
    )
    told = "" if plan.data.metrics is None else ALONE + "it stands in a block"
    return FloatContents(layout, _block_parts(block, wanted, vectors, rank, plan, scaled=scaled), original, told)


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The vectors of a block as they will be coded, float32; None for what it does not have."""

    scale: np.ndarray | None
    bias: np.ndarray | None
    norm: dict[str, tuple[str, np.ndarray]]
    """Role -> (name, values)."""


def _vectors(arrays: dict[str, np.ndarray], block: Block, plan: Plan) -> _Vectors:
    """The vectors of a block, the batch norm folded into scaling and bias where the options want it."""
    scale = arrays[block.scale] if block.scale else None
    bias = arrays[block.bias] if block.bias else None
    if not block.has_batchnorm:
        return _Vectors(scale, bias, {})
    if plan.options.stream.fold_batchnorm:
        mean, var = arrays[str(block.mean)], arrays[str(block.var)]
        gamma, beta = arrays.get(block.gamma or ""), arrays.get(block.beta or "")
        folded = fold_batchnorm(mean, var, gamma, beta, eps=block.eps, scale=scale, bias=bias, name=block.weight)
        return _Vectors(folded.scale, folded.bias, {})
    names = {"BN_beta": block.beta, "BN_gamma": block.gamma, "BN_mean": block.mean, "BN_var": block.var}
    return _Vectors(scale, bias, {role: (str(name), arrays[str(name)]) for role, name in names.items()})


def _block_parts(block: Block, wanted: np.ndarray, vectors: _Vectors, rank: int, plan: Plan, *, scaled: bool) -> Parts:
    """LS, BI, BN, then W or G and H. Spec, sections 2 and 9.

    wanted : float32, the weights that the block shall compose, local scaling included, outputs as rows
    rank   : of the factors, 0 without
    scaled : whether there is local scaling
    """
    name = block.weight
    inner, scale, gain = wanted, None, 1.0
    if scaled:
        wished = _scaling(wanted, vectors, plan, name)
        found = yield FloatPart.of("LS", block.scale or name, wished)
        scale = found.values(wished.shape)
        inner = divide_rows(wanted, _divisible(scale), name=name)
        power = energy(inner)
        gain = energy(wanted) / power if power else 1.0
    if vectors.bias is not None:
        yield FloatPart.of("BI", block.bias or block.beta or name, vectors.bias)
    for role, (vector, values) in vectors.norm.items():
        yield FloatPart.of(role, vector, values)
    if rank:
        factors = decompose(inner, rank=rank, name=name)
        found_g = yield FloatPart.of("G", name, factors.g, gain * _mean_square(factors.h, rank))
        found_h = yield FloatPart.of("H", name, factors.h, gain * _mean_square(factors.g, rank))
        g, h = found_g.values(factors.g.shape), found_h.values(factors.h.shape)
        composed = compose(g, h, factors.shape, name=name)
    else:
        found = yield FloatPart.of("W", name, inner, gain)
        composed = found.values(inner.shape)
    return composed if scale is None else multiply_rows(composed, scale, name=name)


def _scaling(wanted: np.ndarray, vectors: _Vectors, plan: Plan, name: str) -> np.ndarray:
    """The local scaling as it is wished for, float32[rows]."""
    if plan.choices[name].reducing.scale_rows:
        return scale_rows(wanted, name=name).scale
    return _divisible(vectors.scale)


def _mean_square(factor: np.ndarray, rank: int) -> float:
    """What an error of 1 in one factor becomes by the other, on average: its energy for each rank."""
    return energy(factor) / rank


def _divisible(scale: np.ndarray | None) -> np.ndarray:
    """Scaling factors that can be divided by: a row whose factor is zero is zero, whatever stands in its place."""
    assert scale is not None
    return np.where(scale == 0, np.float32(1), scale)


def _rank(name: str, values: np.ndarray, plan: Plan, settled: Settled) -> int:
    """The rank that the choices ask for; 0 where there shall be no factors, or where "auto" does not find smaller ones.

    "auto" leaves out less than half of the noise power that quantising may add.
    """
    rank = plan.ranks.get(name, plan.choices[name].reducing.rank)
    if rank is None:
        return 0
    if isinstance(rank, float):
        return decompose(values, energy=rank, name=name).rank
    if rank != "auto":
        return rank
    noise = relative_noise(name, values.shape, measure(values), plan)
    found = decompose(values, error=min(SHARE_OF_NOISE * noise, 1.0), name=name)
    if not found.saves():
        return 0
    try:
        bits = [_sampled_bits(name, part, plan, settled) for part in (found.g, found.h, values)]
    except UnfitStepError:
        return 0
    return found.rank if bits[0] + bits[1] < bits[2] else 0


def _sampled_bits(name: str, values: np.ndarray, plan: Plan, settled: Settled) -> float:
    """About what coding a matrix takes, by a sample of it."""
    row = runs(np.ascontiguousarray(values, np.float32).reshape(-1), SAMPLE).reshape(1, -1)
    decision = decide(name, values.shape, measure(np.ascontiguousarray(values, np.float32)), plan, settled)
    return estimate(quantise(row, decision), values.size / row.size)
