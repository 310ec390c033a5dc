"""A model to a stream: units in order, tensor by tensor, with as many threads as wanted."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Unpack

import numpy as np

from nncjit import dtypes
from nncjit.encoder import targets as target
from nncjit.encoder.block_encoder import encode_block, encode_joined, wants_block
from nncjit.encoder.execution import Data, Execution, Progress
from nncjit.encoder.grouping import Item, items_of
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.encoder.pipeline import in_order
from nncjit.encoder.plan import Plan
from nncjit.encoder.reduction import zeros_of_model
from nncjit.encoder.stream_writer import Group, StreamWriter
from nncjit.encoder.unit_encoder import CodedUnit, Fact, encode_tensor
from nncjit.errors import NncWarning
from nncjit.jit import threads as thread_counts
from nncjit.model import Model
from nncjit.quant.moments import moments
from nncjit.reduce import Block, Pruning
from nncjit.stages import stage, staged
from nncjit.stream.pruning_masks import pruned_model
from nncjit.stream.reports import TensorReport, tied_row

ATTEMPTS = 3
"""Encodings at the most until a target is hit."""

GROUP_QP = 1024
"""Largest magnitude of a group's quantization_parameter: differences to it fit for all steps in use."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What came of a model."""

    tensors: tuple[TensorReport, ...]
    size: int
    """Bytes of the stream."""
    snr: float | None
    """Of all lossy tensors together, dB; None where there are none."""
    seconds: float
    threads: int


@explains_options
def encode(
    arrays: Mapping[str, Any],
    options: Options | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    sensitivity: Mapping[str, np.ndarray] | None = None,
    pruning: Pruning | None = None,
    **choices: Unpack[OptionKeywords],
) -> bytes:
    """Compress named arrays to an NNC bitstream.

    Parameters
    ----------
    arrays : mapping of str to array_like
        NumPy arrays (also with the dtypes of ml_dtypes), PyTorch tensors or a module's state dict; any shape. Arrays
        that share memory are stored once.
    options : Options, optional
        What the encoder may choose.
    threads : int, optional
        Threads at work; default: all cores that the process may use. Never changes the result.
    progress : callable, optional
        Called with (weights done, weights in all, tensor name) after each tensor.
    sensitivity : mapping of str to array_like, optional
        Importance of a weight is its magnitude times this, by tensor, where weights are set to zero; for example mean
        squared gradients, of the tensor's shape.
    pruning : Pruning, optional
        Channels to remove, as `nncjit.reduce.plan_pruning` chooses them.
    **choices
        Single options of `Options`, for example ``qp=-32``, ``bits=4``, ``rules={".*bias": "raw"}``; they come before
        those of `options`.

    Returns
    -------
    bytes
        The stream: NNR_STR, NNR_MPS and a data unit for each array.

    Raises
    ------
    OptionError
        An option is out of range, unknown, or contradicts another; a rule matches no array.
    ModelError
        An array cannot be held: complex numbers, text, objects.
    """
    chosen = Options.of(options, choices)
    execution = Execution(threads=threads, progress=progress)
    data = Data(sensitivity=sensitivity, pruning=pruning)
    file = io.BytesIO()
    encode_model(Model.from_mapping(arrays), file, chosen, execution, data)
    return file.getvalue()


def encode_model(model: Model, file: BinaryIO, options: Options, execution: Execution, data: Data) -> Encoded:
    """Write the stream of a model into a file open for writing, from its start; the file must be seekable.

    A target that is missed by more than 1 % is corrected from the size reached, and the file written again.
    """
    started = time.perf_counter()
    aim = target.model_target(options, model)
    if data.pruning is not None:
        with stage("reduce"):
            model = pruned_model(model, data.pruning)
    with thread_counts.pool(execution.threads) as pool:
        plan = _plan(model, options, data, pool)
        for _ in range(ATTEMPTS):
            file.seek(0)
            file.truncate()
            written = _write(model, file, plan, pool, execution.progress)
            if aim is None:
                break
            reached = aim.measure(8.0 * written.size, written.error, written.power)
            if aim.met(reached) or not math.isfinite(reached):
                break
            plan = replace(plan, scale=plan.scale * 2.0 ** ((reached - aim.wanted) / aim.slope))
    snr = target.decibels(written.power, written.error) if written.power else None
    seconds = time.perf_counter() - started
    return Encoded(written.in_order_of(model), written.size, snr, seconds, thread_counts.count(execution.threads))


@staged("plan")
def _plan(model: Model, options: Options, data: Data, pool: Executor | None) -> Plan:
    plan = Plan.of((t.info for t in model), options, data)
    plan = replace(plan, zero_counts=zeros_of_model(model, plan))
    return target.solve(plan, target.take_samples(model, pool), model) if target.needs_samples(plan) else plan


