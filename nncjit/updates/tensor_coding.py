"""One tensor of an update: nothing, a difference or the whole tensor, whichever takes the fewest bits.

The difference is quantised with a step of its own, since the change of a trained weight is much smaller than it.
Where a difference would take more bits than the tensor with the same step, the tensor is coded whole. What cannot be
lost (integers, tensors that a rule keeps raw, values that are not finite) is a difference of bit patterns, or whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nncjit import dtypes
from nncjit.cabac.lane_encoder import RowQueue
from nncjit.cabac.scan import from_scan
from nncjit.encoder.code import estimate
from nncjit.encoder.decide import DEFAULT_UNARY_LENGTH, Settled, scan_order_of
from nncjit.encoder.decision import Decision
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.measure import Measured
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import QuantisedMatrix, energy, quantise
from nncjit.encoder.sampling import runs
from nncjit.encoder.unit_encoder import CodedUnit, Outcome, QuantisedUnit, UnitInCoding, code_unit
from nncjit.encoder.unit_layout import UnitLayout
from nncjit.model import Tensor, TensorInfo
from nncjit.quant import steps
from nncjit.stages import staged
from nncjit.syntax import PayloadType
from nncjit.updates import bit_patterns
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.common_part import fitted
from nncjit.updates.context_choice import with_contexts
from nncjit.updates.difference_steps import EXACT_COSTS, is_constant, qp_of
from nncjit.updates.exact_coding import ExactCoder
from nncjit.updates.tensor_application import added
from nncjit.updates.tensor_update import Received, TensorUpdate, are_comparable
from nncjit.updates.update_options import UpdateOptions
from nncjit.updates.wanted_change import Wanted

SIZES_FROM, SAMPLE_OF_SIZE = 512, 1 << 13
"""Elements from which a tensor counts where the steps for a size are looked for, and elements of its sample."""
IMPLIED_UNARY_LENGTH = 10
"""Of units that do not say it."""
MOST_MISSED = 1e-12
"""Of the power of the new values, that the finest step may leave out of a difference that wants a finer one: a part in
a million of the values. Beyond, as in the moments of optimisers, the difference is said without loss."""
WORTH_WHOLE = 0.25
"""Energy of a difference beside the tensor's from which both are measured."""


