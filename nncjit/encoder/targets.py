"""Finding the steps that hit a target: bits a weight, percent of the original size, or signal-to-noise ratio.

Three ways were weighed: bisection with a whole encoding each time (exact, many times the cost), a closed formula for
rate and distortion (free, wrong by several percent at low rates), and a search on samples with the coder's own size
estimate. The last costs a fraction of one encoding; what it misses is corrected after the real encoding, whose size
tells by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial

from nncjit.encoder.choices import Fineness
from nncjit.encoder.model_samples import UnitSample, take_samples
from nncjit.encoder.plan import Plan
from nncjit.model import Model

TOLERANCE = 0.01
"""How near a target must be hit, as a share of it."""

_OCTAVES = 24.0


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
        """The target of a model or of one tensor; None where there is none."""
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

    def solve(self, samples: Iterable[UnitSample], plan_at: Callable[[float], Plan]) -> float:
        """log2 of the scale that hits the target on the samples: secant steps inside a shrinking bracket."""
        samples = list(samples)
        power = sum(sample.power for sample in samples)
        coarse, fine, x = -_OCTAVES, _OCTAVES, 0.0
        best, best_miss = x, math.inf
        for _ in range(30):
            plan = plan_at(2.0**-x)
            costs = [sample.cost(plan) for sample in samples]
            reached = self.measure(sum(c.bits for c in costs), sum(c.error for c in costs), power)
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


def solve(plan: Plan, model: Model, pool: Executor | None) -> tuple[Plan, list[UnitSample]]:
    """The plan with the scales that meet the targets, and samples of the model as it will then be coded.

    Ranks that are left to "auto" depend on the noise that is allowed: they are decided anew at the scale that was
    found, then kept while the search goes on from there.
    """
    samples = take_samples(model, plan, pool)
    plan = _with_scales(plan, samples, model)
    automatic = {name for name, choices in plan.choices.items() if choices.reducing.rank == "auto"}
    if automatic and has_targets(plan):
        samples = take_samples(model, plan, pool)
        ranks = {s.infos[0].name: s.rank for s in samples if s.infos[0].name in automatic}
        plan = _with_scales(replace(plan, ranks=ranks), samples, model)
    return plan, samples


def _with_scales(plan: Plan, samples: list[UnitSample], model: Model) -> Plan:
    """First the scales of tensors with targets of their own, then the model's."""
    own: dict[str, float] = {}
    for sample in samples:
        name = sample.infos[0].name
        target = own_target(plan, sample)
        if target is not None and sample.parts:
            x = target.solve([sample], partial(_plan_for_one, plan, name))
            own[name] = 2.0**-x
    plan = replace(plan, own_scales=own)
    target = model_target(plan, model)
    if target is None:
        return plan
    x = target.solve(samples, lambda scale: replace(plan, scale=scale))
    return replace(plan, scale=2.0**-x)


def _plan_for_one(plan: Plan, name: str, scale: float) -> Plan:
    return replace(plan, own_scales={name: scale})


def own_target(plan: Plan, sample: UnitSample) -> Target | None:
    """The target of a unit whose tensor has one by a rule."""
    choices = plan.choices[sample.infos[0].name]
    if not choices.own_fineness:
        return None
    return Target.of(choices.fineness, sum(i.size for i in sample.infos), sum(i.nbytes for i in sample.infos))


def model_target(plan: Plan, model: Model) -> Target | None:
    """The target of a whole model; sizes count each tied tensor once for every name that it has."""
    return Target.of(plan.options.fineness, sum(t.size for t in model), sum(t.nbytes for t in model))


def has_targets(plan: Plan) -> bool:
    """Whether any target is set, for the model or for a tensor."""
    return any(fineness.is_target for fineness in (plan.options.fineness, *(c.fineness for c in plan.choices.values())))


def decibels(power: float, error: float) -> float:
    """Signal-to-noise ratio in dB; infinite without error."""
    if error <= 0.0:
        return math.inf
    return 10.0 * math.log10(power / error) if power > 0.0 else -math.inf
