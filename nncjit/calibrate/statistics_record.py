"""What a statistics file says of one weight, beside the numbers: enough to recognise the weight and lay out its metric.

The *inputs* of a weight are the numbers that one of its outputs is a weighted sum of: columns of a linear layer,
channels times kernel taps of a convolution. The metric is one positive matrix over the inputs, cut into diagonal blocks
of equal size; a layer in groups has blocks of its own for each of them. Linear layers that are stacked in one tensor
[layers, ...], as some mixtures of experts have them, have a metric each, or share the mean. Of vectors (biases, norms)
and of weights whose use is not understood, no more is known than what an error in each row along the first dimension
costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from nncjit.errors import ModelError
from nncjit.option_values import shown

Kind = Literal["linear", "convolution", "table", "rows"]

WIDEST_BLOCK = 4096
"""Inputs that one block of a metric spans: 64 MB in float32, half of that in a file."""


MOST = 1 << 62
"""Of anything that is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One weight of a statistics file.

    Raises
    ------
    ModelError
        Fields that contradict each other.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    """Of the weight, by which it is recognised."""
    axis: int = 1
    """The weight's dimension of inputs (table: of columns). The other one of the first two counts outputs (rows); those
    from the third on are kernel taps. Of stacked layers, the first dimension is left out of this."""
    groups: int = 1
    apart: bool = False
    """Whether stacked layers have a metric each; else they share the mean."""
    block: int = 0
    """Inputs of one block of the metric; 0: only its diagonal is known."""
    samples: int = 0
    """Samples that reached the weight. A mixture of experts may send few to some."""
    tokens: int = 0
    """Rows of inputs in these samples."""
    ratio: float = 1.0
    """Trace of the coherent part divided by that of the token-wise one (`InputSums`); what merging needs."""

    def __post_init__(self) -> None:
        kind: object = self.kind
        apart: object = self.apart
        whole: tuple[object, ...] = (self.axis, self.groups, self.block, self.samples, self.tokens, *self.shape)
        fits = (
            type(self.name) is str
            and isinstance(kind, str)
            and kind in get_args(Kind)
            and all(type(value) is int and 0 <= value <= MOST for value in whole)
            and len(self.shape) >= (1 if self.kind == "rows" else 2)
            and 0 not in self.shape
            and self.is_stacked <= self.axis < 2 + self.is_stacked
            and self.groups >= 1
            and (self.kind == "convolution" or self.groups == 1)
            and isinstance(apart, bool)
            and (self.is_stacked or not apart)
            and (self.kind in ("convolution", "rows") or len(self.shape) == 2 + self.is_stacked)
            and (self.kind != "rows" or self.axis == self.block == 0)
            and math.isfinite(self.ratio)
            and self.ratio >= 0
        )
        if not fits or self.shape[0] % self.groups or (self.block and self.block % self.taps):
            said = ", ".join(f"{f.name} {shown(getattr(self, f.name))}" for f in fields(self) if f.name != "name")
            raise ModelError(f"{shown(self.name)}: its record contradicts itself: {said}")

    @property
    def is_stacked(self) -> bool:
        """Whether these are several linear layers in one tensor."""
        return self.kind == "linear" and len(self.shape) == 3

    @property
    def layers(self) -> int:
        """Linear layers in the tensor, or 1."""
        return self.shape[0] if self.is_stacked else 1

    @property
    def taps(self) -> int:
        """Inputs side by side in the weight's memory: the size of a convolution's kernel."""
        return math.prod(self.shape[2:]) if self.kind == "convolution" else 1

    @property
    def inputs(self) -> int:
        """Inputs of one group."""
        return self.shape[self.axis] // (self.groups if self.axis == 0 else 1) * self.taps

    @property
    def outputs(self) -> int:
        """Outputs of one group; rows of a table."""
        if self.kind == "rows":
            return 1
        return self.shape[self.output_axis] // (self.groups if self.axis == 1 else 1)

    @property
    def output_axis(self) -> int:
        """The weight's dimension of outputs, beside `axis`."""
        return 1 + 2 * self.is_stacked - self.axis

    @property
    def sets(self) -> int:
        """Groups of a convolution, or stacked layers, that have a metric of their own."""
        return self.groups * (self.layers if self.apart else 1)

    @property
    def blocks(self) -> int:
        """Blocks of the metric in one group; 0: only its diagonal is known."""
        return -(-self.inputs // self.block) if self.block else 0

    @property
    def metric_shape(self) -> tuple[int, int, int]:
        """Of all blocks of all groups or layers; the last block of each may be padded."""
        return self.sets * self.blocks, self.block, self.block

    @classmethod
    def from_table(cls, table: Any) -> TensorRecord:
        """The record of a JSON object.

        Raises
        ------
        ModelError
            It is not one.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(table, dict) or not table.keys() <= known or not isinstance(table.get("shape"), list):
            raise ModelError(f"not the record of a tensor: {str(table)[:200]}")
        try:
            return cls(**{**table, "shape": tuple(table["shape"])})
        except TypeError as error:
            raise ModelError(f"not the record of a tensor: {error}") from None


def block_size(inputs: int, taps: int, widest: int) -> int:
    """Size of the equal blocks, whole kernels each, that `inputs` are cut into so that none is wider than `widest`."""
    channels = inputs // taps
    count = -(-inputs // max(widest, taps))
    return -(-channels // count) * taps