@dataclass(frozen=True, slots=True)
class TensorCoder:
    """Codes the tensors of one update."""

    plan: Plan
    options: UpdateOptions
    spread: float = 0.0
    """Root mean square of what the matrices have to say, where they have one step; else 0."""

    @property
    def exact(self) -> ExactCoder:
        """What codes tensors without a step."""
        return ExactCoder(self.plan, self.options)

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
        if origin is None or held is None or not are_comparable(info, origin):
            return _done(self.exact.whole(tensor, origin, workers))
        new, base = tensor.read(), fitted(held, info.shape)
        carries = self.options.carry and origin.residual is not None
        if not carries and bit_patterns.are_equal(new, base):
            return _done(TensorUpdate(info, origin, "unchanged", received=lambda: Received(base)))
        if self.exact.wants(info):
            return _done(self.exact.difference(tensor, new, base, origin, workers))
        wanted = Wanted.of(info, new, base, origin, self.options, workers)
        if not wanted.is_finite:
            return _done(self.exact.difference(tensor, new, base, origin, workers))
        return self._lossy(tensor, wanted, base, origin, workers, queue)

    def sampled_bits(self, tensor: Tensor, origin: Parameter | None) -> Callable[[Plan], float]:
        """A function of a plan that estimates the bits of a tensor's difference from a sample of it."""
        info = tensor.info
        if origin is None or not are_comparable(info, origin) or not info.size or self.exact.wants(info):
            bits = 8.0 * self._coded_bytes(tensor, origin)
            return lambda _: bits
        wanted = self._wanted(tensor, origin)
        difference = wanted.reduced(info, self.plan, self.options.zero_rows)
        if difference.size < SIZES_FROM or not wanted.is_finite or not difference.any():
            return lambda _: 0.0
        measured = wanted.measured(difference)
        row = runs(difference.reshape(-1), SAMPLE_OF_SIZE).reshape(1, -1)
        matrix = is_matrix(info.shape)

        def bits_with(plan: Plan) -> float:
            decision = self.decision(info, measured, plan, matrix=matrix)
            quantised = quantise(row, replace(decision, scan_order=0))
            return estimate(quantised, difference.size / row.size) if quantised.levels.any() else 0.0

        return bits_with

    def energy_of_difference(self, tensor: Tensor, origin: Parameter | None) -> tuple[float, int]:
        """Sum of squares of what is to be said of a tensor, and how many elements are not zero in it; nothing where it
        does not have the step that all matrices have.
        """
        info = tensor.info
        if origin is None or not are_comparable(info, origin) or not is_matrix(info.shape) or self.exact.wants(info):
            return 0.0, 0
        if self.plan.has_qp(info.name, info.shape):
            return 0.0, 0
        wanted = self._wanted(tensor, origin)
        if wanted.of_difference.non_finite:
            return 0.0, 0
        values = wanted.reduced(info, self.plan, self.options.zero_rows)
        return energy(values), int(np.count_nonzero(values))

    def difference(self, tensor: Tensor, origin: Parameter) -> Array:
        """What is to be said of a tensor that can be a difference, float32; zeros where it has to be exact."""
        wanted = self._wanted(tensor, origin)
        return wanted.difference if wanted.is_finite else np.zeros_like(wanted.difference)

    def _wanted(self, tensor: Tensor, origin: Parameter) -> Wanted:
        base = fitted(origin.read(), tensor.shape)
        return Wanted.of(tensor.info, tensor.read(), base, origin, self.options)

    def _coded_bytes(self, tensor: Tensor, origin: Parameter | None) -> int:
        held = None if origin is None else origin.read()
        unit = self.begin(tensor, origin, held, None, RowQueue())().unit
        return len(unit.payload) if unit is not None else 0

    def _left_over(self, wanted: Wanted, change: Array | float) -> Array | None:
        """What is wanted and not said, where it is carried on."""
        return wanted.left_over(change) if self.options.carry else None

    @staged("quantise")
    def _lossy(
        self,
        tensor: Tensor,
        wanted: Wanted,
        base: Array,
        origin: Parameter,
        workers: Executor | None,
        queue: RowQueue,
    ) -> Callable[[], TensorUpdate]:
        info = tensor.info
        difference = wanted.reduced(info, self.plan, self.options.zero_rows)
        measured = wanted.measured(difference)
        if not measured.peak:
            return _done(self._left_alone(info, wanted, base, origin))
        decision = self.decision(info, measured, self.plan, matrix=is_matrix(info.shape))
        low, high = steps.qp_range(decision.density)
        if not low <= decision.qp <= high:  # its levels would be too large with every step
            return _done(self.exact.difference(tensor, tensor.read(), base, origin, workers))
        matrix = quantise(
            difference,
            decision,
            reference=None if difference is wanted.difference else wanted.difference,
            workers=workers,
            overwrite=difference is wanted.difference and not self.options.carry,  # then nobody looks at it again
        )
        finest = decision.qp == low and not self.plan.has_qp(info.name, info.shape)
        if finest and matrix.error > MOST_MISSED * wanted.power:
            return _done(self.exact.difference(tensor, tensor.read(), base, origin, workers))
        whole = self._whole_instead(tensor, wanted, matrix, origin, workers)
        if whole is not None:
            tiny = self.is_tiny(info, whole.unit)
            return _done(self._as_wanted(tensor, wanted, base, origin) if tiny else whole)
        if not matrix.levels.any():
            return _done(self._left_alone(info, wanted, base, origin))
        matrix, reference = with_contexts(matrix, origin, self.options)
        outcome = Outcome(info, "difference", matrix.step, wanted.power, matrix.error)
        begun = UnitInCoding(_unit(info, PayloadType.FLOAT, matrix, outcome), 0, workers, [reference], queue)
        return partial(self._difference, tensor, wanted, base, origin, matrix, begun)

    def _difference(
        self,
        tensor: Tensor,
        wanted: Wanted,
        base: Array,
        origin: Parameter,
        matrix: QuantisedMatrix,
        begun: UnitInCoding,
    ) -> TensorUpdate:
        """A difference whose coding was begun."""
        info, unit = tensor.info, begun.finish()
        if self.is_tiny(info, unit):
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
            lambda: self.received(info, wanted, base, from_scan(matrix.levels, matrix.layer), matrix.step),
            wanted.power,
            matrix.error,
        )

    def received(self, info: TensorInfo, wanted: Wanted, base: Array, levels: Array, step: float) -> Received:
        """A tensor after a difference; the levels are in raster order."""
        change = (levels.astype(np.float32) * np.float32(step)).reshape(info.shape)
        if wanted.predicted is not None:
            change = change + wanted.predicted
        return Received(added(base, change, info.dtype), levels, change, self._left_over(wanted, change))

    def is_tiny(self, info: TensorInfo, unit: CodedUnit | None) -> bool:
        """Whether a tensor's own values take hardly more than this unit."""
        allowed = self.plan.options.stream.compatible is None
        return allowed and unit is not None and info.nbytes <= len(unit.payload) + EXACT_COSTS

    def _as_wanted(self, tensor: Tensor, wanted: Wanted, base: Array, origin: Parameter) -> TensorUpdate:
        """A tiny tensor as it is, or, where something was left over of the update before, as it should be."""
        info, values = tensor.info, tensor.read()
        if self.options.carry and origin.residual is not None:
            said = wanted.difference if wanted.predicted is None else wanted.difference + wanted.predicted
            values = added(base, said, info.dtype)
        exact = Tensor(info.name, info.shape, info.dtype, lambda: values)
        return replace(self.exact.whole(exact, origin, None, exact=True), info=info, received=lambda: Received(values))

    def _left_alone(self, info: TensorInfo, wanted: Wanted, base: Array, origin: Parameter) -> TensorUpdate:
        """No unit: the receiver keeps what it has. Where an update is predicted, it then has none."""
        error = energy(wanted.new - dtypes.to_float32(base, info.dtype))
        said = 0.0 if wanted.predicted is None else wanted.predicted

        def received() -> Received:
            return Received(base, residual=self._left_over(wanted, said))

        return TensorUpdate(info, origin, "unchanged", received=received, power=wanted.power, error=error)

    def decision(self, info: TensorInfo, measured: Measured, plan: Plan, *, matrix: bool) -> Decision:
        """How a difference becomes levels and bits."""
        choices = plan.choices[info.name]
        asked = choices.quantising.quantizer
        constant = is_constant(measured)
        dependent = matrix and asked in ("trellis", "auto") and not constant
        length = choices.coding.unary_length
        if length == "auto" or (self.options.compact and length == DEFAULT_UNARY_LENGTH):
            length = IMPLIED_UNARY_LENGTH
        return Decision(
            quantizer="trellis" if dependent else "uniform",
            qp=qp_of(info, measured, plan, self.spread, trellis=dependent),
            density=plan.density,
            keeps="qp",
            rate_weight=0.0 if constant else choices.quantising.rate_weight * plan.rate_scale,
            exact=choices.quantising.exact,
            unary_length=length,
            scan_order=scan_order_of(info.shape, choices),
            initialisation=choices.coding.selection,
            profile=plan.options.stream.profile,
        )

    def _whole_instead(
        self,
        tensor: Tensor,
        wanted: Wanted,
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


def _done(update: TensorUpdate) -> Callable[[], TensorUpdate]:
    """An update of a tensor that waits for nothing."""
    return lambda: update


def _unit(info: TensorInfo, payload_type: PayloadType, matrix: QuantisedMatrix, outcome: Outcome) -> QuantisedUnit:
    layout = UnitLayout(infos=(info,), shape=info.shape, settled=Settled("uniform", 0, matrix.layer.scan))
    return QuantisedUnit(layout, payload_type, ("W",), (matrix,), (outcome,))
