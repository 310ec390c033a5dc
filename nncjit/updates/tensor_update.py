"""What an update says of one tensor, and what the receiver then has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nncjit.encoder.unit_encoder import CodedUnit
from nncjit.model import TensorInfo
from nncjit.updates.chain_state import Array, Parameter


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

    def without_received(self) -> TensorUpdate:
        """The same when what the receiver will have is not needed any more."""
        return TensorUpdate(self.info, self.origin, self.tool, self.unit, None, self.power, self.error)

    def without_arrays(self) -> TensorUpdate:
        """The same for a report."""
        unit = None if self.unit is None else CodedUnit(self.unit.header, b"", self.unit.outcomes)
        return TensorUpdate(self.info, self.origin, self.tool, unit, None, self.power, self.error)


def are_comparable(info: TensorInfo, origin: Parameter) -> bool:
    """Whether a tensor can be a difference to what the receiver has of it."""
    return (origin.info.dtype, len(origin.info.shape)) == (info.dtype, len(info.shape))
