"""What a decision for one tensor needs to know of the whole model."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nncjit import dtypes
from nncjit.encoder.choices import Choices
from nncjit.encoder.compatibility import check_stream, check_tensor
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.execution import Data
from nncjit.encoder.options import Options
from nncjit.errors import NncWarning, OptionError
from nncjit.model import TensorInfo
from nncjit.option_values import shown
from nncjit.quant import steps
from nncjit.reduce.quantised_names import QuantisedNames, quantised_names

if TYPE_CHECKING:
    from nncjit.encoder.input_metrics import Metrics

NO_DATA = Data()
NONE_QUANTISED = QuantisedNames(frozenset(), frozenset())

LEVELS = ("levels", "zero_point", "kept")
"""Roles of integers of quantised models."""
EXACT = ("raw", "lossless")
"""Quantizers that lose nothing."""

FEW = 0.1
"""Share of the matrices' weights of which a calibration need not tell that it knows nothing of them."""
FINE_DENSITY = 7
"""qp_density of streams whose steps are computed: 128 steps an octave hit any target within 1 %."""


def _loss_per_bit(infos: list[TensorInfo], metrics: Metrics, *, relative: bool) -> float:
    """Lambda of a model, after a check that the statistics are its own."""
    missing = metrics.statistics.check({info.name: info.shape for info in infos})
    metrics.check_axes(infos)
    matrices = [info for info in infos if info.same_as is None and dtypes.find(info.dtype).kind == "f"]
    matrices = [info for info in matrices if is_matrix(info.shape)]
    alone = [info for info in matrices if metrics.record(info) is None]
    share = sum(info.size for info in alone) / max(1, sum(info.size for info in matrices))
    if share > FEW and not metrics.is_guess:
        said = (
            f"no statistics of {len(alone)} of {len(matrices)} matrices, {100 * share:.0f} % of their weights, "
            f"{alone[0].name} among them: they keep their default steps, and what the output loses by them is not told"
        )
        warnings.warn(said, NncWarning, stacklevel=2)
    if missing:
        said = f"the statistics are of {len(missing)} weights more than the model has, {missing[0]} among them"
        warnings.warn(said, NncWarning, stacklevel=2)
    metrics.check_power()
    return metrics.loss_per_bit(sum(info.size for info in infos if metrics.is_reached(info)), relative=relative)


