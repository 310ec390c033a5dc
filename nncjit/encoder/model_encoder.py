"""A model to a stream: units in order, tensor by tensor, with as many threads as wanted."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

from nncjit.cabac.lane_encoder import RowQueue, compile_rows
from nncjit.calibrate import Statistics
from nncjit.encoder import small_tensors, targets
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.grouping import Item, items_of
from nncjit.encoder.idle_options import warn_of_idle
from nncjit.encoder.model_samples import UnitSample
from nncjit.encoder.options import OptionKeywords, Options, explains_options
from nncjit.encoder.pipeline import bundled, in_order
from nncjit.encoder.plan import NO_DATA, Plan
from nncjit.encoder.reduction import zeros_of_model
from nncjit.encoder.statistics_doubts import doubts
from nncjit.encoder.stream_writer import Group, StreamWriter, frame_bytes
from nncjit.encoder.targets import Aim
from nncjit.encoder.unit_encoder import CodedUnit, Outcome, UnitInCoding, code_unit, not_grown, quantised_units
from nncjit.encoder.unkept_options import tells_loss, unkept
from nncjit.encoder.weight_statistics import statistics_of
from nncjit.errors import NncWarning
from nncjit.jit import threads as thread_counts
from nncjit.model import Graph, Model
from nncjit.option_values import Texts, optional
from nncjit.progress import Progress, reporting
from nncjit.stages import stage, staged
from nncjit.stream.pruning_masks import pruned_model
from nncjit.stream.reports import CompressReport, TensorReport, source_name, tied_row

if TYPE_CHECKING:
    from nncjit.reduce import Pruning

ATTEMPTS = 3
"""Encodings at the most until a target is hit."""

EXECUTION = Execution()

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
    loss: float | None
    """Expected squared error of the output as a share of its power; None without calibration."""
    seconds: float
    threads: int

    def report(self, source: str, target: str, original_bytes: int, *, estimated: bool = False) -> CompressReport:
        """The same for the user, with the names of source and target and the size of the model."""
        return CompressReport(
            source=source,
            target=target,
            original_bytes=original_bytes,
            compressed_bytes=self.size,
            seconds=self.seconds,
            threads=self.threads,
            tensors=self.tensors,
            snr=self.snr,
            loss=self.loss,
            estimated=estimated,
        )


class EncodedModel(bytes):
    """The bytes of a stream, with a report of how they were made."""

    report: CompressReport
    """Sizes, times and a row for each tensor."""


@explains_options
def encode(
    arrays: Mapping[str, Any],
    options: Options | None = None,
    *,
    threads: int | None = None,
    progress: Progress | bool | None = None,
    metadata: Mapping[str, str] | None = None,
    sensitivity: Mapping[str, Any] | None = None,
    pruning: Pruning | None = None,
    calibration: Statistics | str | PathLike[str] | None = None,
    graphs: Sequence[Graph] = (),
    **keywords: Unpack[OptionKeywords],
) -> EncodedModel:
    """Compress named arrays to an NNC bitstream.

    Parameters
    ----------
    arrays : mapping of str to array_like
        NumPy arrays (also with the dtypes of ml_dtypes), PyTorch tensors or a module's state dict; any shape. Arrays
        that share memory are stored once.
    options : Options, optional
        What the encoder may choose.
    threads : int, optional
        Threads at work; default: all cores that the process may use. The bytes do not depend on it.
    progress : callable or bool, optional
        Called with (weights done, weights in all, tensor name) after each tensor, before that with ``"samples"`` and
        ``"search"`` in place of a name while steps for a target are looked for. True: show a bar.
    metadata : mapping of str to str, optional
        Text about the model that is stored with it.
    sensitivity : mapping of str to array_like, optional
        Importance of a weight is its magnitude times this, by tensor; for example mean squared gradients.
    pruning : Pruning, optional
        Channels to remove (`nncjit.reduce.plan_pruning`).
    calibration : Statistics, path or "weights", optional
        Which errors of the weights the output feels (`nncjit.calibrate`): the steps and levels then follow that.
        ``"weights"`` guesses the shape of that from the weights alone.
    graphs : sequence of Graph, optional
        Topology and quantisation data of an exchange format, which travel in the stream as they are.
    **keywords
        Single options, for example ``qp=-32``, ``bits=4``, ``rules={".*bias": "raw"}``; they come before those of
        `options`.

    Returns
    -------
    bytes
        The stream: NNR_STR, NNR_MPS and a data unit for each array. Their attribute ``report`` is a `CompressReport`.

    Raises
    ------
    OptionError
        An option is out of range, unknown, or contradicts another; a rule matches no array.
    ModelError
        An array cannot be held: text, objects, dates.
    """
    chosen = Options.of(options, keywords)
    model = Model.from_mapping(arrays, optional("metadata", Texts(), metadata), graphs=graphs)
    file = io.BytesIO()
    with statistics_of(calibration, model) as statistics, reporting(progress, "encode") as told:
        data = Data(sensitivity=sensitivity, pruning=pruning, calibration=statistics)
        encoded = encode_model(model, file, chosen, Execution(threads=threads, progress=told), data)
    stream = EncodedModel(file.getbuffer())
    stream.report = encoded.report(source_name(arrays), "bytes", sum(tensor.nbytes for tensor in model))
    return stream


def encode_model(
    model: Model, file: BinaryIO, options: Options, execution: Execution = EXECUTION, data: Data = NO_DATA
) -> Encoded:
    """Write the stream of a model into a file open for writing, from its start; the file must be seekable.

    Where targets are missed by more than 1 %, their scales are corrected by what was reached, and the file is written
    again; the nearest encoding stays. A target that is missed all the same is warned of.
    """
    started = time.perf_counter()
    if model.graphs and options.stream.compatible is not None:
        said = f"the model's graph is left out: {options.stream.compatible} reads no stream that has one"
        warnings.warn(said, NncWarning, stacklevel=3)
    options.warn_where_none_is_coded(model.names)
    original, model = model, _shrunk(model, data)
    with thread_counts.pool(execution.threads) as pool:
        job = _Job(model, file, execution.progress, pool)
        plan, _, aims = _plan(model, original, options, data, pool, progress=execution.progress)
        plan, written, reached = job.run(plan, aims)
        if plan.rate_scale and targets.weighs_rate(plan) and not _all_met(aims, reached):
            plan, _, aims = _plan(model, original, options, data, pool, rate_scale=0.0, progress=execution.progress)
            plan, written, reached = job.run(plan, aims)
    misses = [(aim.name, _miss(aim, value, plan)) for aim, value in zip(aims, reached, strict=True)]
    of_tensors = [said for name, said in misses if said and name is not None]
    of_model = [said for name, said in misses if said and name is None]
    for said in (*targets.told_once(of_tensors), *of_model):
        warnings.warn(said, NncWarning, stacklevel=3)
    snr = targets.decibels(written.power, written.error) if written.power else None
    seconds = time.perf_counter() - started
    rows = written.in_order_of(model)
    loss = targets.relative_loss(written.loss, plan) if tells_loss(rows, plan) else None
    for said in (*doubts(rows, plan, loss=None if aims else loss), *unkept(rows, plan)):
        warnings.warn(said, NncWarning, stacklevel=3)
    return Encoded(rows, written.size, snr, loss, seconds, thread_counts.count(execution.threads))


@dataclass(frozen=True, slots=True)
class EncodedPiece:
    """What came of some tensors of a model."""

    tensors: tuple[TensorReport, ...]
    size: int
    power: float
    """Sum of squares of all lossy tensors, and of their errors."""
    error: float
    loss: float
    """In the metric of a calibration."""


def planned(model: Model, options: Options, data: Data) -> Plan:
    """The plan of a model, with the scales that meet its targets on samples."""
    return _plan(model, model, options, data, None)[0]


def write_planned(model: Model, file: BinaryIO, plan: Plan, execution: Execution = EXECUTION) -> EncodedPiece:
    """Write the stream of a model by a plan in which everything is decided, once."""
    with thread_counts.pool(execution.threads) as pool:
        written = _write(model, file, plan, pool, execution.progress)
    return EncodedPiece(written.in_order_of(model), written.size, written.power, written.error, written.loss)


@dataclass(frozen=True, slots=True)
class _Job:
    """Encodings of one model into one file."""

    model: Model
    file: BinaryIO
    progress: Progress | None
    pool: Executor | None

    def run(self, plan: Plan, aims: list[Aim]) -> tuple[Plan, _Written, list[float]]:
        """Encode, and correct the plan by what was reached, until all aims are met or it is no use.

        The nearest of the encodings is what the file holds in the end. Returns its plan, what it came to, and what it
        reached of each aim.
        """
        tried: list[tuple[float, Plan]] = []
        while True:
            written = _write(self.model, self.file, plan, self.pool, self.progress)
            reached = [_reached(aim, written) for aim in aims]
            tried.append((sum(aim.goal.miss(value) for aim, value in zip(aims, reached, strict=True)), plan))
            nearest = min(tried, key=lambda attempt: attempt[0])[1]
            if _all_met(aims, reached) or (plan is nearest and len(tried) >= ATTEMPTS) or len(tried) > ATTEMPTS:
                return plan, written, reached
            last, plan = plan, nearest if len(tried) == ATTEMPTS else targets.corrected(plan, aims, reached)
            if plan == last:
                return plan, written, reached


def _all_met(aims: list[Aim], reached: list[float]) -> bool:
    return all(aim.goal.met(value) for aim, value in zip(aims, reached, strict=True))


def _shrunk(model: Model, data: Data) -> Model:
    """The model without what is to be removed."""
    if data.pruning is None:
        return model
    with stage("reduce"):
        return pruned_model(model, data.pruning)


@staged("plan")
def _plan(
    model: Model,
    original: Model,
    options: Options,
    data: Data,
    pool: Executor | None,
    *,
    sampled: bool = False,
    rate_scale: float = 1.0,
    progress: Progress | None = None,
) -> tuple[Plan, list[UnitSample], list[Aim]]:
    """The plan, and samples where there are targets or where they are wanted for themselves."""
    plan = replace(Plan.of((t.info for t in model), options, data), rate_scale=rate_scale)
    if rate_scale:
        warn_of_idle(model, plan)
    plan = replace(plan, zero_counts=zeros_of_model(model, plan))
    if sampled or targets.has_targets(plan):
        return targets.solve(plan, model, targets.target_of(plan, original.infos), pool, progress=progress)
    return plan, [], []


def _reached(aim: Aim, written: _Written) -> float:
    """What an encoding came to in terms of a target."""
    if aim.name is None:
        return aim.target.measure(8.0 * written.size, written.error, written.power, written.loss)
    row = written.rows[aim.name]
    if not aim.target.unit:
        return math.inf if row.snr is None else row.snr
    return aim.target.measure(8.0 * row.bytes, 0.0, 0.0, 0.0)


def _miss(aim: Aim, reached: float, plan: Plan) -> str:
    """What was reached instead of a target, and why; or what was changed to reach it. "" where all is well."""
    target = aim.target
    asked = f"{'' if aim.name is None else f'{aim.name}: '}{target.kind} is {target.shown(target.wanted):g}"
    if not target.met(reached):
        found = "nothing is lost" if math.isinf(reached) else f"reached {target.shown(reached):.4g}"
        return f"{asked}, {found}: {_why(aim, reached)}"
    if plan.rate_scale != 1.0 and aim.name is None:
        return f"{asked}: reached with rate_weight times {plan.rate_scale:g}, as with more no step gives it"
    return ""


def _why(aim: Aim, reached: float) -> str:
    if aim.goal != aim.target:
        return targets.NO_ROOM
    if reached < aim.target.wanted:
        return "what is not smaller than its own bytes is stored exactly, and no step comes nearer"
    return "no step comes nearer"


def compile_kernels() -> None:
    """Compile now what small models do without: the coding of block rows in lanes, where it can be, and of many vectors
    together.
    """
    compile_rows()
    small_tensors.compile_kernels()


def estimate_model(model: Model, options: Options, execution: Execution = EXECUTION, data: Data = NO_DATA) -> Encoded:
    """What `encode_model` would write, estimated from samples of each tensor: a dry run."""
    started = time.perf_counter()
    options.warn_where_none_is_coded(model.names)
    original, model = model, _shrunk(model, data)
    with thread_counts.pool(execution.threads) as pool:
        plan, samples, _ = _plan(model, original, options, data, pool, sampled=True, progress=execution.progress)
    rows: list[TensorReport] = []
    power = error = loss = 0.0
    for sample in samples:
        cost = sample.cost(plan)
        power, error, loss = power + sample.power, error + cost.error, loss + cost.loss
        rows += _estimated_rows(sample, round(cost.bits / 8))
    snr = targets.decibels(power, error) if power else None
    size = sum(row.bytes for row in rows) + frame_bytes(model, plan)
    seconds = time.perf_counter() - started
    return Encoded(
        tuple(rows),
        size,
        snr,
        targets.relative_loss(loss, plan),
        seconds,
        thread_counts.count(execution.threads),
    )


def _estimated_rows(sample: UnitSample, n_bytes: int) -> Iterator[TensorReport]:
    """The first tensor stands for the whole unit."""
    for info in sample.infos:
        yield TensorReport(info.name, info.shape, info.dtype, "estimate", None, n_bytes, info.nbytes)
        n_bytes = 0


class _Written:
    """What one encoding came to."""

    def __init__(self) -> None:
        self.rows: dict[str, TensorReport] = {}
        self.size = 0
        self.power = self.error = self.loss = 0.0

    def add(self, units: Sequence[CodedUnit], sizes: Sequence[int]) -> None:
        for unit, n_bytes in zip(units, sizes, strict=True):
            first = n_bytes  # the first tensor stands for the whole unit
            for outcome in unit.outcomes:
                self.rows[outcome.info.name] = _row(outcome, first)
                first = 0
                self.loss += outcome.loss
                if outcome.step is not None:
                    self.power, self.error = self.power + outcome.power, self.error + outcome.error

    def in_order_of(self, model: Model) -> tuple[TensorReport, ...]:
        return tuple(self.rows[t.name] if t.same_as is None else tied_row(t.name, self.rows[t.same_as]) for t in model)


def _write(model: Model, file: BinaryIO, plan: Plan, pool: Executor | None, progress: Progress | None) -> _Written:
    """One encoding."""
    file.seek(0)
    file.truncate()
    items = items_of(model, plan)
    written, writer = _Written(), StreamWriter(file, model, items, plan)
    done, total = 0, sum(t.size for t in model)
    for item, units in _coded(items, plan, pool):
        sizes = writer.put(units)
        written.add(units.units if isinstance(units, Group) else units, sizes)
        del units  # what is written is not kept while the next are coded
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

    def work(bundle: list[Item], workers: Executor | None) -> list[tuple[Item, list[CodedUnit] | Group]]:
        queue = RowQueue(workers)
        coded: dict[int, list[CodedUnit] | Group] = {}
        coded.update(small_tensors.coded_together(bundle, plan))

        def begin(item: Item) -> Callable[[], list[CodedUnit] | Group]:
            with stage("plan", next(item.all_tensors).name):
                return _begin(item, plan, workers, queue)

        left = [k for k in range(len(bundle)) if k not in coded]
        begun = thread_counts.share([partial(begin, bundle[k]) for k in left], workers)
        for k, finish in zip(left, begun, strict=True):
            with stage("plan", next(bundle[k].all_tensors).name):
                coded[k] = finish()
        return [(item, coded[k]) for k, item in enumerate(bundle)]

    for coded in in_order(bundled((item, item.size) for item in items), work, pool):
        coded.reverse()
        while coded:
            yield coded.pop()


def _begin(item: Item, plan: Plan, workers: Executor | None, queue: RowQueue) -> Callable[[], list[CodedUnit] | Group]:
    """Begin the units of an item; what is returned gives them."""
    if item.members:
        return partial(_group, item, plan, workers)
    begun = [UnitInCoding(unit, 0, workers, queue=queue) for unit in quantised_units(item, plan, workers)]
    return lambda: [coded for unit in begun for coded in not_grown(unit.finish(), item, plan)]


def _group(item: Item, plan: Plan, workers: Executor | None) -> Group:
    """The units of an aggregate. Its parameter set has the qp of the first one; units say the difference."""
    base_qp: int | None = None
    coded = []
    for member in item.members:
        for unit in quantised_units(member, plan, workers):
            if base_qp is None and unit.qp is not None:
                base_qp = min(max(unit.qp, -GROUP_QP), GROUP_QP)
            coded += not_grown(code_unit(unit, base_qp or 0, workers), member, plan)
    return Group(coded, base_qp or 0)


def _row(outcome: Outcome, n_bytes: int) -> TensorReport:
    info = outcome.info
    snr = targets.decibels(outcome.power, outcome.error) if outcome.step is not None else math.inf
    return TensorReport(
        info.name, info.shape, info.dtype, outcome.tool, outcome.step, n_bytes, info.nbytes, snr, outcome.reason
    )
