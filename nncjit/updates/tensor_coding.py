"""One tensor of an update: nothing, a difference or the whole tensor, whichever takes the fewest bits.

The difference is quantised with a step of its own, since the change of a trained weight is much smaller than it.
Where a difference would take more bits than the tensor with the same step, the tensor is coded whole. What cannot be
lost (integers, tensors that a rule keeps raw, values that are not finite) is a difference of bit patterns, or whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.cabac.lane_encoder import RowQueue
from nncjit.cabac.scan import from_scan, to_scan
from nncjit.encoder.code import Reference, estimate
from nncjit.encoder.decide import DEFAULT_UNARY_LENGTH, Settled, decide_integers, scan_order_of
from nncjit.encoder.decision import Decision
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.execution import Data
from nncjit.encoder.grouping import Item
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import QuantisedMatrix, energy, quantise
from nncjit.encoder.reduction import reduced
from nncjit.encoder.sampling import runs
from nncjit.encoder.unit_contents import contents_alone
from nncjit.encoder.unit_encoder import (
    CodedUnit,
    Outcome,
    QuantisedUnit,
    UnitInCoding,
    code_unit,
    not_grown,
    quantised_units,
)
from nncjit.encoder.unit_layout import IntegerContents, UnitLayout
from nncjit.model import Tensor, TensorInfo
from nncjit.quant import steps
from nncjit.quant.moments import Moments, moments
from nncjit.quant.work_sharing import PIECE
from nncjit.stages import staged
from nncjit.syntax import PayloadType
from nncjit.updates import bit_patterns
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.common_part import fitted
from nncjit.updates.difference_steps import EXACT_COSTS, is_constant, qp_of
from nncjit.updates.tensor_application import added
from nncjit.updates.update_options import UpdateOptions

SAMPLED_FROM, SAMPLE_ROWS = 1 << 17, 1 << 16
"""Elements from which context tools are compared on a sample, and elements of that sample, about."""
GLANCE = 1 << 10
"""Elements that are compared at first."""
SIZES_FROM, SAMPLE_OF_SIZE = 512, 1 << 13
"""Elements from which a tensor counts where the steps for a size are looked for, and elements of its sample."""
IMPLIED_UNARY_LENGTH = 10
"""Of units that do not say it."""
WORTH_WHOLE = 0.25
"""Energy of a difference beside the tensor's from which both are measured."""


class Received(NamedTuple):
    """A tensor as the receiver will have it."""

    values: Array
    """Storage array."""
    levels: Array | None = None
    """int32[n], raster order; None where the unit has none."""
    change: Array | None = None
    """float32: what a difference adds, prediction included."""
    residual: Array | None = None
    """float32: what was wanted and is not said, where it is carried on."""


@dataclass(frozen=True, slots=True)
class TensorUpdate:
    """What an update says of one tensor."""

    info: TensorInfo
    origin: Parameter | None
    """The tensor that it comes from."""
    tool: str
    """"unchanged", "difference", "exact difference", "whole", or "new"."""
    unit: CodedUnit | None = None
    received: Callable[[], Received] | None = None
    """What the receiver will have, worked out for those who keep it; None where only the unit tells."""
    power: float = 0.0
    """Sum of squares of the new values, where something is lost."""
    error: float = 0.0

    def without_arrays(self) -> TensorUpdate:
        """The same for a report."""
        unit = None if self.unit is None else replace(self.unit, payload=b"")
        return replace(self, unit=unit, received=None)


