"""Finding the steps that hit a target: bits per weight, percent of the original size, or signal-to-noise ratio.

Three ways were weighed: bisection with a whole encoding each time (exact, many times the cost), a closed formula for
rate and distortion (free, wrong by several percent at low rates), and a search on samples with the coder's own size
estimate. The last costs a fraction of one encoding; what it misses is corrected after the real encoding, whose size
tells by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from nncjit.encoder.choices import Fineness, FinenessKind
from nncjit.encoder.model_samples import UnitSample, take_samples
from nncjit.encoder.plan import Plan
from nncjit.encoder.representatives import representatives
from nncjit.encoder.table_transform import may_be_transformed
from nncjit.errors import OptionError
from nncjit.model import Model, TensorInfo
from nncjit.progress import Progress

TOLERANCE = 0.01
"""How near a target must be hit, as a share of it."""
LEAST_BUDGET = 0.25
"""Share of its nominal rate that a size target must leave to the weights. Where headers, vectors and integers leave
less, the weights get their nominal rate all the same: a target is no reason to ruin a model."""
NO_ROOM = "headers, vectors, integers and raw tensors take most of that, and the weights are kept usable"
"""Why a size target is missed whose weights get their nominal rate."""
RATE_SCALES = (1.0, 0.5, 0.2, 0.05, 0.0)
"""Factors on the rate weights that are tried, in turn, until a target can be hit."""

FAR = 2.0
"""Factor on the step within which it is not decided anew whether a table is transformed."""
USUAL_TRIES = 12
"""Scales that a search tries, about."""

_OCTAVES = 24.0
_SCAN = np.arange(-14.0, 16.5, 0.5)
"""Scales, as log2, that are tried where the secant does not lead to the target."""
_HALVINGS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be hit, as a number that grows with finer steps."""

    kind: FinenessKind
    wanted: float
    slope: float
    """Its change for one octave of finer steps."""
    unit: float
    """Bits for one of it; 0: it is a signal-to-noise ratio, of the weights or of the output."""
    power: float = 0.0
    """Of the output, where it is a loss."""

    @classmethod
    def of(cls, fineness: Fineness, weights: int, original_bytes: int, output_power: float = 0.0) -> Target | None:
        """The target of a model or of one tensor; None where there is none."""
        weights, original_bytes = max(weights, 1), max(original_bytes, 1)
        match fineness.kind:
            case "snr":
                return cls("snr", fineness.value, 20 * math.log10(2), 0.0)
            case "loss":
                return cls("loss", decibels(1.0, fineness.value), 20 * math.log10(2), 0.0, output_power)
            case "bits":
                return cls("bits", fineness.value, 1.0, float(weights))
            case "ratio":
                slope = 100.0 * weights / (8 * original_bytes)
                return cls("ratio", fineness.value, slope, original_bytes * 8 / 100.0)
        return None

    def measure(self, bits: float, error: float, power: float, loss: float) -> float:
        """What was reached, from bits, sum of squared errors, sum of squares, and the loss of a calibration."""
        if self.kind == "loss":
            return decibels(self.power, 2.0 * loss)
        return bits / self.unit if self.unit else decibels(power, error)

    def shown(self, reached: float) -> float:
        """A number that was reached, or is wanted, as the user gives it."""
        return 10.0 ** (-reached / 10.0) if self.kind == "loss" else reached

    def met(self, reached: float) -> bool:
        """Whether this is the target within its tolerance."""
        return abs(reached - self.wanted) <= TOLERANCE * abs(self.wanted)

    def miss(self, reached: float) -> float:
        """How far from the target this is, in octaves of the step, about; infinite where nothing is lost."""
        return abs(reached - self.wanted) / self.slope


@dataclass(frozen=True, slots=True)
class Aim:
    """A target, and what the search goes for in its stead."""

    name: str | None
    """The tensor that has the target; None: the model."""
    target: Target
    goal: Target
    """The same, or what is left of it where it cannot be reached."""
    search: _Search | None = None
    """What found the scale; None where nothing could be searched."""

    @property
    def slope(self) -> float:
        """What one octave of finer steps changes, near the goal."""
        return self.goal.slope if self.search is None else self.search.local_slope()


