"""Tensors of which nothing may be lost: a difference of bit patterns, or the whole tensor, whichever is smaller; and
whole tensors as a stream of their own would have them.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace

from nncjit import dtypes
from nncjit.cabac.scan import to_scan
from nncjit.encoder.decide import decide_integers
from nncjit.encoder.execution import Data
from nncjit.encoder.grouping import Item
from nncjit.encoder.plan import EXACT, Plan
from nncjit.encoder.quantise import QuantisedMatrix
from nncjit.encoder.unit_contents import contents_alone
from nncjit.encoder.unit_encoder import Outcome, QuantisedUnit, code_unit, not_grown, quantised_units
from nncjit.encoder.unit_layout import IntegerContents
from nncjit.model import Tensor, TensorInfo
from nncjit.syntax import PayloadType
from nncjit.updates import bit_patterns
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.context_choice import with_contexts
from nncjit.updates.tensor_update import Received, TensorUpdate
from nncjit.updates.update_options import UpdateOptions


@dataclass(frozen=True, slots=True)
class ExactCoder:
    """Codes tensors of one update without differences that have a step."""

    plan: Plan
    options: UpdateOptions

    def wants(self, info: TensorInfo) -> bool:
        """Whether nothing of a tensor may be lost."""
        exact = self.plan.choices[info.name].quantising.quantizer in EXACT
        return self.options.lossless or exact or dtypes.find(info.dtype).kind != "f"

    def difference(
        self, tensor: Tensor, new: Array, base: Array, origin: Parameter, workers: Executor | None
    ) -> TensorUpdate:
        """A difference of bit patterns where it is smaller than the whole tensor; opaque types are always whole."""
        info = tensor.info
        opaque = dtypes.find(info.dtype).kind == "o"
        if opaque or not info.size or self.plan.options.stream.compatible is not None:
            return self.whole(tensor, origin, workers)
        gap = bit_patterns.difference(new, base, info.dtype)
        named = bit_patterns.names_of(info.dtype)[gap.dtype.kind == "u"]
        plan = _with_raw(_only(info.name, self.plan))  # a difference has contexts of its own, all its bits are coded
        contents = contents_alone(Tensor(info.name, info.shape, named, lambda: gap, fresh=True), plan, workers)
        whole = self.whole(tensor, origin, workers)
        if not isinstance(contents, IntegerContents):
            return whole
        layout = contents.layout
        decision = decide_integers(info.name, plan, layout.settled)
        layer = decision.layer(contents.levels.shape)
        levels = to_scan(contents.levels, layer, workers=workers)
        matrix = QuantisedMatrix(levels, layer, decision, None, 0.0, 0.0)
        matrix, reference = with_contexts(matrix, origin, self.options)
        outcome = Outcome(info, "exact difference")
        unit = QuantisedUnit(layout, PayloadType.INT, ("W",), (matrix,), (outcome,), contents.limbs)
        coded = code_unit(unit, 0, workers, [reference])
        header = replace(coded.header, topology_elem_id=info.name, temporal_context_modeling_flag=matrix.layer.temporal)
        coded = replace(coded, header=header)
        if whole.unit is not None and whole.unit.n_bytes <= coded.n_bytes:
            return whole
        left = contents.levels.reshape(-1)
        return TensorUpdate(info, origin, "exact difference", coded, lambda: Received(new, left))

    def whole(
        self, tensor: Tensor, origin: Parameter | None, workers: Executor | None, *, exact: bool = False
    ) -> TensorUpdate:
        """The tensor as a stream of its own would have it, or all bits of it."""
        plan = _only(tensor.name, self.plan)
        if exact or self.options.lossless:
            plan = _with_raw(plan)
        item = Item((tensor,))
        (unit,) = quantised_units(item, plan, workers)
        (coded,) = (unit.in_memory() for unit in not_grown(code_unit(unit, 0, workers), item, plan))
        outcome = coded.outcomes[0]
        tool = "new" if origin is None else "whole"
        return TensorUpdate(tensor.info, origin, tool, coded, power=outcome.power, error=outcome.error)


def _only(name: str, plan: Plan) -> Plan:
    """The plan for a tensor that is coded by itself: whole, and without what is done to differences."""
    choices = plan.choices[name].replace(zeros=0.0, pattern=None, unify=0.0, block_shape=None)
    return replace(plan, choices={name: choices}, zero_counts={}, data=Data())


def _with_raw(plan: Plan) -> Plan:
    """The same for the tensors' own values."""
    return replace(plan, choices={name: choices.replace(quantizer="raw") for name, choices in plan.choices.items()})
