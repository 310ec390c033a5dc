"""Differences of the short vectors of a bundle, measured and coded together, as `encoder.small_tensors` does it for
whole models: a model can have thousands of vectors, for which Python's calls take most of the time.

A vector that turns out to be special, whether unchanged, exact, or better whole, is left to `TensorCoder`. The bytes
are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

from nncjit.cabac.short_layers import MOST_LEVELS, PAYLOADS_KERNEL, fits_together
from nncjit.encoder.measure import measure_small
from nncjit.encoder.small_tensors import FEWEST, SmallTensor, coded, quantised
from nncjit.encoder.unit_encoder import CodedUnit, Outcome, plain_header
from nncjit.model import Tensor
from nncjit.quant import steps
from nncjit.stages import staged
from nncjit.updates import bit_patterns
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.context_choice import knows_contexts
from nncjit.updates.tensor_coding import WORTH_WHOLE, TensorCoder
from nncjit.updates.tensor_update import TensorUpdate, are_comparable
from nncjit.updates.wanted_change import Wanted


class Pair(NamedTuple):
    """A tensor of the new model, and what the receiver has of it."""

    tensor: Tensor
    origin: Parameter | None
    held: Array | None
    """Its values."""


@staged("plan")
def coded_together(bundle: Sequence[Pair], coder: TensorCoder) -> dict[int, TensorUpdate]:
    """What the update says of vectors of a bundle, by their place in it; not of those that are better alone."""
    places = [k for k, pair in enumerate(bundle) if _is_plain(pair, coder)]
    if len(places) < FEWEST or not PAYLOADS_KERNEL.pays(len(places)):
        return {}
    wanted = {k: found for k in places if (found := _wanted(bundle[k], coder)) is not None}
    vectors = sorted(_decided(bundle, wanted, coder), key=lambda vector: vector.selection)
    updates: dict[int, TensorUpdate] = {}
    for _, alike in groupby(vectors, key=lambda vector: vector.selection):
        updates.update(_coded(list(alike), bundle, wanted, coder))
    return updates


def _is_plain(pair: Pair, coder: TensorCoder) -> bool:
    """Whether a tensor is a short vector whose difference depends on nothing but values."""
    (info, origin), options = (pair.tensor.info, pair.origin), coder.options
    if origin is None or len(info.shape) != 1 or not 0 < info.size <= MOST_LEVELS:
        return False
    if not are_comparable(info, origin) or origin.info.shape != info.shape or coder.exact.wants(info):
        return False
    carries = options.carry and origin.residual is not None
    predicted = options.predict and origin.change is not None
    return not (carries or predicted or knows_contexts(origin, options))


def _wanted(pair: Pair, coder: TensorCoder) -> Wanted | None:
    """What a vector has to say; None where it has not changed."""
    new, origin, held = pair.tensor.read(), pair.origin, pair.held
    assert origin is not None
    assert held is not None
    if bit_patterns.are_equal(new, held):
        return None
    return Wanted.of(pair.tensor.info, new, held, origin, coder.options)


def _decided(bundle: Sequence[Pair], wanted: dict[int, Wanted], coder: TensorCoder) -> list[SmallTensor]:
    """The vectors that are short differences, each with its decision."""
    if not wanted:
        return []
    measured = measure_small([one.difference for one in wanted.values()])
    of_new = measure_small([one.new for one in wanted.values()])
    found = []
    for (place, one), known, new in zip(wanted.items(), measured, of_new, strict=True):
        one.know(new.moments, known.moments)
        if not one.is_finite or not known.peak or known.moments.energy >= WORTH_WHOLE * one.power:
            continue
        info = bundle[place].tensor.info
        decision = coder.decision(info, known, coder.plan, matrix=False)
        low, high = steps.qp_range(decision.density)
        layer = decision.layer(info.shape)
        if low < decision.qp <= high and fits_together(layer, decision.initialisation):
            found.append(SmallTensor(place, info, one.difference, decision, layer))
    return found


def _coded(
    vectors: list[SmallTensor], bundle: Sequence[Pair], wanted: dict[int, Wanted], coder: TensorCoder
) -> list[tuple[int, TensorUpdate]]:
    """The updates of vectors of one selection, each with its place; none of those better exact or left alone."""
    said = [(vector, matrix) for vector, matrix in zip(vectors, quantised(vectors), strict=True) if matrix.levels.any()]
    if not said:
        return []
    updates = []
    for (vector, matrix), done in zip(said, coded([matrix for _, matrix in said]), strict=True):
        assert done is not None, "vectors have no rows to leave out"
        info, one = vector.info, wanted[vector.place]
        outcome = Outcome(info, "difference", matrix.step, one.power, matrix.error)
        header = plain_header("float32", info.shape, 0, vector.layer).with_name(info.name)
        unit = CodedUnit(header, done.payload, (outcome,))
        if coder.is_tiny(info, unit):
            continue
        _, origin, held = bundle[vector.place]
        assert held is not None
        received = partial(coder.received, info, one, held, matrix.levels, matrix.step)
        update = TensorUpdate(info, origin, "difference", unit, received, one.power, matrix.error)
        updates.append((vector.place, update))
    return updates
