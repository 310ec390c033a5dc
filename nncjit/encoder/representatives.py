"""A few samples in place of the many of units that are alike.

What tiny tensors cost at a step takes the same time as for large ones, and a model may have ten thousand of them. Of
those that differ in nothing but their values some are kept, spread evenly over the magnitudes, and stand for the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

from nncjit.encoder.grouping import items_of
from nncjit.encoder.model_samples import LEAST_SAMPLE, UnitSample
from nncjit.encoder.plan import Plan
from nncjit.encoder.stream_writer import StreamWriter
from nncjit.encoder.unit_encoder import code_unit, not_grown, quantised_units
from nncjit.model import Model

KEPT = 64
"""Samples kept of units that are alike."""
MEASURED = 8
"""Of these, those that are encoded to know what such a unit takes beside its parts."""


def representatives(samples: Sequence[UnitSample], model: Model, plan: Plan) -> list[UnitSample]:
    """The samples, with no more than `KEPT` of each kind of units that are alike.

    Units are alike if they have the same shapes, types and choices, and no target of their own. Only small ones are
    left out: of large ones, each counts.
    """
    kinds: dict[Hashable, list[UnitSample]] = {}
    for sample in samples:
        kinds.setdefault(_kind(sample, plan), []).append(sample)
    kept: list[UnitSample] = []
    for alike in kinds.values():
        kept += _few(alike, model, plan) if len(alike) > KEPT else alike
    return kept


def _kind(sample: UnitSample, plan: Plan) -> Hashable:
    parts = [kept.part for kept in sample.parts]
    small = sum(info.size for info in sample.infos) <= LEAST_SAMPLE
    given = any(part.metric is not None or part.given is not None for part in parts)
    if not parts or not small or given or any(info.name in plan.own_scales for info in sample.infos):
        return sample.infos[0].name
    units = tuple((info.shape, info.dtype, plan.choices[info.name]) for info in sample.infos)
    return units, tuple((kept.part.role, kept.shape) for kept in sample.parts)


def _few(alike: list[UnitSample], model: Model, plan: Plan) -> list[UnitSample]:
    """Some of many, with what their headers really take: of tiny tensors, that is most."""
    alike = sorted(alike, key=lambda sample: sample.power)
    few = []
    for start, stop in pairwise(len(alike) * k // KEPT for k in range(KEPT + 1)):
        power = sum(sample.power for sample in alike[start:stop])
        few.append(replace(alike[(start + stop) // 2], count=float(stop - start), power=power))
    some = [replace(sample, count=1.0) for sample in few[:: KEPT // MEASURED]]
    told = sum(sample.cost(plan).bits for sample in some)
    more = (_encoded_bits(some, model, plan) - told) / len(some)
    return [replace(sample, header_bits=max(sample.header_bits + more, 0.0)) for sample in few]


def _encoded_bits(samples: Sequence[UnitSample], model: Model, plan: Plan) -> float:
    """What the units of these samples take in a stream."""
    piece = Model(model[info.name] for sample in samples for info in sample.infos)
    items = items_of(piece, plan)
    writer = StreamWriter(BytesIO(), piece, items, plan)
    size = 0
    for alone in (member for item in items for member in (item.members or (item,))):
        for unit in quantised_units(alone, plan, None):
            size += sum(writer.put(not_grown(code_unit(unit, 0, None), alone, plan)))
    return 8.0 * size
