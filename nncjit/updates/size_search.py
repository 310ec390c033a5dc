"""The steps with which an update comes to so many bytes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from nncjit.encoder.plan import Plan
from nncjit.errors import NncWarning

if TYPE_CHECKING:
    from nncjit.updates.update_encoder import UpdateJob, Written

ATTEMPTS, CLOSE = 5, 0.02
"""Encodings at the most for a size, and how near below it one must come."""
LEAST_SCALE, MOST_SCALE, HALVINGS = 2.0**-10, 2.0**10, 9
"""Of the steps, where a size is looked for."""
REFINEMENTS = 4
"""Encodings at the most by which the weight of bits comes nearer to a size."""
RATE_SCALES = (1.0, 0.4, 0.1, 0.0)
"""Factors on the weight of bits that are tried for a size."""
BEYOND = 1.1
"""Factor from step to step where the estimate does not lead below a size."""
JUMP = 0.1
"""By how much an estimate may miss a size, beyond which bits weigh too much for it."""


def to_size(job: UpdateJob, plan: Plan, file: BinaryIO, goal: float) -> Written:
    """The encoding whose size comes nearest to the goal without being more than it, where there is one.

    Bits fall with the scale of the steps. They are estimated on samples; what an encoding comes to in fact corrects the
    estimate for the next. Where bits weigh much they fall all at once, from too many to none: then they weigh less.
    """
    coder = job.coder(plan)
    curves = [coder.sampled_bits(t, job.structure.origins[t.name]) for t in job.new if t.same_as is None]

    def estimated(rated: Plan, scale: float) -> float:
        return sum(curve(replace(rated, scale=scale)) for curve in curves) / 8

    rated, scale = plan, MOST_SCALE
    for rate_scale in RATE_SCALES:
        rated = replace(plan, rate_scale=rate_scale)
        scale = _solved(partial(estimated, rated), goal)
        if abs(estimated(rated, scale) - goal) < JUMP * goal:
            break
    aimed, tried = goal, dict[float, int]()
    while scale not in tried and len(tried) < ATTEMPTS:
        written = job.run(replace(rated, scale=scale), file)
        tried[scale] = written.size
        if _meets(written.size, goal):
            return written
        aimed = max(aimed + 0.995 * goal - written.size, aimed / 4)
        scale = _solved(partial(estimated, rated), aimed)
    for _ in range(ATTEMPTS):  # the estimate has a jump there: on from the largest step, to be below in any case
        if min(tried.values()) <= goal or max(tried) >= MOST_SCALE:
            break
        scale = max(tried) * BEYOND
        tried[scale] = job.run(replace(rated, scale=scale), file).size
    found = [(size, replace(rated, scale=scale)) for scale, size in tried.items()]
    if min(tried.values()) > goal:  # what has no target is not larger than it then is, and hardly anything is smaller
        found += [(job.run(other, file).size, other) for other in (plan, replace(plan, scale=MOST_SCALE))]
    size, best = min(found, key=lambda one: (one[0] > goal, abs(one[0] - goal)))
    written = _filled(job, best, file, size, goal)
    if not (1 - 5 * CLOSE) * goal <= written.size <= goal:
        reason = f"{written.overhead} bytes are head and checks" if written.size > goal else "no step comes nearer"
        warnings.warn(f"size is {goal:.0f}, reached {written.size}: {reason}", NncWarning, stacklevel=4)
    return written


def _filled(job: UpdateJob, plan: Plan, file: BinaryIO, size: int, goal: float) -> Written:
    """The encoding by a plan, or, where that leaves much of the goal, by one whose bits weigh less.

    Steps are powers of 2^(1/4) or so, and where one matrix is most of a model its size jumps from each to the next. The
    weight of bits has no steps.
    """
    weight, lighter, heavier = plan.rate_scale, 0.0, plan.rate_scale
    for _ in range(REFINEMENTS if size < (1 - CLOSE) * goal and heavier else 0):
        weight = (lighter + heavier) / 2
        written = job.run(replace(plan, rate_scale=weight), file)
        if _meets(written.size, goal):
            return written
        if written.size > goal:
            lighter = weight
        else:
            heavier = weight
    return job.run(replace(plan, rate_scale=heavier), file)


def _meets(size: int, goal: float) -> bool:
    return (1 - CLOSE) * goal <= size <= goal


def _solved(estimated: Callable[[float], float], goal: float) -> float:
    """The scale of the steps at which an update has about so many bytes."""
    low, high = math.log2(LEAST_SCALE), math.log2(MOST_SCALE)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if estimated(2.0**middle) > goal:
            low = middle
        else:
            high = middle
    return math.exp2(high)
