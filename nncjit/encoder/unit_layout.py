"""What the contents of a unit are made of: parts that are coded, and how they lie in the unit."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nncjit.encoder.decide import Settled
from nncjit.encoder.decision import GivenStep
from nncjit.encoder.huge_tensors import HugeTensor
from nncjit.encoder.measure import Measured, measure
from nncjit.model import TensorInfo
from nncjit.quant.input_metric import InputMetric
from nncjit.reduce import Block
from nncjit.stream.float_planes import Split
from nncjit.stream.integer_limbs import Limbs

if TYPE_CHECKING:
    from nncjit.encoder.table_transform import TableMetric


class Found(Protocol):
    """A part as the decoder will find it."""

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32[shape]."""

    def row_errors(self) -> NDArray[np.float64]:
        """float64[rows]: of a matrix with a metric, sums of squared errors of the rows."""


class Lost(NamedTuple):
    """What became of a weight, where that is known without composing it."""

    power: float
    """Sum of squares of its values."""
    error: float
    """Sum of squared errors."""


@dataclass(frozen=True, slots=True)
class FloatPart:
    """One matrix or vector that is coded."""

    role: str
    """"W", "G", "H", "LS", "BI", "BN_beta", "BN_gamma", "BN_mean" or "BN_var". Spec, section 2."""
    name: str
    """Of the tensor whose choices count."""
    values: np.ndarray | HugeTensor
    """float32, C-contiguous, dimension 0 as rows."""
    measured: Measured
    """Of the values."""
    reference: np.ndarray | None = None
    """What the decoded values are measured against where a reduction changed them."""
    gain: float = 1.0
    """What a squared error of this part adds to the squared error of the tensor, about; of a part with a metric that is
    not felt, what its loss adds."""
    overwrite: bool = False
    """Whether the values may be lost."""
    metric: InputMetric | None = None
    """What errors of the rows cost, by a calibration."""
    given: GivenStep | None = None
    """The step that a calibration gives."""
    loss_weight: float = 0.0
    """What a squared error costs in a calibration's units, where no metric says so."""
    is_felt: bool = True
    """Whether metric and weight are those of a calibration; else they serve to balance the parts of one tensor."""

    @classmethod
    def of(cls, role: str, name: str, values: np.ndarray, gain: float = 1.0) -> FloatPart:
        """A part whose values have not been measured."""
        values = np.ascontiguousarray(values, np.float32)
        return cls(role, name, values, measure(values), gain=gain)


Parts = Generator[FloatPart, Found, np.ndarray | Lost | None]
"""Parts in coding order; returns the weights that the parts, as found, compose, or what these lose; None where one part
is the tensor.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLayout:
    """How the parts of a unit lie in it."""

    infos: tuple[TensorInfo, ...]
    """The tensors, a block's weight first."""
    shape: tuple[int, ...]
    """tensor_dimensions: of the weights as they are coded."""
    settled: Settled
    shift: int = 0
    """first_tensor_dimension_shift."""
    block: Block | None = None


@dataclass(frozen=True, slots=True)
class RawContents:
    """A tensor that is stored as it is."""

    info: TensorInfo
    storage: np.ndarray | HugeTensor
    reason: str


@dataclass(frozen=True, slots=True)
class IntegerContents:
    """A tensor whose values are its levels."""

    layout: UnitLayout
    levels: np.ndarray
    """int32[layout.shape]; with a leading dimension for limbs."""
    limbs: Limbs | None
    """How words are split; None where values are levels."""
    reason: str


@dataclass(frozen=True, slots=True)
class ExactContents:
    """A tensor of which no bit is lost: the levels of its exponents or high bits, and its other bits."""

    layout: UnitLayout
    split: Split
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FloatContents:
    """Tensors that are quantised."""

    layout: UnitLayout
    parts: Parts
    original: np.ndarray | None = None
    """float32[layout.shape]: what composed weights are measured against; None where none are composed."""
    reason: str = ""
    """Why they are coded otherwise than asked for."""
    table: TableMetric | None = None
    """What errors of composed weights cost, of a table with statistics."""


Contents = RawContents | IntegerContents | ExactContents | FloatContents
