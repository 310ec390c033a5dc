"""How important each channel of a group is: from its weights, or from its batch norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nncjit.errors import OptionError
from nncjit.option_values import Word, checked
from nncjit.reduce.graph import GROUPS, Group, check_groups, shapes_of
from nncjit.reduce.views import array_of, bands, finite_array

MEASURES = ("l1", "l2", "gamma")


def channel_scores(tensors: Mapping[str, np.ndarray], groups: Sequence[Group], by: str = "l2") -> dict[str, np.ndarray]:
    """Importance of each channel of each group, float64[size].

    ``"l1"`` is the mean magnitude and ``"l2"`` the root mean square of the weights that make the channel, over all
    producers of the group: means, so that groups of different fan-in can be ranked together. ``"gamma"`` is the mean
    magnitude of the group's batch-norm gammas.

    Raises
    ------
    OptionError
        Unknown measure; a group without producers, or for "gamma" without gammas.
    ModelError
        The graph does not fit the tensors, or a tensor is not float or not finite.
    """
    checked("by", Word(*MEASURES), by)
    groups = checked("groups", GROUPS, groups)
    check_groups(groups, shapes_of(tensors))
    return {group.name: _scores(tensors, group, by) for group in groups}


def _scores(tensors: Mapping[str, np.ndarray], group: Group, by: str) -> np.ndarray:
    sums, numbers = np.zeros(group.size), 0
    for member in group.members:
        values = array_of(tensors[member.tensor], member.tensor)
        if not (member.tensor in group.gamma if by == "gamma" else member.produces(values.shape)):
            continue
        axis = member.axis_in(values.shape)
        along = _sums_along(finite_array(values, member.tensor), axis, 2 if by == "l2" else 1)
        sums += along[member.positions(np.arange(group.size), group.size)].sum(axis=1)
        numbers += member.repeat * (values.size // values.shape[axis])
    if not numbers:
        what = "gamma" if by == "gamma" else "producer (axis 0 of a matrix, or marked producer=True)"
        raise OptionError(f"group {group.name}: has no {what} to read importance from")
    means = sums / numbers
    return np.sqrt(means) if by == "l2" else means


def _sums_along(values: np.ndarray, axis: int, power: int) -> np.ndarray:
    """Sum of abs(value)^power over all axes but one, float64[that axis]."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    sums = np.zeros(values.shape[axis])
    for band in bands(values.shape, 1):
        part = values[band]
        terms = np.square(part, dtype=np.float64) if power == 2 else np.abs(part)
        sums[band if axis == 0 else slice(None)] += terms.sum(axis=others, dtype=np.float64)
    return sums