def _check_qp(options: Options) -> None:
    """Refuse a qp that no unit can signal in the density of the options."""
    density = options.quantising.qp_density
    low, high = steps.qp_range(density)
    by_rule = {f"rule {shown(rule.pattern)}: ": dict(rule.changes).get("qp") for rule in options.rules}
    for where, qp in {"": options.fineness.qp, **by_rule}.items():
        if qp is not None and not low <= qp <= high:
            raise OptionError(f"{where}qp is {qp}, must be in {low}..{high} where qp_density is {density}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Options, the choices that rules make of them for each tensor, and what the targets' search found."""

    options: Options
    data: Data
    choices: Mapping[str, Choices]
    density: int
    """qp_density of the stream."""
    median_size: float
    """Median number of weights of the model's matrices."""
    scale: float = 1.0
    """Factor on all default steps; a target of the model is hit by searching it."""
    own_scales: Mapping[str, float] = field(default_factory=dict)
    """Factor for each tensor that has a target of its own."""
    rate_scale: float = 1.0
    """Factor on all rate weights: below 1 where a target cannot be hit with those that were asked for."""
    zero_counts: Mapping[str, int] = field(default_factory=dict)
    """How many weights (or blocks) of each tensor are set to zero by one ranking of the whole model."""
    loss_per_bit: float = 0.0
    """Lambda of a calibrated model, at scale 1."""
    sampling: bool = False
    """Whether parts are made for samples, which then serve any scale."""
    quantised: QuantisedNames = NONE_QUANTISED
    """Tensors of layers that are quantised already, by their names."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """Ranks that were left to "auto" and are decided; 0: no factors."""
    transformed: Mapping[str, bool] = field(default_factory=dict)
    """Tables of which it is decided whether they are transformed, so that a target is searched for what is coded."""

    @classmethod
    def of(cls, infos: Iterable[TensorInfo], options: Options, data: Data = NO_DATA) -> Plan:
        """The plan of a model, before any search.

        Raises
        ------
        OptionError
            A rule matches no tensor, no unit can signal a qp that is given, or the stream shall be for a reader that
            could not read it.
        """
        infos = list(infos)
        _check_qp(options)
        choices = options.choices(info.name for info in infos)
        check_stream(options, data)
        for info in infos:
            check_tensor(info, choices[info.name], options)
        floats = [info for info in infos if dtypes.find(info.dtype).kind == "f"]
        sizes = [info.size for info in floats if info.size and is_matrix(info.shape)]
        plan = cls(options, data, choices, options.quantising.qp_density, statistics.median(sizes) if sizes else 1.0)
        if options.stream.compatible is None:
            plan = replace(plan, quantised=quantised_names(info for info in infos if info.role is None))
        if data.metrics is not None:
            relative = options.fineness.kind not in ("bits", "ratio", "snr") and not data.metrics.is_guess
            loss_per_bit = _loss_per_bit(infos, data.metrics, relative=relative)
            plan = replace(plan, density=FINE_DENSITY, loss_per_bit=loss_per_bit)
        computed = not all(plan.has_qp(info.name, info.shape) for info in floats)
        return replace(plan, density=FINE_DENSITY) if computed else plan

    def is_lossy(self, info: TensorInfo) -> bool:
        """Whether a tensor is to be quantised: a float tensor that has elements and no rule says raw."""
        floats = dtypes.find(info.dtype).kind == "f"
        return floats and info.size > 0 and not self.wants_raw(info)

    def wants_raw(self, info: TensorInfo) -> bool:
        """Whether a float tensor is to be kept exactly: a rule says so, or its model is quantised already."""
        return self.choices[info.name].quantising.quantizer in EXACT or self._is_quantised(info)

    def wants_lossless(self, info: TensorInfo) -> bool:
        """Whether it is to be coded without loss, rather than stored."""
        readable = self.options.stream.compatible is None
        return self.choices[info.name].quantising.quantizer == "lossless" or (self._is_quantised(info) and readable)

    def _is_quantised(self, info: TensorInfo) -> bool:
        """Whether levels were made for these values, and no rule says how fine they shall be or that they are raw."""
        choices = self.choices[info.name]
        told = info.role is not None and info.role.kind in ("scale", "kept")
        is_exact = told or info.name in self.quantised.exact
        return is_exact and not choices.own_fineness and choices.quantising.quantizer != "raw"

    def holds_levels(self, info: TensorInfo) -> bool:
        """Whether integers are levels of a model that is quantised already, of which nothing but the size counts.

        Matrices of unsigned bytes are taken for such: they lie around a zero point far from zero, where bins cost most.
        """
        told = info.role is not None and info.role.kind in LEVELS
        return told or info.name in self.quantised.levels or (info.dtype == "uint8" and len(info.shape) > 1)

    def has_qp(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a qp is given for a tensor: by a rule, or for all matrices of the model."""
        choices = self.choices[name]
        return choices.fineness.qp is not None and (choices.own_fineness or is_matrix(shape))

    def gives(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor takes part in what a target saves: vectors only for a target of their own."""
        return is_matrix(shape) or self.choices[name].own_fineness

    def given_qp(self, name: str) -> int:
        """The qp that is given, in the stream's density."""
        qp = self.choices[name].fineness.qp
        assert qp is not None
        return qp << (self.density - self.options.quantising.qp_density)

    def coarseness(self, name: str) -> float:
        """Factor on a tensor's default step."""
        return self.own_scales.get(name, self.scale) / self.choices[name].fineness.quality

    def first_dimension(self, name: str, shape: tuple[int, ...]) -> int:
        """The dimension of a tensor that is coded as rows; vectors have but one.

        Raises
        ------
        OptionError
            The tensor has too few dimensions, or the edition no place for it.
        """
        first = self.choices[name].layout.first_dimension
        if first and self.options.stream.profile == 0:
            raise OptionError(
                f"{name}: first_dimension is {first}, which the first edition (profile 0) has no place for"
            )
        if first and len(shape) > 1 and first >= len(shape):
            raise OptionError(f"{name}: first_dimension is {first}, the tensor has {len(shape)} dimensions")
        return first if len(shape) > 1 else 0
