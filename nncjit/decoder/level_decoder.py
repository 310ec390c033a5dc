"""Weights as the levels that a stream holds, and their steps: for formats that hold integers and scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncjit.cabac.payload_decoder import decode_payloads
from nncjit.decoder.composition import compose_unit
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import naming_unit
from nncjit.decoder.unit_decoder import UnitDecoding, prepare_unit, step_of
from nncjit.stages import stage
from nncjit.stream.data_units import DataUnit
from nncjit.stream.unit_parts import Part
from nncjit.syntax import PayloadType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class UnitLevels:
    """A data unit whose weights are levels."""

    opened: DataUnit
    weights: list[tuple[Part, Array]]
    """What is made of its matrix, int32: values are the levels times the scale."""
    others: list[tuple[Part, Array]]
    """Its vectors, as values."""
    scale: Array
    """float32: 0-d; for local scaling 1-d."""
    axis: int
    """The dimension of the weights along which a scale that is 1-d runs."""


def why_no_levels(opened: DataUnit) -> str:
    """Why a unit's weights are not levels times a step, or a step for each row; empty where they are."""
    header = opened.unit.header
    roles = {part.role for part in opened.parts}
    if header.nnr_compressed_data_unit_payload_type not in (PayloadType.FLOAT, PayloadType.BLOCK):
        return "stored exactly"
    if header.codebook is not None:
        return "values of a codebook"
    if "W" not in roles:
        return "products of factors"
    if "LS" in roles and header.concatenation_axis_index is not None:
        return "joined, with scaled rows"
    return ""


def decode_levels(
    units: Iterable[DataUnit], budget: MemoryBudget, *, threads: int | None = None
) -> Iterator[UnitLevels]:
    """Decode data units for which `why_no_levels` says nothing, in order.

    The levels are those of the spec, section 6: for dependent quantisation the multiples of the step that the states
    make of what is coded.
    """
    for batch in budget.batches(units):
        with stage("decode"), naming_unit(batch[0]):
            decodings = [prepare_unit(opened, levels=True) for opened in batch]
            deltas = decode_payloads([item.job for item in decodings if item.job is not None], threads)
        for item, found in zip(decodings, deltas, strict=True):
            with stage("compose", item.opened.path), naming_unit(item.opened):
                composed = _composed(item, found)
            yield composed


def _composed(decoding: UnitDecoding, deltas: list[int]) -> UnitLevels:
    opened = decoding.opened
    pairs = list(zip(opened.parts, decoding.arrays, strict=True))
    arrays = {part.role: array for part, array in pairs}
    results = compose_unit(opened, [(part, array) for part, array in pairs if part.role != "LS"])
    step = next(step_of(opened)(delta) for part, delta in zip(opened.parts, deltas, strict=True) if part.role == "W")
    scale = np.array(step, np.float32)
    if "LS" in arrays:
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged stream may have any step
            scale = arrays["LS"] * step
    weights = [pair for pair in results if pair[0].role == "W"]
    others = [pair for pair in results if pair[0].role != "W"]
    return UnitLevels(opened, weights, others, scale, opened.unit.header.first_tensor_dimension_shift or 0)