@dataclass(slots=True)
class _Telling:
    """Tells how far searches are, as a share of the weights: how many scales they will try is not known before."""

    progress: Progress | None
    weights: int
    expected: int
    """Tries of all searches."""
    tries: int = 0

    def another(self) -> None:
        """A scale was tried."""
        self.tries += 1
        self._tell(self.weights * min(self.tries, self.expected - 1) // self.expected)

    def end(self) -> None:
        """Nothing is left to search; what is tried from now on corrects an encoding."""
        if self.tries:
            self._tell(self.weights)
        self.progress = None

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, self.weights, "search")


@dataclass(slots=True)
class _Search:
    """Looks for the scale that hits a target on samples."""

    goal: Target
    samples: Sequence[UnitSample]
    plan_at: Callable[[float], Plan]
    tried: Callable[[], object]
    """Called after each try."""
    best: float = 0.0
    """log2 of 1 / scale."""
    miss: float = math.inf

    def run(self) -> bool:
        """Look in a bracket that shrinks, as if finer steps always gave more; where that fails, everywhere."""
        return self._by_secant() or self._by_scan()

    def _reached(self, x: float) -> float:
        plan = self.plan_at(2.0**-x)
        costs = [sample.cost(plan) for sample in self.samples]
        power = sum(sample.power for sample in self.samples)
        reached = self.goal.measure(
            sum(c.bits for c in costs), sum(c.error for c in costs), power, sum(c.loss for c in costs)
        )
        if self.goal.miss(reached) < self.miss:
            self.best, self.miss = x, self.goal.miss(reached)
        self.tried()
        return reached

    def local_slope(self) -> float:
        """What one octave of finer steps changes around the best scale: at low rates much less than at high ones."""
        x, step = self.best, 0.125
        change = (self._reached(x + step) - self._reached(x - step)) / (2 * step)
        return change if math.isfinite(change) and change > 0.05 * self.goal.slope else self.goal.slope

    @property
    def _hit(self) -> bool:
        return self.miss * self.goal.slope <= TOLERANCE * abs(self.goal.wanted)

    def _by_secant(self) -> bool:
        coarse, fine, x = -_OCTAVES, _OCTAVES, 0.0
        for _ in range(30):
            more = self.goal.wanted - self._reached(x)
            if self.miss * self.goal.slope <= 0.1 * TOLERANCE * abs(self.goal.wanted) or fine - coarse < 0.002:
                break
            coarse, fine = (x, fine) if more > 0 else (coarse, x)
            x += min(max(more / self.goal.slope, -4.0), 4.0) if math.isfinite(more) else -4.0
            if not coarse < x < fine:
                x = (coarse + fine) / 2
        return self._hit

    def _by_scan(self) -> bool:
        """Halve every interval of a grid in which the target is crossed, from the finest on."""
        finer = [(x, self._reached(x) >= self.goal.wanted) for x in _SCAN[::-1].tolist()]
        for (fine, above), (coarse, above_too) in pairwise(finer):
            if above == above_too:
                continue
            low, high = coarse, fine
            for _ in range(_HALVINGS):
                if self._hit:
                    return True
                middle = (low + high) / 2
                low, high = (low, middle) if (self._reached(middle) >= self.goal.wanted) == above else (middle, high)
        return self._hit


