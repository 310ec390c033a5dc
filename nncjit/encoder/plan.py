"""The encoder's only brain: which steps, quantisers and scan orders the tensors get.

Default steps need no data but the weights. A layer's relative output noise equals the relative noise of its weights,
whatever its size, and the losses of layers add up. To spend bits where they count, the noise power that quantisation
may add to a matrix is therefore proportional to its number of weights n,

    noise / std(w) = min(NOISE / quality * (n / median n)^(1/2), MOST_NOISE)

with the median over the model's matrices; beyond MOST_NOISE the argument, which is one of small noise, fails. On a
transformer of 22.7 million weights this takes some 15 % fewer bytes at equal quality than one absolute step for all;
an exponent of 1/4 takes 8 % more. The step follows from the noise by the quantiser's own efficiency. Vectors (biases,
norms, statistics) are a thousandth of a model and matter much: they get steps of VECTOR_STEP times their root mean
square, about 10 bits each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nncjit import dtypes
from nncjit.cabac.layer import MAX_LEVEL
from nncjit.encoder.choices import Choices
from nncjit.encoder.execution import Data
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.model import TensorInfo
from nncjit.quant import steps
from nncjit.quant.moments import Moments

FINE_DENSITY = 7
"""qp_density of streams whose steps are computed: 128 steps an octave hit any target within 1 %."""

NOISE = 0.025
"""Root mean square error of a matrix of median size, in units of its spread: 32 dB."""

MOST_NOISE = 1.0
"""Of any matrix, as much as its spread, until the matrix of median size has as much."""

LEAST_FACTOR = 1 / 32
"""Least (n / median n)^(1/2): tiny matrices cost nothing, but need no more than this."""

TRELLIS_GAIN = 1.06
"""A trellis step d makes the error of a uniform step 2 d / TRELLIS_GAIN: measured at 2 to 5 bits a weight."""

VECTOR_STEP = 2.0**-8

BLOCK_SCAN = 4
"""scan_order of large tensors: 64-row blocks."""
PARALLEL_WEIGHTS = 1 << 18
"""Tensors from this size on are coded in block rows, so that one tensor alone can be decoded by many threads."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the choice for one tensor needs to know of the whole model."""

    options: Options
    choices: dict[str, Choices]
    density: int
    median_size: float
    """Median number of weights of the model's matrices."""
    data: Data = field(default_factory=Data)
    scale: float = 1.0
    """Factor on all default steps; a target of the model is hit by searching it."""
    own_scales: Mapping[str, float] = field(default_factory=dict)
    """Factor for each tensor that has a target of its own."""
    zero_counts: Mapping[str, int] = field(default_factory=dict)
    """How many weights (or blocks) of each tensor are set to zero by one ranking of the whole model."""

    @classmethod
    def of(cls, infos: Iterable[TensorInfo], options: Options, data: Data | None = None) -> Plan:
        infos = list(infos)
        choices = options.choices(info.name for info in infos)
        floats = [info for info in infos if dtypes.find(info.dtype).kind == "f"]
        sizes = [info.size for info in floats if is_matrix(info.shape)]
        median = statistics.median(sizes) if sizes else 1.0
        plan = cls(options, choices, options.quantising.qp_density, median, data or Data())
        computed = not all(plan.is_explicit(info.name, info.shape) for info in floats)
        return replace(plan, density=FINE_DENSITY) if computed else plan

    def is_lossy(self, info: TensorInfo) -> bool:
        """Whether a tensor is to be quantised: a float tensor that has elements and no rule says raw."""
        floats = dtypes.find(info.dtype).kind == "f"
        return floats and info.size > 0 and self.choices[info.name].quantising.quantizer != "raw"

    def raw_reason(self, info: TensorInfo, moments: Moments) -> str:
        """Why a float tensor is stored as it is, or "" where it is quantised."""
        if self.choices[info.name].quantising.quantizer == "raw":
            return "as asked for"
        if moments.non_finite:
            return f"{moments.non_finite} values are not finite in float32"
        low, high = steps.qp_range(self.density)
        dependent = self.quantizer(info.name, info.shape) in ("trellis", "auto")
        qp = self.qp(info.name, info.shape, moments, dependent=dependent)
        if not low <= steps.raise_qp(moments.peak, qp, self.density, dependent=dependent) <= high:
            return f"its step would be outside 2^{low >> self.density} to 2^{high >> self.density}"
        return ""

    def is_explicit(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a qp is given for a tensor: by a rule, or for all matrices of the model."""
        choices = self.choices[name]
        return choices.fineness.qp is not None and (is_matrix(shape) or choices.own_fineness)

    def first_dimension(self, name: str, shape: tuple[int, ...]) -> int:
        """The dimension of a tensor that is coded as rows; vectors have but one.

        Raises
        ------
        OptionError
            The tensor has too few dimensions.
        """
        first = self.choices[name].layout.first_dimension
        if first and len(shape) > 1 and first >= len(shape):
            raise OptionError(f"{name}: first_dimension is {first}, the tensor has {len(shape)} dimensions")
        return first if len(shape) > 1 else 0

    def relative_noise(self, name: str, shape: tuple[int, ...], moments: Moments) -> float:
        """Root mean square error that quantising a matrix is allowed, as a share of its root mean square."""
        step = float(steps.step(self.qp(name, shape, moments, dependent=False), self.density))
        return step / math.sqrt(12.0) / moments.rms if moments.rms else 0.0

    def is_unbiased(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the step may be adjusted to the gain of the decoded matrix: not where a qp is given."""
        return is_matrix(shape) and not self.is_explicit(name, shape)

    def quantizer(self, name: str, shape: tuple[int, ...]) -> str:
        """The quantiser of a tensor, "auto" perhaps; vectors are always quantised uniformly."""
        return self.choices[name].quantising.quantizer if is_matrix(shape) else "uniform"

    def qp(self, name: str, shape: tuple[int, ...], moments: Moments, *, dependent: bool | None = None) -> int:
        """The quantization parameter of a tensor, before overflow protection.

        Parameters
        ----------
        name : str
            Of the tensor whose choices count.
        shape : tuple of int
            Of what is coded.
        moments : Moments
            Of what is coded.
        dependent : bool, optional
            Whether the trellis quantises; the choices say so where it is not given.
        """
        choices = self.choices[name]
        if self.is_explicit(name, shape):
            assert choices.fineness.qp is not None
            return choices.fineness.qp << (self.density - self.options.quantising.qp_density)
        if dependent is None:
            dependent = self.quantizer(name, shape) in ("trellis", "auto")
        step = self._step(name, shape, moments, choices)
        if dependent:
            step *= TRELLIS_GAIN / 2
        return steps.nearest_qp(step, self.density) if step else 0

    def limbs(self, info: TensorInfo, peak: int) -> int:
        """Number of 16-bit limbs that an integer tensor of this largest magnitude is split into; 0: none."""
        return 0 if peak <= MAX_LEVEL else dtypes.find(info.dtype).itemsize // 2

    def _step(self, name: str, shape: tuple[int, ...], moments: Moments, choices: Choices) -> float:
        """The step of the uniform quantiser."""
        fine = self.own_scales.get(name, self.scale) / choices.fineness.quality
        if not is_matrix(shape):
            return VECTOR_STEP * moments.rms * min(fine, 1.0)
        spread = moments.std if moments.std > 1e-3 * moments.rms else moments.rms
        factor = max(math.sqrt(math.prod(shape) / self.median_size), LEAST_FACTOR)
        median_noise = NOISE * fine
        noise: float = min(median_noise * factor, max(MOST_NOISE, median_noise))
        return noise * spread * math.sqrt(12.0)

    def scan(self, shape: tuple[int, ...], choices: Choices) -> int:
        """scan_order of a tensor."""
        if choices.coding.scan_order != "auto":
            return choices.coding.scan_order
        rows = shape[0] if shape else 1
        size = math.prod(shape)
        return BLOCK_SCAN if size >= PARALLEL_WEIGHTS and rows >= 2 * (4 << BLOCK_SCAN) and size > rows else 0


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is coded as a matrix of weights rather than as a vector of parameters."""
    return len(shape) > 1 and math.prod(shape) > shape[0]
