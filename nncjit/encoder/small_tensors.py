"""Small tensors of a bundle, encoded together: measured, quantised and coded by one call of a kernel each.

Some models have thousands of tensors, so small that Python's calls take most of their time. Of a small one without
wishes of its own all is known beforehand but its values, and it needs none of the generality of `unit_contents` and
`unit_encoder`. Its decision is that of `decide`, and its bytes are the same. A tensor that turns out to be special,
stored as it is for one, is left to them.

Two other ways were weighed. Layers that wait in a queue as block rows do would save a third of the calls, since most
are made before there are levels. Kernels for one tensor that do more each would still be called for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import whole
from nncjit.cabac.short_layers import PAYLOADS_KERNEL, CodedShortUnit, ShortUnit, code_short_units, fits_together
from nncjit.encoder.choices import Choices
from nncjit.encoder.decide import decide, raw_reason, settle
from nncjit.encoder.decision import Decision
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.grouping import Item
from nncjit.encoder.measure import measure_small
from nncjit.encoder.plan import Plan
from nncjit.encoder.quantise import QuantisedMatrix, matrix_of
from nncjit.encoder.table_transform import why_not_transformed
from nncjit.encoder.unit_encoder import CodedUnit, Outcome, not_grown, plain_header, tool_of
from nncjit.model import Tensor, TensorInfo
from nncjit.quant.problem import Problem, Solution, solve
from nncjit.quant.small_arrays import quantise_arrays
from nncjit.quant.steps import step
from nncjit.quant.trellis_chunks import FEWEST as LARGE
from nncjit.stages import stage, staged

FEWEST = 4
"""Tensors for which it pays to go together."""


class SmallTensor(NamedTuple):
    """A tensor that is going to be coded with others."""

    place: int
    """In its bundle."""
    info: TensorInfo
    values: np.ndarray
    """float32[n]"""
    decision: Decision
    layer: Layer

    @property
    def selection(self) -> str:
        """How its contexts are initialised, which must be alike for all that are coded by one call."""
        return self.decision.initialisation

    @property
    def problem(self) -> Problem:
        """How it is quantised."""
        decision = self.decision
        return Problem(
            values=self.values,
            layer=self.layer,
            step=float(step(decision.qp, decision.density)),
            rate_weight=decision.rate_weight,
            exact=decision.exact,
        )


@staged("plan")
def coded_together(bundle: Sequence[Item], plan: Plan) -> dict[int, list[CodedUnit]]:
    """The units of the small tensors of a bundle, by their place in it; none of those that are better encoded one by
    one.
    """
    places = [k for k, item in enumerate(bundle) if _is_plain(item, plan)]
    if len(places) < FEWEST or not PAYLOADS_KERNEL.pays(len(places)):
        return {}
    units: dict[int, list[CodedUnit]] = {}
    tensors = sorted(_decided(bundle, places, plan), key=lambda tensor: tensor.selection)
    for _, alike in groupby(tensors, key=lambda tensor: tensor.selection):
        for place, unit in _coded(list(alike)):
            units[place] = not_grown(unit, bundle[place], plan)
    return units


def compile_kernels() -> None:
    """Compile now what is compiled when there have been enough small tensors."""
    PAYLOADS_KERNEL.compile()
    arrays = [np.ones(1, np.float32)]
    measure_small(arrays)
    quantise_arrays(arrays, [1.0], [False])


def _is_plain(item: Item, plan: Plan) -> bool:
    """Whether an item is a small tensor of which nothing is asked but how fine it shall be."""
    if len(item.tensors) != 1 or item.block is not None:
        return False
    (tensor,) = item.tensors
    if tensor.size >= LARGE or not plan.is_lossy(tensor.info):
        return False
    choices = plan.choices[tensor.name]
    if choices.layout.first_dimension or not (len(tensor.shape) == 1 or _is_unchanged(tensor, choices, plan)):
        return False
    metrics = plan.data.metrics
    return metrics is None or not (is_matrix(tensor.shape) or metrics.record(tensor.info) is not None)


def _is_unchanged(tensor: Tensor, choices: Choices, plan: Plan) -> bool:
    """Whether the values of a tensor of more dimensions than one are quantised as they are, in a known way."""
    reducing = choices.reducing
    fewer = reducing.zeros or reducing.pattern or reducing.unify or tensor.name in plan.zero_counts
    factored = reducing.rank is not None or reducing.scale_rows
    known = choices.quantising.quantizer in ("trellis", "uniform") and choices.coding.unary_length != "auto"
    return known and not (fewer or factored)


def _decided(bundle: Sequence[Item], places: list[int], plan: Plan) -> list[SmallTensor]:
    """The tensors at these places that are quantised, each with its decision."""
    tensors = [bundle[place].tensors[0] for place in places]
    with stage("read"):
        arrays = [np.asarray(dtypes.to_float32(tensor.read(), tensor.dtype), order="C") for tensor in tensors]
    found = []
    for place, tensor, values, measured in zip(places, tensors, arrays, measure_small(arrays), strict=True):
        info = tensor.info
        if raw_reason(info, measured, plan) or why_not_transformed(info, measured, plan) is not None:
            continue
        decision = decide(info.name, info.shape, measured, plan, settle(info.name, values, measured, plan))
        layer = decision.layer(info.shape)
        if fits_together(layer, decision.initialisation):
            found.append(SmallTensor(place, info, values.reshape(-1), decision, layer))
    return found


def _coded(tensors: list[SmallTensor]) -> Iterator[tuple[int, CodedUnit]]:
    """The units of tensors of one selection, each with its place; not of those whose rows may be left out."""
    matrices = quantised(tensors)
    for tensor, matrix, unit in zip(tensors, matrices, coded(matrices), strict=True):
        if unit is not None:
            info = tensor.info
            outcome = Outcome(info, tool_of(matrix), matrix.step, matrix.power, matrix.error)
            header = plain_header(info.dtype, info.shape, 0, matrix.layer).with_name(info.name)
            yield tensor.place, CodedUnit(header, unit.payload, (outcome,))


def quantised(tensors: list[SmallTensor]) -> list[QuantisedMatrix]:
    """The levels of tensors; those with a rate are problems of their own."""
    problems = [tensor.problem for tensor in tensors]
    solutions: dict[int, Solution] = {k: solve(p) for k, p in enumerate(problems) if p.rate_weight > 0.0}
    left = [(k, p) for k, p in enumerate(problems) if k not in solutions]
    if left:
        values, sizes = [tensors[k].values for k, _ in left], [p.step for _, p in left]
        found = quantise_arrays(values, sizes, [bool(p.layer.dq) for _, p in left])
        solutions |= {k: Solution(levels, sums, sums) for (k, _), levels, sums in zip(left, *found, strict=True)}
    return [matrix_of(p, solutions[k], tensors[k].decision) for k, p in enumerate(problems)]


def coded(matrices: list[QuantisedMatrix]) -> list[CodedShortUnit | None]:
    """The payloads of matrices of one selection; None where rows may be left out."""
    first = matrices[0].decision
    units = [ShortUnit(whole(matrix.stored), matrix.layer, matrix.qp or 0) for matrix in matrices]
    return code_short_units(units, 6 + first.density, first.initialisation)