def estimate_model(model: Model, options: Options, execution: Execution, data: Data) -> Encoded:
    """What `encode_model` would write, estimated from samples of each tensor: a dry run."""
    started = time.perf_counter()
    plan = Plan.of((t.info for t in model), options, data)
    with thread_counts.pool(execution.threads) as pool:
        samples = target.take_samples(model, pool)
        plan = target.solve(plan, samples, model)
    rows, power, error = [], 0.0, 0.0
    for sample, (info, n_bytes, noise) in zip(samples, target.estimate(plan, samples), strict=True):
        rows.append(TensorReport(info.name, info.shape, info.dtype, "estimate", None, round(n_bytes), info.nbytes))
        if sample.moments is not None:
            power += sample.moments.power * sample.moments.size
            error += noise
    snr = target.decibels(power, error) if power else None
    size = sum(row.bytes for row in rows)
    return Encoded(tuple(rows), size, snr, time.perf_counter() - started, thread_counts.count(execution.threads))


class _Written:
    """What one encoding came to."""

    def __init__(self) -> None:
        self.rows: dict[str, TensorReport] = {}
        self.size = 0
        self.power = self.error = 0.0

    def add(self, unit: CodedUnit, n_bytes: int) -> None:
        for fact in unit.facts:
            self.rows[fact.info.name] = _row(fact, n_bytes)
            n_bytes = 0  # the first tensor stands for the whole unit
            if fact.step is not None:
                self.power, self.error = self.power + fact.power, self.error + fact.error

    def in_order_of(self, model: Model) -> tuple[TensorReport, ...]:
        return tuple(self.rows[t.name] if t.same_as is None else tied_row(t.name, self.rows[t.same_as]) for t in model)


def _write(model: Model, file: BinaryIO, plan: Plan, pool: Executor | None, progress: Progress | None) -> _Written:
    """One encoding."""
    items = items_of(model, plan)
    written, writer = _Written(), StreamWriter(file, model, items, plan)
    done, total = 0, sum(t.size for t in model)
    for item, units in _coded(items, plan, pool):
        sizes = writer.put(units)
        for unit, n_bytes in zip(units.units if isinstance(units, Group) else units, sizes, strict=True):
            written.add(unit, n_bytes)
        for tensor in item.all_tensors:
            done += tensor.size
            if progress is not None:
                progress(done, total, tensor.name)
    written.size = writer.finish()
    if progress is not None and done < total:  # tied tensors take no time
        progress(total, total, "")
    return written


def _coded(items: list[Item], plan: Plan, pool: Executor | None) -> Iterator[tuple[Item, list[CodedUnit] | Group]]:
    """All items in order, coded."""

    def work(item: Item, workers: Executor | None) -> tuple[Item, list[CodedUnit] | Group]:
        with stage("plan", next(item.all_tensors).name):
            if not item.members:
                return item, encode_item(item, plan, 0, workers)
            base_qp = _group_qp(item, plan)
            return item, Group(
                [unit for member in item.members for unit in encode_item(member, plan, base_qp, workers)], base_qp
            )

    return in_order(((item, item.size) for item in items), work, pool)


def encode_item(item: Item, plan: Plan, base_qp: int, workers: Executor | None) -> list[CodedUnit]:
    """The units of an item that is not an aggregate: one, or one for each tensor of a block that cannot be."""
    if item.joined:
        return [encode_joined(item.tensors, plan, base_qp=base_qp, workers=workers)]
    weight = item.tensors[0]
    block = item.block
    if block is None and wants_block(weight, plan):
        block = Block(weight=weight.name, axis=plan.first_dimension(weight.name, weight.shape))
    if block is not None:
        unit = encode_block(item.tensors, block, plan, base_qp=base_qp, workers=workers)
        if unit is not None:
            return [unit]
    return [encode_tensor(t, plan, base_qp=base_qp, workers=workers) for t in item.tensors]


def _group_qp(item: Item, plan: Plan) -> int:
    """The parameter set of a group starts from the step of its first float tensor; units say the difference."""
    for tensor in item.all_tensors:
        if plan.is_lossy(tensor.info):
            measured = moments(dtypes.to_float32(tensor.read(), tensor.dtype))
            if not plan.raw_reason(tensor.info, measured):
                return min(max(plan.qp(tensor.name, tensor.shape, measured), -GROUP_QP), GROUP_QP)
    return 0


def _row(fact: Fact, n_bytes: int) -> TensorReport:
    info = fact.info
    if "not finite" in fact.reason:
        warnings.warn(f"{info.name}: {fact.reason}; the tensor is stored as it is", NncWarning, stacklevel=2)
    snr = target.decibels(fact.power, fact.error) if fact.step is not None else math.inf
    return TensorReport(info.name, info.shape, info.dtype, fact.tool, fact.step, n_bytes, info.nbytes, snr, fact.reason)
