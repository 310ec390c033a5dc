"""Which tensor dimensions belong together: a declarative graph for pruning.

A group is a set of channels (or neurons, or heads). Each member says where one tensor has something for each of them:
an axis, or a part of an axis. Removing channel 7 of the group removes what belongs to 7 in every member::

    Group("conv1", 32, (
        Axis("conv1.weight", 0), Axis("conv1.bias", 0),
        Axis("bn1.weight", 0), Axis("bn1.bias", 0), Axis("bn1.running_mean", 0), Axis("bn1.running_var", 0),
        Axis("fc.weight", 1, repeat=49),          # flattened 7 x 7 features of each channel
    ), gamma=("bn1.weight",))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.option_values import Dimensions, Flag, Label, Named, Sequenced, Whole, checked, optional
from nncjit.reduce.views import array_of

WIDEST = 1 << 40
"""Positions of an axis, at most."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of one tensor, or a part of it, that has `repeat` positions for each channel of a group."""

    tensor: str
    axis: int
    """May be negative, as in NumPy."""
    repeat: int = 1
    """Positions a channel: height * width of flattened features, the size of an attention head, ..."""
    offset: int | None = None
    """First position, where the group has a part of the axis (concatenated features, fused q, k, v), None: all."""
    fastest: bool = False
    """False: a channel's positions stand together. True: they lie `size` apart (features flattened channels-last)."""
    producer: bool | None = None
    """Whether importance is read here; None: yes for axis 0 of tensors with two axes or more."""

    def __post_init__(self) -> None:
        checked("tensor of an axis", Label(), self.tensor)
        checked(f"axis of {self.tensor}", Whole(-WIDEST, WIDEST), self.axis)
        checked(f"repeat of {self.tensor}", Whole(1, WIDEST), self.repeat)
        optional(f"offset of {self.tensor}", Whole(0, WIDEST), self.offset)
        checked(f"fastest of {self.tensor}", Flag(), self.fastest)
        optional(f"producer of {self.tensor}", Flag(), self.producer)

    def positions(self, channels: np.ndarray, size: int) -> np.ndarray:
        """Positions on the axis, int64[len(channels), repeat], of some channels of a group of `size`."""
        steps = np.arange(self.repeat)
        start = self.offset or 0
        if self.fastest:
            return start + channels[:, None] + steps * size
        return start + channels[:, None] * self.repeat + steps

    def axis_in(self, shape: tuple[int, ...]) -> int:
        """The axis, counted from 0."""
        return self.axis % len(shape)

    def produces(self, shape: tuple[int, ...]) -> bool:
        """Whether the weights of this member make the channels."""
        return self.producer if self.producer is not None else self.axis_in(shape) == 0 and len(shape) >= 2


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that stay or go together in all members."""

    name: str
    size: int
    members: tuple[Axis, ...]
    gamma: tuple[str, ...] = ()
    """Members that are batch-norm gammas, for importance by gamma."""

    def __post_init__(self) -> None:
        checked("name of a group", Label(), self.name)
        checked(f"group {self.name}: size", Whole(1, WIDEST), self.size)
        members = checked(f"group {self.name}: members", Sequenced(Axis, "axes (nncjit.reduce.Axis)"), self.members)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "gamma", checked(f"group {self.name}: gamma", Sequenced(str, "names"), self.gamma))
        if not self.members:
            raise OptionError(f"group {self.name}: needs members")
        for gamma in self.gamma:
            if gamma not in (member.tensor for member in self.members):
                raise OptionError(f"group {self.name}: gamma {gamma} is not a member")


GROUPS = Sequenced(Group, "groups (nncjit.reduce.Group)")


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes of arrays, which are not read; ModelError for what is none, OptionError for what is no mapping."""
    named = checked("tensors", Named("arrays"), tensors)
    return {
        name: tuple(values.shape) if isinstance(getattr(values, "shape", None), tuple) else array_of(values, name).shape
        for name, values in named.items()
    }


def checked_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by name; OptionError for what is none."""
    named = checked("shapes", Named("shapes"), shapes)
    return {name: checked(f"shape of {name}", Dimensions(), shape) for name, shape in named.items()}


def check_groups(groups: Iterable[Group], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check a graph against the tensors it speaks of.

    Raises
    ------
    ModelError
        Two groups of one name, an unknown tensor, an axis it does not have, a size that differs, a position claimed
        twice. The message names group, tensor and axis.
    """
    groups, shapes = checked("groups", GROUPS, groups), checked_shapes(shapes)
    seen: set[str] = set()
    claimed: dict[tuple[str, int], np.ndarray] = {}
    for group in groups:
        if group.name in seen:
            raise ModelError(f"group {group.name}: there are two of this name")
        seen.add(group.name)
        for member in group.members:
            shape = _shape_of(member, group, shapes)
            axis = member.axis_in(shape)
            taken = claimed.setdefault((member.tensor, axis), np.zeros(shape[axis], np.bool_))
            positions = member.positions(np.arange(group.size), group.size)
            if taken[positions].any():
                raise ModelError(f"group {group.name}: axis {axis} of {member.tensor} belongs to two members")
            taken[positions] = True


def _shape_of(member: Axis, group: Group, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the member's tensor, once the member is known to fit it."""
    if member.tensor not in shapes:
        raise ModelError(f"group {group.name}: there is no tensor {member.tensor}")
    shape = tuple(shapes[member.tensor])
    if not -len(shape) <= member.axis < len(shape):
        raise ModelError(f"group {group.name}: {member.tensor} of shape {shape} has no axis {member.axis}")
    needed, size = group.size * member.repeat, shape[member.axis]
    fits = needed == size if member.offset is None else member.offset + needed <= size
    if not fits:
        part = "" if member.offset is None else f" from position {member.offset}"
        raise ModelError(
            f"group {group.name}: {group.size} channels x {member.repeat}{part} do not fit axis {member.axis} "
            f"of {member.tensor}, which has {size}"
        )
    return shape