@dataclass(frozen=True, slots=True)
class TensorCoder:
    """Codes the tensors of one update."""

    plan: Plan
    options: UpdateOptions
    spread: float = 0.0
    """Root mean square of what the matrices have to say, where they have one step; else 0."""

    def begin(
        self,
        tensor: Tensor,
        origin: Parameter | None,
        held: Array | None,
        workers: Executor | None,
        queue: RowQueue,
    ) -> Callable[[], TensorUpdate]:
        """Begin the update of a tensor; what is returned gives it.

        Parameters
        ----------
        tensor : Tensor
            As it is in the new model.
        origin : Parameter or None
            What the receiver has of it.
        held : ndarray or None
            Its values.
        workers : Executor, optional
        queue : RowQueue
            Where block rows may wait to be coded together with those of other tensors.
        """
        info = tensor.info
        if origin is None or held is None or not _are_comparable(info, origin):
            return _done(self._whole(tensor, origin, workers))
        new, base = tensor.read(), fitted(held, info.shape)
        carries = self.options.carry and origin.residual is not None
        if not carries and _are_equal(new, base):
            return _done(TensorUpdate(info, origin, "unchanged", received=lambda: Received(base)))
        if self._is_exact(info):
            return _done(self._exact(tensor, new, base, origin, workers))
        wanted = self._wanted(info, new, base, origin, workers)
        if not wanted.is_finite:
            return _done(self._exact(tensor, new, base, origin, workers))
        return self._lossy(tensor, wanted, base, origin, workers, queue)

    def sampled_bits(self, tensor: Tensor, origin: Parameter | None) -> Callable[[Plan], float]:
        """A function of a plan that estimates the bits of a tensor's difference from a sample of it."""
        info = tensor.info
        if origin is None or not _are_comparable(info, origin) or not info.size or self._is_exact(info):
            bits = 8.0 * self._coded_bytes(tensor, origin)
            return lambda _: bits
        new, base = tensor.read(), fitted(origin.read(), info.shape)
        wanted = self._wanted(info, new, base, origin)
        difference = self._reduced(info, wanted)
        if difference.size < SIZES_FROM or not wanted.is_finite or not difference.any():
            return lambda _: 0.0
        measured = _measured(difference, wanted)
        row = runs(difference.reshape(-1), SAMPLE_OF_SIZE).reshape(1, -1)
        matrix = is_matrix(info.shape)

        def bits_with(plan: Plan) -> float:
            decision = self._decision(info, measured, plan, matrix=matrix)
            quantised = quantise(row, replace(decision, scan_order=0))
            return estimate(quantised, difference.size / row.size) if quantised.levels.any() else 0.0

        return bits_with

    def energy_of_difference(self, tensor: Tensor, origin: Parameter | None) -> tuple[float, int]:
        """Sum of squares of what is to be said of a tensor, and how many elements are not zero in it; nothing where it
        does not have the step that all matrices have.
        """
        info = tensor.info
        if origin is None or not _are_comparable(info, origin) or not is_matrix(info.shape) or self._is_exact(info):
            return 0.0, 0
        if self.plan.has_qp(info.name, info.shape):
            return 0.0, 0
        wanted = self._wanted(info, tensor.read(), fitted(origin.read(), info.shape), origin)
        if wanted.of_difference.non_finite:
            return 0.0, 0
        values = self._reduced(info, wanted)
        return energy(values), int(np.count_nonzero(values))

    def wanted(self, tensor: Tensor, origin: Parameter) -> Array:
        """What is to be said of a tensor that can be a difference: float32."""
        base = fitted(origin.read(), tensor.shape)
        return self._wanted(tensor.info, tensor.read(), base, origin).difference

    def _coded_bytes(self, tensor: Tensor, origin: Parameter | None) -> int:
        held = None if origin is None else origin.read()
        unit = self.begin(tensor, origin, held, None, RowQueue())().unit
        return len(unit.payload) if unit is not None else 0

    def _is_exact(self, info: TensorInfo) -> bool:
        """Whether nothing of a tensor may be lost."""
        raw = self.plan.choices[info.name].quantising.quantizer == "raw"
        return self.options.lossless or raw or dtypes.find(info.dtype).kind != "f"

    # ---- differences with a step

    def _wanted(
        self, info: TensorInfo, new: Array, base: Array, origin: Parameter, workers: Executor | None = None
    ) -> _Wanted:
        carried = origin.residual() if self.options.carry and origin.residual is not None else None
        return _Wanted.of(info, new, base, origin, carried, workers, predicts=self.options.predict)

    def _left_over(self, wanted: _Wanted, change: Array | float) -> Array | None:
        """What is wanted and not said, where it is carried on."""
        if not self.options.carry:
            return None
        said = change if wanted.predicted is None else change - wanted.predicted
        return np.asarray(wanted.difference - said, np.float32)

    @staged("quantise")
    def _lossy(
        self,
        tensor: Tensor,
        wanted: _Wanted,
        base: Array,
        origin: Parameter,
        workers: Executor | None,
        queue: RowQueue,
    ) -> Callable[[], TensorUpdate]:
        info = tensor.info
        difference = self._reduced(info, wanted)
        measured = _measured(difference, wanted)
        if not measured.peak:
            return _done(self._left_alone(info, wanted, base, origin))
        decision = self._decision(info, measured, self.plan, matrix=is_matrix(info.shape))
        low, high = steps.qp_range(decision.density)
        if not low <= decision.qp <= high:  # its levels would be too large with every step
            return _done(self._exact(tensor, tensor.read(), base, origin, workers))
        matrix = quantise(
            difference,
            decision,
            reference=None if difference is wanted.difference else wanted.difference,
            workers=workers,
        )
        whole = self._whole_instead(tensor, wanted, matrix, origin, workers)
        if whole is not None:
            tiny = self._is_tiny(info, whole.unit)
            return _done(self._as_wanted(tensor, wanted, base, origin) if tiny else whole)
        if not matrix.levels.any():
            return _done(self._left_alone(info, wanted, base, origin))
        matrix, reference = self._with_contexts(matrix, origin)
        outcome = Outcome(info, "difference", matrix.step, wanted.power, matrix.error)
        begun = UnitInCoding(_unit(info, PayloadType.FLOAT, matrix, outcome), 0, workers, [reference], queue)
        return partial(self._difference, tensor, wanted, base, origin, matrix, begun)

    def _difference(
        self,
        tensor: Tensor,
        wanted: _Wanted,
        base: Array,
        origin: Parameter,
        matrix: QuantisedMatrix,
        begun: UnitInCoding,
    ) -> TensorUpdate:
        """A difference whose coding was begun."""
        info, unit = tensor.info, begun.finish()
        if self._is_tiny(info, unit):
            return self._as_wanted(tensor, wanted, base, origin)
        header = replace(  # a difference is float32, whatever it is to
            unit.header,
            nnr_decompressed_data_format=None,
            nnr_decompressed_data_format_present_flag=0,
            temporal_context_modeling_flag=matrix.layer.temporal,
        )
        return TensorUpdate(
            info,
            origin,
            "difference",
            replace(unit, header=header),
            partial(self._received, info, wanted, base, matrix),
            wanted.power,
            matrix.error,
        )

    def _received(self, info: TensorInfo, wanted: _Wanted, base: Array, matrix: QuantisedMatrix) -> Received:
        """A tensor after the difference that a matrix says."""
        levels = from_scan(matrix.levels, matrix.layer)
        change = (levels.astype(np.float32) * np.float32(matrix.step)).reshape(info.shape)
        if wanted.predicted is not None:
            change = change + wanted.predicted
        return Received(added(base, change, info.dtype), levels, change, self._left_over(wanted, change))

    def _is_tiny(self, info: TensorInfo, unit: CodedUnit | None) -> bool:
        """Whether a tensor's own values take hardly more than this unit."""
        allowed = self.plan.options.stream.compatible is None
        return allowed and unit is not None and info.nbytes <= len(unit.payload) + EXACT_COSTS

    def _as_wanted(self, tensor: Tensor, wanted: _Wanted, base: Array, origin: Parameter) -> TensorUpdate:
        """A tiny tensor as it is, or, where something was left over of the update before, as it should be."""
        info, values = tensor.info, tensor.read()
        if self.options.carry and origin.residual is not None:
            said = wanted.difference if wanted.predicted is None else wanted.difference + wanted.predicted
            values = added(base, said, info.dtype)
        exact = Tensor(info.name, info.shape, info.dtype, lambda: values)
        return replace(self._whole(exact, origin, None, exact=True), info=info, received=lambda: Received(values))

    def _left_alone(self, info: TensorInfo, wanted: _Wanted, base: Array, origin: Parameter) -> TensorUpdate:
        """No unit: the receiver keeps what it has. Where an update is predicted, it then has none."""
        error = energy(wanted.new - dtypes.to_float32(base, info.dtype))
        said = 0.0 if wanted.predicted is None else wanted.predicted

        def received() -> Received:
            return Received(base, residual=self._left_over(wanted, said))

        return TensorUpdate(info, origin, "unchanged", received=received, power=wanted.power, error=error)

    def _reduced(self, info: TensorInfo, wanted: _Wanted) -> Array:
        """The difference with fewer numbers, as the options ask; what is new in it stays."""
        if wanted.common is None:
            return self._reduced_part(info, wanted.difference)
        result = wanted.difference.copy()
        result[wanted.common] = self._reduced_part(info, np.ascontiguousarray(result[wanted.common]))
        return result

    def _reduced_part(self, info: TensorInfo, difference: Array) -> Array:
        if not difference.size:
            return difference
        values = reduced(info, difference, self.plan)
        share = self.options.zero_rows
        if share == 0.0 or len(info.shape) < 2 or not values.size:
            return values
        rows = values.reshape(len(values), -1)
        weakest = np.argsort(np.square(rows, dtype=np.float64).sum(axis=1), kind="stable")
        kept = rows.copy()
        kept[weakest[: round(share * len(rows))]] = 0
        return kept.reshape(values.shape)

    def _decision(self, info: TensorInfo, measured: Measured, plan: Plan, *, matrix: bool) -> Decision:
        choices = plan.choices[info.name]
        asked = choices.quantising.quantizer
        constant = is_constant(measured)
        dependent = matrix and asked in ("trellis", "auto") and not constant
        quantizer = "trellis" if dependent else "uniform"
        length = choices.coding.unary_length
        if length == "auto" or (self.options.compact and length == DEFAULT_UNARY_LENGTH):
            length = IMPLIED_UNARY_LENGTH
        settled = Settled(
            "trellis" if quantizer == "trellis" else "uniform", length, scan_order_of(info.shape, choices)
        )
        return replace(
            decide_integers(info.name, plan, settled),
            qp=qp_of(info, measured, plan, self.spread, trellis=dependent),
            rate_weight=0.0 if constant else choices.quantising.rate_weight * plan.rate_scale,
            exact=choices.quantising.exact,
        )

    def _with_contexts(self, matrix: QuantisedMatrix, origin: Parameter) -> tuple[QuantisedMatrix, Reference]:
        """The matrix as the child of its parent, with the context tools that pay."""
        layer = matrix.layer._replace(parent=1)
        plain = replace(matrix, layer=layer)
        known = origin.levels is not None and origin.n_levels == layer.size and layer.profile == 1
        if not known or origin.levels is None or origin.touched is None:
            return plain, Reference()
        temporal, history = self.options.temporal, self.options.history
        if temporal is False and history is False:
            return plain, Reference()
        base, touched = (to_scan(a, layer) for a in (origin.levels(), origin.touched()))
        history = history if layer.has_row_flags else False
        tried = []
        for t in (False, True) if temporal == "auto" else (bool(temporal),):
            for h in (False, True) if history == "auto" else (bool(history),):
                candidate = replace(matrix, layer=layer._replace(temporal=int(t)))
                tried.append((candidate, Reference(base if t else None, touched if h else None)))
        return tried[0] if len(tried) == 1 else min(tried, key=_sampled_cost)

    def _whole_instead(
        self,
        tensor: Tensor,
        wanted: _Wanted,
        matrix: QuantisedMatrix,
        origin: Parameter,
        workers: Executor | None,
    ) -> TensorUpdate | None:
        """The tensor coded whole, where that takes fewer bits with the same step; else None."""
        if wanted.of_difference.energy < WORTH_WHOLE * wanted.power:
            return None
        qp = steps.raise_qp(wanted.of_new.peak, matrix.decision.qp, matrix.decision.density)
        whole = quantise(wanted.new, replace(matrix.decision, qp=qp), workers=workers)
        if estimate(whole) >= estimate(matrix):
            return None
        outcome = Outcome(tensor.info, "whole", whole.step, whole.power, whole.error)
        unit = code_unit(_unit(tensor.info, PayloadType.FLOAT, whole, outcome), 0, workers)
        return TensorUpdate(tensor.info, origin, "whole", unit, power=whole.power, error=whole.error)

    # ---- without loss

    def _exact(
        self, tensor: Tensor, new: Array, base: Array, origin: Parameter, workers: Executor | None
    ) -> TensorUpdate:
        """A difference of bit patterns where it is smaller than the whole tensor; opaque types are always whole."""
        info = tensor.info
        opaque = dtypes.find(info.dtype).kind == "o"
        if opaque or not info.size or self.plan.options.stream.compatible is not None:
            return self._whole(tensor, origin, workers)
        gap = bit_patterns.difference(new, base, info.dtype)
        named = bit_patterns.names_of(info.dtype)[gap.dtype.kind == "u"]
        plan = _with_raw(_only(info.name, self.plan))  # a difference has contexts of its own, all its bits are coded
        contents = contents_alone(Tensor(info.name, info.shape, named, lambda: gap, fresh=True), plan, workers)
        whole = self._whole(tensor, origin, workers)
        if not isinstance(contents, IntegerContents):
            return whole
        layout = contents.layout
        decision = decide_integers(info.name, plan, layout.settled)
        layer = decision.layer(contents.levels.shape)
        levels = to_scan(contents.levels, layer, workers=workers)
        matrix, reference = self._with_contexts(QuantisedMatrix(levels, layer, decision, None, 0.0, 0.0), origin)
        outcome = Outcome(info, "exact difference")
        unit = QuantisedUnit(layout, PayloadType.INT, ("W",), (matrix,), (outcome,), contents.limbs)
        coded = code_unit(unit, 0, workers, [reference])
        header = replace(coded.header, topology_elem_id=info.name, temporal_context_modeling_flag=matrix.layer.temporal)
        coded = replace(coded, header=header)
        if whole.unit is not None and whole.unit.n_bytes <= coded.n_bytes:
            return whole
        left = contents.levels.reshape(-1)
        return TensorUpdate(info, origin, "exact difference", coded, lambda: Received(new, left))

    def _whole(
        self, tensor: Tensor, origin: Parameter | None, workers: Executor | None, *, exact: bool = False
    ) -> TensorUpdate:
        """The tensor as a stream of its own would have it, or all bits of it."""
        plan = _only(tensor.name, self.plan)
        if exact or self.options.lossless:
            plan = _with_raw(plan)
        item = Item((tensor,))
        (unit,) = quantised_units(item, plan, workers)
        (coded,) = not_grown(code_unit(unit, 0, workers), item, plan)
        outcome = coded.outcomes[0]
        tool = "new" if origin is None else "whole"
        return TensorUpdate(tensor.info, origin, tool, coded, power=outcome.power, error=outcome.error)


