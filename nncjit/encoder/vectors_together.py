"""Vectors of a bundle, encoded together: measured, quantised and coded by one call of a kernel each.

A model has more vectors than matrices, and some have thousands, so short that Python's calls take most of their time.
Of a vector without wishes of its own all is known beforehand but its values, and it needs none of the generality of
`unit_contents` and `unit_encoder`. Its decision is that of `decide`, and its bytes are the same. A vector that turns
out to be special, stored as it is for one, is left to them.

Two other ways were weighed. Layers that wait in a queue as block rows do would save a third of the calls, since most
are made before there are levels. Kernels for one vector that do more each would still be called for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.narrow_levels import whole
from nncjit.cabac.short_layers import MOST_LEVELS, PAYLOADS_KERNEL, code_short_payloads, is_short
from nncjit.encoder.decide import decide, raw_reason, settle
from nncjit.encoder.decision import Decision
from nncjit.encoder.grouping import Item
from nncjit.encoder.measure import measure_vectors
from nncjit.encoder.plan import Plan
from nncjit.encoder.unit_encoder import CodedUnit, Outcome, not_grown, plain_header
from nncjit.model import TensorInfo
from nncjit.quant.many_vectors import quantise_vectors
from nncjit.quant.moments import Products
from nncjit.quant.problem import Problem, solve
from nncjit.quant.steps import step
from nncjit.stages import stage, staged

FEWEST = 4
"""Vectors for which it pays to go together."""


class ShortVector(NamedTuple):
    """A vector that is going to be coded with others of its kind."""

    place: int
    """In its bundle."""
    info: TensorInfo
    values: np.ndarray
    """float32[n]"""
    decision: Decision

    @property
    def kind(self) -> tuple[int, str, bool]:
        """What vectors that are coded by one call have in common."""
        return self.decision.unary_length, self.decision.initialisation, self.decision.rate_weight > 0.0

    @property
    def layer(self) -> Layer:
        """The layer that codes it."""
        return self.decision.layer(self.info.shape)

    @property
    def step(self) -> float:
        """Distance of two levels."""
        return float(step(self.decision.qp, self.decision.density))


@staged("plan")
def coded_together(bundle: Sequence[Item], plan: Plan) -> dict[int, list[CodedUnit]]:
    """The units of the vectors of a bundle, by their place in it; none of those that are better encoded one by one."""
    places = [k for k, item in enumerate(bundle) if _is_plain(item, plan)]
    if len(places) < FEWEST or not PAYLOADS_KERNEL.pays(len(places)):
        return {}
    vectors = sorted(_decided(bundle, places, plan), key=lambda vector: vector.kind)
    units: dict[int, list[CodedUnit]] = {}
    for _, alike in groupby(vectors, key=lambda vector: vector.kind):
        for place, unit in _coded(list(alike)):
            units[place] = not_grown(unit, bundle[place], plan)
    return units


def compile_kernels() -> None:
    """Compile now what is compiled when there have been enough vectors."""
    PAYLOADS_KERNEL.compile()
    vectors = [np.ones(1, np.float32)]
    measure_vectors(vectors)
    quantise_vectors(vectors, [1.0])


def _is_plain(item: Item, plan: Plan) -> bool:
    """Whether an item is a short vector of which nothing is asked but how fine it shall be."""
    if len(item.tensors) != 1 or item.block is not None:
        return False
    (tensor,) = item.tensors
    if len(tensor.shape) != 1 or tensor.size > MOST_LEVELS or not plan.is_lossy(tensor.info):
        return False
    has_statistics = plan.data.metrics is not None and plan.data.metrics.record(tensor.info) is not None
    return not (has_statistics or plan.choices[tensor.name].layout.first_dimension)


def _decided(bundle: Sequence[Item], places: list[int], plan: Plan) -> list[ShortVector]:
    """The vectors at these places that are short and quantised, each with its decision."""
    tensors = [bundle[place].tensors[0] for place in places]
    with stage("read"):
        vectors = [dtypes.to_float32(tensor.read(), tensor.dtype) for tensor in tensors]
    found = []
    for place, tensor, values, measured in zip(places, tensors, vectors, measure_vectors(vectors), strict=True):
        info = tensor.info
        if raw_reason(info, measured, plan):
            continue
        settled = settle(info.name, values, measured, plan)
        decision = decide(info.name, info.shape, measured, plan, settled)
        vector = ShortVector(place, info, values, decision)
        if is_short(vector.layer, decision.initialisation):
            found.append(vector)
    return found


def _coded(vectors: list[ShortVector]) -> Iterator[tuple[int, CodedUnit]]:
    """The units of vectors of one kind, each with its place; not of those whose levels are worse than none."""
    levels, sums = quantised(vectors)
    payloads = coded(vectors, levels)
    for vector, found, payload in zip(vectors, sums, payloads, strict=True):
        error = found.error(vector.step)
        if error <= found.power:
            outcome = Outcome(vector.info, "uniform", vector.step, found.power, error)
            header = plain_header(vector.info.dtype, vector.info.shape, 0, vector.layer).with_name(vector.info.name)
            yield vector.place, CodedUnit(header, payload, (outcome,))


def quantised(vectors: list[ShortVector]) -> tuple[list[np.ndarray], list[Products]]:
    """The levels of vectors of one kind and their sums; those with a rate are problems of their own."""
    if not vectors[0].decision.rate_weight:
        return quantise_vectors([vector.values for vector in vectors], [vector.step for vector in vectors])
    found = []
    for vector in vectors:
        rate_weight, exact = vector.decision.rate_weight, vector.decision.exact
        problem = Problem(
            values=vector.values, layer=vector.layer, step=vector.step, rate_weight=rate_weight, exact=exact
        )
        found.append(solve(problem))
    return [whole(solution.levels) for solution in found], [solution.sums for solution in found]


def coded(vectors: list[ShortVector], levels: list[np.ndarray]) -> list[bytes]:
    """The payloads of vectors of one kind."""
    first = vectors[0].decision
    qps = [vector.decision.qp for vector in vectors]
    return code_short_payloads(levels, vectors[0].layer, qps, 6 + first.density, first.initialisation)
