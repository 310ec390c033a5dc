"""What is decided for one matrix or vector before it is quantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nncjit.cabac.context_initialisation import Selection
from nncjit.cabac.layer import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenStep:
    """A step that a calibration gives, in the place of the default one."""

    step: float
    """Of the trellis."""
    rate_weight: float
    with_targets: bool
    """Whether it grows and shrinks with what a target needs; else it stays."""
    keeps: Literal["qp", "gain"] = "qp"
    """See `Decision`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How one matrix or vector becomes levels and bits. Nothing is left to resolve: no "auto", no rule, no name."""

    quantizer: Literal["trellis", "uniform", "codebook"]
    qp: int
    """In units of the density; all levels fit."""
    density: int
    """qp_density."""
    keeps: Literal["qp", "gain", "mean"]
    """What the signalled step keeps of the original: with the qp itself it is the quantiser's step; else it may differ
    from that, to give the decoded matrix the gain of the original or, where that says more, its mean."""
    rate_weight: float
    exact: bool
    unary_length: int
    scan_order: int
    initialisation: Selection
    """How the contexts' initialisations are chosen."""
    profile: int

    @property
    def dependent(self) -> bool:
        """dq_flag."""
        return self.quantizer == "trellis"

    def layer(self, shape: tuple[int, ...]) -> Layer:
        """The layer that codes a tensor of this shape."""
        return Layer.of(
            shape, dq=self.dependent, unary_length=self.unary_length, scan=self.scan_order, profile=self.profile
        )
