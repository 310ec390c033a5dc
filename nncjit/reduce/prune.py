"""Pruning: whole channels are removed, and every tensor that has something for them shrinks.

Which dimensions belong together is told by a graph (`nncjit.reduce.graph`). A network in which channels are removed
computes what it would with all their members set to zero, as long as nothing between the members turns zero into
something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Label, Named, Whole, Word, checked, shown, unknown
from nncjit.reduce.graph import GROUPS, Group, check_groups, shapes_of
from nncjit.reduce.views import array_of, checked_share


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is removed from which tensor, and how to do and undo it."""

    kept: dict[str, np.ndarray]
    """int64: the channels that stay, ascending, for each group."""
    positions: dict[str, tuple[np.ndarray | None, ...]]
    """For each tensor that shrinks and each of its axes: the positions that stay, int64, or None for all."""
    full_shapes: dict[str, tuple[int, ...]]
    """Shapes before, of all tensors."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes after, of all tensors: the dictionary of the pruning container. Spec, section 11."""
        return {name: self._shape(name) for name in self.full_shapes}

    def shrink(self, name: str, values: np.ndarray) -> np.ndarray:
        """The tensor without what is removed, a new array; `values` itself where nothing is."""
        values = self._checked(name, values, self._full_shape(name))
        for axis, kept in enumerate(self.positions.get(name, ())):
            if kept is not None:
                values = np.take(values, kept, axis=axis)
        return values

    def mask(self, name: str) -> np.ndarray:
        """bool[full shape], True = removed: in row-major order the bits of the pruning container. Spec, section 11."""
        shape = self._full_shape(name)
        mask = np.zeros(shape, np.bool_)
        for axis, kept in enumerate(self.positions.get(name, ())):
            if kept is not None:
                removed = np.ones(shape[axis], np.bool_)
                removed[kept] = False
                mask[(slice(None),) * axis + (removed,)] = True
        return mask

    def rebuild(self, name: str, values: np.ndarray) -> np.ndarray:
        """The full-size tensor from the shrunk one, zeros where something was removed."""
        self._full_shape(name)
        values = self._checked(name, values, self._shape(name))
        if name not in self.positions:
            return values
        full = np.zeros(self.full_shapes[name], values.dtype)
        full[np.ix_(*self._kept_everywhere(name))] = values
        return full

    def _kept_everywhere(self, name: str) -> list[np.ndarray]:
        shape = self.full_shapes[name]
        return [np.arange(n) if kept is None else kept for n, kept in zip(shape, self.positions[name], strict=True)]

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.positions:
            return self.full_shapes[name]
        return tuple(len(kept) for kept in self._kept_everywhere(name))

    def _full_shape(self, name: str) -> tuple[int, ...]:
        if checked("name", Label(), name) not in self.full_shapes:
            raise ModelError(unknown("tensor of this pruning is called", name, self.full_shapes))
        return self.full_shapes[name]

    def _checked(self, name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        values = array_of(values, name)
        if values.shape != shape:
            raise ModelError(f"{name}: has shape {values.shape}, the pruning expects {shape}")
        return values


def plan_pruning(
    tensors: Mapping[str, np.ndarray],
    groups: Sequence[Group],
    scores: Mapping[str, np.ndarray],
    *,
    share: float | Mapping[str, float] | None = None,
    count: int | Mapping[str, int] | None = None,
    scope: str = "group",
    minimum: int = 1,
) -> Pruning:
    """Choose the channels to remove: those of least score.

    Parameters
    ----------
    tensors : mapping of arrays
        Only their shapes are looked at.
    groups : sequence of Group
    scores : mapping of float[size]
        Importance of each channel of each group, larger is more important: from `channel_scores`, or one's own.
    share, count : float or int, or a mapping of them by group name
        How much to remove of each group (scope "group") or of all channels together (scope "model", one number); a
        share is rounded. Groups that a mapping leaves out lose nothing. Ties go by order, the first channel goes
        first.
    minimum : int
        Channels that every group keeps. It limits a share; a count that it does not allow is an error.

    Raises
    ------
    OptionError
        Target or scope out of range, a target for an unknown group, scores that are missing, of another length, or NaN.
    ModelError
        The graph does not fit the tensors (`check_groups`).
    """
    checked("scope", Word("group", "model"), scope)
    minimum = checked("minimum", Whole(1, 1 << 62), minimum)
    groups, shapes = checked("groups", GROUPS, groups), shapes_of(tensors)
    check_groups(groups, shapes)
    ranked = _checked_scores(groups, scores)
    names = [group.name for group in groups]
    parts = [groups] if scope == "model" else [[group] for group in groups]
    removed: dict[str, np.ndarray] = {}
    for part in filter(None, parts):
        own = part[0].name if scope == "group" else None
        number = _number(part, _own(share, own, names), _own(count, own, names), minimum)
        removed |= _least(part, ranked, number, minimum)
    kept = {name: np.flatnonzero(~removed[name]) for name in names}
    return Pruning(kept, _positions(groups, removed, shapes), shapes)


def _own(target: float | Mapping[str, float] | None, group: str | None, names: Sequence[str]) -> float | None:
    """The target of one group, or (group None) of all."""
    if not isinstance(target, Mapping):
        return target
    others = [name for name in target if name not in names]
    if others or group is None:
        raise OptionError(
            f"a target by group needs the scope 'group' and known groups{', not ' if others else ''}"
            f"{', '.join(map(shown, others))}"
        )
    return target.get(group, 0)


def _checked_scores(groups: Sequence[Group], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    scores = checked("scores", Named("arrays"), scores)
    ranked = {}
    for group in groups:
        if group.name not in scores:
            raise OptionError(f"group {group.name}: has no scores")
        found = array_of(scores[group.name], f"scores of group {group.name}")
        if found.dtype.kind not in "fiu" or found.shape != (group.size,) or np.isnan(found).any():
            raise OptionError(f"group {group.name}: needs {group.size} scores that are numbers")
        ranked[group.name] = found.astype(np.float64)
    return ranked


def _number(groups: Sequence[Group], share: float | None, count: float | None, minimum: int) -> int:
    """How many channels of these groups go."""
    name = groups[0].name if len(groups) == 1 else "all groups"
    free = sum(max(group.size - minimum, 0) for group in groups)
    if (share is None) == (count is None):
        raise OptionError(f"{name}: pruning needs either a share or a count")
    if share is not None:
        return min(round(checked_share(share, name) * sum(group.size for group in groups)), free)
    count = int(checked(f"{name}: count", Whole(0, 1 << 62), count))
    if count > free:
        raise OptionError(f"{name}: cannot remove {count} channels, {free} are free to go")
    return count


def _least(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], number: int, minimum: int
) -> dict[str, np.ndarray]:
    """The `number` channels of least score of all these groups, bool[size] each, leaving `minimum` in each group."""
    removed = {group.name: np.zeros(group.size, np.bool_) for group in groups}
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    channel = np.concatenate([np.arange(group.size) for group in groups])
    free = [max(group.size - minimum, 0) for group in groups]
    order = np.argsort(np.concatenate([scores[group.name] for group in groups]), kind="stable")
    for at in order.tolist():
        if not number:
            break
        if free[owner[at]]:
            removed[groups[owner[at]].name][channel[at]] = True
            free[owner[at]] -= 1
            number -= 1
    return removed


def _positions(
    groups: Sequence[Group], removed: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[np.ndarray | None, ...]]:
    """What stays on each axis of each tensor that loses something."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for group in groups:
        channels = np.flatnonzero(removed[group.name])
        for member in group.members if channels.size else ():
            shape = shapes[member.tensor]
            axis = member.axis_in(shape)
            mark = gone.setdefault((member.tensor, axis), np.zeros(shape[axis], np.bool_))
            mark[member.positions(channels, group.size)] = True
    return {
        name: tuple(np.flatnonzero(~gone[name, axis]) if (name, axis) in gone else None for axis in range(len(shape)))
        for name, shape in shapes.items()
        if any(key[0] == name for key in gone)
    }


def kept_positions(mask: np.ndarray, *, name: str = "tensor") -> tuple[np.ndarray, ...]:
    """What stays on each axis of a tensor, int64 each, from its bit mask alone (bool[full shape], True = removed).

    Raises
    ------
    ModelError
        The mask does not remove whole positions of axes, so what is left has no shape.
    """
    mask = _bits(mask, name)
    kept = tuple(
        np.flatnonzero(~mask.all(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    )
    if mask[np.ix_(*kept)].any():
        raise ModelError(f"{name}: the pruning mask does not remove whole channels")
    return kept


def rebuild_from_mask(values: np.ndarray, mask: np.ndarray, *, name: str = "tensor") -> np.ndarray:
    """The full-size tensor from what is left and the bit mask, zeros where True. The mask may be of any pattern.

    Raises
    ------
    ModelError
        The mask leaves another number of weights than there are.
    """
    values, mask = array_of(values, name), _bits(mask, name)
    if mask.size - np.count_nonzero(mask) != values.size:
        raise ModelError(
            f"{name}: the mask leaves {mask.size - np.count_nonzero(mask)} weights, there are {values.size}"
        )
    full = np.zeros(mask.shape, values.dtype)
    full[~mask] = values.reshape(-1)
    return full


def _bits(mask: np.ndarray, name: str) -> np.ndarray:
    bits = array_of(mask, f"mask of {name}")
    if bits.dtype != np.bool_:
        raise ModelError(f"mask of {name}: is {bits.dtype}, must be bool")
    return bits
