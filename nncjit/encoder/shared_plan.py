"""One plan for a model that is encoded in pieces: what must be decided of the whole travels as plain numbers.

A task that encodes a piece makes its plan of the names of all tensors, the options, and these decisions, so that each
tensor is coded as it would be were all of them in one place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO

from nncjit.encoder import targets
from nncjit.encoder.execution import Data, Execution
from nncjit.encoder.grouping import items_of
from nncjit.encoder.idle_options import warn_of_idle
from nncjit.encoder.model_encoder import EncodedPiece, write_planned
from nncjit.encoder.model_samples import Cost, UnitSample, take_samples
from nncjit.encoder.options import Options
from nncjit.encoder.plan import NO_DATA, Plan
from nncjit.encoder.reduction import zeros_of_model
from nncjit.encoder.representatives import representatives
from nncjit.encoder.stream_writer import frame_bytes
from nncjit.errors import OptionError
from nncjit.jit import threads as thread_counts
from nncjit.model import Model, TensorInfo
from nncjit.option_values import shown
from nncjit.quant import steps
from nncjit.stream.reports import TensorReport

SCALES = tuple(x / 2 for x in range(-12, 13))
"""log2 of the fineness at which a piece tells its rate and distortion; between them, cubics."""

NEAREST = "as near as samples told"


@dataclass(frozen=True, slots=True)
class Whole:
    """The model that pieces are of, and what it is to be encoded with."""

    infos: Sequence[TensorInfo]
    options: Options
    data: Data = NO_DATA


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of the whole model; see the fields of `Plan`."""

    density: int
    median_size: float
    scale: float = 1.0
    rate_scale: float = 1.0
    own_scales: Mapping[str, float] = field(default_factory=dict)
    zero_counts: Mapping[str, int] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    goal: float | None = None
    """What was gone for in place of a size target that leaves too little to the weights."""

    @classmethod
    def of(cls, plan: Plan) -> Decisions:
        return cls(
            plan.density,
            plan.median_size,
            plan.scale,
            plan.rate_scale,
            dict(plan.own_scales),
            dict(plan.zero_counts),
            dict(plan.ranks),
        )

    @classmethod
    def from_dict(cls, values: Any) -> Decisions:
        """From what `to_dict` gave, or someone wrote.

        Raises
        ------
        OptionError
            A field is unknown, missing, or of another kind.
        """
        try:
            made = cls(**values)
            wrong = made._wrong()
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise OptionError(f"the decisions of a plan are {shown(values)} ({error})") from None
        if wrong is not None:
            raise OptionError(f"the plan's {wrong} is {shown(getattr(made, wrong))}")
        return made

    def _wrong(self) -> str | None:
        """The first field that cannot be what it is."""
        positive = {"median_size": [self.median_size], "scale": [self.scale], "own_scales": self.own_scales.values()}
        others = {"rate_scale": [self.rate_scale], "goal": [] if self.goal is None else [self.goal]}
        whole = {"density": [self.density], "zero_counts": self.zero_counts.values(), "ranks": self.ranks.values()}
        for name, numbers in (positive | others | whole).items():
            kinds = int if name in whole else int | float
            for number in numbers:
                is_number = isinstance(number, kinds) and not isinstance(number, bool) and math.isfinite(number)
                if not is_number or number < 0 or (name in positive and not number):
                    return name
        return "density" if self.density > steps.MAX_DENSITY else None

    def of_tensors(self, names: Sequence[str]) -> Decisions:
        """Those that concern some tensors."""

        def some(table: Mapping[str, Any]) -> dict[str, Any]:
            return {name: table[name] for name in names if name in table}

        return replace(
            self,
            own_scales=some(self.own_scales),
            zero_counts=some(self.zero_counts),
            ranks=some(self.ranks),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and tables; of the goal only where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def plan(self, whole: Whole) -> Plan:
        """The plan of a model."""
        decided = replace(self, goal=None).to_dict()
        return replace(Plan.of(whole.infos, whole.options, whole.data), **decided)


def decide_without_targets(model: Model, whole: Whole) -> Decisions:
    """The decisions that need no sample: all of them where there is no target."""
    plan = Plan.of(whole.infos, whole.options, whole.data)
    warn_of_idle(model, plan)
    return Decisions.of(replace(plan, zero_counts=zeros_of_model(model, plan)))


def needs_samples(whole: Whole) -> bool:
    """Whether a target is to be hit, so that the tensors must be sampled first."""
    return targets.has_targets(Plan.of(whole.infos, whole.options, whole.data))


def pieces_of(model: Model, whole: Whole, decisions: Decisions) -> list[list[str]]:
    """Names of tensors that must be coded together, in the order of the stream, each with those tied to it."""
    tied: dict[str, list[str]] = {}
    for tensor in model:
        if tensor.same_as is not None:
            tied.setdefault(tensor.same_as, []).append(tensor.name)
    items = items_of(model, decisions.plan(whole))
    return [[name for t in item.all_tensors for name in (t.name, *tied.get(t.name, ()))] for item in items]


def encode_piece(
    piece: Model,
    file: BinaryIO,
    whole: Whole,
    decisions: Decisions,
    threads: int | None,
) -> EncodedPiece:
    """Write some tensors of a model as a stream of their own.

    Parameters
    ----------
    piece : Model
        The tensors, with what they are tied to.
    file : binary file
        Open for writing; the stream starts at its start.
    whole : Whole
        The model that they are of.
    """
    return write_planned(piece, file, decisions.plan(whole), Execution(threads=threads))


@dataclass(frozen=True, slots=True)
class Curve:
    """Rate and distortion of a piece at `SCALES`, and what the search for a target needs to know beside."""

    bits: tuple[float, ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    power: float
    fixed: targets.Fixed
    own_scales: Mapping[str, float]
    ranks: Mapping[str, int]


def sample_piece(piece: Model, whole: Whole, decisions: Decisions, threads: int | None) -> Curve:
    """What some tensors would cost at every scale. Targets of their own are met on the way."""
    plan = decisions.plan(whole)
    with thread_counts.pool(threads) as pool:
        total = sum(info.size for info in whole.infos if info.same_as is None)
        plan, samples, _ = targets.solve(plan, piece, None, pool, total)
        if any(choices.reducing.rank == "auto" for choices in plan.choices.values()):
            samples = take_samples(piece, plan, pool, total)
        samples = representatives(samples, piece, plan)
        plans = [replace(plan, scale=2.0**-x) for x in SCALES]
        costs = thread_counts.share([partial(_costs, sample, plans) for sample in samples], pool)
    frame = 8.0 * frame_bytes(piece, plan)
    bits = [frame + sum(of_sample[k].bits for of_sample in costs) for k in range(len(SCALES))]
    errors = [sum(of_sample[k].error for of_sample in costs) for k in range(len(SCALES))]
    losses = [sum(of_sample[k].loss for of_sample in costs) for k in range(len(SCALES))]
    power = sum(sample.power for sample in samples)
    fixed = targets.Fixed.of(samples, plan)
    fixed = replace(fixed, bits=frame + fixed.bits)
    return Curve(tuple(bits), tuple(errors), tuple(losses), power, fixed, dict(plan.own_scales), dict(plan.ranks))


def _costs(sample: UnitSample, plans: Sequence[Plan]) -> list[Cost]:
    return [sample.cost(plan) for plan in plans]


def decide_with_curves(whole: Whole, decisions: Decisions, curves: Sequence[Curve]) -> Decisions:
    """The decisions whose scale hits the model's target, as far as the curves tell."""
    own = {name: scale for curve in curves for name, scale in curve.own_scales.items()}
    ranks = {name: rank for curve in curves for name, rank in curve.ranks.items()}
    decisions = replace(decisions, own_scales=own, ranks=ranks)
    target = targets.target_of(decisions.plan(whole), whole.infos)
    if target is None:
        return decisions
    goal = targets.goal_of(target, targets.Fixed.together([curve.fixed for curve in curves]))
    power = sum(curve.power for curve in curves)
    reached = [
        goal.measure(
            sum(c.bits[k] for c in curves),
            sum(c.errors[k] for c in curves),
            power,
            sum(c.losses[k] for c in curves),
        )
        for k in range(len(SCALES))
    ]
    missed = None if goal == target else goal.wanted
    return replace(decisions, scale=2.0 ** -_where(goal, reached), goal=missed)


def _where(goal: targets.Target, reached: Sequence[float]) -> float:
    """log2 of the fineness at which a goal is met: the finest crossing, else the nearest point."""
    for k in range(len(SCALES) - 2, -1, -1):
        if reached[k] <= goal.wanted <= reached[k + 1] and reached[k] < reached[k + 1]:
            return _crossing(goal.wanted, reached, k)
    return min(zip(SCALES, reached, strict=True), key=lambda point: goal.miss(point[1]))[0]


def _crossing(wanted: float, reached: Sequence[float], k: int) -> float:
    """Where between points k and k + 1 the cubic through them and their neighbours has this value."""
    first = min(max(k - 1, 0), len(SCALES) - 4)
    near = slice(first, first + 4)
    low, high = SCALES[k], SCALES[k + 1]
    if not all(map(math.isfinite, reached[near])):
        return low + (high - low) * (wanted - reached[k]) / (reached[k + 1] - reached[k])
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if _cubic(SCALES[near], reached[near], middle) >= wanted else (middle, high)
    return low


def _cubic(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The value at x of the polynomial through all points (Lagrange's)."""
    return sum(
        y * math.prod((x - other) / (own - other) for other in xs if other != own)
        for own, y in zip(xs, ys, strict=True)
    )


def missed_targets(
    whole: Whole,
    decisions: Decisions,
    rows: Mapping[str, TensorReport],
    reached_in_all: tuple[int, float, float, float],
) -> list[str]:
    """What was reached instead of targets that were missed, and why, in words.

    Parameters
    ----------
    rows : mapping of str to TensorReport
        Of all tensors.
    reached_in_all : tuple of int, float, float, float
        Bytes of all streams; sum of squares of all lossy tensors, and of their errors; the loss of a calibration.
    """
    said = []
    size, power, error, loss = reached_in_all
    target = targets.target_of(decisions.plan(whole), whole.infos)
    if target is not None:
        reached = target.measure(8.0 * size, error, power, loss)
        if not target.met(reached):
            why = NEAREST if decisions.goal is None else targets.NO_ROOM
            said.append(f"{target.kind} is {target.shown(target.wanted):g}, reached {target.shown(reached):.4g}: {why}")
    of_tensors = []
    for name, choices in whole.options.choices(info.name for info in whole.infos).items():
        row = rows[name]
        own = targets.Target.of(choices.fineness, row.weights, row.original_bytes) if choices.own_fineness else None
        if own is None or row.snr is None or not row.bytes:
            continue
        reached = own.measure(8.0 * row.bytes, 0.0, 0.0, 0.0) if own.unit else row.snr
        if not own.met(reached):
            of_tensors.append(f"{name}: {own.kind} is {own.wanted:g}, reached {reached:.4g}: {NEAREST}")
    return said + targets.told_once(of_tensors)
