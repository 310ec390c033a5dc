"""Finding the steps that hit a target: bits a weight, percent of the original size, or signal-to-noise ratio.

Three ways were weighed: bisection with a whole encoding each time (exact, many times the cost), a closed formula for
rate and distortion (free, wrong by several percent at low rates), and a search on samples with the coder's own size
estimate. The last costs a fraction of one encoding; what it misses is corrected after the real encoding, whose size
tells by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from nncjit import dtypes
from nncjit.cabac.layer import Layer
from nncjit.cabac.size_estimate import estimate_bits
from nncjit.encoder.candidates import resolve
from nncjit.encoder.choices import Choices, Fineness
from nncjit.encoder.matrix import estimated_bits, quantise_matrix
from nncjit.encoder.options import Options
from nncjit.encoder.pipeline import in_order
from nncjit.encoder.plan import Plan
from nncjit.encoder.sampling import runs
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.quant.moments import Moments, moments
from nncjit.stream import integer_limbs as integers

SAMPLE_WEIGHTS = 1 << 20
"""Weights sampled of the whole model, shared among its tensors by size."""
LEAST_SAMPLE = 1 << 13
TOLERANCE = 0.01
"""How near a target must be hit, as a share of it."""
UNIT_BITS = 8 * 40
"""Header of a unit: names and dimensions, on average."""

_OCTAVES = 24.0


@dataclass(slots=True)
class Sample:
    """A share of one tensor's weights, and what coding the tensor would cost at different steps."""

    info: TensorInfo
    values: np.ndarray
    """float32[m], or int32[m] for an integer tensor."""
    moments: Moments | None
    _known: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.info.size / max(self.values.size, 1)

    def cost(self, plan: Plan) -> tuple[float, float]:
        """Bits of the whole unit and sum of squared errors with the steps of `plan`, scaled up from the sample."""
        choices = resolve(plan.choices[self.info.name])
        if self.moments is None:
            return self._integer_bits(choices, plan.options.stream.profile), 0.0
        if plan.raw_reason(self.info, self.moments):
            return 8.0 * self.info.nbytes + UNIT_BITS, 0.0
        dependent = plan.quantizer(self.info.name, self.info.shape) in ("trellis", "auto")
        qp = plan.qp(self.info.name, self.info.shape, self.moments, dependent=dependent)
        if qp not in self._known:
            layer = Layer.of(
                (1, self.values.size),
                dq=dependent,
                unary_length=int(choices.coding.unary_length),
                profile=plan.options.stream.profile,
            )
            unbiased = plan.is_unbiased(self.info.name, self.info.shape)
            matrix = quantise_matrix(
                self.values, self.moments.peak, qp, plan.density, choices, layer, unbiased=unbiased
            )
            self._known[qp] = estimated_bits(matrix, self.share) + UNIT_BITS, self.share * matrix.error
        return self._known[qp]

    def _integer_bits(self, choices: Choices, profile: int) -> float:
        if not self.values.size:
            return UNIT_BITS
        if 0 not in self._known:
            layer = Layer.of((1, self.values.size), unary_length=int(choices.coding.unary_length), profile=profile)
            self._known[0] = self.share * estimate_bits(self.values, layer) + UNIT_BITS, 0.0
        return self._known[0][0]


def take_samples(model: Model, pool: Executor | None) -> list[Sample]:
    """Samples of all tensors that are stored (tied ones are not)."""
    stored = [tensor for tensor in model if tensor.same_as is None]
    total = max(sum(tensor.size for tensor in stored), 1)
    sampled = in_order(((t, t.size) for t in stored), lambda tensor, _: _sample(tensor, total), pool)
    return list(sampled)


