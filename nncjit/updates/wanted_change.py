"""What the difference of a tensor has to say, before anything of it is lost."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nncjit import dtypes
from nncjit.encoder.measure import Measured, measure
from nncjit.encoder.plan import Plan
from nncjit.encoder.reduction import reduced
from nncjit.model import TensorInfo
from nncjit.quant.moments import Moments, difference_moments, moments
from nncjit.updates.chain_state import Array, Parameter
from nncjit.updates.common_part import fitted
from nncjit.updates.update_options import UpdateOptions

NEW_ALONE = 2.0**-3
"""Factor on the spread of a tensor of which only what is new has to be said: it is as precise as a whole tensor is by
default, 32 dB instead of 14."""


@dataclass(frozen=True)
class Wanted:
    """What a difference has to say, float32."""

    new: Array
    difference: Array
    predicted: Array | None
    """What the receiver adds to a difference by itself."""
    common: tuple[slice, ...] | None
    """Where the base has the tensor, which has another shape there; None where it has this one."""
    workers: Executor | None

    @classmethod
    def of(
        cls,
        info: TensorInfo,
        new: Array,
        base: Array,
        origin: Parameter,
        options: UpdateOptions,
        workers: Executor | None = None,
    ) -> Wanted:
        """What is wanted of a tensor that can be a difference.

        Parameters
        ----------
        info : TensorInfo
        new, base : ndarray
            Storage arrays, in the new shape.
        origin : Parameter
            What the receiver has, with what a sender carries on.
        options : UpdateOptions
        workers : Executor, optional
        """
        carried = origin.residual() if options.carry and origin.residual is not None else None
        predicts = options.predict and origin.change is not None
        values = dtypes.to_float32(new, info.dtype)
        if info.dtype != "float64" and carried is None and not predicts and origin.info.shape == info.shape:
            return cls._plain(values, dtypes.to_float32(base, info.dtype), workers)
        with np.errstate(over="ignore", invalid="ignore"):
            if info.dtype == "float64":
                difference = dtypes.to_float32(new - base, "float64")
            else:
                difference = values - dtypes.to_float32(base, info.dtype)
            if carried is not None:
                difference = difference + fitted(carried, info.shape)
            predicted = None
            if predicts and origin.change is not None:
                predicted = fitted(origin.change(), info.shape)
                difference = difference - predicted
        before = origin.info.shape
        common = None
        if before != info.shape:
            common = tuple(slice(0, min(a, b)) for a, b in zip(before, info.shape, strict=True))
        return cls(values, np.ascontiguousarray(difference, np.float32), predicted, common, workers)

    @classmethod
    def _plain(cls, new: Array, base: Array, workers: Executor | None) -> Wanted:
        new, base = np.ascontiguousarray(new), np.ascontiguousarray(base)
        difference = np.empty_like(new)
        found = difference_moments(new.reshape(-1), base.reshape(-1), difference.reshape(-1), workers)
        wanted = cls(new, difference, None, None, workers)
        wanted.know(*found)
        return wanted

    @cached_property
    def of_new(self) -> Moments:
        """Of the new values."""
        return moments(self.new, self.workers)

    @cached_property
    def of_difference(self) -> Moments:
        """Of the difference."""
        return moments(self.difference, self.workers)

    def know(self, of_new: Moments, of_difference: Moments) -> None:
        """Take moments that were found elsewhere."""
        self.__dict__.update(of_new=of_new, of_difference=of_difference)

    @property
    def power(self) -> float:
        """Sum of squares of the new values."""
        return self.of_new.energy

    @property
    def is_finite(self) -> bool:
        """Whether there is a float32 for every value and for every difference."""
        return not self.of_difference.non_finite and not self.of_new.non_finite

    def left_over(self, change: Array | float) -> Array:
        """What is wanted and not said by a change, prediction included."""
        said = change if self.predicted is None else change - self.predicted
        return np.asarray(self.difference - said, np.float32)

    def reduced(self, info: TensorInfo, plan: Plan, zero_rows: float) -> Array:
        """The difference with fewer numbers, as the options ask; what is new in it stays."""
        if self.common is None:
            return _reduced_part(info, self.difference, plan, zero_rows)
        result = self.difference.copy()
        result[self.common] = _reduced_part(info, np.ascontiguousarray(result[self.common]), plan, zero_rows)
        return result

    def measured(self, difference: Array) -> Measured:
        """Facts about the difference, or what is left of it; where a part of the tensor is new, the step follows from
        what has changed.
        """
        known = self.of_difference if difference is self.difference else None
        found = measure(difference, self.workers, known)
        if self.common is None:
            return found
        changed = measure(np.ascontiguousarray(difference[self.common]), self.workers)
        if not changed.peak:
            return replace(found, spread=found.spread * NEW_ALONE)
        return replace(changed, moments=changed.moments._replace(peak=found.peak))


def _reduced_part(info: TensorInfo, difference: Array, plan: Plan, zero_rows: float) -> Array:
    if not difference.size:
        return difference
    values = reduced(info, difference, plan)
    if zero_rows == 0.0 or len(info.shape) < 2 or not values.size:
        return values
    rows = values.reshape(len(values), -1)
    weakest = np.argsort(np.square(rows, dtype=np.float64).sum(axis=1), kind="stable")
    kept = rows.copy()
    kept[weakest[: round(zero_rows * len(rows))]] = 0
    return kept.reshape(values.shape)
