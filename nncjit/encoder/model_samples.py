"""Samples of a model: what its units would cost at different steps, without encoding them.

A sample goes the encoder's own way: the item is read, reduced and taken apart as for encoding; of each part some runs
of elements are kept, and these are decided, quantised and estimated for every plan that is tried.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.scan import to_scan
from nncjit.encoder.choices import Reducing
from nncjit.encoder.code import estimate
from nncjit.encoder.decide import UnfitStepError, decide, raw_reason, scan_order_of, settle
from nncjit.encoder.decision import Decision
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.grouping import Item, items_of
from nncjit.encoder.integer_coding import integer_matrix, level_matrix
from nncjit.encoder.measure import measure
from nncjit.encoder.pipeline import in_order
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import energy, quantise
from nncjit.encoder.sampling import coded_runs, runs
from nncjit.encoder.unit_contents import contents_of
from nncjit.encoder.unit_layout import (
    Contents,
    ExactContents,
    FloatContents,
    FloatPart,
    IntegerContents,
    Lost,
    RawContents,
    UnitLayout,
)
from nncjit.model import Model, TensorInfo
from nncjit.progress import Progress
from nncjit.stages import stage

SAMPLE_WEIGHTS = 1 << 20
"""Weights sampled of the whole model, shared among its tensors by size."""
LEAST_SAMPLE = 1 << 13
SPARING = 8
"""How many times its sample a tensor must be for no more of it to be read."""
LEAST_OUTPUTS = 32
"""Columns of a calibrated matrix in its sample."""
UNIT_BITS = 8 * 32
"""Header of a unit, on average."""


class Cost(NamedTuple):
    """What coding something takes and loses."""

    bits: float
    error: float
    """Sum of squared errors."""
    loss: float = 0.0
    """In the metric of a calibration."""


@dataclass(slots=True)
class PartSample:
    """Some runs of one part, as a matrix of one row."""

    part: FloatPart
    """Its values are those runs."""
    shape: tuple[int, ...]
    """Of the whole part."""
    layout: UnitLayout
    share: float
    """How often the runs fit into the whole part."""
    _known: dict[Decision, Cost] = field(default_factory=dict)

    def cost(self, plan: Plan) -> Cost:
        """Of the whole part, scaled up."""
        part = self.part
        decision = decide(part.name, self.shape, part.measured, plan, self.layout.settled, part.given)
        if decision not in self._known:
            matrix = quantise(part.values, decision, metric=part.metric)
            error, loss = matrix.error, matrix.loss or part.loss_weight * matrix.error
            if not part.is_felt:
                error, loss = error if part.metric is None else loss, 0.0
            error, loss = self.share * part.gain * error, self.share * loss
            self._known[decision] = Cost(estimate(matrix, self.share), error, loss)
        return self._known[decision]


@dataclass(frozen=True, slots=True)
class UnitSample:
    """What is kept of one unit."""

    infos: tuple[TensorInfo, ...]
    parts: tuple[PartSample, ...] = ()
    """Empty where nothing is quantised."""
    fixed_bits: float = 0.0
    """Of what is not quantised."""
    power: float = 0.0
    """Sum of squares of the original values."""
    lost: float = 0.0
    """Sum of squared errors that reductions made already."""
    header_bits: float = UNIT_BITS
    """What the unit takes beside its parts."""
    count: float = 1.0
    """Units that it stands for; the power is that of all of them."""

    @property
    def rank(self) -> int:
        """Of the factors; 0 without."""
        return next((sample.shape[1] for sample in self.parts if sample.part.role == "G"), 0)

    def fixed_cost(self, plan: Plan) -> float:
        """Bits that a coarser scale would not save."""
        if not self.parts:
            return self.cost(plan).bits
        try:
            fixed = sum(s.cost(plan).bits for s in self.parts if not plan.gives(s.part.name, s.shape))
        except UnfitStepError:
            return self.count * self._raw.bits
        return self.count * (self.header_bits + fixed)

    def cost(self, plan: Plan) -> Cost:
        """Of the whole unit, and of those that it stands for, with the steps of a plan."""
        bits, error, loss = self._own_cost(plan)
        return Cost(self.count * bits, self.count * error, self.count * loss)

    def _own_cost(self, plan: Plan) -> Cost:
        if not self.parts:
            return Cost(self.fixed_bits + self.header_bits, 0.0)
        try:
            costs = [sample.cost(plan) for sample in self.parts]
        except UnfitStepError:
            return self._raw
        bits, error = sum(c.bits for c in costs) + self.header_bits, sum(c.error for c in costs) + self.lost
        coded = Cost(bits, error, sum(c.loss for c in costs))
        return coded if coded.bits < self._raw.bits else self._raw

    @property
    def _raw(self) -> Cost:
        """Of the tensors stored as they are, as those of a unit are for which no step fits."""
        return Cost(8.0 * sum(info.nbytes for info in self.infos) + self.header_bits * len(self.infos), 0.0)


def take_samples(
    model: Model, plan: Plan, pool: Executor | None, total: int | None = None, progress: Progress | None = None
) -> list[UnitSample]:
    """Samples of all units that the model would be coded as.

    Parameters
    ----------
    total : int, optional
        Weights of the whole, where the model is a piece of a larger one; the sample's size follows from it.
    progress : callable, optional
        Told after each item.
    """
    plan = replace(plan, sampling=True)
    items = [member for item in items_of(model, plan) for member in (item.members or (item,))]
    done, size = 0, sum(item.size for item in items)
    total = max(total or size, 1)

    def work(item: Item, workers: Executor | None) -> list[UnitSample]:
        sparing = _sparing_sample(item, plan, total)
        if sparing is not None:
            return [sparing]
        return [_sample(contents, plan, total) for contents in contents_of(item, plan, workers)]

    sampled = in_order(((item, item.size) for item in items), work, pool)
    kept: list[UnitSample] = []
    for item, samples in zip(items, sampled, strict=True):
        kept += samples
        done += item.size
        if progress is not None:
            progress(done, size, "samples")
    return kept


def _sparing_sample(item: Item, plan: Plan, total: int) -> UnitSample | None:
    """A sample of a large tensor of which no more is read; None where what is coded is not its values alone."""
    tensor, *others = item.tensors
    info, part = tensor.info, tensor.part
    wanted = _wanted(info.size, total)
    if others or item.block is not None or part is None or info.size < SPARING * wanted or not is_matrix(info.shape):
        return None
    choices = plan.choices[info.name]
    plain = choices.reducing == Reducing() and choices.quantising.quantizer in ("trellis", "uniform")
    if not (plain and plan.is_lossy(info)) or info.name in plan.zero_counts or plan.data.metrics is not None:
        return None
    if plan.first_dimension(info.name, info.shape):
        return None
    scan_order = scan_order_of(info.shape, choices)
    side = 4 << scan_order if scan_order else 0
    width = info.size // info.shape[0]
    with stage("read"):
        row = dtypes.to_float32(coded_runs(part, info.shape[0], width, side, wanted), info.dtype)
    row = row[: row.size & -2]
    measured = measure(row.reshape(2, -1))
    measured = replace(measured, moments=measured.moments._replace(size=info.size))
    if raw_reason(info, measured, plan):
        return None
    settled = replace(settle(info.name, row.reshape(2, -1), measured, plan), scan_order=scan_order)
    layout = UnitLayout(infos=(info,), shape=info.shape, settled=settled)
    sample = PartSample(
        FloatPart("W", info.name, row.reshape(1, -1), measured), info.shape, layout, info.size / row.size
    )
    return UnitSample((info,), (sample,), 0.0, measured.moments.power * info.size)


def _sample(contents: Contents, plan: Plan, total: int) -> UnitSample:
    if isinstance(contents, RawContents):
        return UnitSample((contents.info,), fixed_bits=8.0 * contents.info.nbytes)
    if isinstance(contents, IntegerContents):
        return _integer_sample(contents, plan, total)
    if isinstance(contents, ExactContents):
        return _exact_sample(contents, plan, total)
    return _float_sample(contents, total)


def _integer_sample(contents: IntegerContents, plan: Plan, total: int) -> UnitSample:
    (info,) = contents.layout.infos
    row = runs(contents.levels.reshape(-1), _wanted(info.size, total)).reshape(1, -1)
    matrix = integer_matrix(info.name, row, contents.limbs, plan, contents.layout.settled, None)
    return UnitSample((info,), fixed_bits=estimate(matrix, contents.levels.size / row.size))


def _exact_sample(contents: ExactContents, plan: Plan, total: int) -> UnitSample:
    (info,), (levels, tail, _) = contents.layout.infos, contents.split
    row = runs(levels.reshape(-1), _wanted(info.size, total)).reshape(1, -1)
    matrix = level_matrix(info.name, row, plan, contents.layout.settled, None)
    bits = estimate(matrix, levels.size / row.size) + 8.0 * len(tail)
    return UnitSample((info,), fixed_bits=min(bits, 8.0 * info.nbytes))


@dataclass(frozen=True, slots=True)
class _Unquantised:
    """A part that the decoder would find as it is."""

    exactly: np.ndarray

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.exactly.reshape(shape)

    def row_errors(self) -> NDArray[np.float64]:
        return np.zeros(len(self.exactly))


def _float_sample(contents: FloatContents, total: int) -> UnitSample:
    kept = []
    power = lost = 0.0
    try:
        part = next(contents.parts)
        while True:
            assert isinstance(part.values, np.ndarray), "for samples, huge tensors are read as others are"
            if part.reference is None:
                power = part.measured.moments.power * part.measured.moments.size
            else:
                power, lost = energy(part.reference), energy(part.reference - part.values)
            kept.append(_part_sample(part, contents.layout, total))
            part = contents.parts.send(_Unquantised(part.values))
    except StopIteration as end:
        if isinstance(end.value, Lost):
            power, lost = end.value
        elif end.value is not None:
            assert contents.original is not None
            power, lost = energy(contents.original), energy(contents.original - end.value)
    return UnitSample(contents.layout.infos, tuple(kept), 0.0, power, lost)


def _part_sample(part: FloatPart, layout: UnitLayout, total: int) -> PartSample:
    assert isinstance(part.values, np.ndarray)
    shape, size = part.values.shape, part.values.size
    if part.metric is not None:
        taps, layers = part.metric.taps, part.metric.layers
        outputs = part.values.reshape(shape[0], layers, -1, taps)
        some = some_outputs(outputs, _wanted(size, total) // (shape[0] * taps * layers), layout.settled.scan_order)
        return PartSample(replace(part, values=some), shape, layout, size / some.size)
    flat, wanted, scan = part.values.reshape(-1), _wanted(size, total), layout.settled.scan_order
    if scan and size <= wanted:
        row = to_scan(flat, Layer.of(shape, scan=scan))
    elif scan and is_matrix(shape):
        row = coded_runs(lambda start, stop: flat[start:stop], shape[0], size // shape[0], 4 << scan, wanted)
    else:
        row = runs(flat, wanted)
    row = row.reshape(1, -1)
    return PartSample(replace(part, values=row, reference=None), shape, layout, size / row.size)


def some_outputs(values: np.ndarray, wanted: int, scan_order: int) -> np.ndarray:
    """About so many outputs of each layer of a matrix [rows, layers, outputs, taps] whose rows feed back, as a matrix:
    each of them is quantised as it is beside all others. Blocks of the scan do not cut layers.
    """
    _, layers, outputs, _ = values.shape
    count = max(LEAST_OUTPUTS, wanted)
    if layers > 1 and scan_order:
        count = -(-count // (4 << scan_order)) * (4 << scan_order)
    count = min(count, outputs)
    first = (outputs - count) // 2
    return np.ascontiguousarray(values[:, :, first : first + count]).reshape(len(values), -1)


def _wanted(size: int, total: int) -> int:
    return max(LEAST_SAMPLE, SAMPLE_WEIGHTS * size // total)