def _sample(tensor: Tensor, total: int) -> Sample:
    storage = tensor.read()
    wanted = max(LEAST_SAMPLE, SAMPLE_WEIGHTS * tensor.size // total)
    if dtypes.find(tensor.dtype).kind != "f":
        if tensor.size and integers.peak(storage) >= 1 << 30:
            storage = integers.split(storage)
        return Sample(tensor.info, runs(storage.reshape(-1), wanted).astype(np.int32), None)
    values = dtypes.to_float32(storage, tensor.dtype).reshape(-1)
    return Sample(tensor.info, runs(values, wanted), moments(values))


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be hit, as a number that grows with finer steps."""

    wanted: float
    slope: float
    """Its change for one octave of finer steps."""
    unit: float
    """Bits for one of it; 0: it is a signal-to-noise ratio."""

    @classmethod
    def of(cls, fineness: Fineness, weights: int, original_bytes: int) -> Target | None:
        """The target of a model or of one tensor, None where its fineness is none."""
        weights, original_bytes = max(weights, 1), max(original_bytes, 1)
        match fineness.kind:
            case "snr":
                return cls(fineness.value, 20 * math.log10(2), 0.0)
            case "bits":
                return cls(fineness.value, 1.0, float(weights))
            case "ratio":
                slope = 100.0 * weights / (8 * original_bytes)
                return cls(fineness.value, slope, original_bytes * 8 / 100.0)
        return None

    def measure(self, bits: float, error: float, power: float) -> float:
        """What was reached, from bits, sum of squared errors and sum of squares."""
        return bits / self.unit if self.unit else decibels(power, error)

    def met(self, reached: float) -> bool:
        return abs(reached - self.wanted) <= TOLERANCE * abs(self.wanted)

    def solve(self, samples: Iterable[Sample], plan_at: Callable[[float], Plan]) -> float:
        """log2 of the scale that hits the target on the samples: secant steps inside a shrinking bracket."""
        samples = list(samples)
        power = sum(s.moments.power * s.moments.size for s in samples if s.moments is not None)
        coarse, fine, x = -_OCTAVES, _OCTAVES, 0.0
        best, best_miss = x, math.inf
        for _ in range(30):
            plan = plan_at(2.0**-x)
            costs = [sample.cost(plan) for sample in samples]
            reached = self.measure(sum(bits for bits, _ in costs), sum(error for _, error in costs), power)
            miss = self.wanted - reached
            if abs(miss) < best_miss:
                best, best_miss = x, abs(miss)
            if best_miss <= 0.1 * TOLERANCE * abs(self.wanted) or fine - coarse < 0.002:
                break
            coarse, fine = (x, fine) if miss > 0 else (coarse, x)
            x += min(max(miss / self.slope, -4.0), 4.0) if math.isfinite(miss) else -4.0
            if not coarse < x < fine:
                x = (coarse + fine) / 2
        return best


def solve(plan: Plan, samples: list[Sample], model: Model) -> Plan:
    """The plan with the scales that meet the targets: first those of single tensors, then the model's."""
    own = {}
    for sample in samples:
        choices = plan.choices[sample.info.name]
        target = Target.of(choices.fineness, sample.info.size, sample.info.nbytes)
        if choices.own_fineness and target is not None and sample.moments is not None:
            name = sample.info.name
            x = target.solve([sample], partial(_plan_for_one, plan, name))
            own[name] = 2.0**-x
    plan = replace(plan, own_scales=own)
    target = model_target(plan.options, model)
    if target is None:
        return plan
    x = target.solve(samples, lambda scale: replace(plan, scale=scale))
    return replace(plan, scale=2.0**-x)


def _plan_for_one(plan: Plan, name: str, scale: float) -> Plan:
    return replace(plan, own_scales={name: scale})


def model_target(options: Options, model: Model) -> Target | None:
    """The target of a whole model; sizes count each tied tensor once for every name that it has."""
    return Target.of(options.fineness, sum(t.size for t in model), sum(t.nbytes for t in model))


def needs_samples(plan: Plan) -> bool:
    """Whether any target is set."""
    return plan.options.fineness.is_target or any(choices.fineness.is_target for choices in plan.choices.values())


def estimate(plan: Plan, samples: list[Sample]) -> Iterator[tuple[TensorInfo, float, float]]:
    """(tensor, bytes, sum of squared errors) for each sample: a dry run."""
    for sample in samples:
        bits, error = sample.cost(plan)
        yield sample.info, bits / 8, error


def decibels(power: float, error: float) -> float:
    """Signal-to-noise ratio in dB; infinite without error."""
    if error <= 0.0:
        return math.inf
    return 10.0 * math.log10(power / error) if power > 0.0 else -math.inf