@dataclass(frozen=True)
class _Wanted:
    """What a difference has to say, float32."""

    new: Array
    difference: Array
    predicted: Array | None
    """What the receiver adds to a difference by itself."""
    common: tuple[slice, ...] | None
    """Where the base has the tensor, which has another shape there; None where it has this one."""
    workers: Executor | None

    @cached_property
    def of_new(self) -> Moments:
        """Of the new values."""
        return moments(self.new, self.workers)

    @cached_property
    def of_difference(self) -> Moments:
        """Of the difference."""
        return moments(self.difference, self.workers)

    @property
    def power(self) -> float:
        """Sum of squares of the new values."""
        return self.of_new.energy

    @property
    def is_finite(self) -> bool:
        """Whether there is a float32 for every value and for every difference."""
        return not self.of_difference.non_finite and not self.of_new.non_finite

    @classmethod
    def of(
        cls,
        info: TensorInfo,
        new: Array,
        base: Array,
        origin: Parameter,
        carried: Array | None,
        workers: Executor | None,
        *,
        predicts: bool,
    ) -> _Wanted:
        values = dtypes.to_float32(new, info.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if info.dtype == "float64":
                difference = (new - base).astype(np.float32)
            else:
                difference = values - dtypes.to_float32(base, info.dtype)
            if carried is not None and carried.shape == info.shape:
                difference = difference + carried
            predicted = None
            if predicts and origin.change is not None:
                predicted = fitted(origin.change(), info.shape)
                difference = difference - predicted
        before = origin.info.shape
        common = None
        if before != info.shape:
            common = tuple(slice(0, min(a, b)) for a, b in zip(before, info.shape, strict=True))
        return cls(values, np.ascontiguousarray(difference, np.float32), predicted, common, workers)


def _measured(difference: Array, wanted: _Wanted) -> Measured:
    """Facts about a difference; where a part of the tensor is new, the step follows from what has changed."""
    known = wanted.of_difference if difference is wanted.difference else None
    measured = measure(difference, wanted.workers, known)
    if wanted.common is None:
        return measured
    changed = measure(np.ascontiguousarray(difference[wanted.common]), wanted.workers)
    if not changed.peak:
        return measured
    return replace(changed, moments=changed.moments._replace(peak=measured.peak))


def _done(update: TensorUpdate) -> Callable[[], TensorUpdate]:
    """An update of a tensor that waits for nothing."""
    return lambda: update


def _only(name: str, plan: Plan) -> Plan:
    """The plan for a tensor that is coded by itself: whole, and without what is done to differences."""
    choices = plan.choices[name].replace(zeros=0.0, pattern=None, unify=0.0, block_shape=None)
    return replace(plan, choices={name: choices}, zero_counts={}, data=Data())


def _with_raw(plan: Plan) -> Plan:
    """The same for the tensors' own values."""
    return replace(plan, choices={name: choices.replace(quantizer="raw") for name, choices in plan.choices.items()})


def _unit(info: TensorInfo, payload_type: PayloadType, matrix: QuantisedMatrix, outcome: Outcome) -> QuantisedUnit:
    layout = UnitLayout(infos=(info,), shape=info.shape, settled=Settled("uniform", 0, matrix.layer.scan))
    return QuantisedUnit(layout, payload_type, ("W",), (matrix,), (outcome,))


def _are_comparable(info: TensorInfo, origin: Parameter) -> bool:
    """Whether a tensor can be a difference to what the receiver has of it."""
    return (origin.info.dtype, len(origin.info.shape)) == (info.dtype, len(info.shape))


def _sampled_cost(candidate: tuple[QuantisedMatrix, Reference]) -> float:
    """About what a matrix costs with these contexts; of a large one, what some of its block rows do."""
    matrix, reference = candidate
    layer = matrix.layer
    if layer.size <= SAMPLED_FROM:
        return estimate(matrix, 1.0, reference)
    strip = layer.block_side if layer.scan else max(1, SAMPLE_ROWS // 4 // max(layer.width, 1))
    wanted = max(1, SAMPLE_ROWS // max(strip * layer.width, 1))
    tops = np.unique(np.linspace(0, max(layer.rows - strip, 0), wanted).astype(np.int64) // strip * strip)
    places = np.concatenate([np.arange(top * layer.width, min(top + strip, layer.rows) * layer.width) for top in tops])
    rows = places.size // max(layer.width, 1)

    def some(array: Array | None) -> Array | None:
        return None if array is None else np.ascontiguousarray(array[places])

    sample = replace(matrix, stored=matrix.levels[places], layer=layer._replace(rows=rows, scan=0, dq=0))
    return estimate(sample, 1.0, Reference(some(reference.base), some(reference.history)))


def _are_equal(one: Array, other: Array) -> bool:
    """Whether two storage arrays of one shape have the same bits. Where they differ, one mostly sees it at once."""
    a, b = _bits(one), _bits(other)
    starts = (0, *range(GLANCE, a.size, PIECE))
    return all(np.array_equal(a[i:j], b[i:j]) for i, j in pairwise((*starts, a.size)))


def _bits(storage: Array) -> Array:
    """The values as unsigned integers, of complex128 two each, so that NaN is equal to itself and 0 not to -0."""
    return np.ascontiguousarray(storage).reshape(-1).view(f"u{min(storage.dtype.itemsize, 8)}")