def solve(
    plan: Plan,
    model: Model,
    target: Target | None,
    pool: Executor | None,
    total: int | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, list[UnitSample], list[Aim]]:
    """The plan with the scales that meet the targets, samples of the model as it will then be coded, and the aims.

    Ranks that are left to "auto", and whether tables are transformed, depend on the noise that is allowed: they are
    decided anew at the scale that was found (of tables, where it is far from where the search began), then kept while
    the search goes on from there.

    Parameters
    ----------
    target : Target or None
        Of the whole model.
    total : int, optional
        Weights of the whole, where the model is a piece of a larger one.
    progress : callable, optional
        Told how far the samples, then the searches are.
    """
    samples = take_samples(model, plan, pool, total, progress)
    plan, aims = _with_scales(plan, model, samples, target, progress)
    automatic = {name for name, choices in plan.choices.items() if choices.reducing.rank == "auto"}
    if automatic and aims:
        samples = take_samples(model, plan, pool, total, progress)
        ranks = {s.infos[0].name: s.rank for s in samples if s.infos[0].name in automatic}
        plan, aims = _with_scales(replace(plan, ranks=ranks), model, samples, target, progress)
    own = [tensor for tensor in model if tensor.info.same_as is None]
    tables = [tensor for tensor in own if may_be_transformed(tensor.info, plan)]
    if tables and aims:
        far = [t for t in tables if not 1 / FAR <= plan.own_scales.get(t.name, plan.scale) <= FAR]
        total = total or sum(tensor.size for tensor in own)
        anew = {s.infos[0].name: s for s in (take_samples(Model(far), plan, pool, total) if far else ())}
        known = [(sample, anew.get(sample.infos[0].name, sample)) for sample in samples]
        samples = [sample for _, sample in known]
        names = {tensor.name for tensor in tables}
        decided = {s.infos[0].name: s.rank > 0 for s in samples if s.infos[0].name in names}
        plan = replace(plan, transformed=decided)
        if any(earlier.rank != sample.rank for earlier, sample in known):
            plan, aims = _with_scales(plan, model, samples, target, progress)
    return plan, samples, aims


def _with_scales(
    plan: Plan, model: Model, samples: list[UnitSample], model_target: Target | None, progress: Progress | None
) -> tuple[Plan, list[Aim]]:
    """First the scales of tensors with targets of their own, then the model's."""
    own: dict[str, float] = {}
    aims = []
    searches = sum(own_target(plan, sample) is not None for sample in samples) + (model_target is not None)
    telling = _Telling(progress, sum(tensor.size for tensor in model), USUAL_TRIES * searches)
    for sample in samples:
        name = sample.infos[0].name
        target = own_target(plan, sample)
        if target is None:
            continue
        aim = _aim(name, target, [sample], plan)
        if sample.parts:
            search = _Search(aim.goal, [sample], partial(_plan_for_one, plan, name), telling.another)
            search.run()
            own[name] = 2.0**-search.best
            aim = replace(aim, search=search)
        aims.append(aim)
    plan = replace(plan, own_scales=own)
    if model_target is None:
        telling.end()
        return plan, aims
    samples = representatives(samples, model, plan)
    plan, aim = _model_plan(plan, _aim(None, model_target, samples, plan), samples, telling)
    telling.end()
    return plan, [*aims, aim]


def _model_plan(plan: Plan, aim: Aim, samples: list[UnitSample], telling: _Telling) -> tuple[Plan, Aim]:
    """The plan with the model's scale, and with lower rate weights where it cannot be hit with those asked for.

    Rate-distortion decisions have two minima at low rates, one with next to no weights left: between them are rates
    that no step gives.
    """
    found: list[tuple[_Search, Plan]] = []
    for rate_scale in RATE_SCALES if plan.rate_scale and weighs_rate(plan) else (plan.rate_scale,):
        trial = replace(plan, rate_scale=rate_scale)
        search = _Search(aim.goal, samples, partial(_plan_at, trial), telling.another)
        hit = search.run()
        found.append((search, replace(trial, scale=2.0**-search.best)))
        if hit:
            break
    search, plan = found[-1] if hit else min(found, key=lambda pair: pair[0].miss)
    return plan, replace(aim, search=search)


def _plan_at(plan: Plan, scale: float) -> Plan:
    return replace(plan, scale=scale)


def _plan_for_one(plan: Plan, name: str, scale: float) -> Plan:
    return replace(plan, own_scales={name: scale})


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a coarser scale would not save, and the tensors that give."""

    bits: float
    giving_size: float
    giving_bytes: float

    @classmethod
    def of(cls, samples: Sequence[UnitSample], plan: Plan) -> Fixed:
        giving = [(s.count, i) for s in samples for i in s.infos if s.parts and plan.gives(i.name, i.shape)]
        bits = sum(sample.fixed_cost(plan) for sample in samples)
        size, n_bytes = sum(n * info.size for n, info in giving), sum(n * info.nbytes for n, info in giving)
        return cls(bits, size, n_bytes)

    @classmethod
    def together(cls, pieces: Sequence[Fixed]) -> Fixed:
        """Of a model, from that of its pieces."""
        return cls(
            sum(piece.bits for piece in pieces),
            sum(piece.giving_size for piece in pieces),
            sum(piece.giving_bytes for piece in pieces),
        )


def _aim(name: str | None, target: Target, samples: Sequence[UnitSample], plan: Plan) -> Aim:
    """The aim for a target."""
    return Aim(name, target, goal_of(target, Fixed.of(samples, plan)) if target.unit else target)


def goal_of(target: Target, fixed: Fixed) -> Target:
    """The target itself, unless what cannot give leaves too little of it to the weights."""
    if not target.unit:
        return target
    if target.kind == "bits":
        nominal = target.wanted * fixed.giving_size
    else:
        nominal = target.wanted / 100.0 * 8.0 * fixed.giving_bytes
    if target.wanted * target.unit - fixed.bits >= LEAST_BUDGET * nominal:
        return target
    return replace(target, wanted=(fixed.bits + nominal) / target.unit)


def corrected(plan: Plan, aims: Sequence[Aim], reached: Sequence[float]) -> Plan:
    """The plan with its scales moved by what an encoding with it has missed."""
    own, scale = dict(plan.own_scales), plan.scale
    for aim, value in zip(aims, reached, strict=True):
        if not math.isfinite(value) or aim.goal.met(value):
            continue
        factor = 2.0 ** min(max((value - aim.goal.wanted) / aim.slope, -1.0), 1.0)
        if aim.name is None:
            scale *= factor
        elif aim.name in own:
            own[aim.name] *= factor
    return replace(plan, own_scales=own, scale=scale)


def own_target(plan: Plan, sample: UnitSample) -> Target | None:
    """The target of a unit whose tensor has one by a rule."""
    choices = plan.choices[sample.infos[0].name]
    if not choices.own_fineness:
        return None
    return Target.of(choices.fineness, sum(i.size for i in sample.infos), sum(i.nbytes for i in sample.infos))


def target_of(plan: Plan, infos: Iterable[TensorInfo]) -> Target | None:
    """The target of a whole model; sizes count each tied tensor once for every name that it has."""
    infos = list(infos)
    fineness, output_power = plan.options.fineness, 0.0
    if fineness.kind == "loss":
        if plan.data.metrics is None:
            raise OptionError("loss is what a calibration expects of the output: give a calibration, or another target")
        output_power = plan.data.metrics.output_power
    return Target.of(fineness, sum(info.size for info in infos), sum(info.nbytes for info in infos), output_power)


def told_once(misses: Sequence[str]) -> list[str]:
    """One sentence about the tensors that miss targets of their own, of sentences about each."""
    if not misses[1:]:
        return list(misses)
    return [f"{misses[0]}; {len(misses) - 1} more {'tensors miss' if misses[2:] else 'tensor misses'} their targets"]


def weighs_rate(plan: Plan) -> bool:
    """Whether any tensor is quantised with a weight on its rate."""
    return any(choices.quantising.rate_weight for choices in plan.choices.values())


def has_targets(plan: Plan) -> bool:
    """Whether any target is set, for the model or for a tensor."""
    return any(fineness.is_target for fineness in (plan.options.fineness, *(c.fineness for c in plan.choices.values())))


def relative_loss(loss: float, plan: Plan) -> float | None:
    """The output's expected squared error as a share of its power; None without calibration, or without that power."""
    metrics = plan.data.metrics
    power = 0.0 if metrics is None or metrics.is_guess else metrics.statistics.output_power
    return 2.0 * loss / power if power else None


def decibels(power: float, error: float) -> float:
    """Signal-to-noise ratio in dB; infinite without error."""
    if error <= 0.0:
        return math.inf
    return 10.0 * math.log10(power / error) if power > 0.0 else -math.inf
